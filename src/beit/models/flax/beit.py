"""BEiT in Flax, to be read beside `models/torch/beit.py`: the same parts in the same order, with the same names.

    pixels (B, 3, H, W) → patches (B, N, C), mask token swapped in → cls token in front (B, 1+N, C) → L layers of
    attention with relative-position bias (1, heads, 1+N, 1+N) and MLP → pooled (B, C) → head

Paper: Bao et al., BEiT: BERT Pre-Training of Image Transformers, 2021 (arXiv 2106.08254). Numbers follow transformers
4.37.2. Parameters are float32; `dtype` is the type of the arithmetic. A part that draws at random does so in training, from
the key `dropout`.

Each model is two classes: a module, which is a function of parameters and images, and a class with the API of
transformers, which loads, saves, compiles and checks (`pretrained.py`). Where JAX wants another form than the formula, it is
in `kernels/`; how weights start is in `models/parameters.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from beit.config import BeitConfig
from beit.core import geometry, resampling
from beit.models import validation
from beit.models.flax.activations import ACTIVATIONS
from beit.models.flax.kernels.attention import fused_attention, fuses
from beit.models.flax.kernels.layers import QKV, Patches, dense, layer_norm, zeros
from beit.models.flax.kernels.position_bias import Grid, PositionBias, gather, resize_table
from beit.models.flax.losses import cross_entropy
from beit.models.flax.pretrained import FlaxPretrained, check_classes, whole_numbers
from beit.models.outputs import BaseModelOutput, BeitModelOutputWithPooling, ImageClassifierOutput, MaskedLMOutput

Array = jax.Array


class FlaxBeitEmbeddings(nn.Module):
    """Pixels → tokens: patches, mask token, absolute positions, cls token."""

    config: BeitConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        config = self.config
        width = config.hidden_size
        self.patch = Patches(config, self.dtype)
        self.cls_token = self.param("cls_token", zeros, (1, 1, width))
        self.mask_token = self.param("mask_token", zeros, (1, 1, width)) if config.use_mask_token else None
        self.position = (
            self.param("position", zeros, (1, 1 + config.num_patches, width))
            if config.use_absolute_position_embeddings
            else None
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def __call__(self, pixel_values: Array, mask: Array | None = None, train: bool = False) -> Array:
        """`pixel_values (B, channels, H, W)`, `mask (B, N)` bool → `(B, 1+N, C)`."""
        x = self.patch(self._whole_patches(pixel_values))
        grid = self.config.grid_of(pixel_values.shape[2:])
        positions = self._positions(grid)
        # Before the positions are added or after: this decides whether a masked patch knows where it is. See
        # BeitConfig.mask_keeps_position.
        keeps = self.config.mask_keeps_position is not False  # None: as in the reference's Flax
        if mask is not None and keeps:
            x = self._swap_in_mask_token(x, mask)
        if positions is not None:
            x = x + positions[:, 1:].astype(x.dtype)
        if mask is not None and not keeps:
            x = self._swap_in_mask_token(x, mask)
        cls = self.cls_token if positions is None else self.cls_token + positions[:, :1]
        cls = jnp.broadcast_to(cls.astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        return self.dropout(jnp.concatenate((cls, x), axis=1), deterministic=not train)

    def _whole_patches(self, pixel_values: Array) -> Array:
        """With `BeitConfig.pad_to_patch`, zeros below and on the right up to the next whole patch."""
        height, width = geometry.pair(self.config.patch_size)
        below, right = -pixel_values.shape[2] % height, -pixel_values.shape[3] % width
        if not self.config.pad_to_patch or below == right == 0:
            return pixel_values
        return jnp.pad(pixel_values, ((0, 0), (0, 0), (0, below), (0, right)))

    def _swap_in_mask_token(self, x: Array, mask: Array) -> Array:
        assert self.mask_token is not None  # a mask without it has been refused
        return jnp.where(mask[..., None], self.mask_token.astype(x.dtype), x)

    def _positions(self, grid: tuple[int, int]) -> Array | None:
        """`(1, 1+N, C)`, resized bicubically for images of another size than the configured one; None for none."""
        if self.position is None or grid == self.config.grid:
            return self.position
        patches = self.position[0, 1:].reshape(*self.config.grid, -1)
        rows, columns = (
            jnp.asarray(resampling.bicubic_weights(have, want))
            for have, want in zip(self.config.grid, grid, strict=True)
        )
        patches = jnp.einsum("yh,xw,hwc->yxc", rows, columns, patches, precision="highest")
        return jnp.concatenate((self.position[:, :1], patches.reshape(1, -1, patches.shape[-1])), axis=1)


class FlaxBeitRelativePosition(nn.Module):
    """A learned bias for each head and each displacement between two patches (BEiT, section 2.1; as in T5 and Swin).

        bias[head, i, j] = table[index[i, j], head]

    `index` numbers the displacements (y_i - y_j, x_i - x_j); three more rows are for pairs with the cls token: see
    `geometry.relative_position_index`. The table belongs to images of the configured size. For other sizes it is resized, so
    that near displacements keep their meaning in patches and far ones are stretched: see `core/resampling.py`.
    """

    config: BeitConfig

    def setup(self) -> None:
        config = self.config
        self.table = self.param(
            "table", zeros, (geometry.num_relative_distances(config.grid), config.num_attention_heads)
        )

    def __call__(self, grid: Grid | None = None) -> Array:
        """`(1, heads, 1+N, 1+N)` for images of `grid` patches; by default the configured ones."""
        grid = self.config.grid if grid is None else grid
        return gather(self.resized(grid), geometry.relative_position_index(grid))

    def resized(self, grid: Grid) -> Array:
        """The table for images of `grid` patches, `((2h-1)(2w-1)+3, heads)`."""
        return self.table if grid == self.config.grid else resize_table(self.table, self.config.grid, grid)


class AttentionOptions(NamedTuple):
    """What a call observes or changes inside attention: constants of the compiled function.

    Attributes:
        need_weights: whether attention returns its weights, which the fused kernel never builds.
        train: whether weights, branches and samples are dropped at random.
    """

    need_weights: bool = False
    train: bool = False


def attention(qkv: Array, bias: PositionBias, dropout: float = 0.0, key: Array | None = None) -> tuple[Array, Array]:
    """The plain formula: softmax(q·kᵀ/√D + bias)·v.

    Args:
        qkv: `(B, T, 3, heads, D)`.
        bias: added to the scores.
        dropout: probability by which weights are dropped.
        key: from which it is drawn; None to drop none.

    Returns:
        `(B, T, heads·D)`, and the weights `(B, heads, T, T)`.
    """
    q, k, v = jnp.moveaxis(qkv, 2, 0)  # each (B, T, heads, D)
    scores = jnp.einsum("bthd,bshd->bhts", q / np.sqrt(q.shape[-1]).astype(q.dtype), k)
    dense_bias = bias.dense(q.dtype)
    if dense_bias is not None:
        scores = scores + dense_bias
    weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(v.dtype)
    if key is not None:
        kept = jax.random.bernoulli(key, 1 - dropout, weights.shape)
        weights = jnp.where(kept, weights / (1 - dropout), 0)
    y = jnp.einsum("bhts,bshd->bthd", weights, v)
    return y.reshape(*y.shape[:2], -1), weights


class FlaxBeitAttention(nn.Module):
    """Multi-head self-attention with one matrix for query, key and value; the key has no bias, as in the paper's code."""

    config: BeitConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        config = self.config
        self.qkv = QKV(config, self.dtype)
        self.q_bias = self.param("q_bias", zeros, (config.hidden_size,))
        self.v_bias = self.param("v_bias", zeros, (config.hidden_size,))
        self.relative_position = FlaxBeitRelativePosition(config) if config.use_relative_position_bias else None
        self.proj = dense(config.hidden_size, self.dtype)

    def __call__(self, x: Array, bias: PositionBias, options: AttentionOptions) -> tuple[Array, Array | None]:
        """`x (B, T, C)`, the bias of all layers → `(B, T, C)` and, if asked for, weights `(B, heads, T, T)`."""
        batch, tokens, width = x.shape
        heads = self.config.num_attention_heads
        qkv_bias = jnp.stack((self.q_bias, jnp.zeros_like(self.q_bias), self.v_bias))
        qkv = (self.qkv(x) + qkv_bias.astype(self.dtype)).reshape(batch, tokens, 3, heads, width // heads)
        if self.relative_position is not None:
            bias = bias.plus(self.relative_position)
        dropout = self.config.attention_probs_dropout_prob if options.train else 0.0
        if options.need_weights or not fuses(qkv, dropout):
            y, weights = attention(qkv, bias, dropout, self.make_rng("dropout") if dropout else None)
        else:
            y, weights = fused_attention(qkv, bias), None
        return self.proj(y), weights if options.need_weights else None


class FlaxBeitMLP(nn.Module):
    """Two linear maps with an activation between."""

    config: BeitConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        config = self.config
        self.fc1 = dense(config.intermediate_size, self.dtype)
        self.act = config.hidden_act if callable(config.hidden_act) else ACTIVATIONS[config.hidden_act]
        self.fc2 = dense(config.hidden_size, self.dtype)

    def __call__(self, x: Array) -> Array:
        return self.fc2(self.act(self.fc1(x)))


class FlaxBeitLayer(nn.Module):
    """Pre-norm transformer layer: x + γ₁·attention(norm(x)), then x + γ₂·MLP(norm(x)), with stochastic depth."""

    config: BeitConfig
    drop_path: float
    dtype: Any = jnp.float32

    def setup(self) -> None:
        config = self.config
        self.norm1 = layer_norm(config, self.dtype)
        self.attn = FlaxBeitAttention(config, self.dtype)
        self.norm2 = layer_norm(config, self.dtype)
        self.mlp = FlaxBeitMLP(config, self.dtype)
        scaled = config.layer_scale_init_value > 0
        self.gamma1 = self.param("gamma1", zeros, (config.hidden_size,)) if scaled else None
        self.gamma2 = self.param("gamma2", zeros, (config.hidden_size,)) if scaled else None
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def __call__(self, x: Array, bias: PositionBias, options: AttentionOptions) -> tuple[Array, Array | None]:
        """`x (B, T, C)` → `(B, T, C)` and, if asked for, attention weights `(B, heads, T, T)`; see `FlaxBeitAttention`."""
        train = options.train
        y, weights = self.attn(self.norm1(x), bias, options)
        x = self._add(x, self.dropout(y, deterministic=not train), self.gamma1, train)
        y = self.mlp(self.norm2(x))
        return self._add(x, self.dropout(y, deterministic=not train), self.gamma2, train), weights

    def _add(self, x: Array, branch: Array, gamma: Array | None, train: bool) -> Array:
        """x + γ·branch; in training, whole samples of the branch are dropped with probability `drop_path`."""
        if gamma is not None:
            branch = branch * gamma.astype(branch.dtype)
        if train and self.drop_path > 0:
            keep = 1 - self.drop_path
            kept = jax.random.bernoulli(self.make_rng("dropout"), keep, (x.shape[0], 1, 1))
            branch = branch * (kept.astype(branch.dtype) / keep)
        return x + branch


class FlaxBeitEncoder(nn.Module):
    """L layers; the shared relative-position bias, if there is one, is built once for all of them."""

    config: BeitConfig
    dtype: Any = jnp.float32
    gradient_checkpointing: bool = False

    def setup(self) -> None:
        config = self.config
        self.relative_position = FlaxBeitRelativePosition(config) if config.use_shared_relative_position_bias else None
        depth = config.num_hidden_layers
        rates = [config.drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        # 3: the options, counted with `self`, are constants.
        layer: Any = nn.remat(FlaxBeitLayer, static_argnums=(3,)) if self.gradient_checkpointing else FlaxBeitLayer
        self.layers = [layer(config, rate, self.dtype) for rate in rates]

    def __call__(
        self,
        x: Array,
        grid: Grid,
        options: AttentionOptions,
        output_hidden_states: bool = False,
        depth: int | None = None,
    ) -> BaseModelOutput:
        """Run the layers.

        Args:
            x: `(B, 1+N, C)`.
            grid: patches `(h, w)` of these images, N = h·w.
            options: what to observe or change inside attention.
            output_hidden_states: return the embeddings and the output of each layer.
            depth: how many layers to run; all by default.
        """
        bias = PositionBias(grid)
        if self.relative_position is not None:
            bias = bias.plus(self.relative_position)
        hidden_states, attentions = [x], []
        for layer in self.layers[:depth]:
            x, weights = layer(x, bias, options)
            hidden_states.append(x)  # under jit, what is not returned is not kept
            attentions.append(weights)
        return BaseModelOutput(
            last_hidden_state=x,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if options.need_weights else None,
        )


class FlaxBeitPooler(nn.Module):
    """`(B, 1+N, C)` → `(B, C)`: layer norm of the mean of the patches, or the cls token."""

    config: BeitConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.layernorm = layer_norm(self.config, self.dtype) if self.config.use_mean_pooling else None

    def __call__(self, x: Array) -> Array:
        return x[:, 0] if self.layernorm is None else self.layernorm(x[:, 1:].mean(1))


class FlaxBeitPreTrainedModel(FlaxPretrained):
    """What all Flax BEiT models share; see `FlaxPretrained`."""

    base_model_prefix = "beit"


class FlaxBeitModule(nn.Module):
    """The encoder without a head."""

    config: BeitConfig
    dtype: Any = jnp.float32
    gradient_checkpointing: bool = False
    add_pooling_layer: bool = True

    def setup(self) -> None:
        config = self.config
        self.embeddings = FlaxBeitEmbeddings(config, self.dtype)
        self.encoder = FlaxBeitEncoder(config, self.dtype, self.gradient_checkpointing)
        # With mean pooling the pooler normalises, and the hidden states stay as they are.
        self.layernorm = None if config.use_mean_pooling else layer_norm(config, self.dtype)
        self.pooler = FlaxBeitPooler(config, self.dtype) if self.add_pooling_layer else None

    def __call__(
        self,
        pixel_values: Array,
        mask: Array | None = None,
        train: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BeitModelOutputWithPooling:
        """`pixel_values (B, channels, H, W)`, `mask (B, N)` bool → the outputs."""
        x = self.embeddings(pixel_values, mask, train)
        grid = self.config.grid_of(pixel_values.shape[2:])
        encoded = self.encoder(x, grid, AttentionOptions(output_attentions, train), output_hidden_states)
        sequence = encoded.last_hidden_state
        if self.layernorm is not None:
            sequence = self.layernorm(sequence)
        return BeitModelOutputWithPooling(
            last_hidden_state=sequence,
            pooler_output=None if self.pooler is None else self.pooler(sequence),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class FlaxBeitModel(FlaxBeitPreTrainedModel):
    """The encoder without a head; see `FlaxPretrained` for arguments and calls.

    Args:
        add_pooling_layer: whether outputs have `pooler_output`.
    """

    module_class: ClassVar[type[nn.Module]] = FlaxBeitModule
    own_arguments: ClassVar[tuple[str, ...]] = ("add_pooling_layer",)


class FlaxBeitForMaskedImageModelingModule(nn.Module):
    """Predicts the visual token of each patch: BEiT's pre-training (section 2.3)."""

    config: BeitConfig
    dtype: Any = jnp.float32
    gradient_checkpointing: bool = False

    def setup(self) -> None:
        config = self.config
        self.beit = FlaxBeitModule(config, self.dtype, self.gradient_checkpointing, add_pooling_layer=False)
        # With the body's own norm there are two in a row without mean pooling; the reference has it so.
        self.layernorm = layer_norm(config, self.dtype)
        self.lm_head = dense(config.vocab_size, self.dtype)

    def __call__(
        self,
        pixel_values: Array,
        mask: Array | None = None,
        train: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        patches_wanted: Array | None = None,
    ) -> MaskedLMOutput:
        """`pixel_values (B, channels, H, W)`, `mask (B, N)` bool → logits `(B, N, vocab)`.

        With `patches_wanted (B, M)`, numbers of patches, the logits are of these only, `(B, M, vocab)`: the head costs as much
        as a layer, and training does not need the other logits. Under `jit` M must not depend on the mask, so it is the
        largest number of masked patches of any image: see `losses.masked_first`.
        """
        encoded = self.beit(pixel_values, mask, train, output_attentions, output_hidden_states)
        patches = encoded.last_hidden_state[:, 1:]
        if patches_wanted is not None:
            patches = jnp.take_along_axis(patches, patches_wanted[..., None], axis=1)
        logits = self.lm_head(self.layernorm(patches))
        return MaskedLMOutput(None, logits, encoded.hidden_states, encoded.attentions)


class FlaxBeitForMaskedImageModeling(FlaxBeitPreTrainedModel):
    """Predicts the visual token of each patch: BEiT's pre-training (section 2.3); see `FlaxPretrained`.

    `labels`: tokens in [0, vocab): `(M,)` for the masked patches in reading order (not under `jit`, where M is unknown), or
    `(B, N)` for all patches, of which the masked ones count. The loss is the mean cross-entropy over masked patches.
    """

    module_class: ClassVar[type[nn.Module]] = FlaxBeitForMaskedImageModelingModule

    def _loss(self, output: MaskedLMOutput, mask: Array | None, labels: Array) -> Array:
        validation.check_needs_mask(mask, labels)
        assert mask is not None
        size = int(np.prod(labels.shape))
        if labels.ndim < 2 or size != mask.size:
            known = np.asarray(mask)
            validation.check_masked_labels(size, int(known.sum()), mask.shape)
            everywhere = np.zeros(mask.shape, np.int32)
            everywhere[known] = np.asarray(labels).reshape(-1)
            labels = jnp.asarray(everywhere)
        elif not isinstance(mask, jax.core.Tracer):
            validation.check_masked_labels(size, int(mask.sum()), mask.shape)
        labels = jnp.where(mask, labels.reshape(mask.shape), 0)
        check_classes(labels, self.config.vocab_size, "vocab_size")
        return jnp.sum(cross_entropy(output.logits, labels), where=mask) / mask.sum()


class FlaxBeitForImageClassificationModule(nn.Module):
    """Classifies images by a linear layer on the pooled patches (section 2.5)."""

    config: BeitConfig
    dtype: Any = jnp.float32
    gradient_checkpointing: bool = False

    def setup(self) -> None:
        config = self.config
        self.beit = FlaxBeitModule(config, self.dtype, self.gradient_checkpointing)
        self.classifier = dense(config.num_labels, self.dtype) if config.num_labels > 0 else None

    def __call__(
        self,
        pixel_values: Array,
        mask: Array | None = None,
        train: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> ImageClassifierOutput:
        """`pixel_values (B, channels, H, W)` → logits `(B, num_labels)`."""
        encoded = self.beit(pixel_values, mask, train, output_attentions, output_hidden_states)
        pooled = encoded.pooler_output
        logits = pooled if self.classifier is None else self.classifier(pooled)
        return ImageClassifierOutput(None, logits, encoded.hidden_states, encoded.attentions)


class FlaxBeitForImageClassification(FlaxBeitPreTrainedModel):
    """Classifies images by a linear layer on the pooled patches (section 2.5); see `FlaxPretrained`.

    `labels`: `(B,)` class numbers (cross-entropy); `(B,)` or `(B, num_labels)` floats for regression (mean squared error);
    `(B, num_labels)` 0/1 floats for several labels per image (binary cross-entropy). `config.problem_type` says which. If it
    is None: regression with one label, else classes for integers and several labels for floats.
    """

    module_class: ClassVar[type[nn.Module]] = FlaxBeitForImageClassificationModule

    def _loss(self, output: ImageClassifierOutput, mask: Array | None, labels: Array) -> Array:
        logits = output.logits.astype(jnp.float32)
        problem = validation.problem_type(self.config, whole_numbers(labels))
        validation.check_labels(labels.shape, logits.shape, problem)
        if problem == "regression":
            return jnp.mean((logits.reshape(-1) - labels.reshape(-1)) ** 2)
        if problem == "single_label_classification":
            labels = labels.reshape(-1).astype(jnp.int32)
            check_classes(labels, logits.shape[1], "num_labels")
            counted = labels != -100
            losses = cross_entropy(logits, jnp.where(counted, labels, 0))
            return jnp.sum(losses, where=counted) / counted.sum()
        losses = jax.nn.softplus(logits) - labels * logits
        return jnp.mean(losses)
