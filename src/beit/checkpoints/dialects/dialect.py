"""`Dialect`: how one project names the tensors of a BEiT, and what it does that no tensor shows."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

LAYER = "beit.encoder.layers.{i}."  # of our parameter names; {i} stands for the number of a layer
Pack = Callable[[dict[str, Any], bool, tuple[str, ...]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The names of one project. A table has one line per tensor: our parameter name, then the project's name.

    In a table, `name.*` stands for `name.weight` and `name.bias`. Several names joined by commas are tensors that we stack
    along axis 0 (query, key and value). Where two lines have the same name on the right, the first is meant, but the last
    in models that predict visual tokens.

    Attributes:
        name: the key in the registry, as in `beit convert --to`.
        project: who uses these names, for people.
        sign: regular expression for the end of a name that every file of this dialect has, and no other dialect's.
        prefix: what the encoder's names begin with in the table.
        prefix_optional: whether a model without a head is saved without this prefix.
        encoder: what the names of all layers begin with.
        layer: what follows, with `{i}` for the layer's number.
        table: the tensors outside the layers.
        layer_table: the tensors of one layer, by the names that follow `LAYER` and `encoder` + `layer`.
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
    def rows(self) -> dict[str, tuple[str, ...]]:
        """Our parameter name → the names on disk, with `{i}` for a layer's number in both."""
        body = _rows(self.table, "", "")
        return {**body, **_rows(self.layer_table, LAYER, self.encoder + self.layer)}

    @functools.cached_property
    def by_disk(self) -> dict[str, list[tuple[str, int]]]:
        """Name on disk → our parameter names, each with the place of this tensor among those that make it up."""
        found: dict[str, list[tuple[str, int]]] = {}
        for ours, theirs in self.rows.items():
            for part, name in enumerate(theirs):
                found.setdefault(name, []).append((ours, part))
        return found

    @functools.cached_property
    def token_head(self) -> str:
        """What the names of the head for visual tokens begin with; `lm_head.` in hf."""
        return self.rows["lm_head.weight"][0].removesuffix("weight") if "lm_head.weight" in self.rows else "lm_head."

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the name that `sign` describes; the group `before` is what stands before it."""
        return re.compile(f"(?P<before>.*?){self.sign}$")


def _rows(table: str, ours: str, theirs: str) -> Mapping[str, tuple[str, ...]]:
    rows = {}
    for line in table.strip().splitlines():
        name, cell = line.split()
        for kind in ("weight", "bias") if name.endswith("*") else ("",):
            disk = tuple(theirs + part.replace("*", kind) for part in cell.split(","))
            rows[ours + name.replace("*", kind)] = disk
    return rows
