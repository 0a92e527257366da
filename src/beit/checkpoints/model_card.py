"""README.md of a model folder, the page that the Hub shows: which of them `beit` wrote, and which a person did.

`beit.train.card` says what stands in it. Its last line holds a checksum of the others, so that a page which somebody has edited is
told from one as it was written, and neither is overwritten by mistake.
"""

from __future__ import annotations

import filecmp
import hashlib
import logging
import os
import re
import shutil
from pathlib import Path

from beit.core.files import atomic_path

CARD_FILE = "README.md"
_PROCESSOR_FILE = "preprocessor_config.json"
_SEAL = re.compile(r"<!-- beit card ([0-9a-f]{64})\b[^\n]*-->\n?\Z")

logger = logging.getLogger("beit")


def sealed(text: str) -> str:
    """The text of a card with the last line that says who wrote it."""
    body = text.rstrip("\n") + "\n\n"
    note = "beit writes this page anew as long as nobody has changed it; your changes are kept"
    return f"{body}<!-- beit card {_checksum(body)}: {note} -->\n"


def is_untouched(text: str) -> bool:
    """Whether `beit` wrote this text, and nobody has changed it since."""
    seal = _SEAL.search(text)
    return seal is not None and seal[1] == _checksum(text[: seal.start()])


def is_card(text: str) -> bool:
    """Whether `beit` wrote this text, edited or not."""
    return _SEAL.search(text) is not None


def write_card(folder: Path, text: str) -> bool:
    """Write README.md into a model folder, unless there is one that a person wrote or edited; that one is kept, which is said.

    Args:
        folder: the model folder.
        text: Markdown with the Hub's front matter, without a seal.

    Returns:
        Whether it was written.

    Raises:
        CheckpointError: it cannot be written.
    """
    path = folder / CARD_FILE
    found = _text_of(path)
    if found is not None and not is_untouched(found):
        logger.warning("%s was written or edited by hand and is kept; move it away to have a model card written.", path)
        return False
    with atomic_path(path) as temporary:
        temporary.write_bytes(sealed(text).encode("utf-8", "backslashreplace"))
    return True


def folder_of(source: object) -> str | None:
    """Where a card may lie beside a checkpoint: its folder on this machine; None for a file, an id or an address."""
    if not isinstance(source, str | os.PathLike):
        return None
    folder = Path(source).expanduser()
    return os.fspath(folder) if folder.is_dir() else None


def add_card(folder: Path, origin: str | None) -> None:
    """Put the card of the folder that a model was loaded from, and its image processor, beside weights that are to be uploaded.

    Nothing is added, which is said, where the weights have changed since, because the card's figures are of others; or where the
    README.md is not a card of `beit`, because nobody said that it is to be published.

    Args:
        folder: with the weights that are to be uploaded.
        origin: the folder that the model was loaded from; None for a model of another origin.
    """
    path = Path(origin or "") / CARD_FILE
    text = None if origin is None else _text_of(path)
    if text is None:
        return
    weights = sorted(file.name for file in folder.iterdir() if file.suffix in (".safetensors", ".msgpack"))
    if not is_card(text):
        logger.warning(
            "%s is not uploaded, because it is no model card of beit. Upload it yourself, if you want to.", path
        )
    elif filecmp.cmpfiles(path.parent, folder, weights, shallow=False)[0] != weights:
        logger.warning(
            "%s is not uploaded: it describes the weights in that folder, and these are different ones.", path
        )
    else:
        for name in (CARD_FILE, _PROCESSOR_FILE):  # the card says how the image processor is loaded
            if (path.parent / name).is_file():
                shutil.copyfile(path.parent / name, folder / name)


def read_page(path: Path) -> str:
    """The text of a README.md, with the line ends that it was written with, whatever a system made of them."""
    return path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")


def _text_of(path: Path) -> str | None:
    return read_page(path) if path.is_file() else None


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8", "backslashreplace")).hexdigest()
