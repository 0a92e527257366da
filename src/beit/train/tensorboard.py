"""Curves and pictures for TensorBoard, written by TensorBoard's own writer of event files, which needs no training framework."""

from __future__ import annotations

import contextlib
import io
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class Board:
    """An event file.

    Args:
        folder: where it is written. Other event files in it count as the same run.
        first: finished steps. What the run logged after them, before it was killed, is hidden.

    Raises:
        ImportError: TensorBoard is not installed.
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, first: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.Event, self.Summary = Event, Summary
        # On a full disk the writer's thread would print a traceback; the log's own error says what to do.
        self.hook = threading.excepthook
        threading.excepthook = _without_disk_errors(self.hook)
        self.writer = EventFileWriter(str(folder))
        begins = SessionLog(status=SessionLog.START)  # TensorBoard hides earlier points from this step on
        self.writer.add_event(Event(step=first + 1, wall_time=time.time(), session_log=begins))

    @classmethod
    def of(cls, folder: Path, first: int) -> Board | None:
        """A board, or None where TensorBoard is not installed."""
        try:
            return cls(folder, first)
        except ImportError:
            return None

    def add(self, line: Mapping[str, float], step: int) -> None:
        """Add a point to each curve. Raises OSError when an earlier one could not be written."""
        values = [self.Summary.Value(tag=name, simple_value=value) for name, value in line.items()]
        self.writer.add_event(self.Event(step=step, wall_time=time.time(), summary=self.Summary(value=values)))

    def add_pictures(self, pictures: Mapping[str, np.ndarray], step: int) -> None:
        """Add pictures: name → uint8 `(H, W, 3)`. Raises OSError when an earlier event could not be written."""
        values = []
        for name, picture in pictures.items():
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "PNG")
            height, width = picture.shape[:2]
            image = self.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.getvalue())
            values.append(self.Summary.Value(tag=name, image=image))
        self.writer.add_event(self.Event(step=step, wall_time=time.time(), summary=self.Summary(value=values)))

    def close(self) -> None:
        """Write what is left. A full disk is not reported again."""
        with contextlib.suppress(OSError):
            self.writer.close()
        threading.excepthook = self.hook


def _without_disk_errors(hook: Callable[[threading.ExceptHookArgs], Any]) -> Callable[[threading.ExceptHookArgs], Any]:
    def quiet(arguments: threading.ExceptHookArgs) -> None:
        if not issubclass(arguments.exc_type, OSError):
            hook(arguments)

    return quiet
