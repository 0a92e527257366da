"""The experiment of `beit demo`: one network with pre-training and without, fine-tuned on the same few labels."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from beit.data import embedded
from beit.data.sources.images import ArrayImages
from beit.demo.torch.pixels import pixels_of
from beit.evaluation.classification import Evaluation
from beit.tokenizers import load_tokenizer
from beit.train import recipes
from beit.train.finetune import finetune
from beit.train.parts import first_of_each_class
from beit.train.pretrain import pretrain
from beit.train.tokenizer import measure, train_tokenizer

LABELS_PER_CLASS = 100


@dataclass
class Data:
    """The images of an experiment: many without labels, few with labels, and a test set."""

    unlabelled: ArrayImages
    labelled: ArrayImages
    test: ArrayImages


@dataclass
class Result:
    """What an experiment found.

    Attributes:
        tuned: scores of the pre-trained and fine-tuned model.
        scratch: scores of the same network from scratch.
        usage: of the tokenizer on the test images, as `beit.train.tokenizer.measure` returns it.
        history: the log of each run.
        seconds: the time of each run.
    """

    tuned: Evaluation
    scratch: Evaluation
    usage: dict[str, float]
    history: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def embedded_data() -> Data:
    """The embedded subset of Fashion-MNIST: 5,000 images, labels of 100 per class, 1,000 test images."""
    arrays = embedded.fashion_mnist_subset()
    train = ArrayImages(arrays["x_train"], arrays["y_train"], embedded.GARMENTS)
    labelled = first_of_each_class(train, LABELS_PER_CLASS)
    assert isinstance(labelled, ArrayImages)
    return Data(train, labelled, ArrayImages(arrays["x_test"], arrays["y_test"], embedded.GARMENTS))


def run_experiment(data: Data, recipe: recipes.Experiment) -> Result:
    """Train the four models of `recipe` one after the other, and measure them."""
    history: dict[str, list[dict[str, float]]] = {}
    seconds: dict[str, float] = {}

    def timed(name: str, text: str, work: Callable[[], Any]) -> Any:
        print(f"\n{text}", file=sys.stderr, flush=True)
        began = time.perf_counter()
        value = work()
        seconds[name] = time.perf_counter() - began
        return value

    history["tokenizer"] = timed(
        "tokenizer",
        f"1/4 A visual tokenizer learns {recipe.tokenizer.vocab_size} codes from {len(data.unlabelled)} images",
        lambda: train_tokenizer(recipe.tokenizer, data.unlabelled),
    )
    usage = measure(load_tokenizer(recipe.tokenizer.output), pixels_of(data.test))
    history["pretrain"] = timed(
        "pretrain",
        "2/4 Pre-training: predict the tokens of masked patches, without labels",
        lambda: pretrain(recipe.pretrain, data.unlabelled),
    )
    history["finetune"], tuned = timed(
        "finetune",
        f"3/4 Fine-tuning on {len(data.labelled)} labels",
        lambda: finetune(recipe.finetune, data.labelled, data.test),
    )
    history["scratch"], scratch = timed(
        "scratch",
        "4/4 The same network from scratch, with the same fine-tuning",
        lambda: finetune(recipe.scratch, data.labelled, data.test),
    )
    return Result(tuned, scratch, usage, history, seconds)
