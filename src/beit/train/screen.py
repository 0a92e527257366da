"""What a run shows on stderr: in a terminal a bar with the numbers below it, elsewhere a line of text per line of the log.

garments  12 % ━━━          72/600, 00:31 done, 04:20 left, 2.31step/s
  loss 2.31, accuracy 45.2 %, 148 images/s, lr 0.0015
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from beit.core.progress import progress_bar
from beit.core.text import printable

_FRACTION = "{:.1%}"
# Metrics that are shown, the most important first: name in the log → (what it is called here, how it is written).
_SHOWN: dict[str, tuple[str, str]] = {
    "validation_top1": ("validation top-1", _FRACTION),
    "validation_top5": ("top-5", _FRACTION),
    "validation_map": ("validation mAP", _FRACTION),
    "validation_r2": ("validation R²", "{:.3f}"),
    "validation_mae": ("mean absolute error", "{:.4g}"),
    "validation_mse": ("mean squared error", "{:.4g}"),
    "validation_miou": ("validation mIoU", _FRACTION),
    "validation_macro_f1": ("macro-F1", _FRACTION),
    "validation_loss": ("validation loss", "{:.4g}"),
    "loss": ("loss", "{:.4g}"),
    "accuracy": ("accuracy", _FRACTION),
    "masked_accuracy": ("masked accuracy", _FRACTION),
    "commonest_token": ("commonest token", _FRACTION),
    "explained": ("explained", _FRACTION),
    "reconstruction": ("variance lost", _FRACTION),
    "codes_used": ("codes used", _FRACTION),
    "perplexity": ("perplexity", "{:.4g}"),
    "images_per_second": ("images/s", "{:.4g}"),
    "learning_rate": ("lr", "{:.2g}"),
}
_VALUE_FIRST = ("images_per_second",)  # 148 images/s
# Written into log.jsonl and TensorBoard alone.
_HIDDEN = ("step", "epoch", "gradient_norm", "data_wait", "token_entropy", "prediction_entropy")
_EVERY = 2.0  # seconds between two looks at the numbers, in a terminal
_FIRST = 5.0  # seconds after which the first numbers are shown elsewhere, if no line of the log has come yet
_MARGIN = "  "  # before the numbers below the bar


def in_words(line: Mapping[str, float], width: int | None = None) -> str:
    """The numbers of a line of the log, the most important first; others than those known here follow.

    Args:
        line: name → value.
        width: characters that there is room for; what does not fit is left out.
    """
    known = [name for name in _SHOWN if name in line]
    others = [name for name in line if name not in _SHOWN and name not in _HIDDEN and "_layer" not in name]
    rate = [name for name in ("images_per_second", "learning_rate") if name in known]  # the least important
    text = ""
    for name in [*(name for name in known if name not in rate), *others, *rate]:
        longer = f"{text}, {_number(name, line[name])}" if text else _number(name, line[name])
        if width is not None and len(longer) > width:
            break
        text = longer
    return text


def _number(name: str, value: float) -> str:
    called, form = _SHOWN.get(name, (name.replace("_", " "), "{:.4g}"))
    text = form.format(value).replace("%", " %")
    return f"{text} {called}" if name in _VALUE_FIRST else f"{called} {text}"


class Screen:
    """The bar of a run and the numbers below it.

    Args:
        output: the run's folder, whose name the bar has.
        first: how many steps are finished.
        steps: when the run ends.
    """

    def __init__(self, output: Path, first: int, steps: int) -> None:
        self.steps = steps
        self.began = self.looked = time.monotonic()
        self.shown = False  # whether numbers are there to see
        self.last: dict[str, float] = {}  # each metric, when it was last known; some come with few lines of the log
        name = printable(output.name, 16).replace("{", "{{").replace("}", "}}")
        form = name + "  {percentage:.0f} % {bar} {n_fmt}/{total_fmt}, {elapsed} done, {remaining} left, {rate_fmt}"
        # Without a terminal there is no bar (disable=None).
        self.bar: Any = progress_bar(
            purpose="training", total=steps, initial=first, unit="step", dynamic_ncols=True, bar_format=form, ascii=" ━"
        )
        self.numbers: Any = None
        if not self.bar.disable:
            self.numbers = progress_bar(
                purpose="training", bar_format=_MARGIN + "{desc}", position=1, leave=False, dynamic_ncols=True
            )
        if first:
            self.say(f"Going on after step {first} of {steps}." if first < steps else f"All {steps} steps are done.")

    def step(self, step: int, numbers: Callable[[], Mapping[str, float]]) -> None:
        """Count a step, and look at the numbers from time to time: looking waits for an accelerator.

        Args:
            step: how many steps are finished.
            numbers: gives means over the steps since the last line of the log.
        """
        now = time.monotonic()
        with contextlib.suppress(OSError, AttributeError):  # training goes on, and saves, when the terminal is gone
            if self.numbers is None:
                if not self.shown and now - self.began > _FIRST:
                    self.line(step, numbers())
                return
            self.bar.update()
            if now - self.looked > _EVERY or not self.shown:
                self._write(numbers(), now)

    def line(self, step: int, line: Mapping[str, float]) -> None:
        """Show a line of the log."""
        with contextlib.suppress(OSError, AttributeError):
            if self.numbers is None:
                self.shown = True
                print(f"step {step}/{self.steps}: {in_words(line)}", file=sys.stderr, flush=True)
            else:
                self._write(line, time.monotonic())

    def _write(self, line: Mapping[str, float], now: float) -> None:
        self.shown, self.looked = True, now
        self.last |= line
        width = shutil.get_terminal_size().columns - len(_MARGIN) - 1
        self.numbers.set_description_str(in_words(self.last, width))

    def say(self, text: str) -> None:
        """Print a sentence above the bar."""
        with contextlib.suppress(OSError, AttributeError):
            self.bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar, without the numbers, which the command repeats in words."""
        with contextlib.suppress(OSError):
            if self.numbers is not None:
                self.numbers.close()
            self.bar.close()
