"""The images of an evaluation that are worth a look: confident mistakes, answers that are least sure, and some examples.

Images pass by once, as they come from a folder, an array or a stream; only small copies of the chosen ones are kept.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from beit.data.processor import BeitImageProcessor

_SIDE = 192  # longest side of a kept picture in pixels
_EXAMPLES = 8


@dataclass(frozen=True)
class Shown:
    """An image of the evaluation.

    Attributes:
        name: of the image.
        truth: number of its class.
        answer: number of the most probable class.
        probability: of that class, in [0, 1].
        picture: at most 192 pixels on the longer side.
    """

    name: str
    truth: int
    answer: int
    probability: float
    picture: Image.Image


@dataclass(frozen=True)
class Attended:
    """What the last layer looks at in an image.

    Attributes:
        name: of the image.
        truth: number of its class.
        answer: number of the most probable class.
        picture: float32 `(H, W, 3)` in [0, 1], as the model sees it.
        attention: weights of the patches `(h, w)`, the largest is 1.
    """

    name: str
    truth: int
    answer: int
    picture: np.ndarray
    attention: np.ndarray


class Gallery:
    """Chooses images as they pass by.

    Args:
        most: how many mistakes, and how many unsure answers, to keep.

    Attributes:
        attended: examples with the attention of the last layer; filled by whoever has the model.
        attention_of: whose attention that is, for a caption.
    """

    def __init__(self, most: int = 12) -> None:
        self.most = most
        self.attended: list[Attended] = []
        self.attention_of = ""
        self.examples: list[tuple[str, int, int, np.ndarray]] = []
        self._count = 0
        # Heaps whose smallest entry is the next to go; entries are (order, -number of the image, image).
        self._mistakes: list[tuple[float, int, Shown]] = []
        self._unsure: list[tuple[float, int, Shown]] = []
        self._of_class: Counter[int] = Counter()

    def look_at(
        self,
        names: Sequence[str],
        pictures: Sequence[Image.Image],
        logits: np.ndarray,
        labels: np.ndarray,
        processor: BeitImageProcessor | None = None,
        several: bool = False,
    ) -> None:
        """See a batch.

        Args:
            names: of the images.
            pictures: n images.
            logits: `(n, classes)`.
            labels: class numbers `(n,)`.
            processor: to prepare examples for the model; no examples are kept without it.
            several: probabilities are sigmoids (a model of several labels per image), not a softmax.
        """
        if not self.most:
            return
        rows = logits.astype(np.float64)
        answers = rows.argmax(1)
        top = rows.max(1)
        sure = 1 / (1 + np.exp(-top)) if several else 1 / np.exp(rows - top[:, None]).sum(1)
        per_class = max(_EXAMPLES // logits.shape[1], 1)
        for name, picture, truth, answer, p in zip(
            names, pictures, labels.tolist(), answers.tolist(), sure.tolist(), strict=True
        ):
            self._count += 1
            if truth != answer:
                self._keep(self._mistakes, p, name, picture, truth, answer, p)
            self._keep(self._unsure, -p, name, picture, truth, answer, p)
            if processor is not None and len(self.examples) < _EXAMPLES and self._of_class[truth] < per_class:
                self._of_class[truth] += 1
                pixels = processor(picture, return_tensors="np")["pixel_values"][0]
                self.examples.append((name, truth, answer, np.asarray(pixels, np.float32)))

    def _keep(
        self,
        heap: list[tuple[float, int, Shown]],
        order: float,
        name: str,
        picture: Image.Image,
        truth: int,
        answer: int,
        probability: float,
    ) -> None:
        full = len(heap) >= self.most
        if full and (order, -self._count) < heap[0][:2]:
            return  # before a small copy is made
        entry = (order, -self._count, Shown(name, truth, answer, probability, small_copy(picture)))
        (heapq.heappushpop if full else heapq.heappush)(heap, entry)

    @property
    def mistakes(self) -> list[Shown]:
        """Wrong answers, the most probable first; of equal ones the earlier."""
        return [shown for _, _, shown in sorted(self._mistakes, key=lambda entry: entry[:2], reverse=True)]

    @property
    def unsure(self) -> list[Shown]:
        """Answers, right or wrong, the least probable first; of equal ones the earlier."""
        return [shown for _, _, shown in sorted(self._unsure, key=lambda entry: entry[:2], reverse=True)]

    def attend(self, maps: np.ndarray, of: str, processor: BeitImageProcessor) -> None:
        """Take the attention of the examples.

        Args:
            maps: weights of the patches `(examples, h, w)`.
            of: whose attention it is, for a caption.
            processor: its mean and deviation turn pixel values into pictures.
        """
        self.attention_of = of
        for (name, truth, answer, pixels), weights in zip(self.examples, maps, strict=True):
            picture = _as_picture(pixels, processor)
            self.attended.append(Attended(name, truth, answer, picture, weights / max(float(weights.max()), 1e-12)))
        self.examples = []


def small_copy(picture: Image.Image) -> Image.Image:
    """An RGB copy of at most 192 pixels on the longer side."""
    small = picture.copy() if max(picture.size) <= _SIDE else picture.resize(_fitted(*picture.size))
    return small.convert("RGB")


def _fitted(width: int, height: int) -> tuple[int, int]:
    scale = _SIDE / max(width, height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _as_picture(pixels: np.ndarray, processor: BeitImageProcessor) -> np.ndarray:
    """Pixel values `(3, H, W)` → `(H, W, 3)` in [0, 1]."""
    picture = pixels.transpose(1, 2, 0)
    if processor.do_normalize:
        picture = picture * np.asarray(processor.image_std, np.float32) + np.asarray(processor.image_mean, np.float32)
    if not processor.do_rescale:
        picture = picture / 255
    return np.clip(picture, 0, 1)
