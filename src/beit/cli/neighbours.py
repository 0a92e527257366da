"""`beit similar`: nearest neighbours and near-duplicates among the features that `beit embed` wrote."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from beit.cli.parsing import at_least_one, device_of, parse, show
from beit.cli.paths import advice_on, image_paths, say_frames_left_out
from beit.core.errors import ConfigError, DataError, require
from beit.core.files import check_folder
from beit.core.progress import progress_bar
from beit.core.settings import Settings
from beit.core.text import harmless, printable

if TYPE_CHECKING:
    import numpy as np

    from beit.evaluation.report_similar import Section
    from beit.inference.feature_files import FeatureIndex
    from beit.inference.tables import Row

_COLUMNS = {"query": str, "rank": int, "image": str, "cosine": float, "error": str}
_GROUP_COLUMNS = {"group": int, "size": int, "image": str, "nearest": str, "cosine": float}
_MOST_IN_GROUP = 24  # pictures of one group in the gallery


@dataclass(kw_only=True)
class Similar(Settings):
    """Find similar images among those whose features beit embed wrote, by the cosine of their features; every pair is compared."""

    index: tyro.conf.Positional[Path]
    """features.parquet or features.npy, as beit embed writes them."""
    query: tuple[str, ...] = ()
    """Images whose nearest neighbours are wanted: files, folders, patterns, @FILE as for beit predict. Without it, each image of
    the index is asked for, and is not its own neighbour."""
    model: str | None = None
    """Model for the images of --query. It must be the one that made the index, which is the default."""
    layer: int | None = None
    """Its layer, for an index that does not say it (.npy); if not given, the pooled output."""
    frames: str = "first"
    """Of films and pages among the images of --query: the first frame, all, or a number N for every Nth."""
    top: int = 5
    """Number of neighbours of each image."""
    within: float | None = None
    """Find groups of near-duplicates instead: images that a chain of pairs with at least this cosine links, such as 0.95."""
    output: Path | None = None
    """File for the results instead of the screen: .csv, .jsonl or .parquet."""
    html: Path | None = None
    """File for a gallery: one .html page with small pictures, which opens offline."""
    shown: int = 50
    """Number of images, or groups, in the gallery: the first ones."""
    device: str | None = None
    """Where to compute the features of --query: cpu, cuda, cuda:1, mps, …; a GPU where there is one if not given."""
    batch_size: int = 64
    """Images of --query per forward pass."""


def similar_command(arguments: list[str]) -> None:
    settings = parse(Similar, "similar", arguments)
    _check(settings)
    from beit.inference.feature_files import read_features

    paths = list(image_paths(settings.query, "beit similar"))
    index = read_features(settings.index)
    if index.skipped:
        _note(f"{index.skipped} rows of {settings.index} have no features and are left out.")
    if settings.within is not None:
        _groups(settings, index, settings.within)
        return
    if paths:
        _neighbours_of(settings, index, paths)
        return
    if len(index.names) < 2:
        raise DataError(
            f"{settings.index} has one image, which has no neighbour. Give a --query, or embed more images."
        )
    _answer(settings, index, [(name, None) for name in index.names], index.features, 0)


def _check(settings: Similar) -> None:
    """What can be said before the index is read. Raises ConfigError or DataError."""
    from beit.inference.tables import check_table

    for name in ("top", "shown", "batch_size"):
        at_least_one(name, getattr(settings, name))
    if settings.within is not None and not -1 <= settings.within <= 1:
        raise ConfigError(
            f"within is {settings.within}; it is the cosine of an angle, in [-1, 1]. Near-duplicates: 0.95 or more."
        )
    if settings.within is not None and settings.query:
        raise ConfigError(
            "within looks for groups among all images of the index; query asks about others. Give one of them."
        )
    if not settings.query and (settings.model is not None or settings.layer is not None or settings.frames != "first"):
        raise ConfigError(
            "model, layer and frames are for the images of --query; those of the index have their features already."
        )
    if settings.output is not None:
        check_table(settings.output)
    if settings.html is not None:
        if settings.html.suffix not in (".html", ".htm"):
            raise ConfigError(f"html is {settings.html}; its name must end in .html.")
        if settings.html.exists():
            raise ConfigError(f"{settings.html} exists already. Give a new name, or remove it; nothing was written.")
        check_folder(settings.html.parent, "the page")


def _note(text: str) -> None:
    print(harmless(text), file=sys.stderr)


# --- neighbours ------------------------------------------------------------------------------------------------------


def _neighbours_of(settings: Similar, index: FeatureIndex, paths: list[str]) -> None:
    """Embed the images of the query, and answer for each that can be read."""
    require("torch", "torch", "the images of a query")
    import numpy as np

    from beit.inference.features import feature_batches
    from beit.inference.frames import open_frames, parse_frames
    from beit.inference.origin import open_as_in

    device = device_of("torch", settings.device)
    images = open_frames(paths, parse_frames(settings.frames))
    model, processor, layer = open_as_in(index, settings.index, settings.model, settings.layer)
    errors: dict[int, str] = {}
    found = []
    with progress_bar(purpose="beit similar", total=len(images), desc="features", unit="image") as bar:
        batches = feature_batches(model, processor, images, errors.__setitem__, layer, settings.batch_size, device)
        for numbers, features in batches:
            found.append(features / np.linalg.norm(features, axis=1, keepdims=True))
            bar.update(len(numbers))
    queries = np.concatenate(found) if found else np.empty((0, index.features.shape[1]), np.float32)
    asked = [(images.name(number), errors.get(number)) for number in range(len(images))]
    _answer(settings, index, asked, queries, None)
    say_frames_left_out(images)
    if errors:
        raise DataError(f"{len(errors)} of {len(images)} images could not be read.{advice_on(settings.query)}")


def _answer(
    settings: Similar, index: FeatureIndex, asked: list[tuple[str, str | None]], queries: np.ndarray, own: int | None
) -> None:
    """Find the neighbours, and show or write them.

    Args:
        settings: of the command.
        index: where neighbours are looked for.
        asked: (image, why it cannot be read) of each image.
        queries: features of those that can be read.
        own: as for `nearest`.
    """
    from beit.inference.similar import nearest
    from beit.inference.tables import write_rows

    with progress_bar(purpose="beit similar", total=len(queries), desc="neighbours", unit="image") as bar:
        rows, cosines = nearest(queries, index.features, settings.top, own, bar.update)
    found = _Neighbours(index, own is not None, asked, rows, cosines)
    good = len(queries)
    if settings.output is not None:
        write_rows(settings.output, _COLUMNS, found.rows())
        show(f"Wrote {settings.output}: {good:,} images with {rows.shape[1]} neighbours each.")
    if settings.html is not None:
        sections = list(found.sections(settings.shown))
        lead = f"The {rows.shape[1]} nearest neighbours of {min(settings.shown, good):,} images, among {len(index.names):,}."
        left_out = [f"{good - settings.shown:,} further images are not on this page."] if good > settings.shown else []
        _write_page(settings.html, "Similar images", lead, left_out, index, sections)
    if settings.output is None and settings.html is None:
        for row in found.rows():
            if "error" in row:
                show(row["error"])
                continue
            if row["rank"] == 1:
                show(printable(row["query"]))
            show(f"  {row['cosine']:.3f}  {printable(row['image'])}")
    elif good < len(asked):
        for _, error in asked:
            if error is not None:
                _note(error)


@dataclass
class _Neighbours:
    index: FeatureIndex
    inside: bool  # whether the images that are asked for are those of the index
    asked: list[tuple[str, str | None]]
    numbers: np.ndarray
    cosines: np.ndarray

    def rows(self) -> Iterator[Row]:
        good = 0
        for query, error in self.asked:
            if error is not None:
                yield {"query": query, "error": error}
                continue
            for rank, (number, cosine) in enumerate(
                zip(self.numbers[good], self.cosines[good].tolist(), strict=True), 1
            ):
                yield {"query": query, "rank": rank, "image": self.index.names[number], "cosine": round(cosine, 6)}
            good += 1

    def sections(self, most: int) -> Iterator[Section]:
        from beit.evaluation.report_similar import Card, Section

        good = [(number, query) for number, (query, error) in enumerate(self.asked) if error is None]
        for row, (number, query) in enumerate(good[:most]):
            cards = [Card(self.index.path(number) if self.inside else query, query, "asked for")]
            for near, cosine in zip(self.numbers[row].tolist(), self.cosines[row].tolist(), strict=True):
                cards.append(Card(self.index.path(near), self.index.names[near], f"{cosine:.3f}"))
            yield Section(Path(query).name, cards)


# --- near-duplicates -------------------------------------------------------------------------------------------------


def _groups(settings: Similar, index: FeatureIndex, within: float) -> None:
    """Find groups of near-duplicates, and show or write them."""
    from beit.evaluation.report_similar import Card, Section
    from beit.inference.similar import near_duplicates, nearest
    from beit.inference.tables import write_rows

    with progress_bar(purpose="beit similar", total=len(index.names), desc="pairs", unit="image") as bar:
        groups = near_duplicates(index.features, within, bar.update)

    def rows() -> Iterator[Row]:
        for number, group in enumerate(groups, 1):
            near, cosines = nearest(index.features[group], index.features[group], 1, own=0)
            for row, other, cosine in zip(group, group[near[:, 0]], cosines[:, 0].tolist(), strict=True):
                yield {
                    "group": number,
                    "size": len(group),
                    "image": index.names[row],
                    "nearest": index.names[other],
                    "cosine": round(cosine, 6),
                }

    grouped = sum(map(len, groups))
    lead = f"No two of {len(index.names):,} images are near-duplicates (cosine at least {within:g})."
    if groups:
        lead = (
            f"{grouped:,} of {len(index.names):,} images are near-duplicates, in {len(groups):,} group{'s' * (len(groups) > 1)} "
            f"(cosine at least {within:g}). Keeping one of each would leave {len(index.names) - grouped + len(groups):,}."
        )
    chain = "Pairs link images to a group, so two of a group may be less alike than that where others lie between them."
    if settings.output is not None:
        write_rows(settings.output, _GROUP_COLUMNS, rows())
        show(f"Wrote {settings.output}.")
    if settings.html is not None:
        notes = [f"{chain} Below each picture is the cosine to the nearest other image of its group."]
        if len(groups) > settings.shown:
            notes.append(f"{len(groups) - settings.shown:,} further groups are not on this page.")
        places = {name: index.path(number) for number, name in enumerate(index.names)}
        sections = []
        cards: list[Card] = []
        for row in rows():
            if int(row["group"] or 0) > settings.shown:
                break
            cards.append(Card(places[str(row["image"])], str(row["image"]), f"{row['cosine']:.3f}"))
            if len(cards) == row["size"]:
                rest = len(cards) - _MOST_IN_GROUP
                sections.append(
                    Section(f"Group {row['group']}: {row['size']} images", cards[:_MOST_IN_GROUP], max(rest, 0))
                )
                cards = []
        _write_page(settings.html, "Near-duplicates", lead, notes, index, sections)
    if settings.output is None and settings.html is None:
        last = 0
        for row in rows():
            if row["group"] != last:
                last = int(row["group"] or 0)
                show(f"Group {last}: {row['size']} images")
            show(f"  {row['cosine']:.3f}  {printable(row['image'])}")
    show(lead)
    if groups:
        show(chain)


def _write_page(
    path: Path, title: str, lead: str, notes: list[str], index: FeatureIndex, sections: list[Section]
) -> None:
    from beit.evaluation.report_similar import write_gallery

    if index.origin is not None:
        notes = [
            f"Features: {index.origin.where()} of {printable(index.origin.model)}. Figures are cosines; 1 is the same.",
            *notes,
        ]
    unreadable = write_gallery(path, title, lead, notes, sections)
    show(f"Open {path}")
    if unreadable:
        _note(f"{unreadable} pictures of the gallery cannot be read: their files have moved or are damaged.")
