"""`from_pretrained` and `save_pretrained` of the PyTorch models: model folder ↔ `nn.Module`."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import nn

from beit.checkpoints import Checkpoint, Source, hub, model_card
from beit.checkpoints.match import LoadReport, match_weights
from beit.checkpoints.torch import save_bin, save_safetensors
from beit.checkpoints.write_weights import as_bytes, write_weights
from beit.config import BeitConfig
from beit.core.errors import CheckpointError, ConfigError
from beit.models import outputs, parameters
from beit.models.torch import foreign, loading
from beit.models.torch.conventions import Conventions

logger = logging.getLogger("beit")

# What is put in by hand → the field of the config that says how many outputs it has.
_HEADS = {
    "classifier": "num_labels",
    "decode_head.classifier": "num_labels",
    "auxiliary_head.classifier": "num_labels",
    "lm_head": "vocab_size",
}
_OWN = tuple(f"{head}." for head in _HEADS)

# torch.export and data parallelism look into outputs through pytrees.
for _kind in (
    outputs.BaseModelOutput,
    outputs.BeitModelOutputWithPooling,
    outputs.MaskedLMOutput,
    outputs.ImageClassifierOutput,
    outputs.SemanticSegmenterOutput,
    outputs.BackboneOutput,
):
    torch.export.register_dataclass(_kind, serialized_type_name=f"beit.outputs.{_kind.__name__}")


class PretrainedModule(Conventions):
    """A module with a config that is read from and written to model folders.

    Attributes:
        load_report: what `from_pretrained` did besides copying tensors; None for a model that was not loaded.
        origin: the folder of this machine that it was loaded from; None for a model of another origin.
    """

    config_class: ClassVar[type[BeitConfig]]
    config: BeitConfig
    load_report: LoadReport | None = None
    origin: str | None = None

    def init_weights(self, scheme: str = "paper", only: set[str] | None = None) -> None:
        """Initialise all parameters, or those named in `only`."""
        raise TypeError(f"{type(self).__name__} does not say how it is initialised")

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return next(self.parameters()).dtype

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Source | None,
        *model_args: Any,
        config: BeitConfig | str | os.PathLike[str] | None = None,
        ignore_mismatched_sizes: bool = False,
        torch_dtype: torch.dtype | str | None = None,
        **keywords: Any,
    ) -> Self:
        """Load a model from any BEiT checkpoint; it comes in evaluation mode.

        Args:
            pretrained_model_name_or_path: a model folder; a weight file of transformers, the authors, timm, OpenMMLab or Flax;
                an id on the Hub like `microsoft/beit-base-patch16-224`; a URL; a name of the catalogue (`beit models`); or an
                open `Checkpoint`, whose files are not read again. `beit inspect` shows what it holds and which settings are
                guesses. None where `config` and `state_dict` are given.
            *model_args: arguments of the constructor after the config.
            config: used instead of the checkpoint's own; or the path or id of one.
            ignore_mismatched_sizes: newly initialise tensors of another shape instead of raising.
            torch_dtype: type of the parameters: float32 by default, whatever the file has; "auto" for the type that
                config.json names, else that of the file. `dtype` is accepted as well.
            **keywords: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, `subfolder` say where
                files come from; `variant` and `use_safetensors` which weight file is taken; `state_dict` replaces it;
                `device_map` (a device, "auto", or module → device, with `max_memory` and `offload_folder`) says where the model
                goes; `attn_implementation` may be eager or sdpa; with `output_loading_info=True` the result is
                `(model, info)`. Arguments of the constructor (`add_pooling_layer`) go there; all others override fields of the
                config (`num_labels=10`). With another `image_size`, positions are resized: see `core/resampling.py`. A name
                that is none of these is warned of.

        Raises:
            CheckpointError: no such folder or id; damaged, unsafe or incomplete files; another architecture; other shapes; no
                files of this `variant`.
            ConfigError: an override is impossible; a keyword cannot be honoured; a device is not there.
            MissingExtraError: a `device_map` of several modules needs Accelerate.
        """
        where, options, overrides = loading.split(keywords, f"{cls.__name__}.from_pretrained")
        torch_dtype = options.get("dtype", torch_dtype)
        devices = {name: options.get(name) for name in ("max_memory", "offload_folder")}
        plan = loading.plan_devices(options.get("device_map"), **devices)
        own = set(inspect.signature(cls.__init__).parameters) - {"self", "config"}
        arguments = {name: overrides.pop(name) for name in own & set(overrides)}
        settings = loading.config_at(config, where)
        state_dict = options.get("state_dict")
        checkpoint: Checkpoint | loading.GivenTensors | None = None
        if pretrained_model_name_or_path is not None or settings is None or state_dict is None:
            source = cast(Source, pretrained_model_name_or_path)
            checkpoint = Checkpoint.open(source, overrides if settings is None else settings.to_dict(), **where)
        if settings is None:
            settings = cast(BeitConfig, BeitConfig.from_pretrained(cast(Checkpoint, checkpoint)))
        elif overrides:
            settings = settings.replace(**overrides)
        if checkpoint is None or state_dict is not None:
            checkpoint = loading.GivenTensors(state_dict or {}, settings)
        if torch_dtype == "auto" and settings.torch_dtype is None:
            torch_dtype = loading.stored_dtype(checkpoint)
        with torch.inference_mode(False):  # a model that is loaded under inference_mode may be trained later
            with torch.device("meta"):
                model = cls(settings, *model_args, **arguments)
            model.fill(
                checkpoint.take(),
                checkpoint.left_over,
                grid=checkpoint.grid,
                ignore_mismatched_sizes=ignore_mismatched_sizes,
            )
        model.origin = model_card.folder_of(checkpoint.source)
        dtype = _as_dtype(torch_dtype, settings)
        report = model.load_report
        if checkpoint.wrapper and report is not None:
            report.copied.append(f"The prefix {checkpoint.wrapper!r} was taken off the names of the file.")
        if report:
            level = logging.WARNING if report.needs_training or report.contradicts else logging.INFO
            logger.log(level, "%s from %s, besides the tensors that fit:\n%s", cls.__name__, checkpoint.source, report)
        loading.place(model.to(dtype).eval(), plan, offload_buffers=bool(options.get("offload_buffers")), **devices)
        if options.get("output_loading_info"):
            return model, loading.info_of(report)  # type: ignore[return-value]
        return model

    def fill(
        self,
        state_dict: Mapping[str, np.ndarray],
        left_over: Sequence[str] = (),
        *,
        grid: tuple[int, int] | None = None,
        ignore_mismatched_sizes: bool = False,
    ) -> None:
        """Take parameters from named arrays, initialise the rest, and set `load_report`.

        Args:
            state_dict: arrays by parameter name, as `names.to_state_dict` gives them. Those of float32 are not copied.
            left_over: names of tensors in the file that no model has, for the report.
            grid: patches `(h, w)` that the positions belong to. They are resized to the config's; None leaves them.
            ignore_mismatched_sizes: newly initialise tensors of another shape instead of raising.

        Raises:
            CheckpointError: the tensors are of another architecture, incomplete, or of other shapes.
        """
        own = self.state_dict()  # with the statistics of batch norms
        wanted = {name: tuple(tensor.shape) for name, tensor in own.items()}
        found, report = match_weights(
            state_dict,
            wanted,
            model=type(self).__name__,
            left_over=left_over,
            grids=None if grid is None else (grid, self.config.grid),
            ignore_mismatched_sizes=ignore_mismatched_sizes,
        )
        state = {
            name: torch.from_numpy(np.require(array, requirements="W")).to(
                torch.float32 if own[name].is_floating_point() else own[name].dtype
            )
            for name, array in found.items()
        }
        missing = set(wanted) - set(state)
        for name in missing:
            dtype = torch.float32 if own[name].is_floating_point() else own[name].dtype
            state[name] = torch.empty(wanted[name], dtype=dtype)
        self.load_state_dict(state, assign=True)
        self.requires_grad_(True)  # with assign=True, tensors keep their own flag
        for module in self.modules():
            reset = getattr(module, "reset_buffers", None)
            if callable(reset):
                reset()
        self.init_weights(only=missing)
        self.load_report = report

    def disk_tensors(self) -> dict[str, np.ndarray]:
        """All parameters and statistics, by name, as arrays; bfloat16 becomes float32, which is exact."""
        state = {}
        for name, value in self.state_dict().items():
            value = value.detach().cpu()
            state[name] = (value.float() if value.dtype == torch.bfloat16 else value).contiguous().numpy()
        return state

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        save_function: Callable[..., Any] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        variant: str | None = None,
        token: str | bool | None = None,
        **keywords: Any,
    ) -> None:
        """Write config.json and the weights, each atomically, with the reference's tensor names and in the model's own type.

        Args:
            save_directory: a folder, created if it does not exist.
            is_main_process: whether this process writes; the others of a distributed run write nothing.
            state_dict: written instead of the model's own tensors: what a wrapper has gathered, with or without its prefix.
            save_function: `(tensors, path)`, used instead of `torch.save` where `safe_serialization` is False.
            push_to_hub: upload the folder afterwards; see `push_to_hub`. `repo_id` is the folder's name by default.
            max_shard_size: bytes, or text like `500MB`; larger models are split into shards.
            safe_serialization: `model.safetensors`; False for `pytorch_model.bin`.
            variant: put before the ending of each weight file, as in `model.fp16.safetensors`.
            token: for the upload.
            **keywords: for the upload.

        Where a head was put in by hand, such as `model.classifier = nn.Linear(C, 7)`, config.json has its number of outputs.

        Raises:
            CheckpointError: it could not be written; what was there before is untouched. Or `state_dict` is not that of this
                model. Or a head was put in by hand that no config describes, so that the folder could not be loaded.
            ConfigError: `is_main_process` is no bool.
        """
        if not isinstance(is_main_process, bool):
            raise ConfigError(
                f"is_main_process is {is_main_process!r}; wanted True or False. For the size of files, name the argument: "
                "max_shard_size=…."
            )
        repo_id = keywords.pop("repo_id", None) or Path(save_directory).name
        for name in ("save_peft_format", "save_original_format"):  # adapters are saved by the library that made them
            keywords.pop(name, None)
        upload = hub.upload_keywords({"token": token, **keywords})
        if not is_main_process:
            return
        path = Path(save_directory)
        if path.is_file():
            raise CheckpointError(f"{path} is a file; give a folder to save a model in.")
        tensors = self._tensors_to_write(state_dict)
        config = self._config_to_write(tensors)
        save, filename = save_safetensors, hub.SAFETENSORS
        if not safe_serialization:
            save, filename = save_bin, hub.BIN
            if save_function is not None:
                save = functools.partial(_saved_by, save_function)
        write_weights(path, tensors, as_bytes(max_shard_size), save=save, filename=filename, variant=variant)
        dtype = next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
        config.replace(architectures=[type(self).__name__], torch_dtype=dtype).save_pretrained(path)
        if push_to_hub:  # from a folder of its own: what else lies in this one is nobody's business
            self.push_to_hub(repo_id, **upload)

    def _tensors_to_write(self, state_dict: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        """The model's own tensors, or those of `state_dict` by the model's names, on the CPU."""
        own = self.state_dict()
        if any(tensor.is_meta for tensor in (own if state_dict is None else state_dict).values()):
            state_dict = _gathered(self)
        given: Mapping[str, torch.Tensor] = own
        if state_dict is not None:
            given, _ = foreign.as_own(state_dict, own, type(self).__name__)
            lacking = [name for name in own if name not in given]
            strange = [name for name in given if name not in own]
            if lacking or strange:
                raise CheckpointError(
                    f"The state dict to save is not that of {type(self).__name__}: it lacks {len(lacking)} tensors "
                    f"({', '.join(lacking[:2]) or 'none'}) and has {len(strange)} others ({', '.join(strange[:2]) or 'none'}). "
                    "Give all tensors of the model, or leave state_dict out."
                )
        return {name: given[name].detach().cpu() for name in own}

    def _config_to_write(self, tensors: Mapping[str, torch.Tensor]) -> BeitConfig:
        """The config with as many outputs as the heads among `tensors` have."""
        known = next((kind.__name__ for kind in type(self).__mro__ if kind.__module__.startswith("beit.models.")), "")
        changes: dict[str, int] = {}
        for head, field in _HEADS.items():
            weight = tensors.get(f"{head}.weight")
            if weight is not None and weight.ndim:
                changes.setdefault(field, weight.shape[0])
            elif head == "classifier" and isinstance(getattr(self, head, None), torch.nn.Identity):
                changes[field] = 0
        changes = {field: outputs for field, outputs in changes.items() if outputs != getattr(self.config, field)}
        config = self.config.replace(**changes) if changes else self.config

        # A body alone has names without `beit.`; what other parts a subclass has is its own affair.
        before = "" if hasattr(self, "beit") else "beit."
        found = {before + name: tuple(tensor.shape) for name, tensor in tensors.items()}
        wanted = parameters.shapes_of(config, known) if known != "BeitBackbone" else {}
        own_heads = {name: None for name in found if name not in wanted and name.startswith(_OWN)}
        wrong = [*(name for name, shape in wanted.items() if found.get(name) != shape), *own_heads]
        if wrong:
            raise CheckpointError(
                f"{wrong[0]} is {found.get(wrong[0], 'missing')}, {known} of this config has {wanted.get(wrong[0], 'none')}: the "
                "folder could not be loaded. As a head of your own, give a layer of the same kind with a bias, such as "
                f"nn.Linear({self.config.hidden_size}, 7); merge adapters first; of any other model, save model.state_dict() by "
                "torch.save."
            )
        for field, count in changes.items():
            logger.warning(
                "The model's head has %d outputs, %s of its config is %d: config.json has the former.%s",
                count,
                field,
                getattr(self.config, field),
                " Name its classes in model.config.id2label before saving." if field == "num_labels" else "",
            )
        return config

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> nn.modules.module._IncompatibleKeys:
        """As `nn.Module.load_state_dict`, for the names of every dialect that `from_pretrained` reads.

        Args:
            state_dict: the state dict of a model of this library, of transformers, of the authors, timm or OpenMMLab, with any
                prefix around its names (`module.`, `_orig_mod.`, …).
            strict: raise where names are missing or unknown.
            assign: use the tensors themselves instead of copying them.

        Returns:
            The names that are missing and those that are unknown.

        Raises:
            CheckpointError: fewer than half of the tensors have a place in this model, also where `strict` is False.
            RuntimeError: names are missing or unknown (with `strict`), or shapes differ.
        """
        renamed, done = foreign.as_own(state_dict, self.state_dict(), type(self).__name__)
        if done:
            logger.info("%s.load_state_dict: %s.", type(self).__name__, done)
        return super().load_state_dict(renamed, strict=strict, assign=assign)

    def push_to_hub(self, repo_id: str, **keywords: Any) -> str:
        """Upload the model to the Hub: `model.push_to_hub("owner/name")`.

        The model card (README.md) that `beit` wrote into the folder that the model was loaded from goes with it, and so does its
        preprocessor_config.json, if the weights are still the same. A README.md on the Hub that somebody wrote or edited is kept.

        Args:
            repo_id: `owner/name`; created if it does not exist.
            **keywords: `token`, `private`, `commit_message`, `revision`, `create_pr`.

        Returns:
            The address of the commit.

        Raises:
            CheckpointError: the Hub refused, or was not reached.
        """
        upload = hub.upload_keywords(keywords)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            model_card.add_card(Path(folder), self.origin)
            return hub.upload_folder(folder, repo_id, **upload)


def _gathered(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """The tensors of a model whose weights Accelerate keeps on the CPU or on disk."""
    if not any(hasattr(module, "_hf_hook") for module in model.modules()):
        raise CheckpointError(
            f"{type(model).__name__} is on the meta device: it has no numbers to save. Load them first."
        )
    from accelerate.utils.modeling import get_state_dict_offloaded_model

    return get_state_dict_offloaded_model(model)


def _saved_by(function: Callable[..., Any], path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    function(dict(tensors), path)


def _as_dtype(choice: torch.dtype | str | None, config: BeitConfig) -> torch.dtype:
    if choice == "auto":
        choice = config.extra.get("torch_dtype") or config.extra.get("dtype")
    if choice is None:
        return torch.float32
    dtype = getattr(torch, choice.removeprefix("torch."), None) if isinstance(choice, str) else choice
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError(f"torch_dtype is {choice!r}; choose float32, bfloat16, float16, float64 or auto.")
    return dtype
