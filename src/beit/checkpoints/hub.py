"""Model folders: a local folder or an id on the Hub → local files, and uploads. Loads neither torch nor jax.

A *model folder* holds `config.json`, weights (`model.safetensors`, its shards, or the older `pytorch_model.bin` or
`flax_model.msgpack`) and, for models that take images, `preprocessor_config.json`. An id such as
`microsoft/beit-base-patch16-224` is a folder on the Hub; huggingface_hub downloads and caches it.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beit.checkpoints import missing, model_card, strangers
from beit.checkpoints.keywords import with_token
from beit.core.download_limits import LARGEST_WEIGHTS, MAX_BYTES, largest_file
from beit.core.errors import CheckpointError
from beit.core.files import read_json

logger = logging.getLogger("beit")

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
BIN = "pytorch_model.bin"
BIN_INDEX = "pytorch_model.bin.index.json"
TENSORFLOW = (
    "weights of TensorFlow, which are not read here. Convert them where TensorFlow and transformers 4 are installed: "
    "BeitModel.from_pretrained(FOLDER, from_tf=True).save_pretrained(NEW)."
)
MSGPACK = "flax_model.msgpack"
MSGPACK_INDEX = "flax_model.msgpack.index.json"
WEIGHT_FILES = (SAFETENSORS, SAFETENSORS_INDEX, BIN, BIN_INDEX, MSGPACK, MSGPACK_INDEX)  # in the order of preference


_PATIENCE = 4.0  # seconds in which the Hub has to answer
_PAUSES = (1.0,)  # seconds before it is asked again, when it answers that it has an error


class _FileMissing(CheckpointError):
    """The folder or repository is there, but this file is not in it."""


class _NotReached(CheckpointError):
    """The file is not in the cache and the Hub was not reached, so whether the file exists is unknown."""


def without_secrets(place: str | os.PathLike[str]) -> str:
    """A path, an id, or a URL without what may be secret in it: user, password and query."""
    text = os.fspath(place)
    if not text.lower().startswith(("https://", "http://")):
        return text
    scheme, _, rest = text.partition("://")
    host, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


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
        CheckpointError: no such folder, id or file; it cannot be reached and is not in the cache; or it has to be downloaded and
            is larger than BEIT_MAX_BYTES (`LARGEST_WEIGHTS` if that is not set).
    """
    if not isinstance(id_or_folder, str | os.PathLike) or not os.fspath(id_or_folder):
        raise CheckpointError(f"Got {id_or_folder!r:.80}; wanted a model folder or a Hub id like owner/name.")
    folder = Path(id_or_folder).expanduser()
    if folder.is_dir():
        path = folder / (subfolder or "") / filename
        if not path.is_file():
            names = sorted(p.name for p in folder.iterdir())
            present = ", ".join(names[:8]) or "nothing"
            advice = strangers.hint(names, str(folder)) or " Is it a model folder?"
            raise _FileMissing(f"{folder} has no {filename} (it holds: {present}).{advice}")
        return path
    name = str(id_or_folder)
    if folder.is_file():
        raise CheckpointError(f"{name} is a file; wanted the folder that holds {filename}.")
    if missing.is_path(name) and not _in_cache(name, filename, subfolder, revision, cache_dir):
        raise CheckpointError(missing.no_such_folder(name))

    import huggingface_hub
    from huggingface_hub import errors

    if not local_files_only and not _in_cache(name, filename, subfolder, revision, cache_dir):
        # Where nobody answers, the download would try again and again, for half a minute.
        local_files_only = not _answers(name, filename, subfolder=subfolder, revision=revision, token=token)
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
                etag_timeout=_patience(),
                force_download=force_download,
            )
        )
    # LocalEntryNotFoundError is an EntryNotFoundError too, so it comes first.
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise _NotReached(
            f"There is no folder {name} here. If it is meant as an id on the Hub: {filename} is not in the local cache and the Hub "
            f"was not reached (offline, or no connection).{missing.advice(name)} Give an existing folder, or download it once "
            "with a connection."
        ) from error
    except errors.EntryNotFoundError as error:
        raise _FileMissing(f"{name} on the Hub has no file {filename}.") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{name} on the Hub has no revision {revision!r}.") from error
    except errors.GatedRepoError as error:
        raise CheckpointError(f"{name} is gated: accept its terms on the Hub and pass token=….") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name} is neither a local folder nor a repository on the Hub (a private one needs token=…)."
            f"{missing.advice(name)}"
        ) from error
    except Exception as error:  # connection errors change their types whenever that library changes its HTTP client
        raise CheckpointError(f"{name}: {filename} could not be downloaded: {error}") from error


def _patience() -> float:
    """Seconds in which the Hub has to answer: HF_HUB_ETAG_TIMEOUT of huggingface_hub, else `_PATIENCE`."""
    from huggingface_hub import constants

    stated = constants.HF_HUB_ETAG_TIMEOUT
    return _PATIENCE if stated == constants.DEFAULT_ETAG_TIMEOUT else float(stated)


def _in_cache(
    name: str,
    filename: str,
    subfolder: str | None,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
) -> bool:
    """Whether an earlier download has left the file in the cache."""
    import huggingface_hub

    path = f"{subfolder}/{filename}" if subfolder else filename
    cache = None if cache_dir is None else os.fspath(cache_dir)
    try:
        return isinstance(huggingface_hub.try_to_load_from_cache(name, path, cache_dir=cache, revision=revision), str)
    except ValueError:  # it can be no id
        return False


def _answers(
    name: str,
    filename: str,
    *,
    subfolder: str | None,
    revision: str | None,
    token: str | bool | None,
) -> bool:
    """Ask the Hub once about a file that is to be downloaded: False where nobody answers in time.

    Raises:
        CheckpointError: the Hub states a size that is not to be downloaded.
    """
    import huggingface_hub
    from huggingface_hub import errors

    for pause in (*_PAUSES, None):
        try:
            url = huggingface_hub.hf_hub_url(name, filename, subfolder=subfolder, revision=revision)
            size = huggingface_hub.get_hf_file_metadata(url, token=token, timeout=_patience()).size
            break
        except errors.HfHubHTTPError as error:
            status = getattr(error.response, "status_code", 0)
            if status < 500:
                return True  # a refusal; the download that follows meets the same, and says it
            if pause is None:
                raise CheckpointError(
                    f"{name}: {filename} could not be downloaded, because the Hub answers with error {status}. Try again later, "
                    "or give a local folder."
                ) from error
            time.sleep(pause)
        except (errors.EntryNotFoundError, ValueError):
            return True  # likewise; or it can be no id
        except Exception:  # connection errors change their types whenever that library changes its HTTP client
            return False
    largest = largest_file(LARGEST_WEIGHTS)
    if size is not None and largest is not None and size > largest:
        raise CheckpointError(
            f"{name}: {filename} has {size:,} bytes; at most {largest:,} are downloaded. If it is the file that you want, allow "
            f"more: --max-bytes SIZE, or the environment variable {MAX_BYTES}."
        )
    return True


def has_file(id_or_folder: str | os.PathLike[str], filename: str, **where: Any) -> bool:
    """Whether the folder or Hub id holds `filename`; False too where it cannot be reached."""
    try:
        resolve_file(id_or_folder, filename, **where)
    except CheckpointError:
        return False
    return True


def resolve_weights(
    id_or_folder: str | os.PathLike[str],
    *,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    **where: Any,
) -> list[Path]:
    """The weight files of a model folder: one file, or the shards that an index names. Safetensors are preferred.

    Args:
        id_or_folder: the folder or id.
        variant: of the files: `fp16` for `model.fp16.safetensors`.
        use_safetensors: True takes safetensors only, False what `torch.save` wrote; None whichever is there.
        **where: as for `resolve_file`.

    Raises:
        CheckpointError: there are none; or a shard that the index names is missing.
    """
    wanted = WEIGHT_FILES if use_safetensors is None else WEIGHT_FILES[:2] if use_safetensors else WEIGHT_FILES[2:4]
    names = [with_variant(name, variant) for name in wanted]
    not_reached: CheckpointError | None = None
    for filename in names:
        try:
            path = resolve_file(id_or_folder, filename, **where)
        except _FileMissing:
            continue
        except _NotReached as error:  # another of the files may be in the cache
            not_reached = not_reached or error
            continue
        return _shards(id_or_folder, path, where) if ".index." in filename else [path]
    if not_reached is not None:
        raise not_reached
    raise CheckpointError(
        f"{id_or_folder} has no weights: looked for {', '.join(names)}.{_others(id_or_folder, where)}"
    )


def with_variant(name: str, variant: str | None) -> str:
    """`model.safetensors` → `model.fp16.safetensors`; the name itself without a variant."""
    stem, dot, ending = name.rpartition(".")
    return name if variant is None else f"{stem}.{variant}{dot}{ending}"


def _others(id_or_folder: str | os.PathLike[str], where: dict[str, Any]) -> str:
    """Which weight files there are instead, and of which variants; "" where nothing shows it."""
    files = _listed(id_or_folder, where)
    if advice := strangers.hint(files, str(id_or_folder)):
        return advice
    plain = sorted(set(files) & set(WEIGHT_FILES))
    variants = set()
    for known in WEIGHT_FILES:
        stem, _, ending = known.rpartition(".")
        shape = re.compile(rf"{re.escape(stem)}\.([\w-]+)(-\d+-of-\d+)?\.{re.escape(ending)}")
        variants |= {match[1] for name in files if name not in WEIGHT_FILES and (match := shape.fullmatch(name))}
    variants -= {"index"}
    found = [f"Its variants: {', '.join(sorted(variants))}."] if variants else []
    found += [f"Without a variant it has {', '.join(plain)}."] if plain else []
    return " ".join(["", *found])


def _listed(id_or_folder: str | os.PathLike[str], where: dict[str, Any]) -> list[str]:
    """Names of the files in a folder or repository, as far as they can be known."""
    under = str(where.get("subfolder") or "")
    folder = Path(id_or_folder).expanduser() / under
    if folder.is_dir():
        return [path.name for path in folder.iterdir()]
    import huggingface_hub

    if where.get("local_files_only"):
        return []
    try:
        names = huggingface_hub.list_repo_files(
            str(id_or_folder), revision=where.get("revision"), token=where.get("token")
        )
    except Exception:  # of many types, as in `resolve_file`; this only completes another error's message
        return []
    prefix = f"{under}/" if under else ""
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _shards(id_or_folder: str | os.PathLike[str], index_path: Path, where: dict[str, Any]) -> list[Path]:
    """The files that an index names."""
    index = read_json(index_path)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{index_path} has no weight_map that names the shards; the index is damaged.")
    if any(Path(str(shard)).name != shard for shard in shards.values()):
        raise CheckpointError(f"{index_path} names a shard outside its folder; refused.")
    return [resolve_file(id_or_folder, shard, **where) for shard in sorted(set(shards.values()))]


def upload_folder(folder: str | os.PathLike[str], repo_id: str, **keywords: Any) -> str:
    """Upload a model folder to the Hub and return the address of the commit.

    Args:
        folder: what to upload, with everything in it.
        repo_id: `owner/name`; created if it does not exist (`private=True` to keep it to yourself). A README.md there that
            somebody wrote or edited is kept.
        **keywords: `token`, `private`, `commit_message`, `revision`, `create_pr`.

    Raises:
        CheckpointError: the Hub refused, or was not reached.
    """
    import huggingface_hub

    keywords = with_token(keywords)
    token, private = keywords.pop("token", None), keywords.pop("private", None)
    message = keywords.pop("commit_message", "Upload a BEiT model")
    try:
        repo_id = huggingface_hub.create_repo(repo_id, token=token, private=private, exist_ok=True).repo_id
        if (Path(folder) / model_card.CARD_FILE).is_file() and _has_own_page(repo_id, token, keywords.get("revision")):
            logger.warning(
                "%s on the Hub has a README.md that somebody wrote or edited; it is kept, and the model card stays here.",
                repo_id,
            )
            keywords["ignore_patterns"] = [model_card.CARD_FILE]
        info = huggingface_hub.upload_folder(
            folder_path=os.fspath(folder), repo_id=repo_id, token=token, commit_message=message, **keywords
        )
    except Exception as error:  # of many types, as in `resolve_file`
        raise CheckpointError(
            f"Upload to {repo_id} failed: {error}. Log in with `hf auth login` or pass token=…."
        ) from error
    return str(info.commit_url)


def _has_own_page(repo_id: str, token: str | bool | None, revision: str | None) -> bool:
    """Whether a repository has a README.md that `beit` did not write, or that somebody has edited since."""
    import huggingface_hub
    from huggingface_hub import errors

    with tempfile.TemporaryDirectory() as folder:  # not the cache, which may hold an older one
        try:
            path = huggingface_hub.hf_hub_download(
                repo_id, model_card.CARD_FILE, revision=revision, token=token, local_dir=folder
            )
        except errors.LocalEntryNotFoundError:  # an EntryNotFoundError too, but nobody answered
            raise
        except errors.EntryNotFoundError:
            return False
        return not model_card.is_untouched(model_card.read_page(Path(path)))


_UPLOAD = ("token", "private", "commit_message", "commit_description", "revision", "create_pr")
_FOR_WEIGHTS = (
    "use_temp_dir",
    "max_shard_size",
    "safe_serialization",
)  # say how weights are written, not how they travel


def upload_keywords(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those keywords of transformers' `push_to_hub` that `upload_folder` takes; None counts as not given.

    Warns of those that nothing here takes, and of `use_auth_token`, the old name of `token`.

    Raises:
        CheckpointError: `token` and `use_auth_token` are both given.
    """
    found = {name: given[name] for name in _UPLOAD if given.get(name) is not None}
    if given.get("use_auth_token") is not None:
        warnings.warn("`use_auth_token` is deprecated; use `token`", FutureWarning, stacklevel=3)
        if "token" in found:
            raise CheckpointError("token and use_auth_token are both given; give token alone.")
        found["token"] = given["use_auth_token"]
    unknown = given.keys() - {*_UPLOAD, *_FOR_WEIGHTS, "use_auth_token"}
    if unknown:
        warnings.warn(f"ignored, unknown to an upload: {', '.join(sorted(unknown))}", UserWarning, stacklevel=3)
    return found
