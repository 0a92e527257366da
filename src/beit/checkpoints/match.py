"""The tensors of a file → the parameters of a model: which go where, which are resized, missing or unused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from beit.checkpoints.grids import POSITIONS, TABLE, Grid
from beit.checkpoints.names import SEGMENTATION, prefixed
from beit.core import geometry, resampling
from beit.core.errors import MismatchError

Shape = tuple[int, ...]
_SHARED_TABLE = "beit.encoder" + TABLE
_OWN_TABLE = re.compile(r"beit\.encoder\.layer\.\d+\.attention\.attention" + re.escape(TABLE) + "$")
# (hidden size, channels, height and width of a patch)
PROJECTION = "beit.embeddings.patch_embeddings.projection.weight"
_BATCHES = "num_batches_tracked"  # of PyTorch's batch norms; nothing here reads it, and older files lack it


class LoadReport:
    """What loading did besides copying tensors, in plain words.

    Attributes:
        new: (names on disk, why) of tensors that the file lacks and that were newly initialised.
        unused: (names on disk, why) of tensors in the file that this model has no place for.
        copied: plain sentences about tensors that were derived from others.
        adapted: whether the first layer was adapted to another number of channels.
        missing: the model's names of parameters that the file lacks.
        unexpected: names of parameters in the file that this model lacks.
        mismatched: (the model's name, shape in the file, shape in the model) of parameters of another shape.
    """

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.mismatched: list[tuple[str, Shape, Shape]] = []
        self.new: list[tuple[str, str]] = []
        self.unused: list[tuple[str, str]] = []
        self.copied: list[str] = []
        self.adapted = False

    @property
    def needs_training(self) -> bool:
        """Whether a head starts from random numbers, or the first layer was adapted, so that outputs mean little before training."""
        return self.adapted or any(
            name.startswith(("classifier", "lm_head", "decode_head", "fpn")) for name, _ in self.new
        )

    @property
    def contradicts(self) -> bool:
        """Whether the encoder differs from the file's: tensors of its layers are unused, or its last norm is new."""
        return any(name.startswith("encoder.") for name, _ in self.unused) or any(
            name == "final layernorm" for name, _ in self.new
        )

    def __str__(self) -> str:
        lines = [f"{name}: not in the file, newly initialised because {why}" for name, why in self.new]
        lines += [f"{name}: in the file, not used because {why}" for name, why in self.unused]
        return "\n".join(lines + self.copied) or "every tensor of the file has its place"

    def __bool__(self) -> bool:
        return bool(self.new or self.unused or self.copied)


def match_weights(
    state_dict: Mapping[str, np.ndarray],
    wanted: Mapping[str, Shape],
    *,
    model: str,
    left_over: Sequence[str] = (),
    grids: tuple[Grid, Grid] | None = None,
    ignore_mismatched_sizes: bool = False,
) -> tuple[dict[str, np.ndarray], LoadReport]:
    """Choose the tensors that a model wants from those of a file.

    A file with one relative-position table for all layers also serves a model with one table per layer: each layer gets a
    copy (BEiT, section 2.5: fine-tuning starts so). Positions of another grid are resized: see `core/resampling.py`. The first
    layer is adapted to another number of channels: see `adapt_channels`.

    Args:
        state_dict: tensors of the file by parameter name, as `names.to_state_dict` gives them. It is not changed.
        wanted: the model's own name → shape of every parameter and statistic; those of a bare model lack the `beit.` prefix.
        model: the model's class name, for messages.
        left_over: names of tensors in the file that no model has, for the report.
        grids: patches `(h, w)` of the file and of the model; None where the file's are unknown.
        ignore_mismatched_sizes: leave out tensors of another shape, to be initialised, instead of raising.

    Returns:
        The model's own name → array, without those that are to be initialised; and the report.

    Raises:
        MismatchError: the file is of another architecture or incomplete; or shapes differ.
    """
    rest = dict(state_dict)  # what is taken is removed; in the end these are the unused ones
    if not any(name.startswith("beit.encoder.layer.") for name in rest):
        example = ", ".join([*rest, *left_over][:3]) or "none at all"
        raise MismatchError(f"This is no BEiT checkpoint: none of its tensors is a BEiT layer (it has {example}, …).")
    prefix = "" if any(name.startswith("beit.") for name in wanted) else "beit."
    file_has = {name.split(".")[0] for name in rest}
    report = LoadReport()
    if grids is not None and grids[0] != grids[1]:
        resize_positions(rest, *grids, report)
    _share_table([prefix + name for name in wanted], rest, report)
    _adapt_channels({prefixed(name, prefix): shape for name, shape in wanted.items()}, rest, report)

    tensors: dict[str, np.ndarray] = {}
    missing: list[str] = []
    mismatched: list[tuple[str, Shape, Shape]] = []
    for name, shape in wanted.items():
        full = prefixed(name, prefix)
        array = rest.pop(full, None)
        if array is None:
            missing.append(full)
        elif tuple(array.shape) != tuple(shape):
            mismatched.append((full, tuple(array.shape), tuple(shape)))
        else:
            tensors[name] = array

    if mismatched and not ignore_mismatched_sizes:
        raise _shapes_differ(mismatched, model)
    report.new += [
        (_module(name), f"its shape is {got} in the file and {want} in the model") for name, got, want in mismatched
    ]
    _report_missing(missing, file_has, model, report)
    report.unused += [(module, f"{model} has no such part") for module in _by_module(rest)]
    report.missing = [name.removeprefix(prefix) for name in missing if not name.endswith(_BATCHES)]
    report.mismatched = [(name.removeprefix(prefix), got, want) for name, got, want in mismatched]
    report.unexpected = [*rest, *left_over]
    if left_over:
        listed = ", ".join(left_over[:5]) + (", …" if len(left_over) > 5 else "")
        report.unused.append((listed, "no BEiT model has tensors of this name"))
    return tensors, report


def resize_positions(state_dict: dict[str, np.ndarray], have: Grid, want: Grid, report: LoadReport) -> None:
    """Resize absolute positions and relative-position tables of the grid `have` to the grid `want`, in place."""
    rows = geometry.num_relative_distances(have)
    resized = set()
    for name, array in state_dict.items():
        if name == POSITIONS and array.ndim == 3 and array.shape[1] == 1 + have[0] * have[1]:
            state_dict[name] = resampling.resize_positions(array, have, want)
            resized.add("absolute positions")
        elif name.endswith(TABLE) and array.ndim == 2 and len(array) == rows:
            state_dict[name] = resampling.resize_table(array, have, want)
            resized.add("relative-position tables")
    if resized:
        what = " and ".join(sorted(resized)).capitalize()
        report.copied.append(f"{what} were resized from {have[0]}x{have[1]} to {want[0]}x{want[1]} patches.")


def _share_table(wanted: Iterable[str], state_dict: dict[str, np.ndarray], report: LoadReport) -> None:
    """Give each layer of the model a copy of the file's one table."""
    own = [name for name in wanted if _OWN_TABLE.match(name)]
    if own and _SHARED_TABLE in state_dict and own[0] not in state_dict:
        shared = state_dict.pop(_SHARED_TABLE)
        state_dict.update({name: shared.copy() for name in own})
        report.copied.append(f"The shared relative-position table was copied into each of the {len(own)} layers.")


def adapt_channels(weight: np.ndarray, channels: int) -> np.ndarray:
    """The patch projection for images of another number of channels, as timm adapts it (timm/models/_manipulate.py).

    For one channel the kernels are summed: a grey image gives what it gave as an RGB image. For more, they are repeated in turn
    and scaled, so that the sum over all channels stays of the same size.

    Args:
        weight: `(hidden size, channels of the file, patch height, patch width)`, float.
        channels: those of the images, at least 1.

    Returns:
        `(hidden size, channels, patch height, patch width)` of the same type.
    """
    have = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdims=True, dtype=weight.dtype)
    repeated = weight[:, np.arange(channels) % have]
    return np.asarray(repeated * (have / channels), weight.dtype)


def _adapt_channels(wanted: Mapping[str, Shape], state_dict: dict[str, np.ndarray], report: LoadReport) -> None:
    """Adapt the file's patch projection to the model's number of channels."""
    array, want = state_dict.get(PROJECTION), wanted.get(PROJECTION)
    if array is None or want is None or array.ndim != 4 or len(want) != 4 or not array.shape[1]:
        return
    have, channels = array.shape[1], want[1]
    if have == channels or (array.shape[0], *array.shape[2:]) != (want[0], *want[2:]):
        return
    state_dict[PROJECTION] = adapt_channels(array, channels)
    report.adapted = True
    how = "summed" if channels == 1 else f"repeated in turn and scaled by {have}/{channels}"
    report.copied.append(
        f"The patch projection was adapted from {have} channels to {channels}: its kernels were {how}. Fine-tune before use."
    )


def _shapes_differ(mismatched: Sequence[tuple[str, Shape, Shape]], model: str) -> MismatchError:
    lines = "; ".join(f"{_module(name)}: file {got}, model {want}" for name, got, want in mismatched[:4])
    more = f" and {len(mismatched) - 4} more" if len(mismatched) > 4 else ""
    return MismatchError(
        f"Shapes of the file and of {model} differ: {lines}{more}. Give the model the settings of the file, or "
        "pass ignore_mismatched_sizes=True to initialise these tensors newly (right for a classifier of other classes)."
    )


def _report_missing(missing: Sequence[str], file_has: set[str], model: str, report: LoadReport) -> None:
    """Report the modules that a sound file may lack; refuse a file that lacks others."""
    broken: list[str] = []
    for module, names in _by_module(name for name in missing if not name.endswith(_BATCHES)).items():
        why = _why_new(module, file_has)
        if why is None:
            broken += names
        else:
            report.new.append((module, why))
    if broken:
        raise MismatchError(
            f"The file lacks {len(broken)} tensors of {model}, among them {', '.join(broken[:3])}. It is incomplete, or "
            "its config.json does not belong to it."
        )


def _why_new(module: str, file_has: set[str]) -> str | None:
    """Why a sound file may lack a module; None where it may not. `file_has` are the first parts of its parameter names."""
    if module == "pooler.layernorm":
        self_supervised = "lm_head" in file_has
        what = "this checkpoint is self-supervised" if self_supervised else "this checkpoint was saved without a pooler"
        return f"{what}, and pooling comes with fine-tuning"
    if module == "classifier":
        return "this checkpoint has no classifier; train it before use"
    if module == "final layernorm":
        return "this checkpoint pools by the mean and has no final norm"
    if module in ("lm_head", "layernorm"):
        return "this checkpoint has no head for masked image modelling; train it before use"
    if module == "auxiliary_head" and "decode_head" in file_has:
        return "this checkpoint has no auxiliary head, which only training uses"
    if module.startswith("fpn") and module not in file_has:
        return "this checkpoint has no feature pyramid; train it before use"
    if module in ("decode_head", "auxiliary_head") and module not in file_has:
        return "this checkpoint has no segmentation head; train it before use"
    if module == "embeddings.mask_token":
        return "this checkpoint was saved without a mask token"
    if module.endswith("relative_position_bias"):
        return "this checkpoint has no relative-position bias there; it starts at zero"
    return None


def _by_module(names: Iterable[str]) -> dict[str, list[str]]:
    modules: dict[str, list[str]] = {}
    for name in names:
        modules.setdefault(_module(name), []).append(name)
    return modules


def _module(name: str) -> str:
    """The module of a parameter; a segmentation head is one module.

    `beit.pooler.layernorm.weight` → `pooler.layernorm`.
    """
    if name.startswith("beit.layernorm."):  # the head's norm has the same name without the prefix
        return "final layernorm"
    if SEGMENTATION.match(name):
        return name.partition(".")[0]
    short = name.removeprefix("beit.")
    return short if short.endswith("_token") else short.rpartition(".")[0]
