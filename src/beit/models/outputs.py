"""What models return: dataclasses with access by attribute, key and index. Loads neither torch nor jax.

Fields that were not asked for are None. Keys, indices and `to_tuple()` skip them, as in the reference. `Array` stands for
`torch.Tensor` or `jax.Array`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

Array = Any


@dataclass
class ModelOutput:
    """Base of all outputs: a dataclass that also has `out["logits"]`, `out[0]`, `out.to_tuple()` and `**out`."""

    def keys(self) -> tuple[str, ...]:
        """Names of the fields that are set."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def values(self) -> tuple[Any, ...]:
        """The fields that are set, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def items(self) -> tuple[tuple[str, Any], ...]:
        """(name, value) of the fields that are set."""
        return tuple((name, getattr(self, name)) for name in self.keys())

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are set, in order: what `return_dict=False` returns."""
        return self.values()

    def get(self, key: str, default: Any = None) -> Any:
        """The field `key`, or `default` where it is not set."""
        return getattr(self, key) if key in self.keys() else default

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(f"{key!r} is not set; this output has {', '.join(self.keys())}")
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __len__(self) -> int:
        return len(self.keys())


@dataclass
class BaseModelOutput(ModelOutput):
    """What the encoder returns.

    Attributes:
        last_hidden_state: `(B, 1+N, C)`.
        hidden_states: embeddings and the output of each layer, L+1 times `(B, 1+N, C)`.
        attentions: after the softmax, L times `(B, heads, 1+N, 1+N)`.
    """

    last_hidden_state: Array = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclass
class BeitModelOutputWithPooling(ModelOutput):
    """What `BeitModel` returns.

    Attributes:
        last_hidden_state: `(B, 1+N, C)`; after the final layer norm only in CLS mode (`use_mean_pooling=False`).
        pooler_output: `(B, C)`: layer norm of the mean of the patch tokens, or the cls token in CLS mode.
        hidden_states: embeddings and the output of each layer, L+1 times `(B, 1+N, C)`.
        attentions: after the softmax, L times `(B, heads, 1+N, 1+N)`.
    """

    last_hidden_state: Array = None
    pooler_output: Array = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclass
class MaskedLMOutput(ModelOutput):
    """What masked image modelling returns.

    Attributes:
        loss: scalar, when labels were given.
        logits: `(B, N, vocab)`; with `masked_logits_only`, `(M, vocab)` for the M masked patches.
        hidden_states: embeddings and the output of each layer, L+1 times `(B, 1+N, C)`.
        attentions: after the softmax, L times `(B, heads, 1+N, 1+N)`.
    """

    loss: Array = None
    logits: Array = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclass
class ImageClassifierOutput(ModelOutput):
    """What classification returns.

    Attributes:
        loss: scalar, when labels were given.
        logits: `(B, num_labels)`.
        hidden_states: embeddings and the output of each layer, L+1 times `(B, 1+N, C)`.
        attentions: after the softmax, L times `(B, heads, 1+N, 1+N)`.
    """

    loss: Array = None
    logits: Array = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclass
class SemanticSegmenterOutput(ModelOutput):
    """What segmentation returns.

    Attributes:
        loss: scalar, when labels were given.
        logits: `(B, num_labels, 4·h, 4·w)` for a patch grid `(h, w)`: a quarter of the image's sides for patches of 16.
            `BeitImageProcessor.post_process_semantic_segmentation` resizes them to the image. With
            `BeitConfig.pad_to_patch` they cover the padded image: crop them first.
        hidden_states: embeddings and the output of each layer, L+1 times `(B, 1+N, C)`.
        attentions: after the softmax, L times `(B, heads, 1+N, 1+N)`.
    """

    loss: Array = None
    logits: Array = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclass
class BackboneOutput(ModelOutput):
    """What the backbone returns.

    Attributes:
        feature_maps: one per stage, in the order of the stages: `(B, C, h, w)`, with `add_fpn` at 4, 2, 1 and 1/2 times the
            patch grid; or tokens `(B, 1+N, C)` with `reshape_hidden_states=False`.
        hidden_states: embeddings and the output of each layer, L+1 times `(B, 1+N, C)`.
        attentions: after the softmax, L times `(B, heads, 1+N, 1+N)`.
    """

    feature_maps: tuple[Array, ...] = ()
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
