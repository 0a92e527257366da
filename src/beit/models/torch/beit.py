"""BEiT in PyTorch, to be read from top to bottom: embeddings → relative position → attention → layer → models.

    pixels (B, 3, H, W) → patches (B, N, C), mask token swapped in → cls token in front (B, 1+N, C) → L layers of
    attention with relative-position bias (1, heads, 1+N, 1+N) and MLP → pooled (B, C) → head

Paper: Bao et al., BEiT: BERT Pre-Training of Image Transformers, 2021 (arXiv 2106.08254). Numbers follow transformers
4.37.2 to 1e-5. Loading and saving live in `pytorch_files.py`; names on disk in `beit/weights.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from beit.config import BeitConfig
from beit.core import geometry
from beit.core import resampling as resize
from beit.core.errors import InputError
from beit.models import validation
from beit.models.initialization import start_of
from beit.models.outputs import BaseModelOutput, BeitModelOutputWithPooling, ImageClassifierOutput, MaskedLMOutput
from beit.models.torch.kernels import position_tables as grids
from beit.models.torch.kernels.attention import attend, head_by_head
from beit.models.torch.kernels.linear import Linear, linear
from beit.models.torch.kernels.position_tables import Grid
from beit.models.torch.pretrained import PretrainedModule

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "selu": F.selu,
    "gelu_new": functools.partial(F.gelu, approximate="tanh"),  # no lambda: models are pickled
}


class BeitEmbeddings(nn.Module):
    """Pixels → tokens: patches by a strided convolution, mask token, absolute positions, cls token."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.hidden_size, geometry.pair(config.patch_size)
        self.patch = nn.Conv2d(config.num_channels, width, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, width)) if config.use_mask_token else None
        self.position = (
            nn.Parameter(torch.empty(1, 1 + config.num_patches, width))
            if config.use_absolute_position_embeddings
            else None
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: Tensor, mask: Tensor | None = None) -> Tensor:
        """`pixel_values (B, channels, H, W)`, `mask (B, N)` bool → `(B, 1+N, C)`."""
        x = self.patch(self._whole_patches(pixel_values).to(self.patch.weight.dtype))
        grid = x.shape[2], x.shape[3]
        x = x.flatten(2).transpose(1, 2)  # (B, N, C)
        positions = self._positions(grid)
        # Where the mask token comes before or after the positions changes what a masked patch knows of its place: see
        # BeitConfig.mask_keeps_position.
        if mask is not None and self.config.mask_keeps_position:
            x = self._swap_in_mask_token(x, mask)
        if positions is not None:
            x = x + positions[:, 1:]
        if mask is not None and not self.config.mask_keeps_position:
            x = self._swap_in_mask_token(x, mask)
        cls = self.cls_token if positions is None else self.cls_token + positions[:, :1]
        return self.dropout(torch.cat((cls.expand(x.shape[0], -1, -1).to(x.dtype), x), dim=1))

    def _whole_patches(self, pixel_values: Tensor) -> Tensor:
        """Padded with zeros, below and on the right, if `BeitConfig.pad_to_patch` says so."""
        height, width = self.patch.kernel_size
        below, right = -pixel_values.shape[2] % height, -pixel_values.shape[3] % width
        if not self.config.pad_to_patch or below == right == 0:
            return pixel_values
        return F.pad(pixel_values, (0, right, 0, below))

    def _swap_in_mask_token(self, x: Tensor, mask: Tensor) -> Tensor:
        assert self.mask_token is not None  # checked by BeitModel, with a message for the user
        return torch.where(mask.unsqueeze(-1), self.mask_token.to(x.dtype), x)

    def _positions(self, grid: tuple[int, int]) -> Tensor | None:
        """`(1, 1+N, C)`; resized bicubically when the image is not of the configured size."""
        if self.position is None or grid == self.config.grid:
            return self.position
        patches = self.position[:, 1:].unflatten(1, self.config.grid).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, size=grid, mode="bicubic").flatten(2).transpose(1, 2)
        return torch.cat((self.position[:, :1], patches), dim=1)


# Biases that one table keeps for images of several sizes, while they take 16 MiB together: of large ones only the newest, since
# each layer may have a table.
_KEPT_BIASES, _KEPT_NUMBERS = 4, 1 << 22


class BeitRelativePosition(nn.Module):
    """A learned bias for every head and every displacement between two patches (BEiT, section 2.1; T5-like).

    The table belongs to images of the configured size; for those of another it is resized, see `resize.py`.
    """

    index: Tensor

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.table = nn.Parameter(torch.empty(geometry.num_relative_distances(self.grid), config.num_attention_heads))
        self.register_buffer("index", torch.empty(0), persistent=False)
        self.reset_buffers()
        self._kept: tuple[Tensor, dict[Grid, Tensor]] | None = None  # the table and the biases built from it

    def reset_buffers(self) -> None:
        """Set the index again on the table's device (a model is loaded onto no device at first)."""
        self.index = grids.relative_position_index(self.grid, torch.device("cpu")).to(self.table.device)

    def forward(self, grid: Grid | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """`(1, heads, 1+N, 1+N)` in `dtype` for images of `grid` patches; the table's and the configured ones by default.

        Rows lie a multiple of `ROW` numbers apart. Without gradients, on a CPU, it is built once for a grid and kept until
        the table changes.
        """
        grid = self.grid if grid is None else (int(grid[0]), int(grid[1]))
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if torch.is_grad_enabled() or traced or self.table.device.type != "cpu":
            return self._build(grid, dtype)
        # The numbers are compared, because nothing else tells: fused optimisers and writes through `.data` leave a
        # tensor's version as it is. Elsewhere than on a CPU the comparison would wait for the device and cost more
        # than it saves.
        kept = self._kept
        if kept is not None and (kept[0].dtype != self.table.dtype or not torch.equal(kept[0], self.table)):
            kept = None
        if kept is None or grid not in kept[1]:
            with torch.inference_mode(False), torch.no_grad():
                table, biases = (self.table.clone(), {}) if kept is None else kept
                biases = {**biases, grid: self._build(grid)}  # a new one: other threads may read the old
            while len(biases) > 1 and (
                len(biases) > _KEPT_BIASES or sum(map(Tensor.numel, biases.values())) > _KEPT_NUMBERS
            ):
                del biases[next(iter(biases))]
            kept = self._kept = table, biases
        return kept[1][grid].to(dtype or self.table.dtype)

    def resized(self, grid: Grid | None) -> Tensor:
        """The table for images of `grid` patches, `((2h-1)(2w-1)+3, heads)`; itself for the configured ones (or None)."""
        if grid is None or grid == self.grid:
            return self.table
        device = self.table.device
        rows, columns = (
            grids.table_weights(have, int(want), device) for have, want in zip(self.grid, grid, strict=True)
        )
        exact = torch.promote_types(self.table.dtype, torch.float32)  # in half precision neighbours would become alike
        with _without_autocast(device.type):
            x = self.table[: -resize.OTHERS].to(exact).unflatten(0, (rows.shape[1], columns.shape[1]))
            x = (rows.to(exact) @ x.flatten(1)).unflatten(1, x.shape[1:])  # (2h-1, columns of the table, heads)
            x = columns.to(exact) @ x
        return torch.cat((x.flatten(0, 1).to(self.table.dtype), self.table[-resize.OTHERS :]))

    def _build(self, grid: Grid, dtype: torch.dtype | None = None) -> Tensor:
        table = self.resized(grid)
        index = self.index if grid == self.grid else grids.relative_position_index(grid, self.table.device)
        # One gather a head on the transposed table leaves the heads in front without a second copy.
        bias = table.t().index_select(1, index.view(-1)).view(1, -1, *index.shape)
        bias = bias.to(dtype or table.dtype)  # before it is cut: a cast of the part would close the rows up
        return bias[..., : index.shape[0]]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}  # copies and pickles build their own


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    # The meta device has none. `torch.amp.is_autocast_available` would tell, but not every compiler follows it.
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def _product_dtype(x: Tensor) -> torch.dtype:
    """What `Linear` makes of `x`."""
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)


class BeitAttention(nn.Module):
    """Multi-head self-attention with one matrix for query, key and value; key has no bias, as in the paper's code."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.grid = config.grid
        self.dropout = config.attention_probs_dropout_prob
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.empty(width))
        self.v_bias = nn.Parameter(torch.empty(width))
        self.relative_position = BeitRelativePosition(config) if config.use_relative_position_bias else None
        self.proj = Linear(width, width)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        head_mask: Tensor | None,
        need_weights: bool,
        by_head: bool = False,
        grid: Grid | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """`x (B, T, C)` → `(B, T, C)` and, if asked for, weights `(B, heads, T, T)`.

        `bias` is what all layers share, `(1, heads, T, T)`; `by_head`, the table it comes from instead, resized for `grid`,
        the patches `(h, w)` of these images (the configured ones by default).
        """
        batch, tokens, width = x.shape
        qkv_bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = linear(x, self.qkv.weight, qkv_bias)
        qkv = qkv.view(batch, tokens, 3, self.heads, width // self.heads)
        if self.relative_position is not None:
            own = self.relative_position.resized(grid) if by_head else self.relative_position(grid, qkv.dtype)
            bias = own if bias is None else bias + own
        if by_head:
            return self.proj(attend(qkv, bias, self.grid if grid is None else grid)), None
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D)
        if bias is not None:
            bias = bias.to(q.dtype)
        if need_weights or head_mask is not None or self._explicit_is_faster(x, bias):
            y, weights = self._explicit(q, k, v, bias, head_mask)
        else:
            dropout = self.dropout if self.training else 0.0
            y, weights = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout), None
        y = self.proj(y.transpose(1, 2).reshape(batch, tokens, width))
        return y, weights if need_weights else None

    @staticmethod
    def _explicit_is_faster(x: Tensor, bias: Tensor | None) -> bool:
        """On a CPU the fused kernel has no gradient for the bias and falls back to one slower than `_explicit`."""
        return x.device.type == "cpu" and bias is not None and bias.requires_grad

    def _explicit(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, head_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The plain formula: softmax(q·kᵀ/√D + bias)·v, with a place to look at the weights or to mask heads."""
        scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores.add_(bias)  # in place: the product's gradient does not need the product
        weights = F.dropout(scores.softmax(dim=-1), self.dropout, self.training)
        if head_mask is not None:
            weights = weights * head_mask
        return weights.to(v.dtype) @ v, weights


class BeitMLP(nn.Module):
    """Two linear maps with an activation between."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.act = config.hidden_act if callable(config.hidden_act) else ACTIVATIONS[config.hidden_act]
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class BeitLayer(nn.Module):
    """Pre-norm transformer layer: x + γ₁·attention(norm(x)), then x + γ₂·MLP(norm(x)), with stochastic depth."""

    def __init__(self, config: BeitConfig, drop_path: float) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = BeitAttention(config)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = BeitMLP(config)
        scaled = config.layer_scale_init_value > 0
        self.gamma1 = nn.Parameter(torch.empty(width)) if scaled else None
        self.gamma2 = nn.Parameter(torch.empty(width)) if scaled else None
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = drop_path

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        head_mask: Tensor | None,
        need_weights: bool,
        by_head: bool = False,
        grid: Grid | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """`x (B, T, C)` → `(B, T, C)` and, if asked for, attention weights `(B, heads, T, T)`; see `BeitAttention`."""
        y, weights = self.attn(self.norm1(x), bias, head_mask, need_weights, by_head, grid)
        x = self._add(x, self.dropout(y), self.gamma1)
        y = self.mlp(self.norm2(x))
        return self._add(x, self.dropout(y), self.gamma2), weights

    def _add(self, x: Tensor, branch: Tensor, gamma: Tensor | None) -> Tensor:
        """x + γ·branch; in training, whole samples of the branch are dropped with probability `drop_path`."""
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            kept = torch.rand(x.shape[0], 1, 1, device=x.device) < keep
            scale = kept.to(branch.dtype) / keep
            branch = branch * (scale if gamma is None else scale * gamma)
            return x + branch
        return x + branch if gamma is None else torch.addcmul(x, branch, gamma)


class BeitEncoder(nn.Module):
    """L layers; the shared relative-position bias, if any, is built once for all of them."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.relative_position = BeitRelativePosition(config) if config.use_shared_relative_position_bias else None
        depth = config.num_hidden_layers
        rates = [config.drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.layers = nn.ModuleList(BeitLayer(config, rate) for rate in rates)
        self.dropout = config.attention_probs_dropout_prob
        self.gradient_checkpointing = False

    def forward(
        self,
        x: Tensor,
        head_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        depth: int | None = None,
        grid: Grid | None = None,
    ) -> BaseModelOutput:
        """`x (B, 1+N, C)`, `head_mask (L, 1, heads, 1, 1)` → the output of the last layer and what was asked for.

        `depth`: how many layers to run; all by default. `grid`: patches `(h, w)` of these images; the configured ones by
        default.
        """
        by_head = head_by_head(x) and not output_attentions and head_mask is None
        by_head = by_head and not (self.training and self.dropout)
        bias = None
        if self.relative_position is not None:
            bias = self.relative_position.resized(grid) if by_head else self.relative_position(grid, _product_dtype(x))
        hidden_states, attentions = [x], []
        for i, layer in enumerate(self.layers[:depth]):
            arguments = (x, bias, None if head_mask is None else head_mask[i], output_attentions, by_head, grid)
            if self.gradient_checkpointing and self.training:
                x, weights = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                x, weights = layer(*arguments)
            if output_hidden_states:
                hidden_states.append(x)
            if output_attentions:
                attentions.append(weights)
        return BaseModelOutput(
            last_hidden_state=x,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )


def _normal_cut_at_one_std(tensor: Tensor, std: float) -> None:
    """Fill with a normal of deviation `std`, cut at ±`std`, by the inverse of its distribution function.

    `nn.init.trunc_normal_` draws so tight a cut by rejection: 20 times slower, seconds for a large model.
    """
    inside = math.erf(1 / math.sqrt(2))  # part of the normal within ±1 std
    tensor.uniform_(-inside, inside).erfinv_().mul_(math.sqrt(2) * std).clamp_(-std, std)


class BeitPreTrainedModel(PretrainedModule):
    """What all BEiT models share: initialisation, gradient checkpointing, files."""

    config_class = BeitConfig
    base_model_prefix = "beit"

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.config = config

    @torch.no_grad()
    def init_weights(self, scheme: str = "paper", only: set[str] | None = None) -> None:
        """Initialise all parameters, or those named in `only`, by the table in `initial.py`.

        Raises:
            ConfigError: there is no such scheme.
        """
        for name, parameter in self.state_dict().items():  # with the statistics of batch norms
            if parameter.is_meta or (only is not None and name not in only):
                continue  # without numbers (a model about to be loaded) there is nothing to draw, and pretending takes time
            kind, value, scale = start_of(name, parameter.ndim, self.config, scheme)
            if kind == "constant":
                parameter.fill_(value)
            elif kind == "normal":
                nn.init.normal_(parameter, std=value)
            else:
                _normal_cut_at_one_std(parameter, value)
            if scale != 1:
                parameter.mul_(scale)

    def _head_parameters(self) -> set[str]:
        return {name for name in self.state_dict() if not name.startswith("beit.")}

    def gradient_checkpointing_enable(self) -> None:
        """Trade time for memory: in training, recompute each layer in the backward pass instead of keeping it."""
        self._encoder().gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Undo `gradient_checkpointing_enable`."""
        self._encoder().gradient_checkpointing = False

    def _encoder(self) -> BeitEncoder:
        encoder = getattr(self, self.base_model_prefix, self).encoder
        assert isinstance(encoder, BeitEncoder)
        return encoder

    def _flags(self, attentions: bool | None, hidden: bool | None, as_dict: bool | None) -> tuple[bool, bool, bool]:
        """Arguments of a call, with the config's defaults where they are None."""
        config = self.config
        return (
            config.output_attentions if attentions is None else attentions,
            config.output_hidden_states if hidden is None else hidden,
            config.return_dict if as_dict is None else as_dict,
        )

    def _check_pixels(self, pixel_values: Tensor | None) -> Tensor:
        if pixel_values is not None:
            check_is_tensor("pixel_values", pixel_values)
        validation.check_pixels(None if pixel_values is None else pixel_values.shape, self.config)
        assert pixel_values is not None  # refused above
        return pixel_values

    def _expand_head_mask(self, head_mask: Tensor | None, x: Tensor) -> Tensor | None:
        """→ `(L, 1, heads, 1, 1)`."""
        if head_mask is None:
            return None
        check_is_tensor("head_mask", head_mask)
        layers, heads = self.config.num_hidden_layers, self.config.num_attention_heads
        if tuple(head_mask.shape) not in ((heads,), (layers, heads)):
            raise InputError(
                f"head_mask has shape {tuple(head_mask.shape)}; wanted ({heads},) for all layers or ({layers}, {heads})."
            )
        return head_mask.to(x).expand(layers, heads)[:, None, :, None, None]


class BeitPooler(nn.Module):
    """`(B, 1+N, C)` → `(B, C)`: layer norm of the mean of the patches, or the cls token."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.layernorm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.use_mean_pooling else None
        )

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0] if self.layernorm is None else self.layernorm(x[:, 1:].mean(1))


def check_is_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise InputError(
            f"{name} is a {type(value).__name__}; wanted a torch.Tensor. From numpy: torch.from_numpy(...); from images: "
            'BeitImageProcessor(...)(images, return_tensors="pt").'
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
        # With mean pooling the pooler normalises; the hidden states stay as they are.
        self.layernorm = (
            nn.Identity() if config.use_mean_pooling else nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        )
        self.pooler = BeitPooler(config) if add_pooling_layer else None
        self.init_weights()

    def get_input_embeddings(self) -> nn.Module:
        """The patch projection."""
        return self.embeddings.patch

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
            pixel_values: `(B, channels, H, W)`, normalised as the image processor does. Any sides that the patch divides
                (all others too with `config.pad_to_patch`): positions are resized for another size than `image_size`.
            bool_masked_pos: `(B, N)` or `(B, h, w)`, bool or 0/1: the patches that the mask token replaces.
            head_mask: `(heads,)` or `(L, heads)`: 1 keeps a head, 0 switches it off.
            output_attentions: return attention weights (takes the explicit attention path).
            output_hidden_states: return the embeddings and the output of each layer.
            return_dict: return an output object (default) or a plain tuple.

        Raises:
            InputError: wrong shape, channel count or size; or a mask without a mask token.
        """
        attentions, hidden, as_dict = self._flags(output_attentions, output_hidden_states, return_dict)
        pixel_values = self._check_pixels(pixel_values)
        mask = self._check_mask(bool_masked_pos, pixel_values)
        x = self.embeddings(pixel_values, mask)
        grid = self.config.grid_of(pixel_values.shape[2:])
        encoded = self.encoder(x, self._expand_head_mask(head_mask, x), attentions, hidden, grid=grid)
        sequence = self.layernorm(encoded.last_hidden_state)
        output = BeitModelOutputWithPooling(
            last_hidden_state=sequence,
            pooler_output=None if self.pooler is None else self.pooler(sequence),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return output if as_dict else output.to_tuple()

    def _check_mask(self, mask: Tensor | None, pixel_values: Tensor) -> Tensor | None:
        if mask is None:
            return None
        check_is_tensor("bool_masked_pos", mask)
        validation.check_mask(mask.shape, pixel_values.shape, self.config)
        return mask.flatten(1).to(pixel_values.device).bool()


class BeitForMaskedImageModeling(BeitPreTrainedModel):
    """Predicts the visual token of each patch: BEiT's pre-training (section 2.3).

    Args:
        config: the architecture; `use_mask_token=True` for masks.
    """

    def __init__(self, config: BeitConfig) -> None:
        super().__init__(config)
        self.beit = BeitModel(config, add_pooling_layer=False)
        # After the body's own norm there are two in CLS mode; the reference has it so.
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.init_weights(only=self._head_parameters())  # the body has been initialised

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
        """Predict visual tokens.

        Args:
            pixel_values: `(B, channels, H, W)`.
            bool_masked_pos: `(B, N)` or `(B, h, w)`: the masked patches, M in all.
            head_mask: `(heads,)` or `(L, heads)`.
            labels: tokens in [0, vocab): `(M,)` for the masked patches in reading order, or `(B, N)` for all, of which
                those at the mask count. The loss is the mean cross-entropy over masked patches.
            output_attentions: return attention weights.
            output_hidden_states: return the embeddings and the output of each layer.
            return_dict: return an output object (default) or a plain tuple.
            masked_logits_only: compute and return logits `(M, vocab)` of the masked patches only. The same loss for
                less work: the head is as large as a layer, and nobody reads the other logits in training.

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
            logits = masked = self.lm_head(self.layernorm(patches[mask]))
        else:
            logits = self.lm_head(self.layernorm(patches))
            masked = logits if mask is None or labels is None else logits[mask]
        loss = None
        if labels is not None:
            loss = F.cross_entropy(masked.float(), self._labels_at(mask, labels, masked.shape[0]))
        output = MaskedLMOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return output if as_dict else output.to_tuple()

    def _labels_at(self, mask: Tensor | None, labels: Tensor, masked: int) -> Tensor:
        assert mask is not None
        check_is_tensor("labels", labels)
        validation.check_masked_labels(labels.numel(), masked, mask.shape)
        if labels.numel() != masked:  # one a patch
            labels = labels.reshape(mask.shape)[mask.to(labels.device)]
        check_classes(labels, self.config.vocab_size, "vocab_size")
        return labels.reshape(-1).to(mask.device).long()


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
            Linear(config.hidden_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        )
        self.init_weights(only=self._head_parameters())  # the body has been initialised

    def forward(
        self,
        pixel_values: Tensor | None = None,
        head_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutput | tuple[Any, ...]:
        """Classify images.

        Args:
            pixel_values: `(B, channels, H, W)`.
            head_mask: `(heads,)` or `(L, heads)`.
            labels: `(B,)` class numbers (cross-entropy); `(B,)` or `(B, num_labels)` floats for regression (mean
                squared error); `(B, num_labels)` 0/1 floats for several labels an image (binary cross-entropy).
                `config.problem_type` says which; if None: regression for one label, classes for whole numbers.
            output_attentions: return attention weights.
            output_hidden_states: return the embeddings and the output of each layer.
            return_dict: return an output object (default) or a plain tuple.

        Raises:
            InputError: as `BeitModel`; or labels of another shape, or outside the classes.
        """
        attentions, hidden, as_dict = self._flags(output_attentions, output_hidden_states, return_dict)
        encoded = self.beit(pixel_values, None, head_mask, attentions, hidden, True)
        logits = self.classifier(encoded.pooler_output)
        loss = None if labels is None else self._loss(logits, labels)
        output = ImageClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return output if as_dict else output.to_tuple()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        check_is_tensor("labels", labels)
        whole = not labels.is_floating_point() and labels.dtype != torch.bool
        problem = validation.problem_type(self.config, whole)
        logits = logits.float()
        validation.check_labels(labels.shape, logits.shape, problem)
        if problem == "regression":
            return F.mse_loss(logits.reshape(-1), labels.reshape(-1).to(logits))
        if problem == "single_label_classification":
            check_classes(labels, logits.shape[1], "num_labels")
            return F.cross_entropy(logits, labels.reshape(-1).to(logits.device).long())
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits))


def check_classes(labels: Tensor, number: int, setting: str, ignore: int = -100) -> None:
    """Refuse class numbers outside [0, number), except `ignore`, which cross-entropy leaves out. On a CPU only: elsewhere
    looking at the labels would wait for the device, whose kernel refuses them anyway."""
    if labels.device.type != "cpu" or torch.compiler.is_compiling() or labels.numel() == 0:
        return
    wrong = labels[((labels < 0) | (labels >= number)) & (labels != ignore)]
    if wrong.numel():
        raise validation.outside_classes(wrong.unique().tolist(), number, setting, ignore)
