"""What `from_pretrained` of the PyTorch models does with keywords: types, devices, a state dict in place of files, reports."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from beit.checkpoints import Checkpoint, dialects, grids, keywords, names
from beit.checkpoints.match import LoadReport
from beit.config import BeitConfig
from beit.core.errors import CheckpointError, ConfigError, MissingExtraError

# What `from_pretrained` honours itself, besides those that choose files.
HONOURED = (
    *("state_dict", "output_loading_info", "attn_implementation", "dtype", "torch_dtype", "ignore_mismatched_sizes"),
    *("device_map", "max_memory", "offload_folder", "offload_buffers", "config"),
)
_SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")


def split(given: Mapping[str, Any], caller: str) -> keywords.Split:
    """The keywords of one call; those that choose among weight files are in `where`. Raises ConfigError: see `keywords.split`."""
    found = keywords.split(given, caller, (*HONOURED, *keywords.WEIGHT_FILES), {})
    for name in keywords.WEIGHT_FILES:
        value = found.honoured.pop(name, None)
        if value is not None:
            found.where[name] = value
    keywords.check_attention(found.honoured.pop("attn_implementation", None))
    if found.honoured.get("device_map") is None:
        for name in ("max_memory", "offload_folder", "offload_buffers"):
            if found.honoured.get(name):
                keywords.warn(f"{caller}: {name} has no effect without a device_map.")
    return found


def config_at(config: Any, where: Mapping[str, Any]) -> BeitConfig | None:
    """`config` itself, or read from the folder, id or file that it names.

    Raises:
        CheckpointError: there is none.
        ConfigError: it is neither.
    """
    if config is None or isinstance(config, BeitConfig):
        return config
    if not isinstance(config, str | os.PathLike):
        raise ConfigError(f"config is a {type(config).__name__}; wanted a BeitConfig, or the path or id of one.")
    of_files = {name: value for name, value in where.items() if name not in keywords.WEIGHT_FILES}
    found: BeitConfig = BeitConfig.from_pretrained(config, **of_files)
    return found


class GivenTensors:
    """A state dict that a caller gives in place of weight files, with the parts of `Checkpoint` that a model is filled from.

    Args:
        state_dict: name → tensor in any dialect, with any wrapper around the names.
        config: the settings that it belongs to.

    Raises:
        CheckpointError: it is no state dict, or none of a BEiT.
    """

    source = "state_dict"

    def __init__(self, state_dict: Mapping[str, Any], config: BeitConfig) -> None:
        for name, value in state_dict.items():
            if not isinstance(value, torch.Tensor | np.ndarray):
                raise CheckpointError(
                    f"state_dict holds a {type(value).__name__} under {name!r}; wanted name → tensor, such as model.state_dict()."
                )
        found = dialects.recognise({name: _array(value) for name, value in state_dict.items()}, self.source)
        self.wrapper: str = getattr(found, "wrapper", "")
        self._tensors, self.left_over = names.to_state_dict(found.tensors, found.dialect)
        own = grids.grid_of_settings(config.to_dict())
        agrees = own is not None and grids.agrees(own, self._tensors)
        self.grid = own if agrees else grids.grid_of(self._tensors, found.tensors)
        kinds = [value.dtype for value in state_dict.values() if isinstance(value, torch.Tensor)]
        self.dtype = next((kind for kind in kinds if kind.is_floating_point), torch.float32)

    def take(self) -> dict[str, np.ndarray]:
        """The arrays by parameter name, which belong to the caller."""
        return self._tensors


def _array(value: torch.Tensor | np.ndarray) -> np.ndarray:
    """A copy: the model must not share memory with what it was loaded from."""
    if isinstance(value, np.ndarray):
        return value.copy()
    value = value.detach().cpu()
    array: np.ndarray = (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()
    return array


_STORED = {"F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def stored_dtype(checkpoint: Checkpoint | GivenTensors) -> torch.dtype:
    """The type of the first floating-point tensor in the weight files; float32 where the reader widens it."""
    if isinstance(checkpoint, GivenTensors):
        return checkpoint.dtype
    if checkpoint.format != "safetensors":
        first = next((array for array in checkpoint.state_dict.values() if array.dtype.kind == "f"), None)
        return torch.float16 if first is not None and first.dtype == np.float16 else torch.float32
    from safetensors import safe_open

    with safe_open(os.fspath(checkpoint.files[0]), framework="numpy") as file:
        kinds = [file.get_slice(name).get_dtype() for name in file.keys()]  # noqa: SIM118  (safe_open is no mapping)
    return next((_STORED.get(kind, torch.float32) for kind in kinds if "F" in kind), torch.float32)


def info_of(report: LoadReport | None) -> dict[str, list[Any]]:
    """What `output_loading_info` asks for, with the reference's keys."""
    report = report or LoadReport()
    return {
        "missing_keys": [*report.missing],
        "unexpected_keys": [*report.unexpected],
        "mismatched_keys": [*report.mismatched],
        "error_msgs": [],
    }


# --- devices -------------------------------------------------------------------------------------------------------


def plan_devices(
    device_map: str | int | torch.device | Mapping[str, Any] | None,
    max_memory: Mapping[Any, Any] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
) -> torch.device | dict[str, Any] | str | None:
    """Check a `device_map` before anything is loaded.

    Returns:
        One device; a map of several modules; "auto" where Accelerate must divide the model; or None for no map.

    Raises:
        ConfigError: it names a device that is not there, or is none.
        MissingExtraError: Accelerate is needed and is not installed.
    """
    if device_map is None:
        return None
    if isinstance(device_map, str) and device_map in _SPREAD:
        if not max_memory:
            return torch.device(devices()[0])
        _accelerate("max_memory")
        return device_map
    if not isinstance(device_map, Mapping):
        return _device(device_map)
    if not device_map:
        raise ConfigError('device_map is empty; wanted module → device, such as {"": "cpu"}.')
    for place in device_map.values():
        if place != "disk":
            _device(place)
    if "disk" in device_map.values() and offload_folder is None:
        raise ConfigError("device_map puts layers on disk; say where: offload_folder=….")
    places = {str(_device(place)) if place != "disk" else place for place in device_map.values()}
    if len(places) == 1 and places != {"disk"}:
        return torch.device(places.pop())
    _accelerate("a device_map of several modules")
    return dict(device_map)


def devices() -> list[str]:
    """The devices that are there, accelerators first."""
    found = []
    kind = torch.accelerator.current_accelerator()
    if kind is not None and torch.accelerator.is_available():
        found = [f"{kind.type}:{number}" for number in range(torch.accelerator.device_count())]
    return [*found, "cpu"]


def _device(place: Any) -> torch.device:
    there = devices()
    try:
        device = torch.device(place) if not isinstance(place, int) else None
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"device_map has {place!r:.60}, which is no device. There are {', '.join(there)}; or choose auto."
        ) from error
    if device is None:  # a number counts accelerators
        name = there[int(place)] if 0 <= int(place) < len(there) - 1 else f"accelerator {place}"
    else:
        name = str(device) if device.index is not None or device.type == "cpu" else f"{device.type}:0"
    if name not in (*there, "cpu:0", "meta:0"):
        raise ConfigError(
            f"device_map has {place!r}, which is not there. There are {', '.join(there)}; or choose auto."
        )
    return torch.device(name) if device is None else device


def _accelerate(purpose: str) -> Any:
    try:
        import accelerate
    except ImportError as error:
        raise MissingExtraError(
            f"accelerate is needed for {purpose} and is not installed. Install it with: pip install accelerate; or put the whole "
            'model on one device: device_map="cpu".'
        ) from error
    return accelerate


def place(
    model: nn.Module,
    plan: torch.device | dict[str, Any] | str | None,
    max_memory: Mapping[Any, Any] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    offload_buffers: bool = False,
) -> None:
    """Put a loaded model where `plan_devices` says, and set its `hf_device_map`.

    Raises:
        ConfigError: the map does not fit the model's modules.
    """
    if plan is None:
        return
    if isinstance(plan, torch.device):
        model.to(plan)
        model.hf_device_map = {"": plan}  # type: ignore[assignment]
        return
    accelerate = _accelerate("this device_map")
    if isinstance(plan, str):
        limits = dict(max_memory or {})
        plan = dict(accelerate.infer_auto_device_map(model, limits, no_split_module_classes=["BeitLayer"]))
    strange = sorted(set(plan) - {name for name, _ in model.named_modules()})
    lost = [name for name in model.state_dict() if not any(f"{name}.".startswith(f"{part}.") for part in plan if part)]
    if strange or (lost and "" not in plan):
        parts = ", ".join(name for name, _ in model.named_children())
        raise ConfigError(
            f"device_map does not fit this model. No parts of it: {', '.join(strange[:3]) or 'none'}; in no part of the map: "
            f"{', '.join(lost[:3]) or 'none'}. The model's parts are {parts}."
        )
    accelerate.dispatch_model(model, plan, offload_dir=offload_folder, offload_buffers=offload_buffers)
    model.hf_device_map = plan  # type: ignore[assignment]
