"""The log of a run: log.jsonl, alarms.jsonl and TensorBoard. What is shown meanwhile is in `screen.py`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from beit.core.errors import CheckpointError
from beit.core.text import duration
from beit.train.alarms import Watch
from beit.train.engine import Metrics
from beit.train.run import LOG_FILE, Run
from beit.train.screen import Screen
from beit.train.trackers import open_tracker

ALARMS_FILE = "alarms.jsonl"
_TIMED = 6  # steps, from which the time of a run is foretold


class Log:
    """Averages metrics over the steps of a log line, and writes the lines.

    Args:
        run: whose folder the log is in; lines are added to its history.
        steps: when the run ends.
        steps_per_epoch: None for a stream of unknown length.
        more_metrics: further metrics of a line; called once per line.
        watch: looks at each line for trouble.
    """

    def __init__(
        self,
        run: Run[Any],
        steps: int,
        steps_per_epoch: int | None,
        more_metrics: Callable[[], dict[str, float]],
        watch: Watch,
    ) -> None:
        self.run, self.steps, self.steps_per_epoch, self.watch = run, steps, steps_per_epoch, watch
        self.more_metrics = more_metrics
        self.sums: Metrics = {}
        self.count = self.images = 0
        self.steps_done = run.first
        self.waited = 0.0
        self.taken, self.second = 0, 0.0  # steps of this process, and when the second one began
        self.since = time.perf_counter()
        if not run.main:
            return
        output = run.settings.output
        self.file = open(output / LOG_FILE, "a", encoding="utf-8")  # noqa: SIM115  (closed in close)
        try:
            self.tracker = open_tracker(run.settings, run.first)
        except BaseException:
            self.file.close()
            raise
        self.screen = Screen(output, run.first, steps)

    def say(self, text: str) -> None:
        """Show a text above the bar, in the main process. Nothing for an empty one."""
        if self.run.main and text:
            self.screen.say(text)

    def add(self, metrics: Metrics, images: int, waited: float) -> None:
        """Add a step.

        Args:
            metrics: means over this process's share of the batch.
            images: how many images that share has.
            waited: seconds that the step waited for them.
        """
        for name, value in metrics.items():  # added up on the device, without waiting for the step to be computed
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1
        self.images += images * self.run.world
        self.waited += waited
        self._forecast()
        self.steps_done += 1
        if self.run.main:
            self.screen.step(self.steps_done, self._so_far)

    def _forecast(self) -> None:
        """After a few steps: how long the rest will take. The first one, which makes the start, does not count."""
        self.taken += 1
        now = time.perf_counter()
        if self.taken == 1:
            self.second = now
        left = self.steps - self.run.first - self.taken
        if self.taken == _TIMED and left > _TIMED:
            seconds = (now - self.second) / (_TIMED - 1) * left
            self.say(f"About {duration(float(f'{seconds:.2g}'))} to go, without measurements and checkpoints.")

    def write(self, step: int, rate: float, more: dict[str, float]) -> None:
        """Write a line: means over the steps since the last line, and `more`.

        Args:
            step: how many steps are finished.
            rate: learning rate of the last one.
            more: further entries, such as those of a probe.

        Raises:
            CheckpointError: it cannot be written.
        """
        now = time.perf_counter()
        means = self.run.processes.mean({name: value / self.count for name, value in self.sums.items()})
        line: dict[str, float] = {"step": step}
        if self.steps_per_epoch is not None:
            line["epoch"] = round(step / self.steps_per_epoch, 3)
        line.update({name: round(float(value), 6) for name, value in means.items()})
        line.update({name: round(value, 6) for name, value in self.more_metrics().items()})
        seconds = now - self.since
        line.update(learning_rate=rate, images_per_second=float(f"{self.images / seconds:.4g}"))
        line.update({"data_wait": round(self.waited / seconds, 3), **more})
        self.sums, self.count, self.images, self.waited, self.since = {}, 0, 0, 0.0, now
        self.run.history.append(line)  # in all processes: each of them returns it
        if not self.run.main:
            return
        alarms = self.watch.look(self.run.history)
        try:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()  # who watches the file sees the line now, and a kill loses none
            for alarm in alarms:
                with open(self.run.settings.output / ALARMS_FILE, "a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": step, "alarm": alarm}) + "\n")
            if self.tracker is not None:
                self.tracker.add(line, step)
        except OSError as error:
            raise CheckpointError(
                f"The log in {self.run.settings.output} could not be written: {error.strerror or error}. Checkpoints are "
                "untouched; free some space and go on with --resume."
            ) from error
        for alarm in alarms:
            self.screen.say(f"Alarm at step {step}: {alarm}")
        self.screen.line(step, line)

    def pictures(self, step: int, make: Callable[[], dict[str, np.ndarray]]) -> None:
        """Add pictures, in the main process, where there is a tracker that takes them."""
        if self.run.main and self.tracker is not None and (made := make()):
            with contextlib.suppress(OSError):  # a full disk, which `write` reports
                self.tracker.add_pictures(made, step)

    def _so_far(self) -> dict[str, float]:
        """Means of this process over the steps since the last line. With an accelerator, this waits for the last step."""
        seconds = time.perf_counter() - self.since
        means = {name: float(value) / self.count for name, value in self.sums.items()}
        return {**means, "images_per_second": self.images / seconds}

    def close(self) -> None:
        """Close the files and the bar."""
        if not self.run.main:
            return
        self.screen.close()
        with contextlib.suppress(OSError):  # a full disk, which `write` has reported already
            self.file.close()
        if self.tracker is not None:
            self.tracker.close()
