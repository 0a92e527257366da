"""`beit demo`: the demonstration of classification."""

from __future__ import annotations

from beit.cli.parsing import parse
from beit.core.errors import require


def demo_command(arguments: list[str]) -> None:
    from beit.demo.settings import DemoSettings

    settings = parse(DemoSettings, "demo", arguments)
    require("torch", "train", "beit demo")
    if settings.framework == "flax":
        require("optax", "flax", "beit demo --framework flax")
    from beit.demo.classification import run_demo

    report = run_demo(settings)
    print(f"Open {report}")
