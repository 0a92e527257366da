"""Accelerate: models that are offloaded to memory or disk, dispatched and loaded part by part give the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import accelerate
import torch
from torch import nn

import beit
from peers.ecosystem.common import MODELS, Row, attempt, check, difference, make, pixels, run

TOLERANCE = 1e-6
CPU = torch.device("cpu")


def answers(model: nn.Module) -> list[Any]:
    """Outputs for images of the configured size, for others (positions are resized then), and for the first again."""
    sizes = ((32, 32), (48, 32), (32, 32))
    return [run(model, pixel_values=pixels(2, *size)) for size in sizes]


def apart(found: list[Any], wanted: list[Any]) -> float:
    return max(difference(one, other) for one, other in zip(found, wanted, strict=True))


def parts(model: nn.Module, *places: str) -> dict[str, str]:
    """A device map: children, and each layer, to `places` in turn."""
    names = []
    for name, module in model.named_modules():
        children = [child for child, _ in module.named_parameters(recurse=False)]
        split = name in ("", "beit", "encoder", "beit.encoder", "encoder.layer", "beit.encoder.layer")
        inside_one = any(name.startswith(f"{other}.") for other in names)
        if not split and not inside_one and (children or list(module.parameters())):
            names.append(name)
    return {name: places[i % len(places)] for i, name in enumerate(names)}


def ways(folder: Path) -> dict[str, Callable[[Any, str], Any]]:
    """Name → function of a model and its label that gives it offloaded."""

    def empty(label: str) -> Any:
        kind, _ = MODELS[label]
        with accelerate.init_empty_weights():
            model = getattr(beit, kind)(make(label).config)
        return model.eval()

    def loaded(model: Any, label: str, device_map: Any) -> Any:
        place = folder / f"{label} saved"
        model.save_pretrained(place)
        return accelerate.load_checkpoint_and_dispatch(
            empty(label),
            str(place),
            device_map=device_map,
            offload_folder=str(folder / f"{label} parts"),
            force_hooks=True,
            offload_buffers=True,  # without it, Accelerate leaves out the statistics of batch norms on disk
        )

    return {
        "cpu_offload": lambda model, label: accelerate.cpu_offload(model, execution_device=CPU),
        "cpu_offload with buffers": lambda model, label: accelerate.cpu_offload(
            model, execution_device=CPU, offload_buffers=True
        ),
        "disk_offload": lambda model, label: accelerate.disk_offload(
            model, str(folder / f"{label} disk"), execution_device=CPU
        ),
        "disk_offload with buffers": lambda model, label: accelerate.disk_offload(
            model, str(folder / f"{label} disk 2"), execution_device=CPU, offload_buffers=True
        ),
        "cpu_offload_with_hook": lambda model, label: accelerate.cpu_offload_with_hook(model, execution_device=CPU)[0],
        "dispatch_model, all on the processor": lambda model, label: accelerate.dispatch_model(
            model, {"": "cpu"}, force_hooks=True
        ),
        "dispatch_model, every second part on disk": lambda model, label: accelerate.dispatch_model(
            model,
            parts(model, "cpu", "disk"),
            main_device="cpu",
            offload_dir=str(folder / f"{label} second"),
            force_hooks=True,
        ),
        "dispatch_model, all on disk": lambda model, label: accelerate.dispatch_model(
            model, parts(model, "disk"), main_device="cpu", offload_dir=str(folder / f"{label} all"), force_hooks=True
        ),
        "load_checkpoint_and_dispatch, on the processor": lambda model, label: loaded(model, label, {"": "cpu"}),
        "load_checkpoint_and_dispatch, every second part on disk": lambda model, label: loaded(
            model, label, parts(model, "cpu", "disk")
        ),
    }


@check
def offload(folder: Path) -> Iterator[Row]:
    for label in MODELS:
        wanted = answers(make(label))
        for way, offloaded in ways(folder).items():
            yield attempt(
                f"{label}, {way}",
                lambda label=label, offloaded=offloaded, wanted=wanted: apart(
                    answers(offloaded(make(label), label)), wanted
                ),
                TOLERANCE,
            )

        def answered_before(label: str = label, wanted: Any = wanted) -> float:
            model = make(label)
            answers(model)  # what the model keeps from its weights must not outlive them
            return apart(answers(accelerate.cpu_offload(model, execution_device=CPU)), wanted)

        yield attempt(f"{label}, cpu_offload of a model that has answered before", answered_before, TOLERANCE)

        def hooks_removed(label: str = label, wanted: Any = wanted) -> float:
            model = accelerate.cpu_offload(make(label), execution_device=CPU)
            answers(model)
            accelerate.hooks.remove_hook_from_submodules(model)
            return apart(answers(model), wanted)

        yield attempt(f"{label}, the hooks removed again", hooks_removed, TOLERANCE)


@check
def device_map(folder: Path) -> Iterator[Row]:
    for label in ("classifier", "segmentation"):
        model = make(label)
        size = sum(parameter.numel() * 4 for parameter in model.parameters())

        def mapped(model: Any = model, size: int = size) -> str:
            found = accelerate.infer_auto_device_map(
                model, max_memory={"cpu": size // 2, "disk": 10 * size}, no_split_module_classes=["BeitLayer"]
            )
            uncovered = [
                name
                for name, _ in model.named_parameters()
                if not any(name == part or name.startswith(f"{part}.") or not part for part in found)
            ]
            return ", ".join(uncovered)

        yield attempt(f"{label}: infer_auto_device_map covers every parameter", mapped)

        def used(label: str = label, model: Any = model, size: int = size) -> float:
            wanted = answers(model)
            found = accelerate.infer_auto_device_map(
                model, max_memory={"cpu": size // 2, "disk": 10 * size}, no_split_module_classes=["BeitLayer"]
            )
            assert "disk" in found.values(), found
            copied = make(label)
            accelerate.dispatch_model(
                copied, found, main_device="cpu", offload_dir=str(folder / label), force_hooks=True
            )
            return apart(answers(copied), wanted)

        yield attempt(f"{label}: dispatched by it", used, TOLERANCE)


@check
def accelerator(folder: Path) -> Iterator[Row]:
    for label in ("classifier", "segmentation"):
        model = make(label)
        wanted = answers(model)
        made = accelerate.Accelerator(cpu=True)
        prepared = made.prepare(model)
        made.save_model(prepared, str(folder / label))

        def in_model(label: str = label, wanted: Any = wanted) -> float:
            other = type(make(label))(make(label).config).eval()
            accelerate.load_checkpoint_in_model(other, str(folder / label))
            return apart(answers(other), wanted)

        yield attempt(f"{label}: save_model, load_checkpoint_in_model", in_model, TOLERANCE)

        def opened(label: str = label, model: Any = model, wanted: Any = wanted) -> float:
            # save_model writes no config.json: a script gives the config.
            other = type(model).from_pretrained(str(folder / label), config=model.config)
            return apart(answers(other), wanted)

        yield attempt(f"{label}: save_model, from_pretrained with the config", opened, TOLERANCE)

        def sharded(label: str = label, model: Any = model, made: Any = made, wanted: Any = wanted) -> float:
            made.save_model(model, str(folder / f"{label} shards"), max_shard_size="20KB")
            other = type(model)(model.config).eval()
            accelerate.load_checkpoint_in_model(other, str(folder / f"{label} shards"))
            return apart(answers(other), wanted)

        yield attempt(f"{label}: save_model in shards, load_checkpoint_in_model", sharded, TOLERANCE)

        def state(label: str = label, made: Any = made, prepared: Any = prepared, wanted: Any = wanted) -> float:
            made.save_state(str(folder / f"{label} state"))
            with torch.no_grad():
                for parameter in prepared.parameters():
                    parameter.zero_()
            made.load_state(str(folder / f"{label} state"))
            return apart(answers(prepared.eval()), wanted)

        yield attempt(f"{label}: save_state, load_state", state, TOLERANCE)

        def as_scripts_save(
            label: str = label, made: Any = made, prepared: Any = prepared, wanted: Any = wanted
        ) -> float:
            made.unwrap_model(prepared).save_pretrained(
                folder / f"{label} unwrapped",
                is_main_process=made.is_main_process,
                save_function=made.save,
                state_dict=made.get_state_dict(prepared),
            )
            return apart(answers(beit.load(folder / f"{label} unwrapped")), wanted)

        yield attempt(
            f"{label}: unwrap_model(…).save_pretrained(…, save_function, state_dict)", as_scripts_save, TOLERANCE
        )
        made.free_memory()
