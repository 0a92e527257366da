"""`pipeline` of transformers with our models and processors, and with the folders that we write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import pipeline

import beit
from peers.ecosystem.common import IS_5, Row, attempt, check, difference, make, pair, run


def pictures(count: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40 + 8 * i, 56, 3), np.uint8)) for i in range(count)]


def processor() -> Any:
    return beit.BeitImageProcessor(size=32, do_center_crop=False)


def scores(answer: list[dict[str, Any]]) -> torch.Tensor:
    return torch.tensor([item["score"] for item in sorted(answer, key=lambda item: item["label"])])


@check
def classification(folder: Path) -> Iterator[Row]:
    ours, theirs = pair("classifier", folder / "theirs")
    wanted = run(ours, **processor()(pictures(), return_tensors="pt")).logits.softmax(-1)

    def answers(model: Any, **keywords: Any) -> torch.Tensor:
        made = pipeline("image-classification", model=model, image_processor=processor(), device="cpu", **keywords)
        return torch.stack([scores(answer) for answer in made(pictures())])

    yield attempt("our model: softmax of its logits", lambda: difference(answers(ours), wanted), 1e-5)
    yield attempt("our model in batches", lambda: difference(answers(ours, batch_size=2), wanted), 1e-5)
    yield attempt("transformers' model gives the same", lambda: difference(answers(theirs), wanted), 1e-5)
    ours.save_pretrained(folder / "ours")
    processor().save_pretrained(folder / "ours")
    # As a script does it: only the folder's name. 5.x resizes by another library: its pixels differ by rounding.
    yield attempt(
        "our folder by name",
        lambda: difference(
            torch.stack(
                [scores(answer) for answer in pipeline("image-classification", model=str(folder / "ours"))(pictures())]
            ),
            wanted,
        ),
        1e-2 if IS_5 else 1e-5,
    )


@check
def features(folder: Path) -> Iterator[Row]:
    try:
        transformers.pipelines.check_task("image-feature-extraction")
    except KeyError:
        yield Row("image-feature-extraction", "this version has no such pipeline", None)
        return
    for label in ("encoder, own tables", "encoder, shared table"):
        model = make(label)
        wanted = run(model, **processor()(pictures(), return_tensors="pt")).last_hidden_state

        def answers(model: Any = model) -> torch.Tensor:
            made = pipeline("image-feature-extraction", model=model, image_processor=processor(), device="cpu")
            return torch.tensor(made(pictures())).flatten(0, 1)

        yield attempt(
            f"{label}: the last hidden states",
            lambda answers=answers, wanted=wanted: difference(answers(), wanted),
            1e-5,
        )


@check
def segmentation(folder: Path) -> Iterator[Row]:
    ours, theirs = pair("segmentation", folder / "theirs")

    def answers(model: Any) -> list[dict[str, np.ndarray]]:
        made = pipeline("image-segmentation", model=model, image_processor=processor(), device="cpu")
        return [
            {item["label"]: np.asarray(item["mask"]) for item in made(picture, subtask="semantic")}
            for picture in pictures()
        ]

    def against_ours() -> str:
        for found, picture in zip(answers(ours), pictures(), strict=True):
            output = run(ours, **processor()([picture], return_tensors="pt"))
            [wanted] = processor().post_process_semantic_segmentation(output, target_sizes=[picture.size[::-1]])
            names = {ours.config.id2label[int(number)] for number in wanted.unique()}
            if set(found) != names:
                return f"labels {sorted(found)} instead of {sorted(names)}"
            for number, name in ours.config.id2label.items():
                if name in found and not np.array_equal(found[name] > 0, (wanted == number).numpy()):
                    return f"another mask of {name}"
        return ""

    def same_as_theirs() -> float:
        pixels = [
            np.mean((one[name] != other[name]) if name in one and name in other else 1.0)
            for one, other in zip(answers(ours), answers(theirs), strict=True)
            for name in {*one, *other}
        ]
        return float(np.max(pixels))

    yield attempt("the masks of post_process_semantic_segmentation", against_ours)
    yield attempt("transformers' model: fraction of pixels that differ", same_as_theirs, 0.01)
