"""A Flax model in training: one compiled step on a mesh of devices, with loss, gradients, optimiser and average inside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from beit.core.errors import ConfigError
from beit.models.flax.pretrained import FlaxPretrained
from beit.train.engine import Metrics
from beit.train.flax import mesh
from beit.train.flax.optim import AdamW
from beit.train.flax.state import read, write
from beit.train.run import Run
from beit.train.settings import RunSettings

Batch = dict[str, jax.Array]
# (params, part of a batch, key, constants) → (mean loss, (metrics, also means; counts, which are added up))
Loss = Callable[[Any, Batch, jax.Array, Any], tuple[jax.Array, tuple[Metrics, Any]]]


def arithmetic(choice: str) -> Any:
    """The type of a model's arithmetic. "auto" takes bfloat16 on GPUs and TPUs.

    Raises:
        ConfigError: there is no such choice.
    """
    if choice not in ("auto", "fp32", "bf16"):
        raise ConfigError(f"Precision {choice!r} is not for Flax models. Choose auto, fp32 or bf16.")
    fast = choice == "bf16" or (choice == "auto" and jax.default_backend() != "cpu")
    return jnp.bfloat16 if fast else jnp.float32


def number_of_images(batch: Batch) -> jax.Array:
    """The weight of a batch whose loss is a mean over images."""
    return jnp.float32(len(next(iter(batch.values()))))


class FlaxEngine:
    """`beit.train.engine.Engine` of a Flax model.

    Args:
        run: processes and settings.
        model: with its parameters, which move to the devices.
        optimizer: AdamW.
        loss: of a part of a batch.
        weight: over how many terms a part's mean is taken, (). Parts count in proportion to it, so that together they give
            the mean over the whole batch.
        constants: pytree of arrays that the loss reads, such as a tokenizer. They are arguments of the compiled step; arrays
            that it only refers to would be compiled into it.
        count: called with the counts of each step.

    Raises:
        ConfigError: the model or its batch cannot be divided among the devices.
        CheckpointError: the checkpoint's moments are damaged or another's.
    """

    def __init__(
        self,
        run: Run,
        model: FlaxPretrained,
        optimizer: AdamW,
        loss: Loss,
        weight: Callable[[Batch], jax.Array] = number_of_images,
        constants: Any = None,
        count: Callable[[Any], None] = lambda counts: None,
    ) -> None:
        self.settings: RunSettings = run.settings
        self.model, self.optimizer, self.loss, self.weight, self.count = model, optimizer, loss, weight, count
        self.immediate = jax.default_backend() == "cpu"
        self.mesh = mesh.make_mesh(getattr(self.settings, "model_parallel", 1), self.settings.device)
        everywhere = mesh.replicated(self.mesh)
        places = mesh.parameter_shardings(self.mesh, model.params)
        # Copies, because the compiled step reuses the memory of its arguments.
        params = jax.tree.map(lambda leaf, place: jax.device_put(jnp.array(leaf), place), model.params, places)
        moments = optimizer.adam.init(params)
        self.places = {
            "params": places,
            "moments": moments._replace(count=everywhere, mu=places, nu=places),
            "average": places if self.settings.ema else None,
            "finite": everywhere,
        }
        self.state = {
            "params": params,
            "moments": jax.device_put(moments, self.places["moments"]),
            "average": jax.tree.map(jnp.copy, params) if self.settings.ema else None,
            "finite": jax.device_put(jnp.bool_(True), everywhere),
        }
        self.constants = jax.device_put(constants, everywhere)
        # Donating the state halves the memory of the step: new parameters and moments are written over the old ones.
        self._step = jax.jit(self._compiled, donate_argnums=0, out_shardings=(self.places, everywhere, everywhere))

    # --- one step -----------------------------------------------------------------------------------------------

    def step(self, batch: Mapping[str, Any], step: int, rate: float, weight_decay: float | None) -> Metrics:
        """Batch to the devices → the compiled step."""
        size = len(next(iter(batch.values())))
        mesh.check_mesh(self.mesh, self.model.config, size, self.settings.accumulate)
        on_devices = jax.device_put(
            {name: self._in_parts(np.asarray(value)) for name, value in batch.items()},
            mesh.batch_sharding(self.mesh),
        )
        # Dropout and drop path depend on the step's number alone, so a resumed run draws the same.
        key = jax.random.fold_in(jax.random.key(self.settings.seed), step)
        decay = self.settings.weight_decay if weight_decay is None else weight_decay
        pace = min(self.settings.ema, (1 + step) / (10 + step))  # as in torch/ema.py
        # As arrays and not as Python numbers, for each of which the step would be compiled anew.
        numbers = [np.float32(value) for value in (rate, decay, pace)]
        self.state, metrics, counts = self._step(self.state, on_devices, self.constants, key, *numbers)
        self.count(counts)
        return metrics

    def _in_parts(self, value: np.ndarray) -> np.ndarray:
        value = value.astype(np.int32) if value.dtype == np.int64 else value  # JAX has no int64 unless told to
        return value.reshape(self.settings.accumulate, -1, *value.shape[1:])

    def _compiled(
        self, state: Any, batch: Batch, constants: Any, key: jax.Array, rate: Any, decay: Any, pace: Any
    ) -> tuple[Any, Metrics, Any]:
        gradients, metrics, counts = self._gradients(state["params"], batch, constants, key)
        params, moments, norm = self.optimizer.update(gradients, state["moments"], state["params"], rate, decay)
        average = state["average"]
        if average is not None:
            average = jax.tree.map(lambda old, new: old + (1 - pace) * (new - old), average, params)
        finite = state["finite"] & jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        after = {"params": params, "moments": moments, "average": average, "finite": finite}
        return after, {**metrics, "gradient_norm": norm}, counts

    def _gradients(self, params: Any, batch: Batch, constants: Any, key: jax.Array) -> tuple[Any, Metrics, Any]:
        """(gradients of the mean loss over the whole batch, metrics, counts).

        The batch comes in parts, `(parts, images of a part, …)`, which are computed one after the other.
        """
        total = sum(self.weight(part) for part in self._parts(batch))

        def one(part: Batch, number: Any) -> tuple[Any, Metrics, Any]:
            share = self.weight(part) / total  # parts with more masked patches count more

            def shared_loss(params: Any) -> tuple[jax.Array, Any]:
                loss, (metrics, counts) = self.loss(params, part, jax.random.fold_in(key, number), constants)
                return loss * share, ({"loss": loss, **metrics}, counts)

            (_, (metrics, counts)), gradients = jax.value_and_grad(shared_loss, has_aux=True)(params)
            return gradients, jax.tree.map(lambda value: value * share, metrics), counts

        if self.settings.accumulate == 1:
            return one(self._parts(batch)[0], 0)

        def add(sums: Any, item: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, one(*item)), None

        # A scan compiles the part once; unrolled, compiling would take as many times as long.
        items = (batch, jnp.arange(self.settings.accumulate))
        shapes = jax.eval_shape(one, *jax.tree.map(lambda value: value[0], items))
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        return jax.lax.scan(add, zeros, items)[0]

    def _parts(self, batch: Batch) -> list[Batch]:
        return [{name: value[number] for name, value in batch.items()} for number in range(self.settings.accumulate)]

    def finite(self) -> bool:
        """Whether all losses and gradients so far were finite."""
        return bool(self.state["finite"])

    def finite_weights(self) -> bool:
        """Whether all weights are finite."""
        return bool(_all_finite(self.state["params"]))

    def train_mode(self) -> None:
        """Nothing to do: whether a Flax model trains is an argument of each call."""

    # --- what is saved --------------------------------------------------------------------------------------------

    def full_model(self) -> FlaxPretrained:
        """The model with the parameters of the last step. The next step reuses their memory."""
        self.model.params = self.state["params"]
        return self.model

    def averaged(self) -> AbstractContextManager[None] | None:
        """As `Engine.averaged`."""
        return None if self.state["average"] is None else self._averaged()

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        self._swap()
        try:
            yield
        finally:
            self._swap()
            self.full_model()

    def _swap(self) -> None:
        self.state |= {"params": self.state["average"], "average": self.state["params"]}

    def save(self, folder: Path) -> dict[str, Any]:
        """Write moments and average into a checkpoint's folder."""
        write(folder, self._kept(self.state))
        return {}

    def load(self, folder: Path, state: dict[str, Any]) -> None:
        """As `Engine.load`."""
        shapes = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            self._kept(self.state),
            self._kept(self.places),
        )
        found = read(folder, shapes)
        self.state |= found

    def _kept(self, tree: dict[str, Any]) -> dict[str, Any]:
        return {name: tree[name] for name in ("moments", "average") if tree[name] is not None}


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
