"""The batch and the number of epochs of a fine-tuning run, by the number of images."""

from __future__ import annotations

# (fewer images than this, the batch): small batches give few images hundreds of steps, large ones keep a device busy.
_BATCHES = ((5_000, 32), (50_000, 64), (2**62, 128))
# Epochs fall with the square root of the images: 160 images are seen 75 times, 800 34 times, 8,000 11 times.
_EPOCHS, _AT, _FEWEST, _MOST = 75.0, 160, 5.0, 100.0


def batch_for(count: int | None, parts: int = 1) -> int:
    """A batch, in so many equal parts, that leaves out few images of an epoch: those that fill no batch wait for another epoch."""
    if count is None:
        most = _BATCHES[-1][1]
    else:
        most = min(next(batch for fewer, batch in _BATCHES if count < fewer), max(count // 2, 1))
        most = max(range(max(3 * most // 4, 1), most + 1), key=lambda batch: (-(count % batch), batch))
    return max(most // parts, 1) * parts


def epochs_for(count: int | None) -> float:
    """How often each of so many images is seen; the fewest times for an unknown number."""
    if not count:
        return _FEWEST
    return float(min(max(round(_EPOCHS * (_AT / count) ** 0.5), _FEWEST), _MOST))
