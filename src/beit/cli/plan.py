"""`beit plan`: forecast time, memory and disk space of a run."""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from beit.cli.parsing import at_least_one, offer, parse
from beit.core.errors import ConfigError, require
from beit.core.suggest import did_you_mean, similar


@dataclass(kw_only=True)
class Plan:
    """Forecast time, memory and disk space of a run: beit plan pretrain …, with the arguments of beit pretrain."""

    steps_measured: int = 5
    """Number of steps to measure, after some steps in which caches and queues fill."""
    measure: bool = True
    """Run these steps in a temporary folder. --no-measure only counts parameters and operations."""
    images_per_second: float | None = None
    """Assume this speed, for example of another machine, instead of the measured one."""
    devices: int = 1
    """Number of devices that will share a batch. The share of one device is measured; the exchange of gradients is not counted."""
    json: bool = False
    """Print JSON instead of text."""


def _offering(kind: Any) -> Callable[[list[str]], None]:
    """What offers the options of a run beside those of the plan."""
    return lambda arguments: offer(kind, Plan)


def plan_command(arguments: list[str]) -> None:
    import tyro

    from beit.train.settings import RUNS

    offer(actions={run.split()[0]: (_offering(kind), f"of beit {run}") for run, kind in RUNS.items()})
    if not arguments or arguments[0] in ("-h", "--help"):
        prog = f"beit plan {{{','.join(RUNS)}}} [arguments of that run]"
        tyro.cli(Plan, prog=prog, description=textwrap.dedent(Plan.__doc__ or ""), args=["--help"])
    name = " ".join(arguments[:2]) if arguments[0] in ("segment", "tokenizer") else arguments[0]
    rest = arguments[len(name.split()) :]
    if name not in RUNS:
        raise ConfigError(
            f"beit plan knows no run {name!r}.{did_you_mean(similar(name, RUNS))} Choose {', '.join(RUNS)}."
        )
    if "-h" in rest or "--help" in rest:
        parse(RUNS[name], f"plan {name}", rest)
    chosen, rest = tyro.cli(Plan, prog=f"beit plan {name}", args=rest, return_unknown_args=True)
    at_least_one("steps_measured", chosen.steps_measured)
    at_least_one("devices", chosen.devices)
    speed = chosen.images_per_second
    if speed is not None and not 0 < speed < math.inf:
        raise ConfigError(f"images_per_second is {speed}; it must be above 0.")
    settings = parse(RUNS[name], name, rest, chosen.devices)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("beit plan measures one device. Start it without torchrun, and add --devices 8, for example.")
    require("torch", "train", "beit plan")
    from beit.train.plan import check, describe, forecast

    found = forecast(settings, chosen.steps_measured, chosen.devices, chosen.measure, speed)
    print(json.dumps(found.to_dict(), indent=2) if chosen.json else describe(found, name))
    check(found)
