"""`beit models`, `beit inspect`, `beit convert`, `beit resize`: checkpoints that others trained, in any layout."""

from __future__ import annotations

import difflib
import json
import os
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from beit.cli.parsing import parse
from beit.core.errors import CheckpointError, ConfigError

_MOST_COMPARED = 5000  # patches: the relative positions of all pairs take 200 MB then


@dataclass(kw_only=True)
class Models:
    """The published checkpoints, under names that every command takes for a model."""

    name: tyro.conf.Positional[str | None] = None
    """Checkpoint to show; all of them in a table if not given."""
    task: Literal["pretrained", "classify", "segment"] | None = None
    """Only those for this task."""
    json: bool = False
    """Print JSON instead of a table."""


def models_command(arguments: list[str]) -> None:
    from beit.checkpoints import catalogue

    settings = parse(Models, "models", arguments)
    if settings.name is not None:
        entry = catalogue.find(settings.name)
        if entry is None:
            near = difflib.get_close_matches(
                settings.name.lower(), [entry.name for entry in catalogue.PUBLISHED], n=3, cutoff=0.5
            )
            hint = f" Did you mean {', '.join(near)}?" if near else ""
            raise ConfigError(
                f"No published checkpoint is called {settings.name!r}.{hint} beit models lists them, and what was never published."
            )
        print(json.dumps(asdict(entry), indent=2) if settings.json else catalogue.page(entry))
        return
    entries = [entry for entry in catalogue.PUBLISHED if settings.task in (None, entry.task)]
    if settings.json:
        print(json.dumps([asdict(entry) for entry in entries], indent=2))
    else:
        print(catalogue.table(entries))
        if settings.task is None:
            print("\nNot published:")
            print(
                "\n".join(
                    textwrap.fill(f"{what}: {why}", 118, initial_indent="  ", subsequent_indent="    ")
                    for what, why in catalogue.NOT_PUBLISHED
                )
            )


@dataclass(kw_only=True)
class _Unstated:
    """What weight files do not state, where the guess is wrong."""

    image_size: tuple[int, ...] | None = None
    """Side of the images in pixels, or height and width. Positions are resized where it is not the checkpoint's own."""
    num_attention_heads: int | None = None
    """Heads of each attention, where no relative-position table shows them."""
    layer_norm_eps: float | None = None
    """Epsilon of the layer norms."""
    pixels: Literal["half", "imagenet"] | None = None
    """Mean and deviation that pixels are normalised with: 0.5, or ImageNet's."""


def _overrides(settings: Any) -> dict[str, Any]:
    """Fields of the config that the caller states."""
    given: dict[str, Any] = {}
    if settings.image_size is not None:
        if len(settings.image_size) not in (1, 2):
            raise ConfigError(f"image_size is {settings.image_size}; give one side, or height and width.")
        given["image_size"] = settings.image_size[0] if len(settings.image_size) == 1 else settings.image_size
    for name in ("num_attention_heads", "layer_norm_eps"):
        if getattr(settings, name) is not None:
            given[name] = getattr(settings, name)
    return given


def _pixels(checkpoint: Any, config: Any, choice: str | None) -> dict[str, Any] | None:
    """Settings of the image processor, for the size of `config`."""
    from beit.checkpoints import infer
    from beit.export.resize import pixels_for

    pixels = pixels_for(checkpoint.pixels, config)
    if choice is not None:
        mean, std = infer.IMAGENET if choice == "imagenet" else infer.HALF
        pixels = {**(pixels or {}), "image_mean": list(mean), "image_std": list(std)}
    return pixels


@dataclass(kw_only=True)
class Inspect(_Unstated):
    """Say what a checkpoint is: whose, which class, its settings, what was guessed, what is missing or left over."""

    model: tyro.conf.Positional[str]
    """Folder, weight file, Hub id, URL, or a name that beit models lists."""
    tensors: bool = False
    """List every tensor too: name, type, shape."""
    json: bool = False
    """Print JSON instead of text."""


def inspect_command(arguments: list[str]) -> None:
    settings = parse(Inspect, "inspect", arguments)
    from beit.checkpoints import Checkpoint
    from beit.export.describe import describe, tensors_of, text_of

    given = _overrides(settings)
    checkpoint = Checkpoint(settings.model, given)
    about = describe(checkpoint)
    if settings.json:
        more = {"tensors": tensors_of(checkpoint)} if settings.tensors else {}
        print(json.dumps({**about, **more}, indent=2, ensure_ascii=False))
        return
    print(text_of(about))
    if settings.tensors:
        print("\nTensors")
        print("\n".join(f"  {name:70} {kind:8} {shape}" for name, kind, shape in tensors_of(checkpoint)))


@dataclass(kw_only=True)
class Convert(_Unstated):
    """Write a checkpoint in another layout, and compare what both compute on photographs."""

    model: tyro.conf.Positional[str]
    """Folder, weight file, Hub id, URL, or a name that beit models lists."""
    output: tyro.conf.Positional[Path]
    """Folder to write (hf, timm, flax), or file (unilm, openmmlab)."""
    to: Literal["hf", "unilm", "timm", "flax", "openmmlab"]
    """Layout: transformers (and beit), the authors' code, timm, transformers' Flax, mmpretrain and mmsegmentation."""
    check: bool = True
    """Compute both on embedded photographs, and fail where they differ."""


def convert_command(arguments: list[str]) -> None:
    settings = parse(Convert, "convert", arguments)
    _write(settings, settings.to, settings.check)


@dataclass(kw_only=True)
class Resize(_Unstated):
    """Write a model folder for images of another size: positions bicubically, relative-position tables as the authors do it."""

    model: tyro.conf.Positional[str]
    """Folder, weight file, Hub id, URL, or a name that beit models lists."""
    output: tyro.conf.Positional[Path]
    """Folder to write."""


def resize_command(arguments: list[str]) -> None:
    settings = parse(Resize, "resize", arguments)
    if settings.image_size is None:
        raise ConfigError("beit resize needs --image-size: one side in pixels, or height and width.")
    _write(settings, "hf", check=True)


def _write(settings: Any, to: Any, check: bool) -> None:
    from beit.checkpoints import Checkpoint
    from beit.config import BeitConfig
    from beit.export.layouts import write
    from beit.export.resize import model_of

    output = Path(settings.output).expanduser()
    # Never into something that is there: an old file would win over, or be lost to, what is written.
    if os.path.lexists(output) and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(f"{output} exists already. Give a new name; nothing was written.")
    given = _overrides(settings)
    checkpoint = Checkpoint(settings.model, given)
    config = BeitConfig.from_pretrained(checkpoint, **given).replace(architectures=[checkpoint.architecture])
    memory, changes = model_of(checkpoint, config)
    pixels = _pixels(checkpoint, config, settings.pixels)
    left = checkpoint.left_over
    extra = {name: checkpoint.tensors[name] for name in left} if to == checkpoint.dialect else {}
    lost = write(output, to, memory, config, pixels, extra)
    if left and not extra:
        lost.append(f"{len(left)} tensors that no model here has were left out: {', '.join(left[:3])}, …")
    print(
        f"{settings.model}: {checkpoint.architecture}, {sum(a.size for a in memory.values()) / 1e6:.1f} million numbers"
    )
    for guess in (*checkpoint.guesses, *checkpoint.pixel_guesses):
        print(f"  guessed {guess.name} = {guess.value}: {guess.why}")
    for line in (*changes, *lost):
        print(f"  {line}")
    print(f"Wrote {output} ({to}).")
    if check and config.num_patches > _MOST_COMPARED:
        print(f"Not compared: {config.num_patches:,} patches an image would take too much memory.")
    elif check:
        from beit.export.parity import compare

        result = compare(checkpoint, output, config, pixels)
        print(result)
        if not result.equal:
            raise CheckpointError(f"{output} does not give the source's numbers: see above. Please report it.")
