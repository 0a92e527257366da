"""PEFT: adapters by the reference's names and by ours have gradients and effects; they travel to transformers and back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn

from peers.ecosystem.common import IS_5, Row, arguments, attempt, check, difference, make, one_line, pair, pixels, run

TARGETS: dict[str, Any] = {
    "query and value": ["query", "value"],
    "query, key, value and dense": ["query", "key", "value", "dense"],
    "qkv": ["qkv"],
    "dense": ["dense"],
    "all-linear": "all-linear",
}


def adapted(model: nn.Module, targets: Any, **changes: Any) -> Any:
    """The model with random adapters: each changes the numbers from the start."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, **changes)
    return peft.get_peft_model(copy.deepcopy(model), config).eval()


def by_adapter(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if "lora_B" in name}


def without_gradient(model: Any) -> str:
    """Names of adapters that training would not reach."""
    model = copy.deepcopy(model).train()  # training moves the statistics of batch norms
    arguments_ = arguments(model.get_base_model())
    output = model(**arguments_)
    loss = output.loss if "loss" in output.keys() else output.last_hidden_state.square().mean()  # noqa: SIM118
    loss.backward()
    found = [
        name
        for name, parameter in model.named_parameters()
        if "lora_" in name and (parameter.grad is None or not parameter.grad.abs().max() > 0)
    ]
    return ", ".join(found)


def without_effect(model: Any) -> str:
    """Names of adapters whose numbers do not show in the outputs."""
    given = arguments(model.get_base_model())
    given.pop("labels", None)
    before = run(model, **given)
    found = []
    for name, parameter in by_adapter(model).items():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.zero_()
        if not difference(run(model, **given), before) > 1e-7:
            found.append(name)
        with torch.no_grad():
            parameter.copy_(kept)
    return ", ".join(found)


@check
def lora(folder: Path) -> Iterator[Row]:
    for label in ("classifier", "encoder, own tables", "segmentation", "masked patches"):
        for what, targets in TARGETS.items():
            if label != "classifier" and what != "all-linear":
                continue
            name = f"{label}, {what}"
            if targets == "all-linear" and not IS_5:
                yield Row(name, "PEFT 0.10 takes this word for transformers' own models only", None)
                continue
            try:
                model = adapted(make(label), targets)
            except Exception as error:
                yield Row(name, one_line(error), False)
                continue
            count = len(by_adapter(model))
            yield attempt(
                f"{name}: each of {count} adapters has a gradient", lambda model=model: without_gradient(model)
            )
            yield attempt(f"{name}: each has an effect", lambda model=model: without_effect(model))
            given = arguments(model.get_base_model())
            given.pop("labels", None)
            wanted = run(model, **given)
            bare = run(make(label), **given)
            yield attempt(
                f"{name}: merged, the same outputs",
                lambda model=model, given=given, wanted=wanted: difference(
                    run(copy.deepcopy(model).merge_and_unload(), **given), wanted
                ),
                1e-5,
            )
            yield attempt(
                f"{name}: switched off, the outputs without",
                lambda model=model, given=given, bare=bare: switched_off(model, given, bare),
                1e-6,
            )

            def saved(
                model: Any = model, name: str = name, label: str = label, given: Any = given, wanted: Any = wanted
            ) -> float:
                model.save_pretrained(folder / name)
                again = peft.PeftModel.from_pretrained(make(label), str(folder / name)).eval()
                return difference(run(again, **given), wanted)

            yield attempt(f"{name}: saved and loaded, the same outputs", saved, 1e-6)


def switched_off(model: Any, given: dict[str, Any], bare: Any) -> float:
    with model.disable_adapter():
        return difference(run(model, **given), bare)


@check
def other_kinds(folder: Path) -> Iterator[Row]:
    yield attempt(
        "DoRA: merged, the same outputs",
        lambda: merged_like(adapted(make("classifier"), ["query", "value"], use_dora=True)),
        1e-5,
    )

    def trained_head() -> str:
        model = peft.get_peft_model(
            make("classifier"), peft.LoraConfig(target_modules=["query", "value"], modules_to_save=["classifier"])
        )
        model(**arguments(model.get_base_model())).loss.backward()
        trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        return "" if any("classifier" in name for name in trained) else "the classifier has no gradient"

    yield attempt("modules_to_save=['classifier'] trains the classifier", trained_head)

    def only_last() -> str:
        model = peft.get_peft_model(
            make("classifier"),
            peft.LoraConfig(target_modules=["query"], layers_to_transform=[1], layers_pattern="layer"),
        )
        found = [name for name, _ in model.named_parameters() if "lora_" in name]
        return "" if found and all(".layer.1." in name for name in found) else ", ".join(found) or "no adapter"

    yield attempt("layers_to_transform=[1], layers_pattern='layer'", only_last)

    def ia3() -> str:
        model = peft.get_peft_model(
            make("classifier"),
            peft.IA3Config(target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"]),
        )
        model(**arguments(model.get_base_model())).loss.backward()
        return ", ".join(n for n, p in model.named_parameters() if "ia3" in n and p.grad is None)

    yield attempt("IA3: each vector has a gradient", ia3)


def merged_like(model: Any) -> float:
    wanted = run(model, pixel_values=pixels())
    return difference(run(model.merge_and_unload(), pixel_values=pixels()), wanted)


def few_steps(model: Any) -> Any:
    """The model after a few steps of training on random labels."""
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for step in range(4):
        given = {"pixel_values": pixels(4, seed=step), "labels": torch.arange(4) % 3}
        model(**given).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


@check
def gradient_checkpointing(folder: Path) -> Iterator[Row]:
    """With adapters the body has no gradient of its own: PEFT and Trainer ask for one of the embeddings' output."""
    for label in ("classifier", "encoder, own tables"):
        for reentrant in (False, True):

            def differs(label: str = label, reentrant: bool = reentrant) -> float:
                gradients = []
                for checkpointing in (False, True):
                    model = make(label)
                    if checkpointing:
                        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
                    model = adapted(model, ["query", "value"]).train()
                    output = model(**arguments(model.get_base_model()))
                    output[0].square().mean().backward()
                    gradients.append([p.grad for n, p in model.named_parameters() if "lora_" in n])
                return difference(*gradients)

            yield attempt(f"{label}, use_reentrant={reentrant}: the gradients without", differs, 1e-5)


@check
def travel(folder: Path) -> Iterator[Row]:
    """Trained on transformers' model and loaded on ours, and the other way round."""
    if IS_5:
        # The layers are called q_proj, … in memory there: an adapter for them must be refused, not lost.
        ours, theirs = pair("classifier", folder / "start")
        few_steps(adapted(theirs, ["q_proj", "v_proj"])).save_pretrained(folder / "5.x")

        def refused() -> str:
            try:
                peft.PeftModel.from_pretrained(copy.deepcopy(ours), str(folder / "5.x"))
            except ValueError as error:
                return "" if "q_proj" in str(error) else str(error)
            return "it was taken"

        yield attempt("an adapter for 5.x's own names of layers is refused by name", refused)
        return
    for what, targets in {
        "query and value": ["query", "value"],
        "query, key, value and dense": ["query", "key", "value", "dense"],
        "dense and the classifier": ["dense", "classifier"],
    }.items():
        ours, theirs = pair("classifier", folder / f"start {what}")
        sides = {"theirs": theirs, "ours": ours}
        for source, target in (("theirs", "ours"), ("ours", "theirs")):

            def moved(
                source: str = source, target: str = target, sides: Any = sides, targets: Any = targets, what: str = what
            ) -> float:
                model = few_steps(adapted(sides[source], targets))
                wanted = run(model, pixel_values=pixels())
                assert difference(wanted, run(sides[source], pixel_values=pixels())) > 1e-2
                where = folder / f"{source} {what}"
                model.save_pretrained(where)
                again = peft.PeftModel.from_pretrained(copy.deepcopy(sides[target]), str(where)).eval()
                return difference(run(again, pixel_values=pixels()), wanted)

            yield attempt(f"{what}: trained on {source}, loaded on {target}", moved, 1e-5)


@check
def mixed_in(folder: Path) -> Iterator[Row]:
    """`model.add_adapter(config)` and its relatives, which transformers' models have themselves."""
    config = peft.LoraConfig(target_modules=["query", "value"], init_lora_weights=False)
    model = make("classifier")
    bare = run(model, pixel_values=pixels())
    yield attempt("add_adapter", lambda: "" if model.add_adapter(config) is None else "returns something")
    changed = run(model, pixel_values=pixels())
    yield attempt("the outputs are others", lambda: difference(changed, bare) > 1e-3)
    yield attempt(
        "only adapters are trained",
        lambda: ", ".join(n for n, p in model.named_parameters() if p.requires_grad != ("lora_" in n)),
    )

    def switched() -> float:
        model.disable_adapters()
        without = difference(run(model, pixel_values=pixels()), bare)
        model.enable_adapters()
        return max(without, difference(run(model, pixel_values=pixels()), changed))

    yield attempt("disable_adapters, enable_adapters", switched, 1e-7)
    trained_ = few_steps(adapted(make("classifier"), ["query", "value"]))
    trained_.save_pretrained(folder / "adapter")

    def loaded() -> float:
        other = make("classifier")
        other.load_adapter(str(folder / "adapter"))
        return difference(run(other, pixel_values=pixels()), run(trained_, pixel_values=pixels()))

    yield attempt("load_adapter of a folder of PEFT", loaded, 1e-6)
