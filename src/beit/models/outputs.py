"""What models return: dataclasses that are ordered dicts of their fields. Loads neither torch nor jax.

Fields that were not asked for are None. Keys, indices and `to_tuple()` skip them, as in the reference. `Array` stands for
`torch.Tensor` or `jax.Array`.
"""

from __future__ import annotations

import functools
import sys
from collections import OrderedDict
from collections.abc import Iterator, KeysView, Mapping
from dataclasses import dataclass, fields
from typing import Any, NoReturn, Self

from beit.core.errors import InputError

Array = Any


class Names(KeysView[str]):
    """The keys of an output: a view, as of every dict, that also equals a tuple of the same names in the same order."""

    def __eq__(self, other: object) -> bool:
        return tuple(self) == other if isinstance(other, tuple) else super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"keys({list(self)})"


@dataclass
class ModelOutput(OrderedDict[str, Any]):
    """Base of all outputs: a dataclass that also has `out["logits"]`, `out[0]`, `out.to_tuple()` and `**out`.

    It is a dict, because libraries for training (DataParallel, Accelerate, Trainer) look into dicts. Attributes and keys always
    agree: `out["logits"] = x` is `out.logits = x`, and a field that is set to None is no key any more. Fields keep their
    declared order; keys that are no fields, which pipelines add, follow them. Nothing is removed: `replace` makes a changed copy.

    Also made from a dict or from (key, value) pairs, as those libraries do: `type(out)({"logits": x})`.
    """

    def __post_init__(self) -> None:
        names = [f.name for f in fields(self)]
        if not names or any(getattr(self, name) is not None for name in names[1:]):
            return
        first = getattr(self, names[0])
        if not isinstance(first, Mapping | Iterator | list | tuple):
            return
        pairs = list(first.items() if isinstance(first, Mapping) else first)
        if pairs and all(isinstance(p, list | tuple) and len(p) == 2 and isinstance(p[0], str) for p in pairs):
            setattr(self, names[0], None)
            for key, value in pairs:
                self[key] = value

    def keys(self) -> Names:  # type: ignore[override]
        """Names of the fields that are set, and of further keys."""
        return Names(self)

    def values(self) -> tuple[Any, ...]:  # type: ignore[override]
        """The fields that are set, in order."""
        return tuple(self[name] for name in self)

    def items(self) -> tuple[tuple[str, Any], ...]:  # type: ignore[override]
        """(name, value) of the fields that are set."""
        return tuple((name, self[name]) for name in self)

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are set, in order: what `return_dict=False` returns."""
        return self.values()

    def replace(self, **changes: Any) -> Self:
        """A copy with other values in some fields, as of a `flax.struct` dataclass. Raises TypeError for an unknown field."""
        new = self.copy()
        for name, value in changes.items():
            if name not in self.__dataclass_fields__ and name not in self:
                raise TypeError(
                    f"{type(self).__name__} has no field {name!r}; it has {', '.join(self.__dataclass_fields__)}"
                )
            setattr(new, name, value)
        return new

    def copy(self) -> Self:
        """A copy that shares the arrays."""
        new = _empty(type(self))
        new.__setstate__(vars(self))
        for key, value in self.items():
            new[key] = value
        return new

    __copy__ = copy

    def __getitem__(self, key: Any) -> Any:  # a name, an index or a slice
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self:
            raise KeyError(f"{key!r} is not set; this output has {', '.join(self)}")
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(
                f"the key {key!r} is no name; set a field by its name: {', '.join(self.__dataclass_fields__)}"
            )
        if key not in self.__dataclass_fields__ and hasattr(type(self), key):
            raise InputError(f"the key {key!r} would hide a method of {type(self).__name__}; choose another")
        object.__setattr__(self, key, value)
        self._store(key, value)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name in self.__dataclass_fields__ or name in self:
            self._store(name, value)

    def _store(self, key: str, value: Any) -> None:
        """Make the entry `key` agree with the attribute."""
        if value is None:
            if key in self:
                OrderedDict.__delitem__(self, key)
            return
        is_new = key not in self
        OrderedDict.__setitem__(self, key, value)
        if is_new and key in self.__dataclass_fields__:  # in front of the fields and keys that come after it
            names = list(self.__dataclass_fields__)
            later = [name for name in names[names.index(key) + 1 :] if name in self]
            for name in (*later, *(name for name in self if name not in names)):
                self.move_to_end(name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class; once transformers is imported, one that counts as its ModelOutput too.

        Its pipelines ask `isinstance(output, ModelOutput)` and make a dict without indices of every other dict. Python looks at
        `__class__` where `type(output)` does not answer the question. Everything else sees `type(output)`.
        """
        theirs = getattr(sys.modules.get("transformers.utils.generic"), "ModelOutput", None)
        return type(self) if theirs is None else _counts_as(type(self), theirs)

    def __init_subclass__(cls) -> None:
        """Nothing of a second parent is done for `_counts_as`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty, (type(self),), dict(vars(self)), None, iter(self.items())

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} keeps its fields: nothing is removed from it, and several are changed by "
            "replace(logits=…), which returns a copy. For a dict of your own: dict(output)."
        )

    __delitem__ = __delattr__ = pop = popitem = clear = update = setdefault = __ior__ = _refuse


@functools.cache
def _counts_as(ours: Any, theirs: Any) -> Any:
    """A class for `isinstance`, with both parents. Called, as `dataclasses.replace` does, it makes an instance of ours."""
    names = {"__module__": ours.__module__, "__qualname__": ours.__qualname__}
    return type(ours.__name__, (ours, theirs), {**names, "__new__": lambda _, *values, **named: ours(*values, **named)})


def _empty(kind: Any) -> Any:
    """An output without fields, to which they are given one by one."""
    return kind.__new__(kind)


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
