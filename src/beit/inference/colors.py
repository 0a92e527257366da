"""Colours of classes, and pictures of label maps."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from beit.core.text import printable

_UNLABELLED = (255, 255, 255)  # the colour of pixels without a label
# Twenty colours that are easy to tell apart; further classes get hues all round the colour circle.
_FIRST = (
    "4363d8 e6194b 3cb44b ffe119 f58231 911eb4 42d4f4 f032e6 bfef45 fabed4 "
    "469990 dcbeff 9a6324 fffac8 800000 aaffc3 808000 ffd8b1 000075 a9a9a9"
).split()
# Fraction of a turn from the hue of one class to the next. Multiples of the golden ratio never come near a recent hue.
_GOLDEN_RATIO = 0.61803398875


def palette(classes: int) -> np.ndarray:
    """Colours uint8 `(classes, 3)`; a class number always has the same colour."""
    colours = [tuple(bytes.fromhex(colour)) for colour in _FIRST[:classes]]
    for number in range(len(colours), classes):
        hue, saturation, value = number * _GOLDEN_RATIO % 1, (0.85, 0.5)[number // 2 % 2], (0.95, 0.6)[number % 2]
        red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value))
        colours.append((red, green, blue))
    return np.array(colours, np.uint8).reshape(-1, 3)


def coloured(labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Class numbers `(h, w)` → uint8 `(h, w, 3)`; numbers that are no class, such as the ignore index, become white."""
    table = np.concatenate([colours, np.array([_UNLABELLED], np.uint8)])
    known = (labels >= 0) & (labels < len(colours))
    return table[np.where(known, labels, len(colours))]


def overlay(image: Image.Image, labels: np.ndarray, colours: np.ndarray, opacity: float = 0.55) -> Image.Image:
    """The RGB image with its label map `(H, W)` drawn over it."""
    return Image.blend(image, Image.fromarray(coloured(labels, colours)), opacity)


def label_image(labels: np.ndarray, colours: np.ndarray) -> Image.Image:
    """Class numbers `(H, W)` as an image that PNG keeps exactly: with a palette up to 256 classes, 16-bit grey above."""
    if len(colours) > 256:
        return Image.fromarray(labels.astype(np.uint16))
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(colours.reshape(-1).tolist())
    return image


def legend(classes: Sequence[str], colours: np.ndarray) -> Image.Image:
    """A picture with the colour, number and name of each class, in columns of 40."""
    font, line, rows = ImageFont.load_default(16), 26, 40
    texts = [f"{number}  {printable(name, 80)}" for number, name in enumerate(classes)]
    width = 44 + int(max(font.getlength(text) for text in texts))
    columns = -(-len(texts) // rows)
    picture = Image.new("RGB", (width * columns + 8, line * min(len(texts), rows) + 8), "white")
    draw = ImageDraw.Draw(picture)
    for number, (text, colour) in enumerate(zip(texts, colours, strict=True)):
        left, top = 8 + number // rows * width, 6 + number % rows * line
        draw.rectangle((left, top, left + 20, top + 18), fill=tuple(colour.tolist()))
        draw.text((left + 28, top), text, fill="black", font=font)
    return picture
