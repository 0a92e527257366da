"""`beit demo`."""

from __future__ import annotations

from beit.commands.shared import parse
from beit.errors import require


def demo_command(arguments: list[str]) -> None:
    from beit.cli_settings import DemoSettings

    settings = parse(DemoSettings, "demo", arguments)
    require("torch", "train", "beit demo")
    if settings.framework == "flax":
        require("optax", "flax", "beit demo --framework flax")
    from beit.demo import run_demo

    report = run_demo(settings)
    print(f"Open {report}")
