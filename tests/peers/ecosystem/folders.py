"""State dicts go both ways by name, and folders that either wrote are opened by the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

import beit
from peers import check_transformers
from peers.ecosystem.common import IS_5, MODELS, Row, attempt, check, difference, make, pair, pixels, run


def given(model: Any) -> Any:
    return run(model, pixel_values=pixels())


@check
def state_dicts(folder: Path) -> Iterator[Row]:
    for label in MODELS:
        ours, theirs = pair(label, folder / label)
        for strict in (True, False):

            def theirs_to_ours(ours: Any = ours, theirs: Any = theirs, strict: bool = strict) -> float:
                torch.manual_seed(7)
                fresh = type(ours)(ours.config).eval()  # the same config, other numbers
                try:
                    fresh.load_state_dict(theirs.state_dict(), strict=strict)
                except RuntimeError:
                    if IS_5:
                        return 0.0
                    raise
                return difference(given(fresh), given(theirs))

            # 5.x has other names in memory, which may be refused, but never loaded in part.
            yield attempt(f"{label}: theirs into ours, strict={strict}{', or refused' * IS_5}", theirs_to_ours, 1e-5)

        if IS_5:
            yield Row(f"{label}: ours into theirs, strict", "5.x has other names in memory", None)
        else:

            def ours_to_theirs(ours: Any = ours, theirs: Any = theirs) -> float:
                wanted = given(ours)
                with torch.no_grad():
                    for parameter in theirs.parameters():
                        parameter.zero_()
                theirs.load_state_dict(ours.state_dict(), strict=True)
                return difference(given(theirs), wanted)

            yield attempt(f"{label}: ours into theirs, strict", ours_to_theirs, 1e-5)


@check
def wrapped(folder: Path) -> Iterator[Row]:
    """Files of `torch.save(model.state_dict())`, with the prefixes that wrappers add."""
    model = make("classifier")
    state = model.state_dict()
    for prefix in ("", "module.", "_orig_mod.", "model.", "ema.module."):
        torch.save({prefix + name: value for name, value in state.items()}, folder / "file.pth")
        # The file states neither the heads nor the image's size: the config does.
        yield attempt(
            f"prefix {prefix!r}, from_pretrained with the config",
            lambda: difference(
                given(type(model).from_pretrained(str(folder / "file.pth"), config=model.config)), given(model)
            ),
            1e-6,
        )
        yield attempt(
            f"prefix {prefix!r}, load_state_dict",
            lambda prefix=prefix: difference(given(filled(model, prefix)), given(model)),
            1e-6,
        )
    average = torch.optim.swa_utils.AveragedModel(model)
    torch.save(average.state_dict(), folder / "average.pth")
    yield attempt(
        "AveragedModel's state dict",
        lambda: difference(
            given(type(model).from_pretrained(str(folder / "average.pth"), config=model.config)), given(model)
        ),
        1e-6,
    )


def filled(model: Any, prefix: str) -> Any:
    other = type(model)(model.config).eval()
    other.load_state_dict({prefix + name: value for name, value in model.state_dict().items()})
    return other


@check
def refused(folder: Path) -> Iterator[Row]:
    """What can only be a mistake is not taken in silence."""

    def foreign(strict: bool) -> str:
        model = make("classifier")
        try:
            model.load_state_dict({f"blocks.{i}.mlp.w": torch.zeros(3) for i in range(9)}, strict=strict)
        except Exception as error:
            return "" if isinstance(error, RuntimeError) else f"{type(error).__name__} is no RuntimeError"
        return "taken"

    yield attempt("a state dict of which nothing matches, strict", lambda: foreign(True))
    yield attempt("a state dict of which nothing matches, strict=False", lambda: foreign(False))

    def head_only() -> str:
        model = make("classifier")
        found = model.load_state_dict({"classifier.bias": torch.zeros(3)}, strict=False)
        return "" if found.missing_keys and not found.unexpected_keys else str(found)

    yield attempt("a state dict with the classifier alone, strict=False: taken, the rest reported", head_only)


@check
def both_ways(folder: Path) -> Iterator[Row]:
    found = check_transformers.check(folder)
    worst = max(found, key=lambda row: row[-1])
    yield attempt(
        f"{len(found)} folders opened by the other, worst {worst[1]} ({worst[0]}, {worst[2]})",
        lambda: worst[-1],
        check_transformers.TOLERANCE,
    )


@check
def numbers_kept(folder: Path) -> Iterator[Row]:
    """bfloat16 stays bfloat16, and transformers is told so."""
    model = make("classifier").to(torch.bfloat16)
    model.save_pretrained(folder / "half")

    def by(module: Any) -> str:
        again = module.BeitForImageClassification.from_pretrained(folder / "half", torch_dtype="auto")
        same = all(
            torch.equal(value, model.state_dict()[name])
            for name, value in again.state_dict().items()
            if name in model.state_dict()
        )
        return (
            ""
            if again.dtype is torch.bfloat16 and same
            else f"{again.dtype}, {'the same' if same else 'other'} numbers"
        )

    yield attempt("bfloat16, saved and opened by beit with torch_dtype='auto'", lambda: by(beit))
    yield attempt("bfloat16, saved and opened by transformers with torch_dtype='auto'", lambda: by(transformers))
