"""Is it learning? Looks at the lines of a log, and says in a sentence what goes wrong; each kind of trouble once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

Line = dict[str, float]
_silent: ContextVar[bool] = ContextVar("silent", default=False)
_PATIENCE = 5  # lines of the log in a row that must show the trouble: a single one may be chance


@dataclass
class Watch:
    """Alarms of a run.

    Attributes:
        steps: when the run ends.
        warmup: steps in which the learning rate rises; learning is judged after them.
        raised: alarm → the step at which it was raised.
    """

    steps: int
    warmup: int
    raised: dict[str, int] = field(default_factory=dict)

    def look(self, history: list[Line]) -> list[str]:
        """The sentences of new alarms, after the last line of `history`."""
        if _silent.get():
            return []
        found = []
        for name, check in CHECKS.items():
            if name not in self.raised and (sentence := check(self, history)):
                self.raised[name] = int(history[-1]["step"])
                found.append(sentence)
        return found

    def learned(self, history: list[Line]) -> list[Line]:
        """The last lines, if there are enough and all are past the warm-up; else none."""
        lines = history[-_PATIENCE:]
        long_enough = len(lines) == _PATIENCE and lines[0]["step"] > max(self.warmup, 0.1 * self.steps)
        return lines if long_enough else []


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No alarms within this `with`: the few steps that `beit plan` measures, at a tiny rate, are not there to learn."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def _baseline(watch: Watch, history: list[Line]) -> str | None:
    lines = [line for line in watch.learned(history) if "commonest_token" in line]
    if not lines or any(line["masked_accuracy"] > 1.1 * line["commonest_token"] for line in lines):
        return None
    line = lines[-1]
    return (
        f"{line['masked_accuracy']:.1%} of the masked tokens are guessed, no more than the commonest token alone gives "
        f"({line['commonest_token']:.1%}): nothing is learned yet. Try a higher learning rate or a longer warm-up, and check "
        "the tokenizer (beit tokenizer evaluate)."
    )


def _tokens_collapsed(watch: Watch, history: list[Line]) -> str | None:
    lines = [line for line in history[-_PATIENCE:] if "token_entropy" in line]
    if len(lines) < _PATIENCE or any(line["token_entropy"] > 1.0 for line in lines):
        return None
    return (
        f"The tokenizer gives few different tokens (entropy {lines[-1]['token_entropy']:.2f} nats, {lines[-1]['codes_used']:.1%} of "
        "the codes), so there is little to predict. Train it longer, with a higher --usage-weight, or on these images."
    )


def _features_collapsed(watch: Watch, history: list[Line]) -> str | None:
    lines = [line for line in watch.learned(history) if "prediction_entropy" in line]
    if not lines or any(line["prediction_entropy"] > 0.1 * line["token_entropy"] for line in lines):
        return None
    return (
        f"The model's guesses have collapsed to few tokens (entropy {lines[-1]['prediction_entropy']:.2f} nats, that of the tokens "
        f"{lines[-1]['token_entropy']:.2f}). Lower the learning rate or lengthen the warm-up."
    )


def _codes_unused(watch: Watch, history: list[Line]) -> str | None:
    lines = [line for line in history[-_PATIENCE:] if "perplexity" in line]
    late = lines and lines[0]["step"] > watch.steps / 4
    if not late or len(lines) < _PATIENCE or any(line["codes_used"] > 0.1 for line in lines):
        return None
    return (
        f"Only {lines[-1]['codes_used']:.1%} of the codebook is in use: it has collapsed. Raise --usage-weight, or choose fewer "
        "codes (--vocab-size)."
    )


def _rising(watch: Watch, history: list[Line]) -> str | None:
    lines = watch.learned(history)
    if not lines:
        return None
    best = min(line["loss"] for line in history)
    now = min(line["loss"] for line in lines)
    if not math.isfinite(now) or now < best + 0.5 * abs(best) + 0.05:
        return None
    return f"The loss was {best:.3g} and is {now:.3g} now: the run diverges. Lower the learning rate, or lengthen the warm-up."


def _starved(watch: Watch, history: list[Line]) -> str | None:
    lines = history[-_PATIENCE:]
    if len(lines) < _PATIENCE or any(line.get("data_wait", 0) < 0.5 for line in lines):
        return None
    return (
        f"{lines[-1]['data_wait']:.0%} of the time the model waits for images. Give more --workers, store the images on a faster "
        "disk or in a smaller size, or read tokens from a cache (beit tokenize)."
    )


def _still(watch: Watch, history: list[Line]) -> str | None:
    lines = watch.learned(history)
    if not lines or any(line["gradient_norm"] > 1e-8 for line in lines):
        return None
    return "The gradient is zero, so nothing changes any more. Something in the model or its settings blocks it."


CHECKS: dict[str, Callable[[Watch, list[Line]], str | None]] = {
    "baseline": _baseline,
    "tokens_collapsed": _tokens_collapsed,
    "features_collapsed": _features_collapsed,
    "codes_unused": _codes_unused,
    "rising": _rising,
    "starved": _starved,
    "still": _still,
}
