"""The gallery of `beit similar`: one page with small pictures of images and of their neighbours, or of groups of near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from beit.core.errors import DataError
from beit.core.text import printable
from beit.evaluation.report import Report
from beit.inference.frames import read_named

_SIDE = 160  # longest side of a picture in pixels


@dataclass(frozen=True)
class Card:
    """A picture of the gallery.

    Attributes:
        path: where the image is.
        name: as it is called.
        says: what stands out below it.
    """

    path: str
    name: str
    says: str


@dataclass(frozen=True)
class Section:
    """Pictures below a heading, such as an image and its neighbours."""

    heading: str
    cards: Sequence[Card]
    more: int = 0  # further cards that are not shown


def write_gallery(path: Path, title: str, lead: str, notes: Sequence[str], sections: Sequence[Section]) -> int:
    """Write the page, with every picture inside it.

    Args:
        path: of the .html file.
        title: of the page.
        lead: what was found, in a sentence or two.
        notes: further paragraphs: what a figure means, what was left out.
        sections: in the order of the page.

    Returns:
        How many pictures could not be read; a grey one is in their places.

    Raises:
        CheckpointError: the page could not be written.
    """
    page = Report(title, lead)
    for note in notes:
        page.text(note)
    unreadable = 0
    for section in sections:
        page.heading(printable(section.heading, 80))
        shown = []
        for card in section.cards:
            picture = _small(card.path)
            unreadable += picture is None
            shown.append((picture or _absent(), card.says, printable(card.name, 120)))
        page.pictures(shown, jpeg=True)
        if section.more:
            page.text(f"And {section.more:,} more.")
    page.write(path)
    return unreadable


def _small(path: str) -> Image.Image | None:
    try:
        picture = read_named(path)
    except DataError:
        return None
    picture.thumbnail((_SIDE, _SIDE))
    return picture


def _absent() -> Image.Image:
    picture = Image.new("RGB", (_SIDE, _SIDE), "#999999")
    ImageDraw.Draw(picture).text((_SIDE / 2, _SIDE / 2), "cannot be read", "#ffffff", anchor="mm")
    return picture
