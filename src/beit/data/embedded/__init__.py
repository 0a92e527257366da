"""Images that come with the package: a subset of Fashion-MNIST and 21 photographs. Their licences are in LICENSES.md."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def fashion_mnist_subset() -> dict[str, np.ndarray]:
    """`x_train (5000, 28, 28)`, `y_train (5000,)`, `x_test (1000, 28, 28)`, `y_test (1000,)`; uint8, with balanced classes."""
    with resources.as_file(resources.files(__name__) / "fashion_mnist_subset.npz") as path, np.load(path) as file:
        return {name: file[name] for name in file.files}


def photographs() -> Path:
    """The folder of the 21 photographs, JPEG files."""
    return Path(str(resources.files(__name__) / "photos"))
