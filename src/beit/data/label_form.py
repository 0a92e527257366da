"""How the labels of a data set are written: numbers, colours or shapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from beit.core.errors import ConfigError
from beit.data.label_maps import LabelRules

_PLAIN = LabelRules()
NAME_FILES = (".yaml", ".yml", ".txt")  # what the names of YOLO's classes are written in


@dataclass(frozen=True)
class LabelForm:
    """How the labels of a data set are written, the same for all its parts.

    Attributes:
        rules: what numbers in label maps mean.
        colors: a file with the classes of the colours, for label maps in colour.
        unknown_colors: what a colour means that this file does not have: "refuse" or "void", no label.
        mask_suffix: how the names of the maps end, where that is more than the suffix of the format: `_L.png`.
        background: whether pixels in no shape are the class background, of labels that are shapes; else they have no label.
    """

    rules: LabelRules = _PLAIN
    colors: Path | None = None
    unknown_colors: str = "refuse"
    mask_suffix: str | None = None
    background: bool = True

    def __post_init__(self) -> None:
        """Raises ConfigError for values that exclude each other or make no sense."""
        if self.mask_suffix is not None and (not self.mask_suffix or "/" in self.mask_suffix):
            raise ConfigError(
                f"mask_suffix is {self.mask_suffix!r}; wanted the end of the maps' names, such as _mask.png."
            )
        if self.colors is None and self.unknown_colors != "refuse":
            raise ConfigError(
                "unknown_colors is for label maps in colour; give the table of their colours with --colors."
            )
        if self.colors is not None and (self.rules.reduce_labels or self.rules.values):
            raise ConfigError(
                "colors says which class each colour is; leave out reduce_labels and map_value, which are for numbers."
            )
