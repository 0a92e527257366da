"""The exceptions that `beit` raises on purpose.

    BeitError
    ├── ConfigError (ValueError)      a setting is impossible, or two settings contradict each other
    ├── InputError (ValueError)       an image, array, mask or label is not what the model or processor takes
    │   ├── ShapeError (RuntimeError)     its shape does not fit the model or the other inputs
    │   └── ClassNumberError (IndexError) a label is the number of no class
    ├── DataError (ValueError)        a folder or file of data cannot be used
    ├── CheckpointError (OSError, ValueError)  a model folder or weight file is missing, damaged, unsafe or cannot be written
    │   └── MismatchError (RuntimeError)  its tensors are not those of the model
    ├── TrainingError (RuntimeError)  a run cannot continue (NaN loss, no space left, nothing to resume)
    ├── MissingExtraError (ImportError)  an optional dependency is not installed
    └── Interrupted                   Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP ended a run, after saving

The types of Python beside each are those that transformers raises for the same mistake, so that `except OSError` around
`from_pretrained` and `except RuntimeError` around tensors of another size catch ours too. Where code of our own handles an
OSError of the system, a CheckpointError must pass first.

Every message says what was found, what was wanted and what to do. The command line prints the message of a `BeitError`
without a traceback; `--debug` shows the traceback too.
"""

from __future__ import annotations

import importlib
import signal
from types import ModuleType


class BeitError(Exception):
    """Base of all errors that `beit` raises on purpose."""


class ConfigError(BeitError, ValueError):
    """A setting is impossible, or two settings contradict each other."""


class InputError(BeitError, ValueError):
    """An image, array, mask or label is not what the model or processor takes."""


class ShapeError(InputError, RuntimeError):
    """The shape of an image, mask or label does not fit the model or the other inputs."""


class ClassNumberError(InputError, IndexError):
    """A label is the number of no class."""


class DataError(BeitError, ValueError):
    """A folder or file of data cannot be used."""


class CheckpointError(BeitError, OSError, ValueError):
    """A model folder or weight file is missing, damaged, unsafe, of another architecture, or cannot be written."""


class MismatchError(CheckpointError, RuntimeError):
    """The tensors of a checkpoint are not those of the model: other shapes, some are missing, or another architecture."""


class TrainingError(BeitError, RuntimeError):
    """A training run cannot continue."""


class MissingExtraError(BeitError, ImportError):
    """An optional dependency is not installed."""


PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: not finished, try again


class Interrupted(BeitError):
    """A run was told to stop, and has saved its state.

    Attributes:
        signum: the number of the signal.
        code: the exit status of the command line: 130 after Ctrl-C and 129 after SIGHUP, a closed terminal; 75 after SIGTERM
            and SIGUSR1, which a scheduler sends before it takes the machine away, so that a script knows to queue the run
            again.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum
        by_hand = signum in (signal.SIGINT, getattr(signal, "SIGHUP", None))
        self.code = 128 + signum if by_hand else PREEMPTED


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import `module`, or raise `MissingExtraError` with the exact command that installs it.

    Args:
        module: dotted name of the module to import.
        extra: the extra of this distribution that installs it (`torch`, `train`, `flax`, …).
        purpose: what needs it; the message continues "is needed for" with it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise MissingExtraError(
            f"{missing} is needed for {purpose} and is not installed. Install it with: pip install 'beit[{extra}]'"
        ) from error
