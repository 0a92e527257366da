"""transformers' Trainer with our models: the same losses as with its own, and folders that both open."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import beit
from peers.ecosystem.common import (
    IS_5,
    Row,
    arguments,
    attempt,
    check,
    difference,
    make,
    pair,
    pixels,
    run,
)

EVALUATION = (
    "eval_strategy" if "eval_strategy" in inspect.signature(TrainingArguments).parameters else "evaluation_strategy"
)
PROCESSOR = "processing_class" if IS_5 else "tokenizer"
EPOCHS, IMAGES, BATCH = 2, 24, 4


def images(seed: int = 0) -> list[dict[str, Any]]:
    """Random images of three classes, which differ by the channel that is bright."""
    drawn = 0.3 * pixels(IMAGES, seed=seed)
    for i, image in enumerate(drawn):
        image[i % 3] += 1
    return [{"pixel_values": image, "labels": i % 3} for i, image in enumerate(drawn)]


def accuracy(predictions: Any) -> dict[str, float]:
    return {"accuracy": float((predictions.predictions.argmax(-1) == predictions.label_ids).mean())}


def settings(folder: Path, **changes: Any) -> TrainingArguments:
    # A run with bf16 would leave it to the next one.
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    AcceleratorState._reset_state(reset_partial_state=True)
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": 8,
        "learning_rate": 2e-3,
        EVALUATION: "epoch",
        "save_strategy": "epoch",
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
    }
    return TrainingArguments(**{**values, **changes})


def trainer(model: nn.Module, folder: Path, *, processor: Any = None, data: Any = None, **changes: Any) -> Trainer:
    return Trainer(
        model=model,
        args=settings(folder, **changes),
        train_dataset=data or images(),
        eval_dataset=data or images(1),
        data_collator=transformers.default_data_collator,
        compute_metrics=None if data else accuracy,
        **({PROCESSOR: processor} if processor else {}),
    )


def losses(run_of: Trainer) -> list[float]:
    return [line["loss"] for line in run_of.state.log_history if "loss" in line]


def apart(one: list[float], other: list[float]) -> float:
    assert one
    assert len(one) == len(other), (len(one), len(other))
    return float(np.abs(np.subtract(one, other)).max())


def weights_apart(one: nn.Module, other: nn.Module) -> float:
    theirs = other.state_dict()
    return max(float((value.float() - theirs[name].float()).abs().max()) for name, value in one.state_dict().items())


def trained(model: nn.Module, folder: Path, **changes: Any) -> Trainer:
    made = trainer(model, folder, **changes)
    made.train()
    return made


@check
def train_evaluate_predict(folder: Path) -> Iterator[Row]:
    model, theirs = pair("classifier", folder / "start")
    same = losses(trained(copy.deepcopy(model), folder / "ours again"))
    made = trainer(model, folder / "ours")
    before = made.evaluate()["eval_loss"]
    made.train()
    yield Row(
        "the loss of evaluation falls",
        f"{before:.3f} → {made.evaluate()['eval_loss']:.3f}",
        made.evaluate()["eval_loss"] < 0.9 * before,
    )
    # The kernels' sums round differently; a training amplifies that.
    reference = trained(theirs, folder / "theirs")
    yield attempt("losses of each step as with transformers' model", lambda: apart(same, losses(reference)), 1e-3)
    data = images(1)
    predicted = made.predict(data)
    direct = run(model.eval(), pixel_values=torch.stack([item["pixel_values"] for item in data])).logits
    yield attempt(
        "predict gives the model's logits", lambda: difference(torch.tensor(predicted.predictions), direct), 1e-5
    )
    yield attempt(
        "evaluate's accuracy is that of predict",
        lambda: abs(predicted.metrics["test_accuracy"] - made.evaluate()["eval_accuracy"]),
        0.0,
    )


@check
def variants(folder: Path) -> Iterator[Row]:
    plain = trained(make("classifier"), folder / "plain")
    for name, changes in {
        "gradient checkpointing": {"gradient_checkpointing": True},
        "gradient checkpointing, not reentrant": {
            "gradient_checkpointing": True,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
        },
        "gradient checkpointing, reentrant": {
            "gradient_checkpointing": True,
            "gradient_checkpointing_kwargs": {"use_reentrant": True},
        },
        "two batches per step": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": BATCH // 2},
    }.items():
        # `logging_steps` counts steps of the optimiser, so all have as many losses.
        yield attempt(
            f"{name}: the losses of the plain run",
            lambda name=name, changes=changes: apart(
                losses(trained(make("classifier"), folder / name, **changes)), losses(plain)
            ),
            1e-4,
        )
    yield attempt(
        "bf16: near the losses of the plain run",
        lambda: apart(losses(trained(make("classifier"), folder / "bf16", bf16=True)), losses(plain)),
        0.1,
    )
    ours, theirs = pair("classifier", folder / "start")
    yield attempt(
        "label smoothing: transformers' losses",
        lambda: apart(
            losses(trained(ours, folder / "smoothed", label_smoothing_factor=0.1)),
            losses(trained(theirs, folder / "theirs smoothed", label_smoothing_factor=0.1)),
        ),
        1e-3,
    )


@check
def folders(folder: Path) -> Iterator[Row]:
    """With the callback, folders are whole; without it, beit opens them by their tensors."""
    for callback in (True, False):
        model = make("classifier")
        made = trainer(
            model, folder / f"run {callback}", processor=beit.BeitImageProcessor(size=32, do_center_crop=False)
        )
        if callback:
            made.add_callback(beit.SaveConfigCallback())
        made.train()
        wanted = run(model.eval(), pixel_values=pixels()).logits
        made.save_model()
        [*_, last] = checkpoints(folder / f"run {callback}")
        for label, where in {"save_model": folder / f"run {callback}", "checkpoint": last}.items():
            name = f"{label}, {'with' if callback else 'without'} SaveConfigCallback"
            files = {"model.safetensors", "preprocessor_config.json", *["config.json"][: int(callback)]}
            yield attempt(
                f"{name}: the files of a model folder",
                lambda where=where, files=files: ", ".join(files - {path.name for path in where.iterdir()}),
            )
            for module in (beit, transformers) if callback else (beit,):
                yield attempt(
                    f"{name}: opened by {module.__name__}",
                    lambda where=where, module=module, wanted=wanted: difference(
                        run(
                            module.BeitForImageClassification.from_pretrained(where).eval(), pixel_values=pixels()
                        ).logits,
                        wanted,
                    ),
                    1e-5,
                )
                if module is beit:
                    yield attempt(f"{name}: its processor", lambda where=where: processor_differs(where))


def processor_differs(where: Path) -> str:
    found = beit.BeitImageProcessor.from_pretrained(where).size
    return "" if found == {"height": 32, "width": 32} else str(found)


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


@check
def resume(folder: Path) -> Iterator[Row]:
    straight = trained(make("classifier"), folder / "straight")
    [first, _] = checkpoints(folder / "straight")

    def resumed() -> float:
        if not IS_5:  # its file of random states has numpy's, which today's torch.load takes only when told so
            os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        again = trainer(make("classifier"), folder / "again")
        again.train(resume_from_checkpoint=str(first))
        return weights_apart(again.model, straight.model)

    yield attempt("a resumed run has the weights of one that was not interrupted", resumed, 1e-6)


@check
def best_model(folder: Path) -> Iterator[Row]:
    # The rate is far too high after the first epoch, so the first checkpoint is the best.
    model = make("classifier")
    changes = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": False}
    made = trained(
        model, folder / "run", lr_scheduler_type="constant", learning_rate=2e-3, num_train_epochs=3, **changes
    )
    history = [line["eval_loss"] for line in made.state.log_history if "eval_loss" in line]
    yield attempt(
        "at the end the model has the best evaluation", lambda: abs(made.evaluate()["eval_loss"] - min(history)), 1e-6
    )
    from safetensors.torch import load_file

    where = Path(made.state.best_model_checkpoint)
    stored = load_file(where / "model.safetensors")
    yield attempt(
        "and the numbers of the best checkpoint's file",
        lambda: max(
            float((value - stored[name]).abs().max()) if name in stored else float("nan")
            for name, value in model.state_dict().items()
        ),
        0.0,
    )


@check
def other_heads(folder: Path) -> Iterator[Row]:
    def collate(label: str) -> Callable[[Any], dict[str, Tensor]]:
        return lambda items: arguments(make(label), len(items))

    for label in ("segmentation", "masked patches"):
        if label == "masked patches" and IS_5:
            yield Row(f"{label}: two steps", "5.x counts labels per image; this head's are per masked patch", None)
            continue

        def two_steps(label: str = label) -> float:
            ways = {}
            for name, one in zip(("ours", "theirs"), pair(label, folder / f"{label} start"), strict=True):
                made = Trainer(
                    model=one,
                    args=settings(
                        folder / f"{label} {name}", max_steps=2, remove_unused_columns=False, **{EVALUATION: "no"}
                    ),
                    train_dataset=[{"pixel_values": image} for image in pixels(8)],
                    data_collator=collate(label),
                )
                made.train()
                ways[name] = losses(made)
            return apart(ways["ours"], ways["theirs"])

        yield attempt(f"{label}: two steps, transformers' losses", two_steps, 1e-3)


@check
def lora(folder: Path) -> Iterator[Row]:
    import peft

    adapted = peft.get_peft_model(
        make("classifier"), peft.LoraConfig(target_modules=["query", "value"], modules_to_save=["classifier"])
    )
    made = trained(adapted, folder / "run", learning_rate=2e-2)
    found = losses(made)
    yield Row("Trainer trains an adapter", f"{found[0]:.3f} → {found[-1]:.3f}", found[-1] < found[0])
    made.save_model(str(folder / "saved"))
    again = peft.PeftModel.from_pretrained(make("classifier"), str(folder / "saved")).eval()
    yield attempt(
        "its folder gives the same model",
        lambda: difference(run(again, pixel_values=pixels()), run(adapted.eval(), pixel_values=pixels())),
        1e-6,
    )
