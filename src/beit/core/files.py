"""Files that are always whole: each is written under a temporary name, synced and renamed. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beit.core.errors import CheckpointError, DataError

_UMASK = os.umask(0)  # the only way to read it is to set it; done once, at import, before there are threads
os.umask(_UMASK)


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file.

    Raises:
        CheckpointError: it cannot be read, or is not JSON; the message says where it breaks.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, an integer of 5,000 digits, or nested too deep
        raise CheckpointError(f"{path} is not valid JSON: {error}. Download or save it again.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file so that it is whole or absent, even after a power cut.

    Yields:
        A temporary path in the folder of `path`. When the block ends without an error, it is synced and renamed to `path`.

    Raises:
        CheckpointError: it could not be written (disk full, no permission); `path` is as it was before.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        start = target.name[:60]  # a file name has at most 255 bytes
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{start}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)  # mkstemp makes a file that only its owner can read
        os.replace(temporary, target)
        sync_folder(target.parent)
    except CheckpointError:  # of a file that the block writes; it is an OSError too
        raise
    except OSError as error:
        if error.errno is None and temporary is not None:  # NumPy's, which says how many bytes it has written
            error = failed_write(temporary, 1 << 16, error)
        advice = "Free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Check the path and its rights"
        raise CheckpointError(
            f"{target} could not be written: {error.strerror or error}. {advice}; what was there before is untouched."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_folder(path: str | os.PathLike[str], purpose: str = "the result") -> None:
    """Check, before hours of work, that files can be written into a folder. It may not be there yet; nothing is made.

    Args:
        path: the folder.
        purpose: what it is for; the message continues "give a folder for" with it.

    Raises:
        DataError: a file is in its place or above it, rights are missing, or it is no name that the system allows.
    """
    folder = Path(path)
    try:
        os.stat(folder)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{folder} cannot be a folder: {reason}. Give another folder for {purpose}.") from error
    nearest = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not nearest.is_dir():
        what = "a file" if nearest.is_file() else "no folder"
        raise DataError(f"{nearest} is {what}; give a folder for {purpose}.")
    try:  # rights alone do not say it: nothing can be made in /proc, by nobody
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise DataError(
            f"Nothing can be written in {nearest}: {error.strerror or error}. Give a folder for {purpose}."
        ) from error


def failed_write(path: Path, size: int, error: Exception) -> OSError:
    """The error to raise where a library reports a failed write in words only, without the system's error number.

    Args:
        path: the file that was written.
        size: its size in bytes, had it been written completely.
        error: what the library raised.

    Returns:
        ENOSPC where less than `size` is free on that disk, else EIO.
    """
    if shutil.disk_usage(path.parent).free < size:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return OSError(errno.EIO, str(error))


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut. Does nothing where folders cannot be opened, as on Windows."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON, indented and with sorted keys, atomically. Raises CheckpointError if that fails."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        data = text.encode()
    except UnicodeEncodeError:  # file names that are not UTF-8
        data = (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
