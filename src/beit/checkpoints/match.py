"""The tensors of a file → the parameters of a model: which go where, which are resized, missing or of no use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from beit.checkpoints.names import SEGMENTATION, disk_names, prefixed
from beit.core import geometry, resampling
from beit.core.errors import CheckpointError

_POSITIONS = "beit.embeddings.position"
_SHARED_TABLE = "beit.encoder.relative_position.table"
_OWN_TABLE = re.compile(r"beit\.encoder\.layers\.\d+\.attn\.relative_position\.table$")


class LoadReport:
    """What loading did beside copying tensors, in plain words.

    Attributes:
        new: (disk names, why) of tensors that the file lacks and that were newly initialised.
        unused: (disk names, why) of tensors in the file that this model has no place for.
        copied: plain sentences on tensors that were derived from others.
    """

    def __init__(self) -> None:
        self.new: list[tuple[str, str]] = []
        self.unused: list[tuple[str, str]] = []
        self.copied: list[str] = []

    @property
    def needs_training(self) -> bool:
        """Whether a head starts from random numbers, so that its answers mean nothing before training."""
        return any(name.startswith(("classifier", "lm_head", "decode_head", "fpn")) for name, _ in self.new)

    @property
    def contradicts(self) -> bool:
        """Whether the encoder itself is another than the file's: tensors of its layers unused, or its last norm made anew."""
        return any(name.startswith("encoder.") for name, _ in self.unused) or any(
            name == "final layernorm" for name, _ in self.new
        )

    def __str__(self) -> str:
        lines = [f"{name}: not in the file, newly initialised because {why}" for name, why in self.new]
        lines += [f"{name}: in the file, not used because {why}" for name, why in self.unused]
        return "\n".join(lines + self.copied) or "every tensor of the file has its place"

    def __bool__(self) -> bool:
        return bool(self.new or self.unused or self.copied)


def _why_new(module: str, file_has: set[str]) -> str | None:
    """Why a module may be missing in a sound file; None when it may not."""
    self_supervised = "lm_head" in file_has
    if module == "pooler.layernorm":
        return (
            "this checkpoint is self-supervised" if self_supervised else "this checkpoint was saved without a pooler"
        ) + ", and pooling comes with fine-tuning"
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


def _module(memory_name: str) -> str:
    """`beit.pooler.layernorm.weight` → `pooler.layernorm`, in the words of the disk; a segmentation head as a whole."""
    if memory_name.startswith("beit.layernorm."):  # not the head's, which has the same name without prefix
        return "final layernorm"
    if SEGMENTATION.match(memory_name):
        return memory_name.partition(".")[0]
    disk = disk_names(memory_name)[0].removeprefix("beit.")
    return disk if disk.endswith("_token") else disk.rpartition(".")[0]


def _group(names: list[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_module(name), []).append(name)
    return groups


Grid = tuple[int, int]


def resize_positions(memory: dict[str, np.ndarray], have: Grid, want: Grid, report: LoadReport) -> None:
    """Positions and relative-position tables of the grid `have`, in place, for the grid `want`."""
    rows = geometry.num_relative_distances(have)
    resized = []
    for name, array in memory.items():
        if name == _POSITIONS and array.ndim == 3 and array.shape[1] == 1 + have[0] * have[1]:
            memory[name] = resampling.resize_positions(array, have, want)
            resized.append("absolute positions")
        elif name.endswith(".relative_position.table") and array.ndim == 2 and len(array) == rows:
            memory[name] = resampling.resize_table(array, have, want)
            resized.append("relative-position tables")
    if resized:
        what = " and ".join(sorted(set(resized))).capitalize()
        report.copied.append(f"{what} were resized from {have[0]}x{have[1]} to {want[0]}x{want[1]} patches.")


def match_weights(
    state_dict: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[int, ...]],
    *,
    model: str,
    left_over: Sequence[str] = (),
    grids: tuple[Grid, Grid] | None = None,
    ignore_mismatched_sizes: bool = False,
) -> tuple[dict[str, np.ndarray], LoadReport]:
    """Choose from the tensors of a file what a model wants, under its names in memory.

    A file whose relative-position table is shared fits a model with one table a layer: the table is copied into each
    (BEiT, section 2.5: fine-tuning starts so). Positions of another grid are resized: see `beit/resize.py`.

    Args:
        state_dict: tensors of the file by parameter name, as `names.to_state_dict` gives them. It is not changed.
        wanted: memory name → shape of every parameter and statistic of the model; a bare model's come without `beit.`.
        model: the model's class name, for messages.
        left_over: names of tensors in the file that no model has, for the report.
        grids: patches `(h, w)` of the file and of the model; None where the file's are not known.
        ignore_mismatched_sizes: initialise tensors of another shape anew instead of raising.

    Returns:
        Tensors by the model's own names (those that are missing are to be initialised), and the report.

    Raises:
        CheckpointError: the file is of another architecture or incomplete; or shapes differ.
    """
    memory = dict(state_dict)
    bare = not any(name.startswith("beit.") for name in wanted)
    prefix = "beit." if bare else ""
    report = LoadReport()
    if not any(name.startswith("beit.encoder.layers.") for name in memory):
        example = ", ".join([*memory, *left_over][:3]) or "none at all"
        raise CheckpointError(f"This is no BEiT checkpoint: none of its tensors is a BEiT layer (it has {example}, …).")

    file_has = {name.split(".")[0] for name in memory}
    if grids is not None and grids[0] != grids[1]:
        resize_positions(memory, *grids, report)
    own = [name for name in wanted if _OWN_TABLE.match(prefix + name)]
    if own and _SHARED_TABLE in memory and prefix + own[0] not in memory:
        shared = memory.pop(_SHARED_TABLE)
        memory.update({prefix + name: shared.copy() for name in own})
        report.copied.append(f"The shared relative-position table was copied into each of the {len(own)} layers.")

    tensors, missing, mismatched = {}, [], []
    for name, shape in wanted.items():
        full = prefixed(name, prefix)
        array = memory.pop(full, None)
        if array is None:
            missing.append(full)
        elif tuple(array.shape) != tuple(shape):
            mismatched.append((full, tuple(array.shape), tuple(shape)))
        else:
            tensors[name] = array

    if mismatched and not ignore_mismatched_sizes:
        lines = "; ".join(f"{_module(name)}: file {got}, model {want}" for name, got, want in mismatched[:4])
        more = f" and {len(mismatched) - 4} more" if len(mismatched) > 4 else ""
        raise CheckpointError(
            f"Shapes of the file and of {model} differ: {lines}{more}. Give the model the settings of the file, or "
            "pass ignore_mismatched_sizes=True to start these tensors anew (right for a classifier of other classes)."
        )
    for name, got, want in mismatched:
        report.new.append((_module(name), f"its shape is {got} in the file and {want} in the model"))

    broken = []
    # Batch norms count their batches, which nothing here reads; older files do without.
    for module, names in _group([name for name in missing if not name.endswith("num_batches_tracked")]).items():
        why = _why_new(module, file_has)
        if why is None:
            broken += names
        else:
            report.new.append((module, why))
    if broken:
        raise CheckpointError(
            f"The file lacks {len(broken)} tensors of {model}, among them {', '.join(broken[:3])}. It is incomplete, or "
            "its config.json does not belong to it."
        )
    for module in _group(list(memory)):
        report.unused.append((module, f"{model} has no such part"))
    if left_over:
        listed = ", ".join(left_over[:5]) + (", …" if len(left_over) > 5 else "")
        report.unused.append((listed, "no BEiT model has tensors of this name"))
    return tensors, report
