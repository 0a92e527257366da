"""AdamW by optax over groups of parameters: which of them decay, and how fast each layer learns (rules: `schedule.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from beit.checkpoints import flax_layout, names
from beit.train.schedule import decays, layer_scale


@dataclass(frozen=True)
class AdamW:
    """AdamW with β₁ 0.9 and ε 1e-8. Rate and decay are arguments of each step, so one compiled step serves a whole run.

    Attributes:
        beta2: second-moment decay.
        clip: largest norm of the gradient; 0 for no clipping.
        layer_decay: a layer's rate as a fraction of the next one's: its scale is layer_decay^(depth + 1 - layer number).
        depth: number of layers of the model.
    """

    beta2: float = 0.999
    clip: float = 0.0
    layer_decay: float = 1.0
    depth: int = 0

    @property
    def adam(self) -> optax.GradientTransformation:
        """The part of AdamW that has a state: first and second moments."""
        return optax.scale_by_adam(b1=0.9, b2=self.beta2, eps=1e-8)

    def groups(self, params: Any) -> Any:
        """For each parameter of the tree: (scale of the rate, whether it decays)."""

        def group(path: tuple[Any, ...], leaf: Any) -> tuple[float, bool]:
            steps = ("params", *(str(step.key) for step in path))
            name = flax_layout.name_of(steps)
            parameter = names.from_short_name(name)
            scale = layer_scale(parameter, self.depth, self.layer_decay)
            return scale, decays(parameter, len(flax_layout.shape_of(name, steps[-1], leaf.shape)))

        return jax.tree_util.tree_map_with_path(group, params)

    def update(self, gradients: Any, moments: Any, params: Any, rate: Any, decay: Any) -> tuple[Any, Any, jax.Array]:
        """One step.

        Args:
            gradients: tree of params.
            moments: state of `adam`.
            params: what to change.
            rate: learning rate, before the scale of each group.
            decay: weight decay of the groups that decay.

        Returns:
            (params, moments, norm of the gradient before clipping).
        """
        norm = jnp.sqrt(sum(jnp.sum(gradient**2) for gradient in jax.tree.leaves(gradients)))
        if self.clip:
            factor = jnp.minimum(
                1.0, self.clip / (norm + 1e-6)
            )  # with PyTorch's ε, both frameworks take the same steps
            gradients = jax.tree.map(lambda gradient: gradient * factor, gradients)
        updates, moments = self.adam.update(gradients, moments, params)
        # Adam's moments are the same for all groups; what differs comes after it: decay and scale. So only that is grouped.
        labels = jax.tree.map(str, self.groups(params), is_leaf=_is_group)
        steps = {
            str((scale, decaying)): optax.chain(
                optax.add_decayed_weights(decay if decaying else 0.0), optax.scale(-rate * scale)
            )
            for scale, decaying in set(jax.tree.leaves(self.groups(params), is_leaf=_is_group))
        }
        grouped = optax.multi_transform(steps, labels)
        # These transformations have no state, so it is made anew in each step and thrown away.
        updates, _ = grouped.update(updates, grouped.init(params), params)
        return optax.apply_updates(params, updates), moments, norm


def _is_group(value: Any) -> bool:
    return isinstance(value, tuple)
