"""Model folders: an id or a folder → files, and files ← arrays. Loads neither torch nor jax.

A *model folder* holds `config.json`, weights (`model.safetensors`, its shards, or the older `pytorch_model.bin` or
`flax_model.msgpack`) and, where images are fed, `preprocessor_config.json`. An id such as
`microsoft/beit-base-patch16-224` is a folder on the Hub; huggingface_hub downloads and caches it. Every file is written
under a temporary name, synced and renamed, so that a full disk or a kill leaves what was there before.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beit.core.errors import CheckpointError, ConfigError

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
BIN = "pytorch_model.bin"
BIN_INDEX = "pytorch_model.bin.index.json"
MSGPACK = "flax_model.msgpack"
MSGPACK_INDEX = "flax_model.msgpack.index.json"
WEIGHT_FILES = (SAFETENSORS, SAFETENSORS_INDEX, BIN, BIN_INDEX, MSGPACK, MSGPACK_INDEX)  # in the order of preference
_UMASK = os.umask(0)  # there is no way to ask without setting it; done once, before there are threads
os.umask(_UMASK)
_MODELS = (
    "BeitModel",
    "BeitForMaskedImageModeling",
    "BeitForImageClassification",
    "BeitForSemanticSegmentation",
    "BeitBackbone",
)
_HUB_KEYWORDS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")


def split_hub_keywords(keywords: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split keywords of a `from_pretrained` call into (those that say where files come from, all others)."""
    where = {key: value for key, value in keywords.items() if key in _HUB_KEYWORDS}
    return where, {key: value for key, value in keywords.items() if key not in _HUB_KEYWORDS}


def resolve_file(
    id_or_folder: str | os.PathLike[str],
    filename: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str | None = None,
) -> Path:
    """The local path of one file of a model folder, downloaded from the Hub when `id_or_folder` is an id.

    Raises:
        CheckpointError: no such folder, id or file; or it cannot be reached and is not in the cache.
    """
    if not isinstance(id_or_folder, str | os.PathLike) or not os.fspath(id_or_folder):
        raise CheckpointError(f"Got {id_or_folder!r:.80}; wanted a model folder or a Hub id like owner/name.")
    folder = Path(id_or_folder).expanduser()
    if folder.is_dir():
        path = folder / (subfolder or "") / filename
        if not path.is_file():
            there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
            raise CheckpointError(f"{folder} has no {filename} (it holds: {there}). Is it a model folder?")
        return path
    name = str(id_or_folder)
    if folder.is_file():
        raise CheckpointError(f"{name} is a file; wanted the folder that holds {filename}.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith((".", "/", "~")):
        raise CheckpointError(f"No such folder: {name}. Give an existing model folder or a Hub id like owner/name.")

    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.hf_hub_download(
                name,
                filename,
                subfolder=subfolder,
                revision=revision,
                token=token,
                cache_dir=None if cache_dir is None else os.fspath(cache_dir),
                local_files_only=local_files_only,
                force_download=force_download,
            )
        )
    # The order matters: LocalEntryNotFoundError is an EntryNotFoundError too.
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{name}: {filename} is not in the local cache and the Hub was not reached (offline, or no connection). "
            "Download it once with a connection, or give a local folder."
        ) from error
    except errors.EntryNotFoundError as error:
        raise CheckpointError(f"{name} on the Hub has no file {filename}.") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{name} on the Hub has no revision {revision!r}.") from error
    except errors.GatedRepoError as error:
        raise CheckpointError(f"{name} is gated: accept its terms on the Hub and pass token=….") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name} is neither a local folder nor a repository on the Hub (a private one needs token=…)."
        ) from error
    except Exception as error:  # connection errors have other types whenever that library changes its HTTP library
        raise CheckpointError(f"{name}: {filename} could not be downloaded: {error}") from error


def has_file(id_or_folder: str | os.PathLike[str], filename: str, **where: Any) -> bool:
    """Whether the folder or Hub id holds `filename` (an unreachable id counts as no)."""
    try:
        resolve_file(id_or_folder, filename, **where)
    except CheckpointError:
        return False
    return True


def resolve_weights(id_or_folder: str | os.PathLike[str], **where: Any) -> list[Path]:
    """The weight files of a model folder: one file, or the shards that an index names. Safetensors come first.

    Raises:
        CheckpointError: there are none; or a shard that the index names is missing.
    """
    tried: list[str] = []
    first: CheckpointError | None = None
    for filename in WEIGHT_FILES:
        try:
            path = resolve_file(id_or_folder, filename, **where)
        except CheckpointError as error:
            if not tried and not _is_missing_file(error):
                raise  # no such folder or id: the other names would fail in the same way
            tried.append(filename)
            first = first or error
            continue
        if not filename.endswith(".index.json"):
            return [path]
        index = read_json(path)
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict) or not shards:
            raise CheckpointError(f"{path} has no weight_map that names the shards; the index is damaged.")
        if any(Path(str(shard)).name != shard for shard in shards.values()):
            raise CheckpointError(f"{path} names a shard outside its folder; refused.")
        return [resolve_file(id_or_folder, shard, **where) for shard in sorted(set(shards.values()))]
    if first is not None and not Path(id_or_folder).is_dir() and "local cache" in str(first):
        raise first  # offline: nobody knows whether there are weights
    raise CheckpointError(f"{id_or_folder} has no weights: looked for {', '.join(tried)}.")


def _is_missing_file(error: CheckpointError) -> bool:
    from huggingface_hub.errors import EntryNotFoundError

    return (error.__cause__ is None and " has no " in str(error)) or isinstance(error.__cause__, EntryNotFoundError)


def read_json(path: str | os.PathLike[str]) -> Any:
    """A JSON file's content. Raises CheckpointError when it is not JSON (says where it breaks)."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}. Download or save it again.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error


# --- writing -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, sync it and rename it to `path`.

    Raises:
        CheckpointError: it could not be written (disk full, no permission); `path` is as it was before.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        start = target.name[:60]  # so that the whole stays within 255 bytes
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{start}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)  # mkstemp makes it private; a model folder is an ordinary one
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        advice = "Free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Check the path and its rights"
        raise CheckpointError(
            f"{target} could not be written: {error.strerror or error}. {advice}; what was there before is untouched."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (a no-op where folders cannot be opened, as on Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON, indented and with sorted keys, atomically."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        data = text.encode()
    except UnicodeEncodeError:  # file names that are not UTF-8
        data = (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays as one safetensors file, atomically."""
    with atomic_path(path) as temporary:
        _save(temporary, tensors)


def _save(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    ordered = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    try:
        # "pt" is the marker that the transformers library looks for before it reads the file.
        save_file(ordered, path, metadata={"format": "pt"})
    except SafetensorError as error:  # it wraps the operating system's error, "No space left" among them
        code = errno.ENOSPC if "os error 28" in str(error) else errno.EIO
        raise OSError(code, str(error)) from error


def write_weights(folder: Path, tensors: Mapping[str, np.ndarray], max_shard_bytes: int = 5_000_000_000) -> None:
    """Write `model.safetensors`, or shards with an index where it would be larger than `max_shard_bytes`.

    Weight files of an earlier save under other names are removed afterwards, so that none is taken for current.
    """
    shards: list[dict[str, np.ndarray]] = [{}]
    room = max_shard_bytes
    for name, array in tensors.items():
        if shards[-1] and array.nbytes > room:
            shards.append({})
            room = max_shard_bytes
        shards[-1][name] = array
        room -= array.nbytes
    if len(shards) == 1:
        names = [SAFETENSORS]
    else:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    with contextlib.ExitStack() as stack:  # shards get their names only when all of them are written
        for filename, shard in zip(names, shards, strict=True):
            _save(stack.enter_context(atomic_path(folder / filename)), shard)
    if len(shards) > 1:
        weight_map = {tensor: filename for filename, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(array.nbytes for array in tensors.values())
        write_json(folder / SAFETENSORS_INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
        names.append(SAFETENSORS_INDEX)
    remove_other_weights(folder, *names)


def remove_other_weights(folder: Path, *names: str) -> None:
    """Remove weight files that an earlier save of ours left under other names than `names`.

    That of Flax too: transformers' Flax models would take it before safetensors.
    """
    single = [folder / name for name in (SAFETENSORS, SAFETENSORS_INDEX, MSGPACK)]
    for stale in [*single, *folder.glob("model-*-of-*.safetensors")]:
        if stale.name not in names:
            stale.unlink(missing_ok=True)


def as_bytes(size: int | str) -> int:
    """`500MB` → 500,000,000. Raises ConfigError for what is no size."""
    if isinstance(size, int):
        return size
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size.upper().endswith(unit):
            try:
                return int(float(size[:-2]) * factor)
            except ValueError:
                break
    raise ConfigError(f"max_shard_size is {size!r}; give bytes, or text like 500MB or 5GB.")


def upload_folder(folder: str | os.PathLike[str], repo_id: str, **keywords: Any) -> str:
    """Upload a model folder to the Hub and return the address of the commit.

    Args:
        repo_id: `owner/name`; made if it does not exist (`private=True` to keep it to yourself).
        **keywords: `token`, `private`, `commit_message`, `revision`, `create_pr`.

    Raises:
        CheckpointError: the Hub refused, or was not reached.
    """
    import huggingface_hub

    token, private = keywords.pop("token", None), keywords.pop("private", None)
    message = keywords.pop("commit_message", "Upload a BEiT model")
    try:
        repo_id = huggingface_hub.create_repo(repo_id, token=token, private=private, exist_ok=True).repo_id
        info = huggingface_hub.upload_folder(
            folder_path=os.fspath(folder), repo_id=repo_id, token=token, commit_message=message, **keywords
        )
    except Exception as error:  # of many types, see `resolve_file`
        raise CheckpointError(
            f"Upload to {repo_id} failed: {error}. Log in with `hf auth login` or pass token=…."
        ) from error
    return str(info.commit_url)


def load(id_or_folder: str | os.PathLike[str], **keywords: Any) -> Any:
    """Load any BEiT checkpoint as the class that belongs to it.

    The class is the one that config.json names under `architectures`; without that, the tensors tell.

    Args:
        id_or_folder: a folder, a weight file, an id, a URL, a name of the catalogue: see `BeitModel.from_pretrained`.
        **keywords: as for `BeitModel.from_pretrained`.

    Raises:
        CheckpointError: as `from_pretrained`; or a class that is not here.
    """
    import beit
    from beit.checkpoints import Checkpoint

    where, overrides = split_hub_keywords(keywords)
    checkpoint = Checkpoint(id_or_folder, overrides, **where)
    named = checkpoint.architecture
    if named not in _MODELS:
        kind = checkpoint.settings.get("model_type")
        raise CheckpointError(
            f"{id_or_folder} holds a {named} (model_type {kind}), which is not among the models here: {', '.join(_MODELS)}."
        )
    return getattr(beit, named).from_pretrained(id_or_folder, **keywords)
