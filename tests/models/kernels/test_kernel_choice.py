"""Which kernels are chosen: by the vendor, by the environment variable, by measuring; and when no choice may be made."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from beit.core.errors import ConfigError
from beit.models.torch.kernels import attention, choice, linear, winograd

TRIALS = {"linear": linear._trial, "winograd": winograd._trial, "attention": attention._trial}


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_decided", {})
    monkeypatch.delenv(choice.VARIABLE, raising=False)


def no_trial() -> Mapping[str, Callable[[], object]]:
    raise AssertionError("measured although nobody asked for it")


def decide(monkeypatch: pytest.MonkeyPatch, value: str, maker: str = "", capability: str = "AVX512") -> dict[str, str]:
    monkeypatch.setattr(choice, "_decided", {})
    monkeypatch.setattr(choice, "vendor", lambda: maker)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setenv(choice.VARIABLE, value)
    return {operation: choice.chosen(operation, no_trial) for operation in choice.WAYS}


def test_vendors(monkeypatch: pytest.MonkeyPatch) -> None:
    intel = {"linear": "plain", "winograd": "on", "attention": "fused"}
    for auto in ("auto", "", " auto "):
        assert decide(monkeypatch, auto, "AuthenticAMD") == choice.FAST
        assert decide(monkeypatch, auto, "GenuineIntel") == intel
        for maker in ("", "CentaurHauls"):
            assert decide(monkeypatch, auto, maker) == choice.PLAIN
    for maker in ("AuthenticAMD", "GenuineIntel"):
        assert decide(monkeypatch, "auto", maker, "AVX2") == choice.PLAIN
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert choice.known("AuthenticAMD") == choice.PLAIN


def test_the_variable_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decide(monkeypatch, "plain", "AuthenticAMD") == choice.PLAIN
    assert decide(monkeypatch, "fast", "GenuineIntel") == choice.FAST
    assert decide(monkeypatch, "linear=conv", "GenuineIntel") == {
        "linear": "conv",
        "winograd": "on",
        "attention": "fused",
    }
    found = decide(monkeypatch, " winograd=off , attention=heads", "AuthenticAMD")
    assert found == {"linear": "conv", "winograd": "off", "attention": "heads"}
    assert choice.describe() == "linear=conv,winograd=off,attention=heads"
    assert decide(monkeypatch, choice.describe()) == found  # what is said can be given back


@pytest.mark.parametrize(
    "value", ["fastest", "linear=on", "winograd", "linear=conv,", "layers=conv", "=", "plain,fast"]
)
def test_values_that_do_not_exist(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    with pytest.raises(ConfigError, match=r"linear=plain\|conv\|measure,winograd=off\|on\|measure") as caught:
        decide(monkeypatch, value)
    assert repr(value) in str(caught.value)


def test_a_decision_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    decide(monkeypatch, "plain")
    monkeypatch.setenv(choice.VARIABLE, "fast")
    assert choice.chosen("linear", no_trial) == "plain"


def measured(monkeypatch: pytest.MonkeyPatch, seconds: Mapping[str, list[float]]) -> str:
    """The way that is chosen when each way takes so many seconds, call after call, by a clock that we move."""
    monkeypatch.setattr(choice, "_decided", {})
    monkeypatch.setenv(choice.VARIABLE, "linear=measure")
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    calls = {name: iter([0.0, *values]) for name, values in seconds.items()}  # the first call is for warming up

    def spend(name: str) -> None:
        now[0] += next(calls[name])

    return choice.chosen("linear", lambda: {"plain": lambda: spend("plain"), "conv": lambda: spend("conv")})


def test_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = choice._ROUNDS
    assert measured(monkeypatch, {"plain": [2.0] * rounds, "conv": [1.0] * rounds}) == "conv"
    assert measured(monkeypatch, {"plain": [1.0] * rounds, "conv": [2.0] * rounds}) == "plain"
    assert measured(monkeypatch, {"plain": [1.1] * rounds, "conv": [1.0] * rounds}) == "plain"  # too little to gain
    # A load that comes and goes: three rounds take longer, two calls are disturbed.
    load = [1.0, 5.0, 5.0, 1.0, 1.0, 5.0, 1.0]
    plain, conv = [2 * x for x in load], list(load)
    conv[0] = plain[3] = 30.0
    assert measured(monkeypatch, {"plain": plain, "conv": conv}) == "conv"
    assert choice.describe().startswith("linear=conv,")


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("operation", list(TRIALS))
def test_trials_run_and_leave_no_trace(
    operation: str, mode: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "_FEWEST_CHANNELS", 8)
    before = torch.get_rng_state()
    with mode():  # type: ignore[attr-defined]
        ways = TRIALS[operation]()
        for way in ways.values():
            way()
            way()
    assert tuple(ways) == choice.WAYS[operation]
    assert torch.equal(torch.get_rng_state(), before)


def test_measuring_for_a_model_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, "measure")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    layer, x = torch.nn.Linear(8, 4), torch.ones(100, 8)
    with torch.inference_mode():
        linear.apply_linear(layer, x)
    assert choice._decided["linear"] in choice.WAYS["linear"]
    assert "winograd" not in choice._decided, "only what is needed is measured"
    assert choice.describe().endswith("winograd=measure,attention=measure")


class Applied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear.apply_linear(self.layer, x)


def test_nothing_is_measured_while_a_program_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, "measure")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(linear, "_trial", no_trial)
    layer, x = Applied(), torch.ones(100, 8)
    torch.export.export(layer, (x,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing itself
        traced = torch.jit.trace(layer, x, check_trace=False)
    assert "conv" not in str(traced.graph)
    torch.compile(layer, backend="eager", fullgraph=True)(x)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    layer.double()(x.double())
    assert choice._decided == {}


def test_a_processor_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_: "processor\t: 0\nFeatures\t: fp asimd\n")  # ARM
    assert choice.vendor() == ""
    monkeypatch.setattr(
        Path, "read_text", lambda *_: "processor : 0\nvendor_id\t: AuthenticAMD\nvendor_id\t: AuthenticAMD\n"
    )
    assert choice.vendor() == "AuthenticAMD"

    def missing(*_: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(platform, "processor", lambda: "Intel64 Family 6 Model 143 Stepping 8, GenuineIntel")
    assert choice.vendor() == "GenuineIntel"
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert choice.vendor() == ""
