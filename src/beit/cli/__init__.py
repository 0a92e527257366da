"""`beit COMMAND`: a table of commands.

`beit --help` imports nothing but this table; each command imports what it needs. A new command is one line of the table and a
module in this folder with its settings (a dataclass) and its function, COMMAND_command.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Callable

from beit.core.download_limits import MAX_BYTES, size_in_bytes
from beit.core.errors import BeitError, Interrupted
from beit.core.suggest import did_you_mean, similar
from beit.core.text import harmless

INTERRUPTED = 130


# command → (its module in beit.cli, what it does)
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": (
        "demo",
        "BEiT from beginning to end on embedded images, with a report (9 to 11 minutes on two cores of an Intel Xeon)",
    ),
    "tokenizer": ("train", "train a visual tokenizer on your own images, or measure one"),
    "tokenize": ("train", "compute the tokens of crops once, for many epochs of pre-training"),
    "pretrain": ("train", "pre-train BEiT on images without labels"),
    "finetune": ("train", "fine-tune a classifier on labelled images"),
    "segment": ("segment", "semantic segmentation: train, evaluate, predict, demo"),
    "evaluate": ("classify", "measure top-1 and top-5 of a classifier"),
    "predict": ("predict", "classify images"),
    "embed": ("classify", "write features of images to .npy or .parquet"),
    "similar": ("neighbours", "find similar images and near-duplicates among those features, with a gallery"),
    "probe": ("probe", "measure frozen features: a linear probe on every layer"),
    "knn": ("probe", "measure frozen features by nearest neighbours, in seconds"),
    "models": ("checkpoints", "list the published checkpoints: names, sizes, accuracies, addresses"),
    "inspect": ("checkpoints", "show what a checkpoint is: settings, size, classes, what was guessed, what is missing"),
    "convert": ("checkpoints", "write a checkpoint for transformers, timm, Flax, the authors' code or OpenMMLab"),
    "resize": ("checkpoints", "write a model for images of another size"),
    "recipes": ("recipes", "list the published runs and small ones: settings and command lines"),
    "plan": ("plan", "forecast time, memory and disk space of a run"),
    "completion": ("completion", "print a script with which bash, zsh or fish completes commands and options"),
}


def function_of(name: str) -> Callable[[list[str]], None]:
    """The function of a command; its module is imported."""
    return getattr(importlib.import_module(f"beit.cli.{COMMANDS[name][0]}"), f"{name}_command")


def usage() -> str:
    """The text of `beit --help`."""
    lines = [
        "usage: beit COMMAND …",
        "",
        "The home of BEiT: from a folder of images to a model that classifies or segments.",
        "",
    ]
    lines += [f"  {name:10} {text}" for name, (_, text) in COMMANDS.items()]
    lines += [
        "",
        "beit COMMAND --help shows the settings of a command. --debug shows tracebacks, --version the version. --max-bytes SIZE",
        "bounds the size of a file that is downloaded, such as 40GB (without it: 20GB for weights, none for shards).",
    ]
    return "\n".join(lines)


def _with_limit(arguments: list[str]) -> list[str]:
    """The arguments without `--max-bytes SIZE`, which goes into the environment: workers are to keep to it too."""
    for number, argument in enumerate(arguments):
        flag, equals, size = argument.partition("=")
        if flag == "--max-bytes":
            after = number + 1 if equals else number + 2
            size = size if equals else " ".join(arguments[number + 1 : after])
            os.environ[MAX_BYTES] = str(size_in_bytes(size, flag))
            return _with_limit(arguments[:number] + arguments[after:])
    return arguments


def _refusal(error: OSError | MemoryError) -> str:
    """What the system refused, in words."""
    if isinstance(error, MemoryError):
        return "Memory has run out. Try a smaller --batch-size, fewer --workers or smaller images."
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{where}{error.strerror or error}. Check the path, its rights and the space on the disk."


class _Formatter(logging.Formatter):
    """Messages as they are, without what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))


def _set_up_output(level: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("huggingface_hub").propagate = False  # it prints its messages itself
    # A name that is no UTF-8 is printed with escapes; stderr does so by itself.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: what follows `beit`; those of the process if not given.

    Returns:
        The exit status: 0 done; 1 an error, which was explained on stderr; 2 wrong usage; 75 stopped by SIGTERM or SIGUSR1 after
        saving, so the job should be queued again; 128 + n stopped by another signal n (after saving, for SIGHUP of a training).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    name = f"beit {arguments[0]}" if arguments and arguments[0] in COMMANDS else "beit"
    try:
        status = _run(arguments, debug)
        if sys.stdout is not None:  # it is None where the process was started without
            sys.stdout.flush()  # here a full disk is told
        return status
    except Interrupted as stop:
        with contextlib.suppress(OSError):  # after SIGHUP there is no terminal to print on
            print(harmless(str(stop)), file=sys.stderr)
        return stop.code
    except BeitError as error:
        if debug:
            raise
        print(harmless(f"{name}: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed the pipe
        return 128 + 13  # as if SIGPIPE had ended the process: the output is incomplete
    except (OSError, MemoryError) as error:  # the system refuses: a mistake in a path or a limit, and none of ours
        if debug:
            raise
        print(f"{name}: {_refusal(error)}", file=sys.stderr)
        return 1
    except SystemExit as stop:  # of tyro: 0 after --help, 2 after a mistake
        return stop.code if isinstance(stop.code, int) else 2
    except Exception as error:
        if debug:
            raise
        print(
            f"{name}: unexpected {type(error).__name__}: {harmless(str(error))}\nRun it again with --debug for a traceback, and please "
            "report it.",
            file=sys.stderr,
        )
        return 1
    finally:
        _drop_unwritten()


def _run(arguments: list[str], debug: bool) -> int:
    """A command's exit status, where it raises nothing."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        from beit import __version__

        print(f"beit {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        hint = did_you_mean(similar(name, COMMANDS)) or f"\n\n{usage()}"
        print(harmless(f"beit: there is no command {name!r}.{hint}"), file=sys.stderr)
        return 2
    _set_up_output(logging.INFO if debug else logging.WARNING)
    function_of(name)(_with_limit(rest))
    return 0


def _drop_unwritten() -> None:
    """Where stdout cannot be written, Python must not try again when it ends: it would print a traceback."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
