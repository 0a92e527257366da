"""Images that are named on the command line: files, folders, patterns, lists."""

from __future__ import annotations

import contextlib
import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beit.core.errors import ConfigError, DataError
from beit.core.suggest import did_you_mean, similar
from beit.core.text import printable

if TYPE_CHECKING:
    from beit.data.sources.images import Images


def image_paths(images: Sequence[str], command: str) -> Iterator[str]:
    """The image files that arguments name, those of folders too; arguments and errors as of `places`.

    Raises:
        DataError: also where a folder has no images.
    """
    from beit.data.sources.images import FolderImages

    for place in places(images, command):
        yield from FolderImages(place).paths if os.path.isdir(place) else [place]


def places(images: Sequence[str], command: str, of_list: bool = False) -> Iterator[str]:
    """The files and folders that arguments name, or the lines of a list. One that is not there stays, and is an error in the results.

    Args:
        images: files, folders, patterns, `@FILE`.
        command: for messages.
        of_list: they are lines of a list, in which `@` is a letter.

    Raises:
        ConfigError: an address.
        DataError: a list cannot be read, a pattern matches nothing.
    """
    for image in images:
        if image.lower().startswith(("http://", "https://")):
            raise ConfigError(f"{printable(image)} is an address. Download the image first; {command} reads files.")
        if image.startswith("@") and not of_list and not os.path.lexists(image):
            try:
                lines = Path(image[1:]).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            except OSError as error:
                raise DataError(f"The list {printable(image[1:])} cannot be read: {error.strerror}.") from error
            yield from places([line.strip() for line in lines if line.strip()], command, of_list=True)
        elif glob.has_magic(image) and not os.path.lexists(image):
            found = sorted(glob.glob(image, recursive=True))
            if not found:
                raise DataError(f"Nothing matches {printable(image)}.")
            yield from found
        else:
            yield image


def advice_on(images: Sequence[str]) -> str:
    """What may have been meant by the first path that is not there."""
    gone = next((image for image in images if not os.path.lexists(image) and not image.startswith("@")), None)
    if gone is None:
        return ""
    folder = os.path.dirname(gone)
    with contextlib.suppress(OSError):
        names = similar(os.path.basename(gone), os.listdir(folder or "."))
        return did_you_mean([os.path.join(folder, name) for name in names[:3]])
    return ""


def say_frames_left_out(images: Images) -> None:
    """Say on stderr how many frames of films were not looked at, if any."""
    count, films = getattr(images, "frames_left_out", 0), getattr(images, "films", 0)
    if count:
        print(
            f"{count:,} further frames of {films:,} film{'s' * (films > 1)} were left out: --frames all takes them, --frames 10 every tenth.",
            file=sys.stderr,
        )
