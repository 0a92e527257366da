"""The examples of the API contract, word for word but for the import line, on folders that the test makes.

The contract (documentation of transformers 4.37.2, model_doc/beit) imports from `transformers`; here it is `beit`. What
the examples fetch from the network, a picture of cats, is made here; `microsoft/…` are folders where the test runs.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

import beit

CONFIG = """
>>> from transformers import BeitConfig, BeitModel

>>> # Initializing a BEiT beit-base-patch16-224-pt22k style configuration
>>> configuration = BeitConfig()

>>> # Initializing a model (with random weights) from the beit-base-patch16-224-pt22k style configuration
>>> model = BeitModel(configuration)

>>> # Accessing the model configuration
>>> configuration = model.config
"""

MODEL = """
>>> from transformers import AutoImageProcessor, BeitModel
>>> import torch
>>> from datasets import load_dataset

>>> dataset = load_dataset("huggingface/cats-image")
>>> image = dataset["test"]["image"][0]

>>> image_processor = AutoImageProcessor.from_pretrained("microsoft/beit-base-patch16-224-pt22k")
>>> model = BeitModel.from_pretrained("microsoft/beit-base-patch16-224-pt22k")

>>> inputs = image_processor(image, return_tensors="pt")

>>> with torch.no_grad():
...     outputs = model(**inputs)

>>> last_hidden_states = outputs.last_hidden_state
>>> list(last_hidden_states.shape)
[1, 197, 768]
"""

MASKED = """
>>> from transformers import AutoImageProcessor, BeitForMaskedImageModeling
>>> import torch
>>> from PIL import Image
>>> import requests

>>> url = "http://images.cocodataset.org/val2017/000000039769.jpg"
>>> image = Image.open(requests.get(url, stream=True).raw)

>>> image_processor = AutoImageProcessor.from_pretrained("microsoft/beit-base-patch16-224-pt22k")
>>> model = BeitForMaskedImageModeling.from_pretrained("microsoft/beit-base-patch16-224-pt22k")

>>> num_patches = (model.config.image_size // model.config.patch_size) ** 2
>>> pixel_values = image_processor(images=image, return_tensors="pt").pixel_values
>>> # create random boolean mask of shape (batch_size, num_patches)
>>> bool_masked_pos = torch.randint(low=0, high=2, size=(1, num_patches)).bool()

>>> outputs = model(pixel_values, bool_masked_pos=bool_masked_pos)
>>> loss, logits = outputs.loss, outputs.logits
>>> list(logits.shape)
[1, 196, 8192]
"""

CLASSES = """
>>> from transformers import AutoImageProcessor, BeitForImageClassification
>>> import torch
>>> from datasets import load_dataset

>>> dataset = load_dataset("huggingface/cats-image")
>>> image = dataset["test"]["image"][0]

>>> image_processor = AutoImageProcessor.from_pretrained("microsoft/beit-base-patch16-224")
>>> model = BeitForImageClassification.from_pretrained("microsoft/beit-base-patch16-224")

>>> inputs = image_processor(image, return_tensors="pt")

>>> with torch.no_grad():
...     logits = model(**inputs).logits

>>> # model predicts one of the 1000 ImageNet classes
>>> predicted_label = logits.argmax(-1).item()
>>> print(model.config.id2label[predicted_label])
tabby, tabby cat
"""

SEGMENTATION = """
>>> from transformers import AutoImageProcessor, BeitForSemanticSegmentation
>>> from PIL import Image
>>> import requests

>>> url = "http://images.cocodataset.org/val2017/000000039769.jpg"
>>> image = Image.open(requests.get(url, stream=True).raw)

>>> image_processor = AutoImageProcessor.from_pretrained("microsoft/beit-base-finetuned-ade-640-640")
>>> model = BeitForSemanticSegmentation.from_pretrained("microsoft/beit-base-finetuned-ade-640-640")

>>> inputs = image_processor(images=image, return_tensors="pt")
>>> outputs = model(**inputs)
>>> # logits are of shape (batch_size, num_labels, height, width)
>>> logits = outputs.logits
>>> list(logits.shape)
[1, 150, 160, 160]
>>> maps = image_processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])
>>> list(maps[0].shape)
[480, 640]
"""

EXAMPLES = {
    "config": CONFIG,
    "model": MODEL,
    "masked image modelling": MASKED,
    "classification": CLASSES,
    "segmentation": SEGMENTATION,
}


def cats() -> Image.Image:
    """A photograph's size and range of colours."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    return Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `microsoft/…` of one layer each; the classifier answers as the real one does."""
    folder = tmp_path_factory.mktemp("home")
    body = {"num_hidden_layers": 1, "intermediate_size": 64}
    pretrained = beit.BeitForMaskedImageModeling(
        beit.BeitConfig(use_mask_token=True, use_shared_relative_position_bias=True, **body)
    )
    names = {i: f"class {i}" for i in range(1000)} | {281: "tabby, tabby cat"}
    classifier = beit.BeitForImageClassification(
        beit.BeitConfig(use_relative_position_bias=True, id2label=names, **body)
    )
    with torch.no_grad():
        classifier.classifier.bias[281] = 1e3
    segmentation = beit.BeitForSemanticSegmentation(
        beit.BeitConfig(
            hidden_size=24,
            num_attention_heads=2,
            num_hidden_layers=4,
            intermediate_size=48,
            image_size=640,
            use_relative_position_bias=True,
            num_labels=150,
            out_indices=[1, 2, 3, 4],
        )
    )
    ade = folder / "microsoft" / "beit-base-finetuned-ade-640-640"
    segmentation.save_pretrained(ade)
    beit.BeitImageProcessor(size=640, do_center_crop=False, do_reduce_labels=True).save_pretrained(ade)
    for model, name in ((pretrained, "beit-base-patch16-224-pt22k"), (classifier, "beit-base-patch16-224")):
        model.save_pretrained(folder / "microsoft" / name)
        beit.BeitImageProcessor().save_pretrained(folder / "microsoft" / name)
    return folder


@pytest.fixture
def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the examples import and fetch."""
    picture = io.BytesIO()
    cats().save(picture, "PNG")

    def get(url: str, stream: bool = False) -> Any:
        return types.SimpleNamespace(raw=io.BytesIO(picture.getvalue()))

    requests, datasets = types.ModuleType("requests"), types.ModuleType("datasets")
    requests.get = get  # type: ignore[attr-defined]
    datasets.load_dataset = lambda name: {"test": {"image": [cats()]}}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "requests", requests)
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    monkeypatch.chdir(home)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, world: None) -> None:
    text = EXAMPLES[name].replace("from transformers import", "from beit import")
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert len(example.examples) > 3
    report = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False)
    with contextlib.redirect_stdout(io.StringIO()):
        runner.run(example, out=report.write)
    assert runner.summarize(verbose=False).failed == 0, report.getvalue()


def test_processor_keeps_to_the_contract(home: Path) -> None:
    processor = beit.AutoImageProcessor.from_pretrained(home / "microsoft" / "beit-base-patch16-224")
    assert type(processor) is beit.BeitImageProcessor
    values = {
        "do_resize": True,
        "size": {"height": 256, "width": 256},
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "rescale_factor": 1 / 255,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_reduce_labels": False,
    }
    for name, value in values.items():
        assert getattr(processor, name) == value, name
    assert int(processor.resample) == 3
    batch = processor([cats(), cats()], return_tensors="np")
    assert batch["pixel_values"].shape == (2, 3, 224, 224)
    assert issubclass(beit.BeitFeatureExtractor, beit.BeitImageProcessor)
    loaded = beit.load(home / "microsoft" / "beit-base-patch16-224")
    assert type(loaded) is beit.BeitForImageClassification
