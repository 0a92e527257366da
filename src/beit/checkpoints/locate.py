"""Where a checkpoint lies: a folder, a file, a Hub id, a URL, or a name of the catalogue → local files.

Mirrors: BEIT_CHECKPOINTS names folders or base URLs, separated by spaces, that are looked at first for a name of the catalogue;
the Hub's own mirror is HF_ENDPOINT, which huggingface_hub reads.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beit.checkpoints import catalogue as published
from beit.checkpoints import hub
from beit.checkpoints.read_weights import diagnose
from beit.core.errors import CheckpointError, DataError
from beit.core.files import atomic_path

MIRRORS = "BEIT_CHECKPOINTS"
_PAUSES = (0.5, 2.0)  # after a failed download: somebody waits
_HASH_IN_NAME = re.compile(
    r"-([0-9a-f]{8})\.\w+$"
)  # the first digits of a file's SHA-256: PyTorch's and OpenMMLab's custom


@dataclass(frozen=True)
class Place:
    """A checkpoint found.

    Attributes:
        file: name such as config.json → its path, or None where the checkpoint has no such file.
        weights: → the weight files.
        published: its entry in the catalogue, where it has one.
    """

    file: Callable[[str], Path | None]
    weights: Callable[[], list[Path]]
    published: published.Published | None = None


def find(source: str | os.PathLike[str], **where: Any) -> Place:
    """The place of a checkpoint; a weight file of the catalogue or a URL is downloaded here.

    Raises:
        CheckpointError: nothing is there, with everything that was tried.
    """
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        raise CheckpointError(f"Got {source!r:.80}; wanted a model folder, a weight file or a Hub id like owner/name.")
    name = os.fspath(source)
    if name.lower().startswith(("https://", "http://")):
        return _single(download(name, **where))
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return _folder(os.fspath(path), where)
        if path.is_file():
            if path.name in hub.WEIGHT_FILES and (path.parent / "config.json").is_file():
                return _folder(os.fspath(path.parent), where)
            return _single(path)
        if path.exists():
            raise CheckpointError(f"{name} is neither a file nor a folder. Give a model folder or a weight file.")
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, an unknown user, a null byte
        raise CheckpointError(
            f"{name[:80]!r} cannot be a path: {error}. Give a folder, a weight file or an id."
        ) from error
    entry = published.find(name)
    if entry is not None and "/" not in name:
        return _of_catalogue(entry, where)
    place = _folder(name, where)
    return Place(place.file, place.weights, entry)


def _folder(name: str, where: dict[str, Any]) -> Place:
    """A local folder, or an id on the Hub."""

    def file(filename: str) -> Path | None:
        if filename == "config.json":  # whose absence is worth a message
            return hub.resolve_file(name, filename, **where)
        try:
            return hub.resolve_file(name, filename, **where)
        except CheckpointError:
            return None

    return Place(file, lambda: hub.resolve_weights(name, **where))


def _single(path: Path) -> Place:
    return Place(lambda _: None, lambda: [path], published.find(path.name))


# --- the catalogue's names -------------------------------------------------------------------------------------------


def _of_catalogue(entry: published.Published, where: dict[str, Any]) -> Place:
    tried = []
    for mirror in os.environ.get(MIRRORS, "").split():
        found, why = _in_mirror(entry, mirror, where)
        if found is not None:
            return Place(found.file, found.weights, entry)
        tried.append(f"{mirror}: {why}")
    for form in entry.forms:
        try:
            if form.kind in ("hf", "timm"):
                place = _folder(form.where, where)
                place.file("config.json")
            else:
                place = _single(download(form.where, **where))
            return Place(place.file, place.weights, entry)
        except CheckpointError as error:
            tried.append(str(error))
    lines = "\n  ".join(tried) or "no file of it is published"
    raise CheckpointError(
        f"{entry.name} is published, but could not be had. Tried:\n  {lines}\nDownload one by other means and give its path, or "
        f"name a folder or mirror that has it in {MIRRORS}."
    )


def _in_mirror(entry: published.Published, mirror: str, where: dict[str, Any]) -> tuple[Place | None, str]:
    """A published checkpoint in a folder or under a base URL: by its name, its Hub id or its file's name."""
    if mirror.startswith(("https://", "http://")):
        for form in entry.forms:
            if form.kind in ("unilm", "openmmlab"):
                url = f"{mirror.rstrip('/')}/{form.where.rpartition('/')[2]}"
                try:
                    return _single(download(url, **where)), ""
                except CheckpointError as error:
                    return None, str(error)
        return None, "a mirror by URL has single files, and none of this one is published"
    folder = Path(os.path.expanduser(mirror))
    names = [entry.name]
    for form in entry.forms:
        names += (
            [form.where, form.where.rpartition("/")[2]] if "://" not in form.where else [form.where.rpartition("/")[2]]
        )
    for name in names:
        try:
            if (folder / name).is_dir():
                return _folder(os.fspath(folder / name), {}), ""
            if (folder / name).is_file():
                return _single(folder / name), ""
        except OSError as error:
            return None, f"cannot be looked at: {error.strerror}"
    return None, f"has none of {', '.join(dict.fromkeys(names))}"


# --- downloads -------------------------------------------------------------------------------------------------------


def _cached(url: str) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    name = url.partition("?")[0].rpartition("/")[2][-100:] or "weights"
    return home / "beit" / "checkpoints" / hashlib.sha256(url.encode()).hexdigest()[:16] / name


def download(url: str, local_files_only: bool = False, force_download: bool = False, **_: Any) -> Path:
    """A weight file behind a URL, downloaded once and kept; compared with the hash in its name where it has one.

    Raises:
        CheckpointError: it could not be had, is no weight file, or is another one than its name says.
    """
    from huggingface_hub import constants

    from beit.core.http import RemoteFile

    path = _cached(url)
    if path.is_file() and not force_download:
        return path
    if local_files_only or constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"{url}: not downloaded yet, and this is to be done without a connection.")
    remote = RemoteFile(url, _PAUSES)
    try:
        with atomic_path(path) as temporary:
            with temporary.open("wb") as file:
                while piece := remote.read(1 << 20):
                    file.write(piece)
                    _show(path.name, remote.position, remote.size)
            with temporary.open("rb") as file:
                why = diagnose(file.read(512))
            if why:
                raise CheckpointError(f"{url} {why}")
            check_hash(temporary, path.name)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    finally:
        remote.close()
    return path


def _show(name: str, done: int, size: int | None) -> None:
    """How far a download is, on one line, where somebody watches."""
    if sys.stderr.isatty():
        part = f" of {size / 1e6:.0f}" if size else ""
        end = "\n" if done == size else ""
        print(f"\r{name}: {done / 1e6:.0f}{part} MB", end=end, file=sys.stderr, flush=True)


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_hash(path: Path, name: str, stated: str | None = None) -> str:
    """The SHA-256 of a file, compared with what its publisher `stated` or the first digits of it in its name.

    Raises:
        CheckpointError: they differ.
    """
    found = sha256(path)
    in_name = _HASH_IN_NAME.search(name)
    # Eight decimal digits are a date.
    wanted = stated or (in_name[1] if in_name and not in_name[1].isdecimal() else "")
    if not found.startswith(wanted):
        raise CheckpointError(
            f"{name} is not the file that was published: its SHA-256 begins with {found[:8]}, wanted {wanted[:8]}. It was cut "
            "short or changed on the way; download it again."
        )
    return found
