"""BEiT in PyTorch, to be read from top to bottom: embeddings → relative position → attention → layer → encoder → models.

    pixels (B, 3, H, W) → patches (B, N, C), mask token swapped in → cls token in front (B, 1+N, C) → L layers of
    attention with relative-position bias (1, heads, 1+N, 1+N) and MLP → pooled (B, C) → head

Paper: Bao et al., BEiT: BERT Pre-Training of Image Transformers, 2021 (arXiv 2106.08254). Numbers follow transformers
4.37.2 to 1e-5. This file has the formulas. How some are computed faster is in `kernels/`, how files are read and written in
`pretrained.py`, how weights start in `models/parameters.py`; `models/flax/beit.py` is the twin, part by part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from beit.config import BeitConfig
from beit.core import geometry
from beit.models import validation
from beit.models.outputs import BaseModelOutput, BeitModelOutputWithPooling, ImageClassifierOutput, MaskedLMOutput
from beit.models.parameters import Starts
from beit.models.torch import inputs

# All faster ways are plugged in here. Each gives the numbers of a formula below, and tests/models/kernels holds it to that:
# `apply_linear` is `layer(x)`, `apply_together` that of several layers, `activated` is `activation(layer(x))`, `fused_attention` is `attention`, `gather` is `table[index]`.
from beit.models.torch.activations import ACTIVATIONS
from beit.models.torch.initialization import initialize
from beit.models.torch.kernels.activation import activated
from beit.models.torch.kernels.attention import fused_attention, head_by_head, plain_is_faster
from beit.models.torch.kernels.linear import apply_linear, apply_together, untouched
from beit.models.torch.kernels.position_bias import KeptBiases, PositionBias, gather, product_dtype, resize_table
from beit.models.torch.kernels.position_tables import Grid, plain_grid, relative_position_index, same_grid
from beit.models.torch.pretrained import PretrainedModule
from beit.models.torch.qkv import QKV
from beit.models.torch.renamed import Renamed


class BeitPatchEmbeddings(nn.Module):
    """Pixels → patches, by a convolution whose stride is the patch."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        patch = geometry.pair(config.patch_size)
        self.projection = nn.Conv2d(config.num_channels, config.hidden_size, patch, stride=patch)
        self.pad_to_patch = config.pad_to_patch

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Grid]:
        """`(B, channels, H, W)` → `(B, N, C)`, and the grid of patches `(h, w)`, N = h·w."""
        x = self.projection(self._whole_patches(pixel_values).to(self.projection.weight.dtype))
        return x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])

    def _whole_patches(self, pixel_values: Tensor) -> Tensor:
        """With `BeitConfig.pad_to_patch`, zeros below and on the right up to the next whole patch."""
        height, width = self.projection.kernel_size
        below, right = -pixel_values.shape[2] % height, -pixel_values.shape[3] % width
        if not self.pad_to_patch or below == right == 0:
            return pixel_values
        return F.pad(pixel_values, (0, right, 0, below))


class BeitEmbeddings(nn.Module):
    """Pixels → tokens: patches, mask token, absolute positions, cls token."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, width)) if config.use_mask_token else None
        self.position_embeddings = (
            nn.Parameter(torch.empty(1, 1 + config.num_patches, width))
            if config.use_absolute_position_embeddings
            else None
        )
        self.patch_embeddings = BeitPatchEmbeddings(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: Tensor, mask: Tensor | None = None) -> Tensor:
        """`pixel_values (B, channels, H, W)`, `mask (B, N)` bool → `(B, 1+N, C)`."""
        x, grid = self.patch_embeddings(pixel_values)
        positions = self._positions(grid)
        # Before the positions are added or after: this decides whether a masked patch knows where it is. See
        # BeitConfig.mask_keeps_position.
        if mask is not None and self.config.mask_keeps_position:
            x = self._swap_in_mask_token(x, mask)
        if positions is not None:
            x = x + positions[:, 1:]
        if mask is not None and not self.config.mask_keeps_position:
            x = self._swap_in_mask_token(x, mask)
        cls = self.cls_token if positions is None else self.cls_token + positions[:, :1]
        return self.dropout(torch.cat((cls.expand(x.shape[0], -1, -1).to(x.dtype), x), dim=1))

    def _swap_in_mask_token(self, x: Tensor, mask: Tensor) -> Tensor:
        assert self.mask_token is not None  # BeitModel has refused a mask without it
        return torch.where(mask.unsqueeze(-1), self.mask_token.to(x.dtype), x)

    def _positions(self, grid: Grid) -> Tensor | None:
        """`(1, 1+N, C)`, resized bicubically for images of another size than the configured one; None for none."""
        positions = self.position_embeddings
        if positions is None or same_grid(grid, self.config.grid):
            return positions
        patches = positions[:, 1:].unflatten(1, self.config.grid).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, size=grid, mode="bicubic").flatten(2).transpose(1, 2)
        return torch.cat((positions[:, :1], patches), dim=1)


class BeitRelativePositionBias(nn.Module):
    """A learned bias for each head and each displacement between two patches (BEiT, section 2.1; as in T5 and Swin).

        bias[head, i, j] = table[index[i, j], head]

    `index` numbers the displacements (y_i - y_j, x_i - x_j); three more rows are for pairs with the cls token: see
    `geometry.relative_position_index`. The table belongs to images of the configured size. For other sizes it is resized, so
    that near displacements keep their meaning in patches and far ones are stretched: see `core/resampling.py`.
    """

    index: Tensor

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.grid = config.grid
        rows = geometry.num_relative_distances(self.grid)
        self.relative_position_bias_table = nn.Parameter(torch.empty(rows, config.num_attention_heads))
        self.register_buffer("index", torch.empty(0), persistent=False)
        self.reset_buffers()
        self.biases = KeptBiases()

    def reset_buffers(self) -> None:
        """Compute the index again, on the table's device, or on the CPU for a table without numbers."""
        device = self.relative_position_bias_table.device
        index = relative_position_index(self.grid, torch.device("cpu"))
        self.index = index if device.type == "meta" else index.to(device)

    def forward(self, grid: Grid | None = None, dtype: torch.dtype | None = None, as_table: bool = False) -> Tensor:
        """The bias for images of `grid` patches.

        Args:
            grid: `(h, w)`, N = h·w; by default the configured one.
            dtype: of the bias; by default the table's.
            as_table: return the table for this grid instead, for kernels that read it.

        Returns:
            `(1, heads, 1+N, 1+N)`; with `as_table`, `((2h-1)(2w-1)+3, heads)` in the table's own type.
        """
        table = self.relative_position_bias_table
        grid = self.grid if grid is None else plain_grid(grid)
        if as_table:
            return self._resized(grid)
        if self.biases.applies(table):
            return self.biases.get(table, grid, self.build).to(dtype or table.dtype)
        return self.build(grid, dtype)

    def build(self, grid: Grid, dtype: torch.dtype | None = None) -> Tensor:
        """As `forward`, computed anew."""
        device = self.relative_position_bias_table.device
        index = self.index if same_grid(grid, self.grid) else relative_position_index(grid, device)
        return gather(self._resized(grid), index.to(device), dtype)

    def _resized(self, grid: Grid) -> Tensor:
        table = self.relative_position_bias_table
        return table if same_grid(grid, self.grid) else resize_table(table, self.grid, grid)


class AttentionOptions(NamedTuple):
    """What a call observes or changes inside attention. Either needs the weights, which fused kernels never build.

    Attributes:
        need_weights: whether attention returns its weights.
        head_mask: factors of the heads' weights: `(L, 1, heads, 1, 1)` for all layers, `(1, heads, 1, 1)` for one; or None.
    """

    need_weights: bool = False
    head_mask: Tensor | None = None

    def of_layer(self, number: int) -> AttentionOptions:
        """The options of one layer, counted from 0."""
        return self if self.head_mask is None else AttentionOptions(self.need_weights, self.head_mask[number])

    @property
    def plain(self) -> bool:
        """Whether the plain formula must be taken."""
        return self.need_weights or self.head_mask is not None


def attention(
    q: Tensor, k: Tensor, v: Tensor, bias: PositionBias, dropout: float = 0.0, head_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The plain formula: softmax(q·kᵀ/√D + bias)·v.

    Args:
        q: `(B, heads, T, D)`, as are `k` and `v`.
        k: keys.
        v: values.
        bias: added to the scores.
        dropout: probability by which weights are dropped.
        head_mask: `(1, heads, 1, 1)`, factors of the weights.

    Returns:
        `(B, T, heads·D)`, and the weights `(B, heads, T, T)`.
    """
    # One copy of each saves the products below copies of their own.
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
    dense = bias.dense(q.dtype)
    if dense is not None:
        scores = scores.add_(dense)  # in place: the gradient of the product does not need the product
    weights = F.dropout(scores.softmax(dim=-1), dropout)
    if head_mask is not None:
        weights = weights * head_mask
    y = weights.to(v.dtype) @ v
    return y.transpose(1, 2).flatten(2), weights


class BeitSelfAttention(nn.Module):
    """Multi-head self-attention up to its output matrix; the key has no bias, as in the paper's code."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        # Given afterwards, because a constructor would draw them: a seed keeps giving the weights that it gave in version 0.1.
        self.query.bias, self.value.bias = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.qkv = QKV(self)
        self.relative_position_bias = BeitRelativePositionBias(config) if config.use_relative_position_bias else None

    def forward(self, x: Tensor, bias: PositionBias, options: AttentionOptions) -> tuple[Tensor, Tensor | None]:
        """`x (B, T, C)`, the bias of all layers → `(B, T, C)` and, if asked for, weights `(B, heads, T, T)`."""
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in self._project(x))
        if self.relative_position_bias is not None:
            bias = bias.plus(self.relative_position_bias, q.dtype)
        dropout = self.dropout if self.training else 0.0
        if options.plain or plain_is_faster(q, bias):
            y, weights = attention(q, k, v, bias, dropout, options.head_mask)
        else:
            y, weights = fused_attention(q, k, v, bias, dropout), None
        return y, weights if options.need_weights else None

    def _project(self, x: Tensor) -> Sequence[Tensor]:
        """Query, key and value, each `(B, T, C)`."""
        if untouched(self.qkv, QKV):
            return apply_together((self.query, self.key, self.value), x)
        return self.qkv(x).chunk(3, dim=-1)


class BeitSelfOutput(nn.Module):
    """The matrix that mixes the heads."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(apply_linear(self.dense, x))


class BeitAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.attention = BeitSelfAttention(config)
        self.output = BeitSelfOutput(config)

    def forward(self, x: Tensor, bias: PositionBias, options: AttentionOptions) -> tuple[Tensor, Tensor | None]:
        """As `BeitSelfAttention`."""
        y, weights = self.attention(x, bias, options)
        return self.output(y), weights


class BeitIntermediate(nn.Module):
    """The first half of the MLP: a linear map to the inner width, and the activation."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = config.hidden_act if callable(config.hidden_act) else ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return activated(self.dense, x, self.intermediate_act_fn)


class BeitOutput(nn.Module):
    """The second half of the MLP: a linear map back to the width of the encoder."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(apply_linear(self.dense, x))


class BeitLayer(Renamed):
    """Pre-norm transformer layer: x + λ₁·attention(norm(x)), then x + λ₂·MLP(norm(x)), with stochastic depth."""

    renamed: ClassVar = {
        "attn": "attention.attention",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "gamma1": "lambda_1",
        "gamma2": "lambda_2",
    }

    def __init__(self, config: BeitConfig, drop_path: float) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layernorm_before = nn.LayerNorm(width, eps=eps)
        self.attention = BeitAttention(config)
        self.layernorm_after = nn.LayerNorm(width, eps=eps)
        self.intermediate = BeitIntermediate(config)
        self.output = BeitOutput(config)
        scaled = config.layer_scale_init_value > 0
        self.lambda_1 = nn.Parameter(torch.empty(width)) if scaled else None
        self.lambda_2 = nn.Parameter(torch.empty(width)) if scaled else None
        self.drop_path = drop_path

    def forward(self, x: Tensor, bias: PositionBias, options: AttentionOptions) -> tuple[Tensor, Tensor | None]:
        """`x (B, T, C)` → `(B, T, C)` and, if asked for, attention weights `(B, heads, T, T)`; see `BeitSelfAttention`."""
        y, weights = self.attention(self.layernorm_before(x), bias, options)
        x = self._add(x, y, self.lambda_1)
        y = self.output(self.intermediate(self.layernorm_after(x)))
        return self._add(x, y, self.lambda_2), weights

    def _add(self, x: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
        """x + λ·branch; in training, whole samples of the branch are dropped with probability `drop_path`."""
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            kept = torch.rand(x.shape[0], 1, 1, device=x.device) < keep
            factor = kept.to(branch.dtype) / keep
            branch = branch * (factor if scale is None else factor * scale)
            return x + branch
        return x + branch if scale is None else torch.addcmul(x, branch, scale)


class BeitEncoder(Renamed):
    """L layers; the shared relative-position bias, if there is one, is built once for all of them."""

    renamed: ClassVar = {"layers": "layer", "relative_position": "relative_position_bias"}

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.relative_position_bias = (
            BeitRelativePositionBias(config) if config.use_shared_relative_position_bias else None
        )
        depth = config.num_hidden_layers
        rates = [config.drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.layer = nn.ModuleList(BeitLayer(config, rate) for rate in rates)
        self.dropout = config.attention_probs_dropout_prob
        self.gradient_checkpointing = False
        self.checkpointing_options: dict[str, Any] = {}
        self.checkpoint_every = 1

    def forward(
        self,
        x: Tensor,
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
        # Long sequences on a CPU: attention goes head by head and reads the bias from its table, so it is never built.
        by_head = head_by_head(x) and not options.plain and not (self.training and self.dropout)
        bias = PositionBias(grid, by_head)
        if self.relative_position_bias is not None:
            bias = bias.plus(self.relative_position_bias, product_dtype(x))
        hidden_states, attentions = [x], []
        for i, layer in enumerate(self.layer[:depth]):
            if self.gradient_checkpointing and self.training and i % self.checkpoint_every == 0:
                x, weights = checkpoint(
                    layer, x, bias, options.of_layer(i), use_reentrant=False, **self.checkpointing_options
                )
            else:
                x, weights = layer(x, bias, options.of_layer(i))
            if output_hidden_states:
                hidden_states.append(x)
            if options.need_weights:
                attentions.append(weights)
        return BaseModelOutput(
            last_hidden_state=x,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if options.need_weights else None,
        )


class BeitPooler(nn.Module):
    """`(B, 1+N, C)` → `(B, C)`: layer norm of the mean of the patches, or the cls token."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.layernorm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.use_mean_pooling else None
        )

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0] if self.layernorm is None else self.layernorm(x[:, 1:].mean(1))


class BeitPreTrainedModel(PretrainedModule):
    """What all BEiT models share: initialisation, gradient checkpointing, defaults of a call; files by `PretrainedModule`."""

    config_class = BeitConfig

    @torch.no_grad()
    def init_weights(self, scheme: str = "paper", only: set[str] | None = None) -> None:
        """Draw all parameters and statistics anew, or those named in `only`, by the table in `models/parameters.py`.

        Raises:
            ConfigError: there is no such scheme.
        """
        starts = Starts(self.config, scheme)
        for name, tensor in self.state_dict().items():
            # A model that is about to be loaded is on the meta device: it has no numbers yet, and pretending takes time.
            if not tensor.is_meta and (only is None or name in only):
                initialize(tensor, starts(name, tensor.ndim))

    def _head_parameters(self) -> set[str]:
        return {name for name in self.state_dict() if not name.startswith("beit.")}

    def _flags(self, attentions: bool | None, hidden: bool | None, as_dict: bool | None) -> tuple[bool, bool, bool]:
        """A call's arguments; the config's defaults where they are None."""
        config = self.config
        return (
            config.output_attentions if attentions is None else attentions,
            config.output_hidden_states if hidden is None else hidden,
            (config.return_dict and not getattr(config, "torchscript", False)) if as_dict is None else as_dict,
        )


class BeitModel(BeitPreTrainedModel):
    """The encoder without a head.

    Args:
        config: the architecture. Weights are random; `from_pretrained` loads them.
        add_pooling_layer: whether outputs have `pooler_output`.
    """

    def __init__(self, config: BeitConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = BeitEmbeddings(config)
        self.encoder = BeitEncoder(config)
        # With mean pooling the pooler normalises, and the hidden states stay as they are.
        self.layernorm = (
            nn.Identity() if config.use_mean_pooling else nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        )
        self.pooler = BeitPooler(config) if add_pooling_layer else None
        self.init_weights()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BeitModelOutputWithPooling | tuple[Any, ...]:
        """Encode images.

        Args:
            pixel_values: `(B, channels, H, W)`, normalised as by the image processor. The patch must divide both sides,
                unless `config.pad_to_patch`. For other sizes than `config.image_size` positions are resized.
            bool_masked_pos: `(B, N)` or `(B, h, w)`, bool or 0/1: the patches that the mask token replaces.
            head_mask: `(heads,)` or `(L, heads)`: 1 keeps a head, 0 switches it off.
            output_attentions: return attention weights (by the plain formula, which is slower).
            output_hidden_states: return the embeddings and the output of each layer.
            return_dict: return an output object (default) or a plain tuple.

        Raises:
            InputError: wrong shape, channel count or size; or a mask without a mask token.
        """
        attentions, hidden, as_dict = self._flags(output_attentions, output_hidden_states, return_dict)
        pixels = inputs.check_pixels(pixel_values, self.config)
        x = self.embeddings(pixels, inputs.check_mask(bool_masked_pos, pixels, self.config))
        options = AttentionOptions(attentions, inputs.expand_head_mask(head_mask, x, self.config))
        encoded = self.encoder(x, self.config.grid_of(pixels.shape[2:]), options, hidden)
        sequence = self.layernorm(encoded.last_hidden_state)
        output = BeitModelOutputWithPooling(
            last_hidden_state=sequence,
            pooler_output=None if self.pooler is None else self.pooler(sequence),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return output if as_dict else output.to_tuple()


class BeitForMaskedImageModeling(BeitPreTrainedModel):
    """Predicts the visual token of each patch: BEiT's pre-training (section 2.3).

    Args:
        config: the architecture; `use_mask_token=True` for masks.
    """

    def __init__(self, config: BeitConfig) -> None:
        super().__init__(config)
        self.beit = BeitModel(config, add_pooling_layer=False)
        # With the body's own norm there are two in a row without mean pooling; the reference has it so.
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.init_weights(only=self._head_parameters())  # the body initialised itself

    def forward(
        self,
        pixel_values: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        head_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        masked_logits_only: bool = False,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Predict visual tokens. Arguments that are not listed: see `BeitModel.forward`.

        Args:
            bool_masked_pos: `(B, N)` or `(B, h, w)`: the masked patches, M in all.
            labels: tokens in [0, vocab): `(M,)` for the masked patches in reading order, or `(B, N)` for all patches, of
                which the masked ones count. The loss is the mean cross-entropy over masked patches.
            masked_logits_only: compute and return logits `(M, vocab)` of the masked patches only. The same loss for
                less work: the head costs as much as a layer, and training does not need the other logits.

        Raises:
            InputError: as `BeitModel`; labels without a mask, of another length, or with nothing masked.
        """
        attentions, hidden, as_dict = self._flags(output_attentions, output_hidden_states, return_dict)
        encoded = self.beit(pixel_values, bool_masked_pos, head_mask, attentions, hidden, True)
        patches = encoded.last_hidden_state[:, 1:]
        validation.check_needs_mask(bool_masked_pos, labels, masked_logits_only)
        mask = None
        if bool_masked_pos is not None:
            mask = bool_masked_pos.to(patches.device).bool().reshape(patches.shape[:2])
        if masked_logits_only:
            logits = masked = apply_linear(self.lm_head, self.layernorm(patches[mask]))
        else:
            logits = apply_linear(self.lm_head, self.layernorm(patches))
            masked = logits if mask is None or labels is None else logits[mask]
        loss = None
        if labels is not None:
            assert mask is not None  # labels without a mask are refused above
            loss = F.cross_entropy(masked.float(), inputs.masked_tokens(labels, mask, masked.shape[0], self.config))
        output = MaskedLMOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return output if as_dict else output.to_tuple()


class BeitForImageClassification(BeitPreTrainedModel):
    """Classifies images by a linear layer on the pooled patches (section 2.5).

    Args:
        config: the architecture; `num_labels` classes (0 for no classifier).
    """

    def __init__(self, config: BeitConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.beit = BeitModel(config, add_pooling_layer=True)
        self.classifier: nn.Module = (
            nn.Linear(config.hidden_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        )
        self.init_weights(only=self._head_parameters())  # the body initialised itself

    def forward(
        self,
        pixel_values: Tensor | None = None,
        head_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutput | tuple[Any, ...]:
        """Classify images. Arguments that are not listed: see `BeitModel.forward`.

        Args:
            labels: `(B,)` class numbers (cross-entropy); `(B,)` or `(B, num_labels)` floats for regression (mean
                squared error); `(B, num_labels)` 0/1 floats for several labels per image (binary cross-entropy).
                `config.problem_type` says which. If it is None: regression with one label, else classes for integers
                and several labels for floats.

        Raises:
            InputError: as `BeitModel`; or labels of another shape, or outside the classes.
        """
        attentions, hidden, as_dict = self._flags(output_attentions, output_hidden_states, return_dict)
        encoded = self.beit(pixel_values, None, head_mask, attentions, hidden, True)
        logits = apply_linear(self.classifier, encoded.pooler_output)
        loss = None if labels is None else self._loss(logits, labels)
        output = ImageClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return output if as_dict else output.to_tuple()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        inputs.check_is_tensor("labels", labels)
        whole = not labels.is_floating_point() and labels.dtype != torch.bool
        problem = validation.problem_type(self.config, whole)
        logits = logits.float()
        validation.check_labels(labels.shape, logits.shape, problem)
        if problem == "regression":
            return F.mse_loss(logits.reshape(-1), labels.reshape(-1).to(logits))
        if problem == "single_label_classification":
            inputs.check_classes(labels, logits.shape[1], "num_labels")
            return F.cross_entropy(logits, labels.reshape(-1).to(logits.device).long())
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits))
