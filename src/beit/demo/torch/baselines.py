"""What simple classifiers on raw pixels achieve with the same labels."""

from __future__ import annotations

import torch
from torch import Tensor

from beit.data.sources.images import ArrayImages
from beit.demo.torch.pixels import pixels_of


def raw_pixel_baselines(labelled: ArrayImages, test: ArrayImages) -> dict[str, int]:
    """Number of test images that 1-nearest-neighbour and logistic regression on raw pixels classify right.

    Args:
        labelled: grey images to learn from, with labels.
        test: grey images to measure on, with labels.
    """
    train, asked = (pixels_of(images)[:, 0].flatten(1) for images in (labelled, test))
    assert labelled.labels is not None
    assert test.labels is not None
    labels, truth = torch.from_numpy(labelled.labels), torch.from_numpy(test.labels)
    nearest = labels[torch.cdist(asked, train).argmin(1)]
    linear = _logistic_regression(train, labels, asked)
    return {"1-nearest-neighbour": int((nearest == truth).sum()), "logistic regression": int((linear == truth).sum())}


def _logistic_regression(train: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
    """Class numbers `(m,)` for `asked (m, D)`, with L2 regularisation of the usual strength, C = 1."""
    weight = torch.zeros(train.shape[1] + 1, int(labels.max()) + 1, requires_grad=True)  # the last row is the bias
    optimizer = torch.optim.LBFGS([weight], max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        errors = torch.nn.functional.cross_entropy(train @ weight[:-1] + weight[-1], labels, reduction="sum")
        value = errors + 0.5 * weight[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        return (asked @ weight[:-1] + weight[-1]).argmax(1)
