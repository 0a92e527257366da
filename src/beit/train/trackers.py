"""Where the curves of a run go besides log.jsonl: TensorBoard, which needs no framework; wandb and MLflow by Accelerate.

A tracker that fails in the middle is left out from then on, which is said once: log.jsonl has all numbers.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from beit.core.errors import ConfigError, MissingExtraError, require
from beit.core.files import write_json
from beit.train.settings import RunSettings
from beit.train.tensorboard import Board

TRACKER_FILE = "tracker.json"  # which run of a service this is, so that a resumed one goes on in it
PROJECT = "beit"

logger = logging.getLogger("beit")


class Tracker(Protocol):
    """Takes numbers and pictures of a run, in the main process."""

    def add(self, line: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""
        ...

    def add_pictures(self, pictures: Mapping[str, np.ndarray], step: int) -> None:
        """Add pictures: name → uint8 `(H, W, 3)`."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


def check_tracker(settings: RunSettings) -> None:
    """Before the work: whether the library of the tracker is there. Imports it only where it was chosen.

    Raises:
        MissingExtraError: it is not; the message names the package.
    """
    if settings.tracker not in ("wandb", "mlflow"):
        return
    require("accelerate", "train", f"--tracker {settings.tracker}")
    try:
        importlib.import_module(settings.tracker)
    except ImportError as error:
        raise MissingExtraError(
            f"--tracker {settings.tracker} needs the package {settings.tracker}, which is not installed or cannot be imported "
            f"({error}). Install it with: pip install {settings.tracker}. Or choose --tracker tensorboard or none."
        ) from error


def open_tracker(settings: RunSettings, first: int) -> Tracker | None:
    """The tracker that the settings name, started; None for none.

    Args:
        settings: of the run.
        first: finished steps.

    Raises:
        ConfigError: a service refuses to start, because nobody has logged in, for example.
        OSError: the file of TensorBoard cannot be written.
    """
    if settings.tracker == "none":
        return None
    if settings.tracker == "tensorboard":
        board = Board.of(settings.output / "tensorboard", first)
        if board is None:
            logger.warning(
                "TensorBoard is not installed, so there are no curves beside log.jsonl: pip install tensorboard"
            )
        return board
    return Service(settings.tracker, settings)


class Service:
    """A tracker of Accelerate.

    Args:
        name: wandb or mlflow.
        settings: of the run; they are stored with it.

    Raises:
        ConfigError: it refuses to start.
    """

    def __init__(self, name: Literal["wandb", "mlflow"], settings: RunSettings) -> None:
        self.name = name
        self.failed = False
        known = _known(settings.output, name)
        try:
            from accelerate import tracking
            from accelerate.state import PartialState

            PartialState()  # what Accelerate's trackers ask for the process; a run on JAX has made none
            title = settings.output.resolve().name
            if name == "wandb":
                going_on = {} if known is None else {"id": known, "resume": "allow"}
                folder = os.fspath(settings.output)
                project = os.environ.get("WANDB_PROJECT", PROJECT)
                self.tracker: Any = tracking.WandBTracker(project, name=title, dir=folder, **going_on)
            else:
                self.tracker = tracking.MLflowTracker(PROJECT, logging_dir=None, run_id=known, run_name=title)
            start = getattr(self.tracker, "start", None)  # earlier versions of Accelerate start when they are made
            if start is not None:
                start()
            self.tracker.store_init_configuration(
                {key: value for key, value in settings.to_dict().items() if value is not None}
            )
            number = self._number()
        except Exception as error:  # of types that only the service knows
            raise ConfigError(
                f"{name} could not be started: {type(error).__name__}: {error}. Log in to it or set its address, or choose --tracker "
                "tensorboard."
            ) from error
        if number is not None:
            write_json(settings.output / TRACKER_FILE, {"tracker": name, "run": number})

    def _number(self) -> str | None:
        """What the service calls this run."""
        run = self.tracker.tracker
        found = (
            getattr(run, "id", None) if self.name == "wandb" else getattr(getattr(run, "info", None), "run_id", None)
        )
        return found if isinstance(found, str) else None

    def add(self, line: Mapping[str, float], step: int) -> None:
        """As `Tracker.add`."""
        self._try(lambda: self.tracker.log(dict(line), step=step))

    def add_pictures(self, pictures: Mapping[str, np.ndarray], step: int) -> None:
        """As `Tracker.add_pictures`. Accelerate has no pictures for MLflow, which takes them as artifacts."""
        if self.name == "wandb":
            shown = {name: [picture] for name, picture in pictures.items()}
            self._try(lambda: self.tracker.log_images(shown, step=step))
            return

        def log() -> None:
            mlflow = importlib.import_module("mlflow")
            for name, picture in pictures.items():
                mlflow.log_image(picture, artifact_file=f"{name.replace(', ', '-')}/{step:08}.png")

        self._try(log)

    def close(self) -> None:
        """As `Tracker.close`."""
        self._try(self.tracker.finish)

    def _try(self, action: Callable[[], object]) -> None:
        """What a service raises, of types that only it knows, does not end the run."""
        if self.failed:
            return
        try:
            action()
        except Exception as error:
            self.failed = True
            logger.warning(
                "%s takes nothing more: %s: %s. log.jsonl has all numbers.", self.name, type(error).__name__, error
            )


def _known(output: Path, name: str) -> str | None:
    """What the service called the run in this folder before; None for a new one."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((output / TRACKER_FILE).read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("tracker") == name and isinstance(found.get("run"), str):
            return found["run"]
    return None
