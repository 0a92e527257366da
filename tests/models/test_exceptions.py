"""The same mistake raises an exception of the same type as in transformers 4.37.2, and one of `beit` as well.

So `except OSError:` around `from_pretrained`, which scripts have, catches a missing folder here too. The types were found by
making each mistake with 4.37.2. Where ours differs, the reason stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from beit import BeitConfig, BeitError, BeitImageProcessor
from beit.core.errors import CheckpointError, MismatchError
from beit.core.files import atomic_path
from beit.train import checkpoint as training

torch = pytest.importorskip("torch")

from beit import (
    BeitForImageClassification,
    BeitForMaskedImageModeling,
    BeitForSemanticSegmentation,
    BeitModel,
)

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
    "num_labels": 3,
    "vocab_size": 8,
    "use_relative_position_bias": True,
}
IMAGES = torch.zeros(2, 3, 16, 16)
PICTURE = np.zeros((20, 20, 3), np.uint8)
MASK = torch.ones(2, 16, dtype=torch.bool)


class Kit:
    """What a mistake is made with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = BeitConfig(**SMALL)
        self.classifier = BeitForImageClassification(self.config).eval()
        self.masked = BeitForMaskedImageModeling(BeitConfig(**SMALL, use_mask_token=True)).eval()
        self.processor = BeitImageProcessor(size=16, crop_size=16)
        self.classifier.save_pretrained(folder / "whole")
        self.files = {path.name: path.read_bytes() for path in (folder / "whole").iterdir()}

    def make(self, **files: bytes) -> Path:
        """A folder with these files, or, for "same", with those of the whole model."""
        where = self.folder / "-".join(files or ["empty"])
        where.mkdir(exist_ok=True)
        for name, content in files.items():
            file = name.replace("__", ".")
            (where / file).write_bytes(self.files[file] if content == b"same" else content)
        return where


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("mistakes"))


Mistake = Callable[[Kit], Any]
MISTAKES: dict[str, tuple[type[Exception], Mistake]] = {
    # files
    "model of no folder": (OSError, lambda k: BeitModel.from_pretrained(k.folder / "none")),
    "model of no relative folder": (OSError, lambda k: BeitModel.from_pretrained("./none/model")),
    "config of no folder": (OSError, lambda k: BeitConfig.from_pretrained(str(k.folder / "none"))),
    "processor of no folder": (OSError, lambda k: BeitImageProcessor.from_pretrained(k.folder / "none")),
    "empty folder": (OSError, lambda k: BeitModel.from_pretrained(k.make())),
    "no weights": (OSError, lambda k: BeitModel.from_pretrained(k.make(config__json=b"same"))),
    "no processor": (OSError, lambda k: BeitImageProcessor.from_pretrained(k.make(config__json=b"same"))),
    "no such subfolder": (OSError, lambda k: BeitModel.from_pretrained(k.folder / "whole", subfolder="x")),
    "config is no JSON": (OSError, lambda k: BeitConfig.from_pretrained(k.make(config__json=b"{"))),
    "processor is no JSON": (
        OSError,
        lambda k: BeitImageProcessor.from_pretrained(k.make(preprocessor_config__json=b"{")),
    ),
    "weights are no pickle": (
        OSError,
        lambda k: BeitModel.from_pretrained(k.make(config__json=b"same", pytorch_model__bin=b"nonsense")),
    ),
    # The reference raises safetensors' own SafetensorError, which is neither.
    "weights are cut": (
        OSError,
        lambda k: BeitModel.from_pretrained(
            k.make(config__json=b"same", model__safetensors=b"\x40" + b"\0" * 7 + b"{")
        ),
    ),
    # The reference raises AssertionError from the processor and logs an error from the model.
    "save into a file": (OSError, lambda k: k.processor.save_pretrained(k.folder / "whole/config.json")),
    "save a model into a file": (OSError, lambda k: k.classifier.save_pretrained(k.folder / "whole/config.json")),
    "other sizes in the file": (
        RuntimeError,
        lambda k: BeitForImageClassification.from_pretrained(k.folder / "whole", num_labels=5),
    ),
    "load_state_dict of other sizes": (
        RuntimeError,
        lambda k: k.classifier.load_state_dict({**k.classifier.state_dict(), "classifier.bias": torch.zeros(7)}),
    ),
    "load_state_dict of nothing": (RuntimeError, lambda k: k.classifier.load_state_dict({})),
    # settings
    "heads that do not divide": (ValueError, lambda k: BeitModel(BeitConfig(**{**SMALL, "num_attention_heads": 3}))),
    # KeyError in the reference, from a table that it looks into.
    "unknown activation": (ValueError, lambda k: BeitModel(BeitConfig(**{**SMALL, "hidden_act": "nope"}))),
    "out_indices beyond the layers": (ValueError, lambda k: BeitConfig(**SMALL, out_indices=[9])),
    "out_features unknown": (ValueError, lambda k: BeitConfig(**SMALL, out_features=["nope"])),
    "problem_type unknown": (ValueError, lambda k: BeitConfig(**SMALL, problem_type="x")),
    "one class to segment": (
        ValueError,
        lambda k: BeitForSemanticSegmentation(BeitConfig(**{**SMALL, "num_labels": 1, "num_hidden_layers": 4})),
    ),
    "size without height": (ValueError, lambda k: BeitImageProcessor(size={"width": 3})),
    # calls
    "no pixel_values": (ValueError, lambda k: k.classifier()),
    "wrong channels": (ValueError, lambda k: k.classifier(torch.zeros(1, 1, 16, 16))),
    "no batch": (ValueError, lambda k: k.classifier(torch.zeros(3, 16, 16))),
    "size in no whole patches": (RuntimeError, lambda k: k.classifier(torch.zeros(1, 3, 18, 18))),
    "size as a ValueError": (ValueError, lambda k: k.classifier(torch.zeros(1, 3, 18, 18))),
    "mask of another shape": (RuntimeError, lambda k: k.masked(IMAGES, bool_masked_pos=MASK[:, :9])),
    # AttributeError in the reference, from None.expand.
    "mask without a mask token": (
        ValueError,
        lambda k: BeitForMaskedImageModeling(k.config)(IMAGES, bool_masked_pos=MASK),
    ),
    "labels beyond the classes": (IndexError, lambda k: k.classifier(IMAGES, labels=torch.tensor([0, 7]))),
    "labels of another batch": (ValueError, lambda k: k.classifier(IMAGES, labels=torch.tensor([0]))),
    "too few tokens": (
        ValueError,
        lambda k: k.masked(IMAGES, bool_masked_pos=MASK, labels=torch.zeros(3, dtype=torch.long)),
    ),
    # images
    "no image": (ValueError, lambda k: k.processor(None)),
    "unknown kind of tensors": (ValueError, lambda k: k.processor(PICTURE, return_tensors="xx")),
    "images of several sizes": (
        ValueError,
        lambda k: k.processor([PICTURE, PICTURE[:9]], do_resize=False, do_center_crop=False, return_tensors="pt"),
    ),
    "mean of two channels": (
        ValueError,
        lambda k: k.processor(PICTURE, image_mean=[0.1, 0.2], image_std=[0.1, 0.2], return_tensors="pt"),
    ),
    "too few target sizes": (
        ValueError,
        lambda k: k.processor.post_process_semantic_segmentation(
            SimpleNamespace(logits=torch.zeros(2, 3, 4, 4)), [(1, 2)]
        ),
    ),
}
# Python's own errors, of dicts, tuples and signatures.
PLAIN: dict[str, tuple[type[Exception], Mistake]] = {
    "no entry": (KeyError, lambda k: k.processor(PICTURE)["pixels"]),
    "no attribute": (AttributeError, lambda k: k.processor(PICTURE).pixels),
    "no field": (KeyError, lambda k: k.classifier(IMAGES)["nope"]),
    "no index": (IndexError, lambda k: k.classifier(IMAGES)[9]),
    "no argument": (TypeError, lambda k: k.classifier(IMAGES, foo=1)),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_types_of_the_reference(name: str, kit: Kit) -> None:
    kind, mistake = MISTAKES[name]
    with pytest.raises(kind) as caught:
        mistake(kit)
    # load_state_dict is PyTorch's own, with PyTorch's own error.
    assert isinstance(caught.value, BeitError) or name.startswith("load_state_dict")


@pytest.mark.parametrize("name", PLAIN)
def test_types_of_python(name: str, kit: Kit) -> None:
    kind, mistake = PLAIN[name]
    with pytest.raises(kind):
        mistake(kit)


def test_an_error_of_ours_passes_where_errors_of_the_system_are_explained(tmp_path: Path) -> None:
    ours = CheckpointError("the reason")
    with pytest.raises(CheckpointError) as caught, atomic_path(tmp_path / "outer"), atomic_path(tmp_path / "inner"):
        raise ours
    assert caught.value is ours

    def write(folder: Path) -> None:
        raise ours

    with pytest.raises(CheckpointError) as caught:
        training.save(tmp_path, 1, write, keep=1)
    assert caught.value.__cause__ is ours
    assert str(caught.value).startswith("the reason ")
    assert (str(ours), ours.errno, ours.filename) == ("the reason", None, None)


def test_a_mismatch_is_told_apart(kit: Kit) -> None:
    with pytest.raises(MismatchError, match="ignore_mismatched_sizes=True"):
        BeitForImageClassification.from_pretrained(kit.folder / "whole", num_labels=5)
    with pytest.raises(CheckpointError) as caught:
        BeitModel.from_pretrained(kit.folder / "none")
    assert not isinstance(caught.value, RuntimeError)
