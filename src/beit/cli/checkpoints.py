"""`beit models`, `beit inspect`, `beit convert`, `beit resize`: work with checkpoints in any layout."""

from __future__ import annotations

import json
import os
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from beit.cli.parsing import parse, say_next, show, show_json
from beit.core.errors import CheckpointError, ConfigError
from beit.core.files import check_folder
from beit.core.settings import Settings
from beit.core.suggest import did_you_mean, similar
from beit.core.text import printable

if TYPE_CHECKING:
    from beit.checkpoints import Checkpoint
    from beit.checkpoints.catalogue import Published
    from beit.config import BeitConfig
    from beit.export.layouts import Layout

_MOST_PATCHES_COMPARED = 5000  # the relative positions of all pairs of patches then take 200 MB


@dataclass(kw_only=True)
class Models:
    """List the published checkpoints. Every command takes their names for a model."""

    name: tyro.conf.Positional[str | None] = None
    """Checkpoint to show; all of them in a table if not given."""
    task: Literal["pretrained", "classify", "segment"] | None = None
    """List only the checkpoints for this task."""
    json: bool = False
    """Print JSON instead of a table."""


def models_command(arguments: list[str]) -> None:
    from beit.checkpoints import catalogue

    settings = parse(Models, "models", arguments)
    if settings.name is not None:
        entry = catalogue.find(settings.name)
        if entry is None:
            hint = did_you_mean(similar(settings.name, catalogue.names()))
            raise ConfigError(
                f"No published checkpoint is called {settings.name!r}.{hint} beit models lists them, and what was never published."
            )
        if settings.json:
            print(json.dumps(asdict(entry), indent=2))
        else:
            print(catalogue.page(entry))
            say_next(*_next_commands(entry))
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
            print(f"\nFor images of your own, start with {catalogue.RECOMMENDED}; beit finetune takes it by itself.")
            say_next(["finetune", "--images", "FOLDER", "--output", "NEW"], ["models", catalogue.RECOMMENDED])


def _next_commands(entry: Published) -> list[list[str]]:
    """What is done with a checkpoint, by what it was trained for; its own answers first."""
    tune = ["finetune", "--images", "FOLDER", "--model", entry.name, "--output", "NEW"]
    if entry.task == "segment":
        return [
            ["segment", "predict", "IMAGES", "--model", entry.name, "--output", "NEW"],
            ["segment", "train", "--images", "FOLDER", "--maps", "MAPS", "--model", entry.name, "--output", "NEW"],
        ]
    return [["predict", "IMAGES", "--model", entry.name], tune] if entry.task == "classify" else [tune]


@dataclass(kw_only=True)
class _Stated(Settings):
    """Settings that weight files do not state, for the case that `beit` guesses them wrong."""

    image_size: tuple[int, ...] | None = None
    """Side of the images in pixels, or height and width. If it is not the checkpoint's own, positions are resized."""
    num_attention_heads: int | None = None
    """Attention heads per layer, which only a relative-position table shows."""
    layer_norm_eps: float | None = None
    """Epsilon of the layer norms."""
    weights: Literal["ema"] | None = None
    """Take the averaged weights that stand beside the model's own in a file of torch.save (ema)."""
    pixels: Literal["half", "imagenet"] | None = None
    """Mean and standard deviation for normalising pixels: 0.5 (half), or ImageNet's."""

    def config_fields(self) -> dict[str, Any]:
        """Those that are fields of the config. Raises ConfigError for an image size of more than two numbers."""
        fields: dict[str, Any] = {}
        if self.image_size is not None:
            if len(self.image_size) not in (1, 2):
                raise ConfigError(f"image_size is {self.image_size}; give one side, or height and width.")
            fields["image_size"] = self.image_size[0] if len(self.image_size) == 1 else self.image_size
        for name in ("num_attention_heads", "layer_norm_eps"):
            if getattr(self, name) is not None:
                fields[name] = getattr(self, name)
        return fields

    def choice(self) -> dict[str, Any]:
        """Which weights of the file, as keywords of `Checkpoint`."""
        return {} if self.weights is None else {"weights": self.weights}

    def processor_settings(self, checkpoint: Checkpoint, config: BeitConfig) -> dict[str, Any] | None:
        """Settings of the image processor for the image size of `config`; None where neither side states any."""
        from beit.checkpoints import infer
        from beit.export.resize import pixels_for

        pixels = pixels_for(checkpoint.pixels, config)
        if self.pixels is not None:
            mean, std = infer.IMAGENET if self.pixels == "imagenet" else infer.HALF
            pixels = {**(pixels or {}), "image_mean": list(mean), "image_std": list(std)}
        return pixels


@dataclass(kw_only=True)
class Inspect(_Stated):
    """Show what a checkpoint is: its origin, class and settings, what was guessed, what is missing or left over."""

    model: tyro.conf.Positional[str]
    """Folder, weight file, Hub id, URL, or a name that beit models lists."""
    tensors: bool = False
    """List every tensor too, with name, type and shape."""
    json: bool = False
    """Print JSON instead of text."""


def inspect_command(arguments: list[str]) -> None:
    settings = parse(Inspect, "inspect", arguments)
    from beit.checkpoints import Checkpoint
    from beit.export.describe import describe, tensors_of, text_of

    given = settings.config_fields()
    checkpoint = Checkpoint(settings.model, given, **settings.choice())
    about = describe(checkpoint)
    if settings.json:
        more = {"tensors": tensors_of(checkpoint)} if settings.tensors else {}
        show_json({**about, **more})
        return
    show(text_of(about))
    if settings.tensors:
        print("\nTensors")
        show("\n".join(f"  {printable(name):70} {kind:8} {shape}" for name, kind, shape in tensors_of(checkpoint)))


@dataclass(kw_only=True)
class Convert(_Stated):
    """Write a checkpoint in another layout, and compare the outputs of both on photographs."""

    model: tyro.conf.Positional[str]
    """Folder, weight file, Hub id, URL, or a name that beit models lists."""
    output: tyro.conf.Positional[Path]
    """Folder (hf, timm, flax) or file (unilm, openmmlab) to write."""
    to: Literal["hf", "unilm", "timm", "flax", "openmmlab"]
    """Layout of transformers and beit (hf), the authors' code (unilm), timm, transformers' Flax models (flax), or mmpretrain and
    mmsegmentation (openmmlab)."""
    check: bool = True
    """Compare the outputs of both on embedded photographs, and fail if they differ."""


def convert_command(arguments: list[str]) -> None:
    settings = parse(Convert, "convert", arguments)
    _write(settings, settings.to, settings.check)


@dataclass(kw_only=True)
class Resize(_Stated):
    """Write a model folder for images of another size. Relative-position tables are resized as the authors do it."""

    model: tyro.conf.Positional[str]
    """Folder, weight file, Hub id, URL, or a name that beit models lists."""
    output: tyro.conf.Positional[Path]
    """Folder to write."""


def resize_command(arguments: list[str]) -> None:
    settings = parse(Resize, "resize", arguments)
    if settings.image_size is None:
        raise ConfigError("beit resize needs --image-size: one side in pixels, or height and width.")
    _write(settings, "hf", check=True)


def _write(settings: Convert | Resize, to: Layout, check: bool) -> None:
    """Write `settings.model` to `settings.output`, say what was changed and lost, and compare both."""
    from beit.checkpoints import Checkpoint
    from beit.config import BeitConfig
    from beit.export.layouts import FOLDERS, write
    from beit.export.resize import model_of

    output = Path(settings.output).expanduser()
    # Never write into something that exists: an old file beside the new ones could be read instead, or would be overwritten.
    if os.path.lexists(output) and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(f"{output} exists already. Give a new name; nothing was written.")
    check_folder(output if to in FOLDERS else output.parent)
    given = settings.config_fields()
    checkpoint = Checkpoint(settings.model, given, **settings.choice())
    config = BeitConfig.from_pretrained(checkpoint, **given).replace(architectures=[checkpoint.architecture])
    tensors, changes = model_of(checkpoint, config)
    pixels = settings.processor_settings(checkpoint, config)
    left_over = checkpoint.left_over
    # A layout keeps the tensors of its own dialect that no model here has a place for.
    extra = {name: checkpoint.tensors[name] for name in left_over} if to == checkpoint.dialect else {}
    lost = write(output, to, tensors, config, pixels, extra)
    if left_over and not extra:
        lost.append(f"{len(left_over)} tensors that no model here has were left out: {', '.join(left_over[:3])}, …")
    count = sum(array.size for array in tensors.values())
    show(f"{settings.model}: {checkpoint.architecture}, {count / 1e6:.1f} million parameters")
    for guess in (*checkpoint.guesses, *checkpoint.pixel_guesses):
        show(f"  guessed {guess.name} = {guess.value}: {guess.why}")
    for line in (*changes, *lost):
        show(f"  {line}")
    show(f"Wrote {output} ({to}).")
    if check:
        _compare(checkpoint, output, config, pixels)


def _compare(checkpoint: Checkpoint, written: Path, config: BeitConfig, pixels: dict[str, Any] | None) -> None:
    """Print how the outputs of source and result differ. Raises CheckpointError if they do."""
    from beit.export.parity import compare

    if config.num_patches > _MOST_PATCHES_COMPARED:
        print(f"Not compared: {config.num_patches:,} patches per image would take too much memory.")
        return
    result = compare(checkpoint, written, config, pixels)
    show(result)
    if not result.equal:
        raise CheckpointError(f"{written} does not give the source's outputs: see above. Please report it.")
