"""Modules: hooks fire on each that holds weights, dynamic quantisation replaces linear layers, `torch.compile` changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from peers.ecosystem.common import (
    IS_5,
    MODELS,
    Row,
    arguments,
    attempt,
    check,
    difference,
    holders,
    make,
    pair,
    pixels,
    run,
    tensors,
)


@check
def hooks(folder: Path) -> Iterator[Row]:
    for label in MODELS:
        for when in ("evaluation, no gradients", "training"):

            def silent(label: str = label, when: str = when) -> str:
                model = make(label)
                fired: set[str] = set()
                for name, module in holders(model).items():
                    module.register_forward_hook(lambda *_, name=name: fired.add(name))
                given = arguments(model)
                if when == "training":
                    model.train()(**given)
                else:
                    run(model, **given)
                return ", ".join(sorted(set(holders(model)) - fired))

            yield attempt(f"{label}: forward hooks, {when}", silent)

        def silent_backward(label: str = label) -> str:
            model = make(label).train()
            fired: set[str] = set()
            for name, module in holders(model).items():
                module.register_full_backward_hook(lambda *_, name=name: fired.add(name))
            output = model(**arguments(model))
            loss = output.loss if "loss" in output.keys() else sum(part.square().mean() for part in tensors(output))  # noqa: SIM118
            loss.backward()
            return ", ".join(sorted(set(holders(model)) - fired))

        yield attempt(f"{label}: backward hooks", silent_backward)

        def unchanged(label: str = label) -> float:
            model, plain = make(label), make(label)
            for module in holders(model).values():
                module.register_forward_hook(lambda *_: None)
            return difference(run(model), run(plain))

        yield attempt(f"{label}: hooks that look on change nothing", unchanged, 1e-6)

        def changed(label: str = label) -> str:
            """A hook that returns other numbers is heard: Grad-CAM, activation patching and pruning live from it."""
            plain = make(label)
            wanted = run(plain)
            unheard = []
            for name in holders(plain):
                model = make(label)
                model.get_submodule(name).register_forward_hook(lambda _, __, output: moved(output))
                if not difference(run(model), wanted) > 1e-7:
                    unheard.append(name)
            return ", ".join(unheard)

        yield attempt(f"{label}: hooks that change an output are heard", changed)


def moved(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output * torch.linspace(0.5, 1.5, output.shape[-1])  # a constant added to keys would change nothing
    if isinstance(output, tuple):
        return (moved(output[0]), *output[1:])
    return output


@check
def names(folder: Path) -> Iterator[Row]:
    """Scripts find modules by the reference's paths."""
    ours, theirs = pair("classifier", folder / "start")
    if IS_5:
        yield Row("module paths of transformers", "5.x has other names in memory", None)
    else:
        for what, of in {
            "modules": lambda model: {
                n for n, m in model.named_modules() if list(m.parameters()) and not n.endswith("drop_path")
            },
            "parameters": lambda model: {n for n, _ in model.named_parameters()},
        }.items():
            yield attempt(
                f"{what} that the reference has and ours has not",
                lambda of=of: ", ".join(sorted(of(theirs) - of(ours))),
            )
    frozen = [name for name, _ in ours.named_parameters() if name.startswith("beit.encoder.layer.")]
    yield Row("parameters that start with beit.encoder.layer.", str(len(frozen)), len(frozen) >= 30)


@check
def quantize_dynamic(folder: Path) -> Iterator[Row]:
    for label in ("classifier", "encoder, shared table", "masked patches", "segmentation"):
        model = make(label)
        quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
        linear = [
            name
            for name, module in quantised.named_modules()
            if isinstance(module, nn.Linear) and list(module.parameters(recurse=False))
        ]
        yield Row(f"{label}: linear layers that stayed", ", ".join(linear) or "none", not linear)
        given = {"pixel_values": pixels()}
        yield attempt(
            f"{label}: near the outputs before",
            lambda quantised=quantised, model=model, given=given: difference(
                run(quantised, **given), run(model, **given)
            ),
            0.15,
        )
        yield attempt(
            f"{label}: and not equal to them",
            lambda quantised=quantised, model=model, given=given: (
                difference(run(quantised, **given), run(model, **given)) > 1e-6
            ),
        )


@check
def compiled(folder: Path) -> Iterator[Row]:
    for label, backend in {
        "classifier": "inductor",
        "encoder, shared table": "aot_eager",
        "masked patches": "aot_eager",
        "segmentation": "aot_eager",
        "backbone": "aot_eager",
    }.items():

        def equal(label: str = label, backend: str = backend) -> float:
            torch.compiler.reset()
            model = make(label)
            return difference(run(torch.compile(copy.deepcopy(model), backend=backend), **arguments(model)), run(model))

        yield attempt(f"{label}, {backend}: the outputs", equal, 1e-5)

    def gradients() -> float:
        torch.compiler.reset()
        model = make("classifier").train()
        other = copy.deepcopy(model)
        model(**arguments(model)).loss.backward()
        torch.compile(other, backend="aot_eager")(**arguments(other)).loss.backward()
        return difference(
            [p.grad for p in other.parameters() if p.grad is not None],
            [p.grad for p in model.parameters() if p.grad is not None],
        )

    yield attempt("classifier, aot_eager: the gradients", gradients, 1e-5)
