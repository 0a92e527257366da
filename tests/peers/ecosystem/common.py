"""What the checks share: small models and images, and a register of checks."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn

import beit
from peers.check_transformers import randomise

IS_5 = not transformers.__version__.startswith("4")
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "vocab_size": 19,
    "num_labels": 3,
    "drop_path_rate": 0.0,
}
FOUR: dict[str, Any] = {
    "num_hidden_layers": 4,
    "out_indices": [1, 2, 3, 4],
    "auxiliary_channels": 8,
    "batch_norm_eps": 1e-5,
}
OWN = {"use_relative_position_bias": True}
SHARED = {"use_shared_relative_position_bias": True}
# label → class and settings: what is checked for "each model".
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "encoder, own tables": ("BeitModel", OWN),
    "encoder, shared table": ("BeitModel", SHARED),
    "classifier": ("BeitForImageClassification", {**OWN, **SHARED}),
    "masked patches": ("BeitForMaskedImageModeling", {**SHARED, "use_mask_token": True}),
    "segmentation": ("BeitForSemanticSegmentation", {**OWN, **FOUR}),
    "backbone": ("BeitBackbone", {**OWN, **FOUR, "add_fpn": True}),
}


class Row(NamedTuple):
    """One line: what was checked, the figure, whether it passed; None for what this environment cannot show."""

    name: str
    figure: str
    passed: bool | None


Check = Callable[[Path], Iterator[Row]]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    """Register a check: a function of an empty folder that yields rows."""
    CHECKS.append(function)
    return function


def attempt(name: str, figure: Callable[[], float | bool | str], tolerance: float = 0.0) -> Row:
    """The row of one case. An exception fails this row only.

    Args:
        name: what is checked.
        figure: gives a difference (passes within the tolerance), or whether it holds, or a text that says what is wrong ("" if
            nothing is).
        tolerance: for differences.
    """
    try:
        found = figure()
    except Exception as error:
        return Row(name, one_line(error), False)
    if isinstance(found, bool):
        return Row(name, "yes" if found else "no", found)
    if isinstance(found, str):
        return Row(name, found or "yes", not found)
    return near(name, found, tolerance)


def one_line(error: Exception) -> str:
    """Type and first line of an exception, and where in these files it came from."""
    here = [frame for frame in traceback.extract_tb(error.__traceback__) if "/peers/" in frame.filename]
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]} [{Path(here[-1].filename).name}:{here[-1].lineno}]"


def near(name: str, difference: float, tolerance: float) -> Row:
    """A row that passes for a difference within the tolerance (never for NaN)."""
    return Row(name, f"{difference:.1e} (at most {tolerance:.0e})", difference <= tolerance)


def make(label: str, module: Any = beit, **changes: Any) -> Any:
    """A model of ours (or of `module`) in evaluation, whose every parameter shows in the outputs."""
    kind, settings = MODELS[label]
    if label == "segmentation" and module is beit:  # layers above those that a head sees are not computed
        settings = {**settings, "segmentation_layers": [1, 2, 3, 4]}
    return make_class(kind, module, **{**settings, **changes})


def make_class(kind: str, module: Any = beit, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = module.BeitConfig(**{**SMALL, **settings})
    return randomise(getattr(module, kind)(config), seed=1)


def pair(label: str, folder: Path, **changes: Any) -> tuple[Any, Any]:
    """A model of transformers, and ours from its folder: both in evaluation, with the same numbers."""
    theirs = make(label, transformers, **changes)
    theirs.save_pretrained(folder)
    return getattr(beit, type(theirs).__name__).from_pretrained(folder), theirs


def pixels(batch: int = 2, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def arguments(model: nn.Module, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Images and whatever else makes the model use all of its weights."""
    config: Any = model.config
    given = {"pixel_values": pixels(batch, seed=seed)}
    kind = type(model).__name__
    if kind == "BeitForImageClassification":
        given["labels"] = torch.arange(batch) % config.num_labels
    elif kind == "BeitForSemanticSegmentation":
        given["labels"] = (torch.arange(batch * 32 * 32).reshape(batch, 32, 32) // 7) % config.num_labels
    elif config.use_mask_token:
        given["bool_masked_pos"] = (torch.arange(batch * 16).reshape(batch, 16) % 3) == 0
        if kind == "BeitForMaskedImageModeling":
            given["labels"] = torch.arange(int(given["bool_masked_pos"].sum())) % config.vocab_size
    return given


def tensors(output: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    if isinstance(output, Tensor):
        return [output]
    assert output is not None
    if hasattr(output, "to_tuple"):
        output = output.to_tuple()
    return [tensor for part in output if part is not None for tensor in tensors(part)]


def difference(one: Any, other: Any) -> float:
    """Largest difference of two outputs, relative to 1 + |value|."""
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    assert pairs
    worst = 0.0
    for a, b in pairs:
        assert a.shape == b.shape, (a.shape, b.shape)
        found = ((a.float() - b.float()).abs() / (1 + b.float().abs())).max().item()
        worst = found if not found <= worst else worst  # NaN stays
    return worst


def run(model: nn.Module, **given: Any) -> Any:
    """The outputs without gradients; for the arguments of `arguments` if none are given."""
    with torch.no_grad():
        return model(**(given or arguments(model)))


def holders(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that hold parameters themselves."""
    return {name: module for name, module in model.named_modules() if name and list(module.parameters(recurse=False))}
