"""The table of signatures in `docs/transformers.md`: each public method and attribute of the reference's classes beside ours.

    PYTHONPATH= <environment with transformers 4.37.2, jax 0.4.23, flax 0.8.0, peft>/bin/python tests/peers/signatures.py \
        --ours PYTHON [--write docs/transformers.md]

PYTHON, of our environment (the two need different versions of JAX), describes our classes. Prints Markdown; `--write` puts it
into the page, between its two marks. Exits with 1 when a difference has no reason in `REASONS`, or a reason no difference.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

MARKS = ("<!-- signatures -->", "<!-- /signatures -->")
CONFIG = "BeitConfig"
PROCESSOR = "BeitImageProcessor"
MODELS = (
    "BeitModel",
    "BeitForMaskedImageModeling",
    "BeitForImageClassification",
    "BeitForSemanticSegmentation",
    "BeitBackbone",
)
FLAX = ("FlaxBeitModel", "FlaxBeitForMaskedImageModeling", "FlaxBeitForImageClassification")
# Our output → the reference's module and name.
OUTPUTS = {
    "BeitModelOutputWithPooling": ("transformers.models.beit.modeling_beit", "BeitModelOutputWithPooling"),
    "MaskedLMOutput": ("transformers.modeling_outputs", "MaskedLMOutput"),
    "ImageClassifierOutput": ("transformers.modeling_outputs", "ImageClassifierOutput"),
    "SemanticSegmenterOutput": ("transformers.modeling_outputs", "SemanticSegmenterOutput"),
    "BackboneOutput": ("transformers.modeling_outputs", "BackboneOutput"),
    "FlaxBeitModelOutputWithPooling": ("transformers.models.beit.modeling_flax_beit", "FlaxBeitModelOutputWithPooling"),
}

GENERATION = "Text generation: no BEiT generates text."
LANGUAGE = "For language models: images have no vocabulary and no padding."
# Class or group, member → why it differs or is absent. `*` is any class.
REASONS: dict[tuple[str, str], str] = {}


# --- describing ------------------------------------------------------------------------------------------------------


def describe(kind: type, instance: Any, base: type | tuple[type, ...]) -> dict[str, Any]:
    """Name → what it is, of all public members that are not of `base`.

    A method is `{"parameters": [[name, kind, default], …]}`, anything else `{"value": text}` ("" where it says nothing).
    """
    names = {name for name in dir(kind) if not name.startswith("_")}
    names |= {name for name in getattr(instance, "__dict__", {}) if not name.startswith("_")}
    found: dict[str, Any] = {"__init__": parameters(kind.__init__)}
    if any("__call__" in vars(one) for one in kind.__mro__) and "__call__" not in dir(base):
        found["__call__"] = parameters(kind.__call__)
    for name in sorted(names):
        if any(name in dir(one) for one in (base if isinstance(base, tuple) else (base,))) and name != "forward":
            continue
        member = inspect.getattr_static(kind, name, None)
        value = getattr(kind, name, None)
        if isinstance(member, property) or member is None:
            found[name] = {"value": text_of(getattr(instance, name, None))}
        elif callable(value) and not isinstance(value, type):
            found[name] = parameters(value)
        else:
            found[name] = {"value": text_of(value)}
    return found


def text_of(value: Any) -> str:
    plain = value is None or isinstance(value, bool | int | float | str)
    if plain or (isinstance(value, list | tuple | dict) and len(value) < 5 and "object at" not in repr(value)):
        return repr(list(value) if isinstance(value, tuple) else value)
    return ""


def parameters(function: Any) -> dict[str, Any]:
    """Parameters without self; a default is its text, or None for "must be given"."""
    try:
        given = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return {"parameters": None}  # written in C
    if given and given[0].name in ("self", "cls") and not inspect.ismethod(function):
        given = given[1:]
    return {"parameters": [[p.name, p.kind.name, default_of(p)] for p in given]}


def default_of(parameter: inspect.Parameter) -> str | None:
    if parameter.default is inspect.Parameter.empty:
        return None
    value = parameter.default
    if getattr(value, "__name__", "") == "float32" or str(value) == "float32":
        return "float32"
    value = getattr(value, "value", value)  # enumerations
    return repr(list(value) if isinstance(value, tuple) else value)


def describe_all(of: str) -> dict[str, Any]:
    """Everything of `transformers` or of `beit`."""
    module = __import__(of)
    import torch

    theirs = of == "transformers"
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "image_size": 8}
    config = module.BeitConfig(**small, patch_size=4)
    dense = module.BeitConfig(
        **{**small, "num_hidden_layers": 4}, patch_size=4, out_indices=[1, 2, 3, 4], auxiliary_channels=8
    )
    found = {
        CONFIG: describe(module.BeitConfig, module.BeitConfig(), object),
        PROCESSOR: describe(module.BeitImageProcessor, module.BeitImageProcessor(), object),
    }
    for name in MODELS:
        kind = getattr(module, name)
        instance = kind(dense if "Segmentation" in name or "Backbone" in name else config)
        found[name] = describe(kind, instance, torch.nn.Module)
        for child in dict(instance.named_children()):
            found[name].pop(child, None)
    for name in FLAX:
        found[name] = describe(getattr(module, name), getattr(module, name)(config), object)
    for name, (path, other) in OUTPUTS.items():
        kind = getattr(__import__(path, fromlist=[other]), other) if theirs else getattr(module, name)
        found[name] = describe(kind, kind(), object)
    if theirs:
        from transformers.generation import FlaxGenerationMixin, GenerationMixin

        for mixin in (GenerationMixin, FlaxGenerationMixin):
            for name in dir(mixin):
                if not name.startswith("_") and name != "framework":
                    for kind in (*MODELS, *FLAX):
                        found[kind].pop(name, None)
    return found


# --- comparing -------------------------------------------------------------------------------------------------------

Parameter = list[Any]
NAMED = ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY")


def compare(theirs: dict[str, Any], ours: dict[str, Any] | None) -> tuple[str, str]:
    """What a member of ours is beside the reference's, and the details."""
    if ours is None:
        return "absent", ""
    if "parameters" not in theirs:
        if theirs["value"] and "value" in ours and ours["value"] != theirs["value"]:
            return "differs", f"{theirs['value']} there, {ours['value'] or 'another kind'} here"
        return ("same", "") if "value" in ours else ("differs", "an attribute there, a method here")
    if "parameters" not in ours:
        return "differs", "a method there, an attribute here"
    if theirs["parameters"] is None or ours["parameters"] is None:
        return "same", ""
    return compare_parameters(theirs["parameters"], ours["parameters"])


def compare_parameters(theirs: list[Parameter], ours: list[Parameter]) -> tuple[str, str]:
    if theirs == ours:
        return "same", ""
    wanted = [p for p in theirs if p[1] in NAMED]
    have = {p[0]: p for p in ours if p[1] in NAMED}
    takes_all = any(p[1] == "VAR_KEYWORD" for p in ours)
    missing = [p[0] for p in wanted if p[0] not in have]
    details = []
    if missing and not takes_all:
        details.append(f"lacks {code(missing)}")
    others = [f"{p[0]}={have[p[0]][2]}" for p in wanted if p[0] in have and p[2] != have[p[0]][2] and have[p[0]][2]]
    others += [p[0] for p in wanted if p[0] in have and have[p[0]][2] is None and p[2] is not None]
    if others:
        details.append(f"other defaults: {code(others)}")
    order = [p[0] for p in wanted if p[1] == "POSITIONAL_OR_KEYWORD"]
    own = [p[0] for p in ours if p[1] == "POSITIONAL_OR_KEYWORD"]
    if own[: len(order)] != order and not any(p[1] == "VAR_POSITIONAL" for p in ours):
        place = next(i for i, name in enumerate(order) if own[i : i + 1] != [name])
        here = f"`{own[place]}`" if place < len(own) else "by keyword only"
        details.append(f"argument {place + 1} is `{order[place]}` there, {here} here")
    if any(p[1] == "VAR_KEYWORD" for p in theirs) and not takes_all:
        details.append("no further keywords")
    if details:
        return "differs", "; ".join(details)
    if missing:
        return "by keyword", f"{code(missing)}"
    more = [name for name in have if name not in {p[0] for p in wanted}]
    return "more", code(more) if more else "further arguments"


def code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


WORDS = {
    "more": "ours has more",
    "by keyword": "the same, as keywords",
    "differs": "differs",
    "absent": "absent",
}


class Page:
    """Tables of Markdown, and which reasons were used."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.used: set[tuple[str, str]] = set()
        self.unexplained: list[str] = []

    def reason(self, kind: str, member: str, result: str) -> str:
        for key in ((kind, member), ("*", member)):
            if key in REASONS:
                self.used.add(key)
                return REASONS[key]
        if result in ("differs", "absent"):
            self.unexplained.append(f"{kind}.{member}")
        return ""

    def table(self, title: str, kind: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
        results = {member: compare(what, ours.get(member)) for member, what in theirs.items()}
        same = [member for member, (result, _) in results.items() if result == "same"]
        self.lines += [f"### {title}", ""]
        if same:
            self.lines += [f"The same: {code(same)}.", ""]
        joined: dict[tuple[str, str], list[str]] = {}
        for member, (result, details) in results.items():
            if result != "same":
                found = f"{WORDS[result]}{': ' * bool(details)}{details}"
                joined.setdefault((found, self.reason(kind, member, result)), []).append(member)
        rows = [f"| {code(members)} | {found} | {reason} |" for (found, reason), members in joined.items()]
        if rows:
            self.lines += ["| | ours | why |", "|---|---|---|", *rows, ""]

    def text(self) -> str:
        return "\n".join(self.lines).strip() + "\n"


def common(descriptions: dict[str, Any], ours: dict[str, Any], kinds: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Members that all classes have and that compare alike, of the reference and of ours."""
    first = kinds[0]
    theirs_, ours_ = {}, {}
    for member, what in descriptions[first].items():
        if member in ("__init__", "forward", "__call__"):
            continue
        if not all(member in descriptions[kind] for kind in kinds):
            continue
        results = {compare(descriptions[kind][member], ours[kind].get(member)) for kind in kinds}
        if len(results) == 1:
            theirs_[member] = what
            if member in ours[first]:
                ours_[member] = ours[first][member]
    return theirs_, ours_


def build(theirs: dict[str, Any], ours: dict[str, Any]) -> Page:
    page = Page()
    page.table(CONFIG, CONFIG, theirs[CONFIG], ours[CONFIG])
    page.table(PROCESSOR, PROCESSOR, theirs[PROCESSOR], ours[PROCESSOR])
    for title, kinds in (("All PyTorch models", MODELS), ("All Flax models", FLAX)):
        shared, shared_ours = common(theirs, ours, kinds)
        page.table(title, title, shared, shared_ours)
        for kind in kinds:
            own = {member: what for member, what in theirs[kind].items() if member not in shared}
            page.table(kind, kind, own, ours[kind])
    shared, shared_ours = common(theirs, ours, tuple(OUTPUTS)[:-1])
    page.table("All outputs", "outputs", shared, shared_ours)
    for kind in OUTPUTS:
        own = {member: what for member, what in theirs[kind].items() if member not in shared}
        page.table(kind, kind, own, ours[kind])
    return page


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", metavar="PYTHON", help="interpreter of our environment")
    parser.add_argument("--describe", action="store_true", help="only describe our classes (in our environment)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page")
    arguments = parser.parse_args()
    if arguments.describe:
        print(json.dumps(describe_all("beit")))
        return 0
    if arguments.ours is None:
        parser.error("give --ours PYTHON")
    import transformers

    transformers.logging.set_verbosity_error()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    answer = subprocess.run(
        [arguments.ours, __file__, "--describe"], check=True, env=environment, stdout=subprocess.PIPE, text=True
    )
    page = build(describe_all("transformers"), json.loads(answer.stdout.splitlines()[-1]))
    print(page.text())
    if arguments.write:
        text = arguments.write.read_text(encoding="utf-8")
        pattern = re.compile(f"{re.escape(MARKS[0])}.*{re.escape(MARKS[1])}", re.DOTALL)
        assert pattern.search(text), f"{arguments.write} lacks the marks {MARKS}"
        new = f"{MARKS[0]}\n\n{page.text()}\n{MARKS[1]}"
        arguments.write.write_text(pattern.sub(lambda _: new, text), encoding="utf-8")
    for what in page.unexplained:
        print(f"no reason for {what}", file=sys.stderr)
    unused = sorted(set(REASONS) - page.used)
    for kind, member in unused:
        print(f"no difference for the reason of {kind}.{member}", file=sys.stderr)
    return int(bool(page.unexplained or unused))


if __name__ == "__main__":
    sys.exit(main())
