"""What the tests of data, training and the command line share: small images with structure, models, tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("flat", "upright")


def stripes(count: int, side: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `(count, side, side, 3)` and labels: lying (0) and upright (1) stripes of random colour, period and phase."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = np.empty((count, side, side, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        wave = (np.arange(side) + rng.integers(8)) // rng.integers(2, 5) % 2
        line = np.where(wave[:, None], rng.integers(150, 256, 3), rng.integers(0, 100, 3)).astype(np.uint8)
        image[:] = line[:, None] if label == 0 else line[None]
    return images, labels


def write_images(
    folder: Path, count: int, side: int = 16, seed: int = 0, spread: int = 0, labelled: bool = False
) -> Path:
    """A folder of stripes as PNG files; with `spread`, sides differ by up to that many pixels."""
    images, labels = stripes(count, side + spread, seed)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / CLASSES[label] if labelled else folder
        place.mkdir(parents=True, exist_ok=True)
        cut = number % (spread + 1)
        Image.fromarray(image[: side + cut, : side + spread - cut]).save(place / f"{number:03}.png")
    return folder


def save_tokenizer(folder: Path, vocab_size: int = 16, groups: int = 3, seed: int = 0) -> Path:
    """An untrained tokenizer that tells some patches apart all the same."""
    import torch

    from beit.tokenizers import DalleConfig, DalleTokenizer

    torch.manual_seed(seed)
    config = DalleConfig(groups=groups, blocks_per_group=1, n_hid=8, n_init=8, vocab_size=vocab_size)
    DalleTokenizer(config).save_pretrained(folder)
    return folder


def tiny_config(**overrides: Any) -> Any:
    """A model of a few thousand numbers on 16x16 images; keywords override."""
    from beit import BeitConfig

    values: dict[str, Any] = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 24,
        "image_size": 16,
        "patch_size": 4,
        "vocab_size": 11,
        "use_mask_token": True,
        "use_shared_relative_position_bias": True,
        "num_labels": 3,
    }
    return BeitConfig(**{**values, **overrides})


def small_config(**changes: Any) -> Any:
    """A model of a few thousand numbers on 16x16 images with 4x4 patches."""
    from beit import BeitConfig

    values: dict[str, Any] = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "image_size": 16,
        "patch_size": 4,
        "vocab_size": 16,
        "use_mask_token": True,
        "use_shared_relative_position_bias": True,
        "use_absolute_position_embeddings": True,
        "mask_keeps_position": False,  # one meaning in both frameworks
        "layer_scale_init_value": 0.1,
    }
    return BeitConfig(**{**values, **changes})


def save_small_model(folder: Path, **changes: Any) -> Path:
    """The folder of an untrained model to pre-train."""
    import torch

    from beit import BeitForMaskedImageModeling

    torch.manual_seed(0)
    BeitForMaskedImageModeling(small_config(**changes)).save_pretrained(folder)
    return folder


def save_classifier(folder: Path, classes: tuple[str, ...] = CLASSES, seed: int = 0, **changes: Any) -> Path:
    """The folder of an untrained classifier, with its image processor; its classifier is not as near 0 as a new one."""
    import torch

    from beit import BeitForImageClassification, BeitImageProcessor

    torch.manual_seed(seed)
    config = small_config(
        use_shared_relative_position_bias=False,
        use_relative_position_bias=True,
        id2label=dict(enumerate(classes)),
        **changes,
    )
    model = BeitForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    processor = BeitImageProcessor(size={"height": 16, "width": 16}, do_center_crop=False, image_mean=[0.5] * 3)
    processor.save_pretrained(folder)
    return folder


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights_of(folder: Path) -> bytes:
    """The bytes of a model folder's weights."""
    return (folder / "model.safetensors").read_bytes()


def refused(capsys: Any, arguments: list[Any], *parts: str, status: int = 1) -> None:
    """The command ends with `status`, says all of `parts` on stderr, and shows no traceback."""
    from beit.cli import main

    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == status
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert "unexpected" not in printed.err
    for part in parts:
        assert part in printed.err


def small_run(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """What `PretrainSettings` wants for a run of few steps with an untrained tokenizer and a small model."""
    values = {
        "images": tmp_path,
        "output": tmp_path / "run",
        "tokenizer": str(save_tokenizer(tmp_path / "tokenizer")),
        "model": str(save_small_model(tmp_path / "model")),
        "batch_size": 8,
        "precision": "fp32",
        "log_every": 1,
    }
    return {**values, **changes}
