"""`beit recipes`: list the recipes, and show the settings and the command line of each."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from dataclasses import dataclass
from typing import Any

import tyro

from beit.cli.parsing import at_least_one, parse
from beit.core.errors import ConfigError


@dataclass(kw_only=True)
class Recipes:
    """List the recipes, or show one: the published runs of the paper, and small runs for one GPU or none."""

    name: tyro.conf.Positional[str | None] = None
    """Recipe to show; all of them in a table if not given."""
    print: bool = False
    """Print every setting, and mark those that differ from the defaults of the command."""
    json: bool = False
    """Print the settings as JSON, for beit pretrain --settings FILE."""
    command: bool = False
    """Print the command line that the recipe stands for, with every flag."""
    part: str | None = None
    """Of a recipe with several runs, show only this one, such as pretrain. --json then needs it."""
    images: str | None = None
    """Folder or address of the images."""
    output: str | None = None
    """Folder for the result."""
    tokenizer: str | None = None
    """Folder or Hub id of the tokenizer."""
    model: str | None = None
    """Folder or Hub id of the model to start from."""
    batch_size: int | None = None
    """Images per step, over all devices. The learning rate is scaled with it."""
    devices: int = 1
    """Number of devices that share a batch. With few devices, gradients are accumulated over several forward passes."""


def recipes_command(arguments: list[str]) -> None:
    from beit.train import recipes

    chosen = parse(Recipes, "recipes", arguments)
    if chosen.name is None:
        if chosen.print or chosen.json or chosen.command:
            raise ConfigError("Name a recipe to print: beit recipes NAME --print. beit recipes lists them.")
        print(_table())
        return
    at_least_one("devices", chosen.devices)
    recipe = recipes.find(chosen.name)
    given = {name: getattr(chosen, name) for name in ("images", "output", "tokenizer", "model")}
    found = _part(recipes.runs(recipe, chosen.batch_size, chosen.devices, **given), chosen.part, chosen.name)
    if chosen.json:
        if len(found) > 1:
            raise ConfigError(
                f"{chosen.name} is an experiment of several runs; choose one: --part {' or --part '.join(map(repr, found))}."
            )
        print(json.dumps(_values(next(iter(found.values()))), indent=2))
    elif chosen.command:
        for command, settings in found.items():
            print(recipes.command_line(command, settings, chosen.devices))
    elif chosen.print:
        print("\n\n".join(_settings_table(command, settings) for command, settings in found.items()))
    else:
        print(_text(chosen.name, recipe))


def _part(found: dict[str, Any], part: str | None, name: str) -> dict[str, Any]:
    if part is None:
        return found
    if part not in found:
        raise ConfigError(f"{name} has no part {part!r}. Choose {' or '.join(map(repr, found))}.")
    return {part: found[part]}


def _table() -> str:
    """For each recipe its name, what it trains, its hardware and the score to expect."""
    from beit.train.recipes import RECIPES, facts

    lines = []
    for name, recipe in RECIPES.items():
        found = facts(recipe)
        lines.append(f"{name:22} {found['About'][0]}")
        lines += [f"{'':22}   {entry.lower()}: {text}" for entry in ("Hardware", "Published") for text in found[entry]]
    lines += [
        "",
        "beit recipes NAME shows more. beit pretrain --recipe NAME --images … --output … runs a recipe; other flags override it.",
    ]
    return "\n".join(lines)


def _text(name: str, recipe: Any) -> str:
    from beit.train.recipes import facts

    lines = [name]
    for entry, texts in facts(recipe).items():
        for text in texts:
            wrapped = (
                [text] if entry == "Command" else textwrap.wrap(text, 100)
            )  # a command must be copied in one piece
            lines += [f"  {entry.lower() if not number else '':10} {line}" for number, line in enumerate(wrapped)]
    return "\n".join(
        [*lines, "", "--print shows every setting, --command the whole command line, --json the settings as JSON."]
    )


def _values(settings: Any) -> dict[str, Any]:
    if hasattr(settings, "to_dict"):
        return settings.to_dict()
    return json.loads(json.dumps(dataclasses.asdict(settings), default=str))


def _settings_table(command: str, settings: Any) -> str:
    """Every setting, with a star where it differs from the default of the command."""
    lines = [f"beit {command}"]
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        default = value == item.default
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        lines.append(f"{' ' if default else '*'} {item.name:22} {shown}")
    return "\n".join([*lines, "* differs from the default of the command"])
