"""BEiT in Flax, to be read from top to bottom beside `pytorch_beit.py`: the same parts in the same order, with the same names.

    pixels (B, 3, H, W) → patches (B, N, C), mask token swapped in → cls token in front (B, 1+N, C) → L layers of
    attention with relative-position bias (1, heads, 1+N, 1+N) and MLP → pooled (B, C) → head

Paper: Bao et al., BEiT: BERT Pre-Training of Image Transformers, 2021 (arXiv 2106.08254). Numbers follow transformers
4.37.2. Parameters are float32; `dtype` is the type of the arithmetic. The modules are functions of parameters and images;
what loads, saves, compiles and checks them, the classes with the API of transformers, stands in `flax_files.py`.
Modules draw from the key `dropout` when `train` is set.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from beit.config import BeitConfig
from beit.core import geometry
from beit.core import resampling as resize
from beit.models import validation
from beit.models.flax.pretrained import FlaxPretrained, check_classes, whole_numbers
from beit.models.outputs import BaseModelOutput, BeitModelOutputWithPooling, ImageClassifierOutput, MaskedLMOutput

Array = jax.Array
Grid = tuple[int, int]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "relu": nn.relu,
    "selu": nn.selu,
    "gelu_new": functools.partial(nn.gelu, approximate=True),
}
_start = nn.initializers.zeros  # shapes only: `init_weights` fills parameters by the table in `initial.py`


def dense(features: int, dtype: Any) -> nn.Dense:
    """A linear layer with bias; the parameters' names and layout are those of `flax_layout.py`."""
    return nn.Dense(features, dtype=dtype, kernel_init=_start)


def layer_norm(config: BeitConfig, dtype: Any) -> nn.LayerNorm:
    """Layer norm, by the plain formula: ε is too small for the variance as a difference of two means."""
    return nn.LayerNorm(config.layer_norm_eps, dtype=dtype, use_fast_variance=False)


class FlaxBeitPatches(nn.Module):
    """The patch projection: a convolution whose stride is its size is one product of matrices."""

    config: BeitConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixel_values: Array) -> Array:
        """`(B, channels, H, W)` → `(B, N, C)`."""
        height, width = geometry.pair(self.config.patch_size)
        batch, channels, rows, columns = pixel_values.shape
        kernel = self.param("kernel", _start, (height, width, channels, self.config.hidden_size))
        bias = self.param("bias", _start, (self.config.hidden_size,))
        x = pixel_values.reshape(batch, channels, rows // height, height, columns // width, width)
        x = jnp.einsum("bchpwq,pqcd->bhwd", x.astype(self.dtype), kernel.astype(self.dtype))
        return x.reshape(batch, -1, self.config.hidden_size) + bias.astype(self.dtype)


class FlaxBeitEmbeddings(nn.Module):
    """Pixels → tokens: patches, mask token, absolute positions, cls token."""

    config: BeitConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        config = self.config
        width = config.hidden_size
        self.patch = FlaxBeitPatches(config, self.dtype)
        self.cls_token = self.param("cls_token", _start, (1, 1, width))
        self.mask_token = self.param("mask_token", _start, (1, 1, width)) if config.use_mask_token else None
        self.position = (
            self.param("position", _start, (1, 1 + config.num_patches, width))
            if config.use_absolute_position_embeddings
            else None
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def __call__(self, pixel_values: Array, mask: Array | None = None, train: bool = False) -> Array:
        """`pixel_values (B, channels, H, W)`, `mask (B, N)` bool → `(B, 1+N, C)`."""
        x = self.patch(self._whole_patches(pixel_values))
        positions = self._positions(self.config.grid_of(pixel_values.shape[2:]))
        # Before or after the positions: see BeitConfig.mask_keeps_position.
        if mask is not None and self.config.mask_keeps_position:
            x = self._swap_in_mask_token(x, mask)
        if positions is not None:
            x = x + positions[:, 1:].astype(x.dtype)
        if mask is not None and not self.config.mask_keeps_position:
            x = self._swap_in_mask_token(x, mask)
        cls = self.cls_token if positions is None else self.cls_token + positions[:, :1]
        cls = jnp.broadcast_to(cls.astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        return self.dropout(jnp.concatenate((cls, x), axis=1), deterministic=not train)

    def _whole_patches(self, pixel_values: Array) -> Array:
        """Padded with zeros, below and on the right, if `BeitConfig.pad_to_patch` says so."""
        height, width = geometry.pair(self.config.patch_size)
        below, right = -pixel_values.shape[2] % height, -pixel_values.shape[3] % width
        if not self.config.pad_to_patch or below == right == 0:
            return pixel_values
        return jnp.pad(pixel_values, ((0, 0), (0, 0), (0, below), (0, right)))

    def _swap_in_mask_token(self, x: Array, mask: Array) -> Array:
        assert self.mask_token is not None  # checked with a message for the user
        return jnp.where(mask[..., None], self.mask_token.astype(x.dtype), x)

    def _positions(self, grid: tuple[int, int]) -> Array | None:
        """`(1, 1+N, C)`; resized bicubically when the image is not of the configured size."""
        if self.position is None or grid == self.config.grid:
            return self.position
        patches = self.position[0, 1:].reshape(*self.config.grid, -1)
        rows, columns = (
            jnp.asarray(resize.bicubic_weights(have, want)) for have, want in zip(self.config.grid, grid, strict=True)
        )
        patches = jnp.einsum("yh,xw,hwc->yxc", rows, columns, patches, precision="highest")
        return jnp.concatenate((self.position[:, :1], patches.reshape(1, -1, patches.shape[-1])), axis=1)


class FlaxBeitRelativePosition(nn.Module):
    """A learned bias for every head and every displacement between two patches (BEiT, section 2.1; T5-like).

    The table belongs to images of the configured size; for those of another it is resized, see `resize.py`.
    """

    config: BeitConfig

    @nn.compact
    def __call__(self, grid: Grid | None = None) -> Array:
        """`(1, heads, 1+N, 1+N)` for images of `grid` patches, the configured ones by default."""
        heads = self.config.num_attention_heads
        table = self.param("table", _start, (geometry.num_relative_distances(self.config.grid), heads))
        grid = self.config.grid if grid is None else grid
        table = table if grid == self.config.grid else self._resized(table, grid)
        index = geometry.relative_position_index(grid)
        # Whole rows of the table are copied, and their gradient added, several times faster than single numbers.
        return table[index.reshape(-1)].reshape(*index.shape, heads).transpose(2, 0, 1)[None]

    def _resized(self, table: Array, grid: Grid) -> Array:
        rows, columns = (resize.table_weights(have, want) for have, want in zip(self.config.grid, grid, strict=True))
        # In half precision neighbours would become alike.
        x = table[: -resize.OTHERS].astype(jnp.promote_types(table.dtype, jnp.float32))
        x = x.reshape(rows.shape[1], columns.shape[1], -1)
        x = jnp.einsum("yh,xw,hwc->yxc", jnp.asarray(rows), jnp.asarray(columns), x, precision="highest")
        x = x.reshape(-1, table.shape[1]).astype(table.dtype)
        return jnp.concatenate((x, table[-resize.OTHERS :]))


class FlaxBeitQKV(nn.Module):
    """Query, key and value by one matrix without bias. `(C, 3, C)`, so that its last axis can be split by heads."""

    config: BeitConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`(B, T, C)` → `(B, T, 3, C)`."""
        width = self.config.hidden_size
        kernel = self.param("kernel", _start, (width, 3, width))
        return jnp.tensordot(x.astype(self.dtype), kernel.astype(self.dtype), axes=1)


class FlaxBeitAttention(nn.Module):
    """Multi-head self-attention with one matrix for query, key and value; key has no bias, as in the paper's code."""

    config: BeitConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        config = self.config
        self.qkv = FlaxBeitQKV(config, self.dtype)
        self.q_bias = self.param("q_bias", _start, (config.hidden_size,))
        self.v_bias = self.param("v_bias", _start, (config.hidden_size,))
        self.relative_position = FlaxBeitRelativePosition(config) if config.use_relative_position_bias else None
        self.proj = dense(config.hidden_size, self.dtype)

    def __call__(
        self, x: Array, bias: Array | None, train: bool, need_weights: bool, grid: Grid | None = None
    ) -> tuple[Array, Array | None]:
        """`x (B, T, C)`, shared `bias (1, heads, T, T)` → `(B, T, C)` and, if asked for, weights `(B, heads, T, T)`.

        `grid`: patches `(h, w)` of these images; the configured ones by default.
        """
        batch, tokens, width = x.shape
        heads = self.config.num_attention_heads
        qkv_bias = jnp.stack((self.q_bias, jnp.zeros_like(self.q_bias), self.v_bias))
        qkv = self.qkv(x) + qkv_bias.astype(self.dtype)
        q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, 3, heads, width // heads), 2, 0)  # each (B, T, heads, D)
        if self.relative_position is not None:
            own = self.relative_position(grid)
            bias = own if bias is None else bias + own
        if bias is not None:
            bias = bias.astype(q.dtype)
        dropout = self.config.attention_probs_dropout_prob if train else 0.0
        # On a CPU jax has no fused attention in float16.
        lacking = q.dtype == jnp.float16 and jax.default_backend() == "cpu"
        if need_weights or dropout or lacking:
            y, weights = self._explicit(q, k, v, bias, dropout)
        else:
            y, weights = jax.nn.dot_product_attention(q, k, v, bias=bias), None
        return self.proj(y.reshape(batch, tokens, width)), weights if need_weights else None

    def _explicit(self, q: Array, k: Array, v: Array, bias: Array | None, dropout: float) -> tuple[Array, Array]:
        """The plain formula: softmax(q·kᵀ/√D + bias)·v, with a place to look at the weights or to drop some."""
        scores = jnp.einsum("bthd,bshd->bhts", q / np.sqrt(q.shape[-1]).astype(q.dtype), k)
        scores = scores if bias is None else scores + bias
        weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(v.dtype)
        if dropout:
            kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - dropout, weights.shape)
            weights = jnp.where(kept, weights / (1 - dropout), 0)
        return jnp.einsum("bhts,bshd->bthd", weights, v), weights


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
        self.gamma1 = self.param("gamma1", _start, (config.hidden_size,)) if scaled else None
        self.gamma2 = self.param("gamma2", _start, (config.hidden_size,)) if scaled else None
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def __call__(
        self, x: Array, bias: Array | None, train: bool = False, need_weights: bool = False, grid: Grid | None = None
    ) -> tuple[Array, Array | None]:
        """`x (B, T, C)` → `(B, T, C)` and, if asked for, attention weights `(B, heads, T, T)`; see `FlaxBeitAttention`."""
        y, weights = self.attn(self.norm1(x), bias, train, need_weights, grid)
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
    """L layers; the shared relative-position bias, if any, is built once for all of them."""

    config: BeitConfig
    dtype: Any = jnp.float32
    gradient_checkpointing: bool = False

    def setup(self) -> None:
        config = self.config
        self.relative_position = FlaxBeitRelativePosition(config) if config.use_shared_relative_position_bias else None
        depth = config.num_hidden_layers
        rates = [config.drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        layer: Any = nn.remat(FlaxBeitLayer, static_argnums=(3, 4, 5)) if self.gradient_checkpointing else FlaxBeitLayer
        self.layers = [layer(config, rate, self.dtype) for rate in rates]

    def __call__(
        self,
        x: Array,
        train: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        depth: int | None = None,
        grid: Grid | None = None,
    ) -> BaseModelOutput:
        """`x (B, 1+N, C)` → the output of the last layer and what was asked for.

        `depth`: how many layers to run; all by default. `grid`: patches `(h, w)` of these images; the configured ones by
        default.
        """
        bias = None if self.relative_position is None else self.relative_position(grid)
        hidden_states, attentions = [x], []
        for layer in self.layers[:depth]:
            x, weights = layer(x, bias, train, output_attentions, grid)
            hidden_states.append(x)
            attentions.append(weights)
        return BaseModelOutput(
            last_hidden_state=x,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )


class FlaxBeitPooler(nn.Module):
    """`(B, 1+N, C)` → `(B, C)`: layer norm of the mean of the patches, or the cls token."""

    config: BeitConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.layernorm = layer_norm(self.config, self.dtype) if self.config.use_mean_pooling else None

    def __call__(self, x: Array) -> Array:
        return x[:, 0] if self.layernorm is None else self.layernorm(x[:, 1:].mean(1))


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
        # With mean pooling the pooler normalises; the hidden states stay as they are.
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
        encoded = self.encoder(x, train, output_attentions, output_hidden_states, grid=grid)
        sequence = encoded.last_hidden_state
        if self.layernorm is not None:
            sequence = self.layernorm(sequence)
        return BeitModelOutputWithPooling(
            last_hidden_state=sequence,
            pooler_output=None if self.pooler is None else self.pooler(sequence),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class FlaxBeitForMaskedImageModelingModule(nn.Module):
    """Predicts the visual token of each patch: BEiT's pre-training (section 2.3)."""

    config: BeitConfig
    dtype: Any = jnp.float32
    gradient_checkpointing: bool = False

    def setup(self) -> None:
        config = self.config
        self.beit = FlaxBeitModule(config, self.dtype, self.gradient_checkpointing, add_pooling_layer=False)
        # After the body's own norm there are two in CLS mode; the reference has it so.
        self.layernorm = layer_norm(config, self.dtype)
        self.lm_head = dense(config.vocab_size, self.dtype)

    def __call__(
        self,
        pixel_values: Array,
        mask: Array | None = None,
        train: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        at: Array | None = None,
    ) -> MaskedLMOutput:
        """`pixel_values (B, channels, H, W)`, `mask (B, N)` bool → logits `(B, N, vocab)`.

        With `at (B, M)`, numbers of patches, logits of these only, `(B, M, vocab)`: in training nobody reads the others, and the
        head is as large as a layer. How many patches are masked may differ; M, which must not, is their largest number.
        """
        encoded = self.beit(pixel_values, mask, train, output_attentions, output_hidden_states)
        patches = encoded.last_hidden_state[:, 1:]
        if at is not None:
            patches = jnp.take_along_axis(patches, at[..., None], axis=1)
        logits = self.lm_head(self.layernorm(patches))
        return MaskedLMOutput(None, logits, encoded.hidden_states, encoded.attentions)


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


# --- losses ----------------------------------------------------------------------------------------------------------


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Of each of `logits (…, classes)` with class numbers `labels (…)`: `(…)`, float32."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def masked_first(mask: Array, most: int) -> tuple[Array, Array]:
    """The masked patches of each image first, in reading order, without a shape that follows from the numbers.

    Args:
        mask: `(B, N)` bool.
        most: M, at least the number of masked patches of any image.

    Returns:
        Numbers of patches `(B, M)`, and which of them are masked, `(B, M)` bool.
    """
    at = jnp.argsort(~mask, axis=1, stable=True)[:, :most]
    return at, jnp.take_along_axis(mask, at, axis=1)


# --- the classes of the reference's API ------------------------------------------------------------------------------


class FlaxBeitPreTrainedModel(FlaxPretrained):
    """What all Flax BEiT models share; see `FlaxPretrained`."""

    base_model_prefix = "beit"


class FlaxBeitModel(FlaxBeitPreTrainedModel):
    """The encoder without a head; see `FlaxPretrained` for arguments and calls. `add_pooling_layer`: outputs have
    `pooler_output`."""

    module_class: ClassVar[type[nn.Module]] = FlaxBeitModule
    own_arguments: ClassVar[tuple[str, ...]] = ("add_pooling_layer",)


class FlaxBeitForMaskedImageModeling(FlaxBeitPreTrainedModel):
    """Predicts the visual token of each patch: BEiT's pre-training (section 2.3); see `FlaxPretrained`.

    `labels`: tokens in [0, vocab), `(M,)` for the masked patches in reading order (not under `jit`, where M is unknown), or
    `(B, N)` for all, of which those at the mask count. The loss is the mean cross-entropy over masked patches.
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


class FlaxBeitForImageClassification(FlaxBeitPreTrainedModel):
    """Classifies images by a linear layer on the pooled patches (section 2.5); see `FlaxPretrained`.

    `labels`: `(B,)` class numbers (cross-entropy); `(B,)` or `(B, num_labels)` floats for regression (mean squared error);
    `(B, num_labels)` 0/1 floats for several labels an image (binary cross-entropy). `config.problem_type` says which; if
    None: regression for one label, classes for whole numbers.
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
