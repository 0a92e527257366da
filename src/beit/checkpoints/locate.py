"""Where a checkpoint lies: a folder, a file, a Hub id, a URL, or a name of the catalogue → local files.

Mirrors: the environment variable BEIT_CHECKPOINTS lists folders or base URLs, separated by spaces, where a name of the catalogue
is looked for first. A mirror of the Hub is set by HF_ENDPOINT, which huggingface_hub reads.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beit.checkpoints import catalogue, hub
from beit.checkpoints.keywords import WEIGHT_FILES
from beit.checkpoints.read_weights import diagnose
from beit.core.download_limits import LARGEST_WEIGHTS, Limits, largest_file
from beit.core.errors import CheckpointError, DataError
from beit.core.files import atomic_path
from beit.core.http import RemoteFile

logger = logging.getLogger("beit")

MIRRORS = "BEIT_CHECKPOINTS"
_PAUSES = (0.5, 2.0)  # seconds after each failed download; few, because a person is waiting
# PyTorch and OpenMMLab put the first digits of a file's SHA-256 into its name.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.\w+$")


@dataclass(frozen=True)
class Place:
    """A checkpoint that was found.

    Attributes:
        file: takes a name such as config.json; returns its path, or None where the checkpoint has no such file.
        weights: returns the weight files.
        published: its entry in the catalogue, where it has one.
    """

    file: Callable[[str], Path | None]
    weights: Callable[[], list[Path]]
    published: catalogue.Published | None = None


def find(source: str | os.PathLike[str], **where: Any) -> Place:
    """Find a checkpoint. A weight file of the catalogue or behind a URL is downloaded at once.

    Args:
        source: a folder, a weight file, an id on the Hub, a URL, or a name of the catalogue.
        **where: as for `hub.resolve_weights`. Of a single file, `use_safetensors` refuses the other kind.

    Raises:
        CheckpointError: nothing is there; the message lists everything that was tried.
    """
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        raise CheckpointError(f"Got {source!r:.80}; wanted a model folder, a weight file or a Hub id like owner/name.")
    name = os.fspath(source)
    if name.lower().startswith(("https://", "http://")):
        return _single(download(name, **where), where)
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return _folder(os.fspath(path), where)
        if path.is_file():
            if path.name in hub.WEIGHT_FILES and (path.parent / "config.json").is_file():
                return _folder(os.fspath(path.parent), where)
            return _single(path, where)
        if path.exists():
            raise CheckpointError(f"{name} is neither a file nor a folder. Give a model folder or a weight file.")
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, an unknown user, a null byte
        raise CheckpointError(
            f"{name[:80]!r} cannot be a path: {error}. Give a folder, a weight file or an id."
        ) from error
    entry = catalogue.find(name)
    if entry is not None and "/" not in name:
        return _of_catalogue(entry, where)
    place = _folder(name, where)
    return Place(place.file, place.weights, entry)


def _folder(name: str, where: dict[str, Any]) -> Place:
    """A local folder, or an id on the Hub."""

    of_files = {key: value for key, value in where.items() if key not in WEIGHT_FILES}

    def file(filename: str) -> Path | None:
        if filename == "config.json":
            if _lacks_settings(name, where):
                logger.warning(
                    "%s has weights and no %s, as Trainer and Accelerate write them. Its settings are read off the tensors; "
                    "`beit inspect %s` shows which are guesses. Pass config=…, or put its config.json beside the weights.",
                    name, filename, name,
                )  # fmt: skip
                return None
            return hub.resolve_file(name, filename, **of_files)  # its absence is an error
        try:
            return hub.resolve_file(name, filename, **of_files)
        except CheckpointError:
            return None

    return Place(file, lambda: hub.resolve_weights(name, **where))


def _lacks_settings(name: str, where: dict[str, Any]) -> bool:
    """Whether this is a local folder with weights and without config.json."""
    folder = Path(name).expanduser() / (where.get("subfolder") or "")
    return not (folder / "config.json").is_file() and any((folder / file).is_file() for file in hub.WEIGHT_FILES)


def _single(path: Path, where: dict[str, Any]) -> Place:
    safe, variant = where.get("use_safetensors"), where.get("variant")
    if (safe is True and path.suffix != ".safetensors") or (safe is False and path.suffix == ".safetensors"):
        raise CheckpointError(
            f"use_safetensors is {safe}, but {path.name} is the only file. Leave it out, or give a folder."
        )
    if variant is not None and f".{variant}." not in path.name:
        raise CheckpointError(
            f"variant is {variant!r}, but {path.name} is the only file. Leave it out, or give a folder."
        )
    return Place(lambda _: None, lambda: [path], catalogue.find(path.name))


# --- the catalogue's names -------------------------------------------------------------------------------------------


def _of_catalogue(entry: catalogue.Published, where: dict[str, Any]) -> Place:
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
                place = _single(download(form.where, **where), where)
            return Place(place.file, place.weights, entry)
        except CheckpointError as error:
            tried.append(str(error))
    lines = "\n  ".join(tried) or "no file of it is published"
    raise CheckpointError(
        f"{entry.name} is published, but could not be fetched. Tried:\n  {lines}\nDownload one of them by other means and pass its "
        f"path, or name a folder or mirror that has it in {MIRRORS}."
    )


def _in_mirror(entry: catalogue.Published, mirror: str, where: dict[str, Any]) -> tuple[Place | None, str]:
    """A published checkpoint in a folder or under a base URL: by its name, its Hub id or its file's name."""
    if mirror.startswith(("https://", "http://")):
        for form in entry.forms:
            if form.kind in ("unilm", "openmmlab"):
                url = f"{mirror.rstrip('/')}/{form.where.rpartition('/')[2]}"
                try:
                    return _single(download(url, **where), where), ""
                except CheckpointError as error:
                    return None, str(error)
        return None, "a mirror by URL has single files only, and this checkpoint is not published as one"
    folder = Path(os.path.expanduser(mirror))
    pick = {key: value for key, value in where.items() if key in WEIGHT_FILES}
    names = [entry.name]
    for form in entry.forms:
        names += (
            [form.where, form.where.rpartition("/")[2]] if "://" not in form.where else [form.where.rpartition("/")[2]]
        )
    for name in names:
        try:
            if (folder / name).is_dir():
                return _folder(os.fspath(folder / name), pick), ""
            if (folder / name).is_file():
                return _single(folder / name, pick), ""
        except OSError as error:
            return None, f"cannot be read: {error.strerror}"
    return None, f"has none of {', '.join(dict.fromkeys(names))}"


# --- downloads -------------------------------------------------------------------------------------------------------


def _cached(url: str) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    name = url.partition("?")[0].rpartition("/")[2][-100:] or "weights"
    return home / "beit" / "checkpoints" / hashlib.sha256(url.encode()).hexdigest()[:16] / name


def download(url: str, local_files_only: bool = False, force_download: bool = False, **_: Any) -> Path:
    """The local copy of a weight file behind a URL, downloaded once. If its name contains a hash, that is checked.

    Raises:
        CheckpointError: it could not be downloaded, is larger than BEIT_MAX_BYTES (`LARGEST_WEIGHTS` if that is not set) or than the
            free space, is no weight file, or its hash is not the one in its name.
    """
    from huggingface_hub import constants

    path = _cached(url)
    if path.is_file() and not force_download:
        return path
    if local_files_only or constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"{url} was not downloaded before, and downloads are switched off (local_files_only or offline mode)."
        )
    remote = RemoteFile(url, _PAUSES, Limits(largest=largest_file(LARGEST_WEIGHTS)))
    try:
        remote.open()
        with atomic_path(path) as temporary:
            _check_space(temporary, remote.size)
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


def _check_space(path: Path, size: int | None) -> None:
    """Whether a download has room. Raises CheckpointError; nothing was written yet."""
    free = shutil.disk_usage(path.parent).free
    if size is not None and size > free:
        raise CheckpointError(
            f"The file has {size:,} bytes, and {path.parent} has room for {free:,}. Make room, or let XDG_CACHE_HOME name a folder "
            "on another disk."
        )


def _show(name: str, done: int, size: int | None) -> None:
    """Show the progress of a download on one line of a terminal."""
    if sys.stderr.isatty():
        total = f" of {size / 1e6:.0f}" if size else ""
        end = "\n" if done == size else ""
        print(f"\r{name}: {done / 1e6:.0f}{total} MB", end=end, file=sys.stderr, flush=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_hash(path: Path, name: str, stated: str | None = None) -> str:
    """The SHA-256 of a file, after comparing it with what its publisher `stated`, or with the first digits in its `name`.

    Raises:
        CheckpointError: they differ.
    """
    found = sha256(path)
    in_name = _HASH_IN_NAME.search(name)
    # Eight decimal digits are a date, not a hash.
    wanted = stated or (in_name[1] if in_name and not in_name[1].isdecimal() else "")
    if not found.startswith(wanted):
        raise CheckpointError(
            f"{name} is not the file that was published: its SHA-256 begins with {found[:8]}, wanted {wanted[:8]}. It is cut "
            "short or was changed; download it again."
        )
    return found
