"""`Dialect`: how one project names the tensors of a BEiT, and what it does that no tensor shows."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

LAYER = "beit.encoder.layer.{i}."  # of our parameter names; {i} stands for the number of a layer


class Place(NamedTuple):
    """Where one parameter is on disk.

    Attributes:
        disk: the tensor's name.
        part: which of the parameters in this tensor it is, from 0 on.
        parameters: all of them, in the order in which they are stacked along axis 0.
    """

    disk: str
    part: int
    parameters: tuple[str, ...]


Pack = Callable[[dict[str, Any], bool, tuple[str, ...]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The names of one project. A table has one line per tensor: the project's name, then our parameter name, or
    one name where both are the same.

    In a table, `name.*` stands for `name.weight` and `name.bias`. `{query,key,value}` stands for three parameters, which the
    project stacks along axis 0 in one tensor. Where two lines begin with the same name, the first is meant, but the last in
    models that predict visual tokens.

    Attributes:
        name: the key in the registry, as in `beit convert --to`.
        project: who uses these names, for people.
        sign: regular expression for the end of a name that every file of this dialect has, and no other dialect's.
        prefix: what the encoder's names begin with in the table.
        prefix_optional: whether a model without a head is saved without this prefix.
        encoder: what the names of all layers begin with.
        layer: what follows, with `{i}` for the layer's number.
        table: the tensors outside the layers.
        layer_table: the tensors of one layer, by the names that follow `encoder` + `layer` and `LAYER`.
        segmentation: parts of names of segmentation heads, (ours, theirs); everything else in these heads is called alike.
        layer_norm_eps: epsilon of the layer norms in the project's code, which no tensor shows.
        mask_keeps_position: as the field of `BeitConfig`: whether the project adds positions after the mask token.
        segments_with: how the project normalises pixels for segmentation; see `infer.pixels_of`.
        pack: (arrays, whether it segments, names of classes) → what the project gives to `torch.save`. None where the
            project saves folders, which `export/layouts.py` writes.
    """

    name: str
    project: str
    sign: str
    prefix: str
    prefix_optional: bool = False
    encoder: str
    layer: str
    table: str
    layer_table: str
    segmentation: tuple[tuple[str, str], ...] = ()
    layer_norm_eps: float = 1e-6
    mask_keeps_position: bool = True
    segments_with: Literal["imagenet", "half"] = "imagenet"
    pack: Pack | None = None

    @functools.cached_property
    def rows(self) -> dict[str, Place]:
        """Our parameter name → its place on disk, with `{i}` for a layer's number in all names."""
        rows = _rows(self.table, "", "") + _rows(self.layer_table, self.encoder + self.layer, LAYER)
        return {name: Place(disk, part, ours) for disk, ours in rows for part, name in enumerate(ours)}

    @functools.cached_property
    def by_disk(self) -> dict[str, list[tuple[str, ...]]]:
        """Name on disk → the parameters in this tensor; several such tuples where the name has several meanings."""
        found: dict[str, list[tuple[str, ...]]] = {}
        for place in self.rows.values():
            if place.part == 0:
                found.setdefault(place.disk, []).append(place.parameters)
        return found

    @functools.cached_property
    def token_head(self) -> str:
        """What the names of the head for visual tokens begin with; `lm_head.` in hf."""
        return self.rows["lm_head.weight"].disk.removesuffix("weight") if "lm_head.weight" in self.rows else "lm_head."

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the name that `sign` describes; the group `before` is what stands before it."""
        return re.compile(f"(?P<before>.*?){self.sign}$")


_SEVERAL = re.compile(r"\{([a-z_]+(?:,[a-z_]+)+)\}")


def _rows(table: str, theirs: str, ours: str) -> list[tuple[str, tuple[str, ...]]]:
    """(the project's name, our names) for each tensor, with `theirs` and `ours` put before the names of the table."""
    rows = []
    for line in table.strip().splitlines():
        disk, name = line.split()[0], line.split()[-1]
        several = _SEVERAL.search(name)
        names = [name] if several is None else [_SEVERAL.sub(part, name) for part in several[1].split(",")]
        for kind in ("weight", "bias") if disk.endswith("*") else ("",):
            rows.append((theirs + disk.replace("*", kind), tuple(ours + one.replace("*", kind) for one in names)))
    return rows
