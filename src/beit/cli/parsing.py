"""What the commands share: they parse arguments into a dataclass, and print."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from beit.core.errors import ConfigError, DataError, require
from beit.core.suggest import did_you_mean, similar
from beit.core.text import harmless

Action = tuple[Callable[[list[str]], None], str]  # what an action calls, and what it does
_asking: ContextVar[bool] = ContextVar("asking", default=False)


class Offered(Exception):
    """What can be typed after a command; it is raised in place of the command's work (see `asked`).

    Attributes:
        kinds: dataclasses whose fields are its options.
        actions: name → action, for a command such as `beit segment`.
    """

    def __init__(self, kinds: tuple[Any, ...] = (), actions: Mapping[str, Action] | None = None) -> None:
        super().__init__()
        self.kinds, self.actions = kinds, dict(actions or {})


def offer(*kinds: Any, actions: Mapping[str, Action] | None = None) -> None:
    """Say what can be typed after a command, where that is asked for; else nothing happens. Every command begins so.

    Raises:
        Offered: it is asked for.
    """
    if _asking.get():
        raise Offered(kinds, actions)


def asked(command: Callable[[list[str]], None]) -> Offered:
    """What can be typed after a command, which does nothing else."""
    token = _asking.set(True)
    try:
        command([])
    except Offered as found:
        return found
    finally:
        _asking.reset(token)
    return Offered()


def parse(kind: Any, name: str, arguments: list[str], devices: int | None = None) -> Any:
    """Parse the arguments of a command into its dataclass.

    Args:
        kind: the dataclass; its docstrings are the text of `--help`.
        name: the command, for messages.
        arguments: what follows the command.
        devices: number of devices that share a batch, for a recipe; the number of processes if not given.

    Raises:
        SystemExit: after `--help`, or after a mistake has been explained.
        ConfigError: `--settings` or `--recipe` cannot be used.
    """
    offer(kind)
    import tyro

    arguments = _with_resume(arguments) if _start_of(kind) == "run" else arguments
    rest, default = _default(kind, name, arguments, devices)
    description = inspect.cleandoc(kind.__doc__ or "") + _STARTS.get(_start_of(kind), "")
    start = {} if default is None else {"default": default}
    return tyro.cli(kind, prog=f"beit {name}", description=description, args=rest, **start)


# `_default` takes these flags before tyro sees the arguments, so they are not among the fields that --help lists.
_STARTS = {
    "run": """
--settings FILE  start from the settings in a file: settings.json of an earlier run, or JSON, YAML or TOML of your own;
                 flags override it
--resume         go on with the run in the folder --output; no other flag is needed
--recipe NAME    start from a recipe (see beit recipes); flags override it""",
    "probe": """
--recipe NAME    start from a recipe (see beit recipes); flags override it""",
}


def flags_of_start(kind: Any) -> dict[str, tuple[str, ...] | None]:
    """The flags of `_STARTS` for a dataclass: name → the words that it takes, None for any value."""
    from beit.train.recipes import RECIPES

    text = _STARTS.get(_start_of(kind), "")
    known = {"--settings": None, "--recipe": tuple(RECIPES)}
    return {flag: words for flag, words in known.items() if flag in text}


def _start_of(kind: Any) -> str:
    """What the settings may start from: a key of `_STARTS`, or "" for nothing."""
    from beit.evaluation.settings import Probe
    from beit.train.settings import RunSettings

    return "run" if issubclass(kind, RunSettings) else "probe" if kind is Probe else ""


def _default(kind: Any, name: str, arguments: list[str], devices: int | None) -> tuple[list[str], Any]:
    """(the other arguments, the settings that they override): those of `--settings FILE` or `--recipe NAME`, else None."""
    arguments, file = _taken(
        arguments, "--settings", "a file: the settings.json of an earlier run, or one of your own in JSON, YAML or TOML"
    )
    arguments, recipe = _taken(arguments, "--recipe", "a name; beit recipes lists them")
    if file is not None and recipe is not None:
        raise ConfigError("--settings and --recipe both say what to start from; give one of them.")
    if file is not None:
        from beit.train.settings import RunSettings, from_file

        if not issubclass(kind, RunSettings):
            raise ConfigError(f"beit {name} does not take --settings; training commands do.")
        return arguments, from_file(kind, file, _texts(kind, arguments))
    if recipe is not None:
        from beit.train.recipes import default_of

        # The recipe is scaled to the batch size and the number of devices before other flags override it.
        _, batch = _taken(arguments, "--batch-size", "a number")
        size = int(batch) if batch is not None and batch.isdecimal() else None
        world = os.environ.get("WORLD_SIZE", "1") if devices is None else str(devices)
        return arguments, default_of(recipe, kind, name, size, int(world) if world.isdecimal() else 1)
    return arguments, _of_the_run(kind, arguments) if _start_of(kind) == "run" else None


def _texts(kind: Any, arguments: list[str]) -> dict[str, str]:
    """What the arguments give of the fields that have no default, as text: a file of settings may leave them out."""
    found = {}
    for item in dataclasses.fields(kind):
        if item.default is dataclasses.MISSING:
            for flag in {f"--{item.name}", f"--{item.name.replace('_', '-')}"}:
                _, text = _taken(arguments, flag, "a value")
                if text is not None:
                    found[item.name] = text
    return found


def _of_the_run(kind: Any, arguments: list[str]) -> Any:
    """On `--resume`: the settings in the output folder, so that no other flag is needed; None where there are none.

    Flags that are given override them, and are compared with the run's when it is opened.

    Raises:
        ConfigError: the folder holds no run, and nothing but `--resume` and `--output` was given.
        CheckpointError: its settings are damaged, or are those of another command.
    """
    from beit.core.files import read_json
    from beit.train.settings import SETTINGS_FILE, from_dict

    rest, resume = _taken(arguments, "--resume", "auto, must or never")
    rest, output = _taken(rest, "--output", "the folder of the run")
    if resume not in ("auto", "must") or output is None:
        return None
    file = Path(output).expanduser() / SETTINGS_FILE
    if not file.is_file():
        if not rest:
            raise ConfigError(
                f"{output} holds no run to go on with: there is no {SETTINGS_FILE} in it.{_runs_beside(Path(output))} To start a "
                "run, give its settings."
            )
        return None
    saved = from_dict(kind, read_json(file))
    if saved.steps is not None and "--epochs" in rest and "--steps" not in rest:
        saved.steps = None  # else they would override the epochs that are asked for now
    return saved


def _runs_beside(output: Path) -> str:
    """Which folders beside `output`, of a similar name, hold a run."""
    from beit.train.settings import SETTINGS_FILE

    runs = [file.parent.name for file in output.expanduser().parent.glob(f"*/{SETTINGS_FILE}")]
    return did_you_mean(str(output.parent / name) for name in similar(output.name, runs))


def _taken(arguments: list[str], flag: str, wanted: str) -> tuple[list[str], str | None]:
    """(the arguments without a flag and its value, the value). Raises ConfigError for a flag without a value."""
    arguments = [part for text in arguments for part in (text.split("=", 1) if text.startswith(flag + "=") else [text])]
    if flag not in arguments:
        return arguments, None
    position = arguments.index(flag)
    if position + 1 == len(arguments):
        raise ConfigError(f"{flag} needs {wanted}.")
    return arguments[:position] + arguments[position + 2 :], arguments[position + 1]


def _with_resume(arguments: list[str]) -> list[str]:
    """Of a run, `--resume` alone means `--resume auto`."""
    filled = []
    for argument, after in zip(arguments, [*arguments, "--"][1:], strict=True):
        filled += [argument, "auto"] if argument == "--resume" and after.startswith("--") else [argument]
    return filled


def run_action(command: str, actions: Mapping[str, Action], arguments: list[str]) -> None:
    """Run one of the actions of a command such as `beit segment`; without one, print which there are.

    Args:
        command: its name.
        actions: name → (function, what it does).
        arguments: what follows the command.

    Raises:
        ConfigError: it has no such action.
    """
    offer(actions=actions)
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, actions))
        print(f"usage: beit {command} {{{','.join(actions)}}} …\n")
        print("\n".join(f"  {name:{width}} {text}" for name, (_, text) in actions.items()))
        return
    action, *rest = arguments
    if action not in actions:
        hint = did_you_mean(similar(action, actions))
        raise ConfigError(f"beit {command} has no action {action!r}.{hint} Choose {', '.join(actions)}.")
    actions[action][0](rest)


def say(text: str) -> None:
    """Print in the first of several data-parallel processes only."""
    if os.environ.get("RANK", "0") == "0":
        show(text)


def say_next(*commands: Sequence[object]) -> None:
    """Print the commands that come after a run, one per line, as they are typed; words in capitals are the user's to choose."""
    lines = [shlex.join(["beit", *map(str, command)]) for command in commands]
    say("\n  ".join(["Next:", *lines]))


def show(text: object) -> None:
    """Print without what a terminal would obey: names of files and classes are a stranger's choice."""
    print(harmless(str(text)))


def show_json(content: Any) -> None:
    """Print JSON, in UTF-8 where that can hold all names and no terminal obeys them; else with escapes alone."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    print(text if harmless(text) == text else json.dumps(content, indent=2))


def say_skipped(reasons: Sequence[str]) -> None:
    """Print on stderr which images could not be read, if any."""
    if reasons:
        print(harmless(f"{len(reasons)} images were skipped:\n  " + "\n  ".join(reasons[:10])), file=sys.stderr)


def at_least_one(name: str, value: int) -> None:
    """Raise ConfigError for a number below 1."""
    if value < 1:
        raise ConfigError(f"{name} is {value}; it must be at least 1.")


def last_line(settings: Any, history: list[dict[str, float]]) -> dict[str, float]:
    """The last line of a run's log; in other processes than the first, which have no log, every value is 0."""
    if os.environ.get("RANK", "0") != "0":
        return defaultdict(float)
    if not history:
        raise DataError(f"{settings.output} was finished already, and its log.jsonl is gone.")
    return history[-1]


def require_framework(framework: str, purpose: str) -> None:
    """Raises MissingExtraError where the framework is not installed: torch or flax, which are names of extras too."""
    require(framework, framework, purpose)


def device_of(framework: str, name: str | None) -> str | None:
    """The device of `--device`, which is checked before the work; if it is None, a GPU for PyTorch where there is one.

    Returns:
        What PyTorch's functions take; None for JAX, whose default device is set, so that models are loaded there.

    Raises:
        ConfigError: there is no such device here.
    """
    if framework == "flax":
        from beit.cli.flax import choose_device

        choose_device(name)
        return None
    from beit.inference.torch.device import chosen_device

    return str(chosen_device(name))
