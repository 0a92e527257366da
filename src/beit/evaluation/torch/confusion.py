"""Confusion matrices of label maps, by torchmetrics."""

from __future__ import annotations

import numpy as np
import torch

from beit.core.errors import require


def confusion_of_maps(truth: np.ndarray, prediction: np.ndarray, classes: int, ignore_index: int) -> np.ndarray:
    """Count pixels by their true and predicted class.

    Args:
        truth: class numbers `(H, W)`; `ignore_index` where there is no label.
        prediction: class numbers `(H, W)`.
        classes: number of classes.
        ignore_index: pixels with this number in `truth` are not counted.

    Returns:
        int64 `(classes, classes)`, the true class by row, the predicted one by column.
    """
    metrics = require("torchmetrics.functional.classification", "train", "evaluation")
    found = metrics.multiclass_confusion_matrix(
        torch.from_numpy(prediction), torch.from_numpy(truth), classes, ignore_index=ignore_index, validate_args=False
    )
    return found.numpy()
