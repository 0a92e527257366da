"""`torch.jit.trace` and `torch.export` of every class, compared with the model on other images and sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peers.ecosystem.common import MODELS, Row, attempt, check, difference, make, pixels, run, tensors

PATCH = 8


@check
def traced(folder: Path) -> Iterator[Row]:
    for label in MODELS:
        for way in ("return_dict=False", "torchscript=True"):

            def under_no_grad(label: str = label, way: str = way) -> float:
                model = tuples(label, way)
                with torch.no_grad():
                    made = torch.jit.trace(model, pixels())
                    made.save(str(folder / "traced.pt"))
                    again = torch.jit.load(str(folder / "traced.pt"))
                    return max(difference(again(pixels(seed=seed)), model(pixels(seed=seed))) for seed in (1, 2))

            yield attempt(f"{label}, {way}, no_grad: other images", under_no_grad, 1e-5)

        def with_gradients(label: str = label) -> float:
            model = tuples(label, "return_dict=False")
            made = torch.jit.trace(model, pixels())
            found, wanted = (
                torch.autograd.grad(sum(part.square().mean() for part in tensors(one(pixels(seed=1)))), used(model))
                for one in (made, model)
            )
            return difference(list(found), list(wanted))

        yield attempt(f"{label}, with gradients: the gradients", with_gradients, 1e-5)

        def in_training(label: str = label) -> float:
            model = tuples(label, "return_dict=False").train()
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()  # statistics would move between the two calls
            made = torch.jit.trace(model, pixels())
            return difference(made(pixels(seed=1)), model(pixels(seed=1)))

        yield attempt(f"{label}, in training mode: other images", in_training, 1e-5)


def tuples(label: str, way: str) -> Any:
    model = make(label, **({"torchscript": True} if way.startswith("torchscript") else {}))
    if way.startswith("return_dict"):
        model.config.return_dict = False
    return model


def used(model: Any) -> list[Tensor]:
    """Parameters that the outputs depend on."""
    output = sum(part.square().mean() for part in tensors(model(pixels())))
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(output, parameters, allow_unused=True)
    return [parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


@check
def exported(folder: Path) -> Iterator[Row]:
    batch, rows, columns = (
        torch.export.Dim("batch"),
        torch.export.Dim("rows", max=99),
        torch.export.Dim("columns", max=99),
    )
    for label in MODELS:
        # Segmentation halves its grid, so sides are even numbers of patches there.
        step = PATCH * (2 if label in ("segmentation", "backbone") else 1)
        images = {0: batch, 2: step * rows, 3: step * columns}
        for masked in (False, True):
            if masked and label != "masked patches":
                continue

            def given(size: int, height: int, width: int, masked: bool = masked) -> dict[str, Tensor]:
                found = {"pixel_values": pixels(size, height, width)}
                if masked:
                    patches = torch.arange(size * height * width // PATCH**2)
                    found["bool_masked_pos"] = (patches % 3 == 0).view(size, height // PATCH, width // PATCH)
                return found

            def other_sizes(
                label: str = label, images: Any = images, masked: bool = masked, given: Any = given
            ) -> float:
                model = make(label)
                shapes = {"pixel_values": images}
                if masked:
                    shapes["bool_masked_pos"] = {0: batch, 1: rows, 2: columns}
                with torch.no_grad():
                    program = torch.export.export(model, (), given(2, 32, 48), dynamic_shapes=shapes)
                torch.export.save(program, folder / "program.pt2")
                module = torch.export.load(folder / "program.pt2").module()
                return max(
                    difference(run(module, **given(*size)), run(model, **given(*size)))
                    for size in ((2, 32, 48), (3, 32, 32), (1, 64, 32), (1, 48, 80))
                )

            yield attempt(
                f"{label}{', with a mask' * masked}: batch, height and width dynamic, stored", other_sizes, 1e-5
            )
