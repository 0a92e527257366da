"""Which kernels are fast on this processor: known per vendor, measured on request, or as `BEIT_CPU_KERNELS` says.

Three operations on a CPU have other ways besides PyTorch's own. Which way is fastest is a property of the machine. Speed
relative to PyTorch's own way, in float32, at the shapes of BEiT-B:

                                                               Intel Xeon, AMX    AMD EPYC, Zen 5
    linear=conv      products as 1x1 convolutions, forward          0.9 to 1.2         1.9 to 2.3
                     the same with gradients                        0.6 to 0.9           1.4 to 2
    winograd=on      3x3 convolutions of 512 to 768 channels        1.6 to 2.9                1.8
    attention=heads  1,601 tokens, head by head, plain formula             1.3         2.4 to 3.5
    attention=fused  1,601 tokens, head by head, fused kernel              1.5       not measured

The first rows differ because PyTorch gives matrix products to MKL, which uses AVX-512 on Intel's processors only, and
convolutions to oneDNN, which uses it on all processors that have it.

Why the vendor and not a measurement: another kernel rounds differently, and a training run that is resumed must compute to
the bit what it would have computed without the interruption. The vendor never changes on one machine. A measurement might
change when another program happens to run beside it. So a processor that nobody has measured uses PyTorch's own ways,
unless the variable asks for a measurement.

`BEIT_CPU_KERNELS` is read when a model first needs it. Each way is then fixed for the life of the process:

    auto      what is known to be fast on this processor (the default)
    plain     PyTorch's own ways
    fast      linear=conv,winograd=on,attention=heads
    measure   time the ways of an operation when it is first needed: some tenths of a second each
    linear=plain|conv|measure,winograd=off|on|measure,attention=plain|heads|fused|measure
              one by one; an operation that is not listed is chosen as by `auto`
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from beit.core.errors import ConfigError

VARIABLE = "BEIT_CPU_KERNELS"
MEASURE = "measure"

# Operation → its ways, PyTorch's own first.
WAYS = {"linear": ("plain", "conv"), "winograd": ("off", "on"), "attention": ("plain", "heads", "fused")}
PLAIN = MappingProxyType({"linear": "plain", "winograd": "off", "attention": "plain"})
FAST = MappingProxyType({"linear": "conv", "winograd": "on", "attention": "heads"})

# By the vendor as the processor itself names it. Only for processors with AVX-512: no others have been measured.
_KNOWN: dict[str, Mapping[str, str]] = {
    "AuthenticAMD": FAST,
    "GenuineIntel": MappingProxyType({"linear": "plain", "winograd": "on", "attention": "fused"}),
}

_ROUNDS = 7
_MARGIN = 1.2  # a smaller gain is not worth a choice that might differ next time

# Operation → its way. Threads that decide at the same time agree: the first to write has decided for all of them.
_decided: dict[str, str] = {}

Trial = Callable[[], Mapping[str, Callable[[], object]]]


def chosen(operation: str, trial: Trial) -> str:
    """The way that `operation` takes in this process, one of `WAYS[operation]`.

    Do not ask while a model is being compiled, exported or traced: a measurement would become part of the program.

    Args:
        operation: a key of `WAYS`.
        trial: returns the ways to compare, as functions that each do the same work once. Called only if the operation
            has to be measured.

    Raises:
        ConfigError: `BEIT_CPU_KERNELS` has none of the values above.
    """
    way = _decided.get(operation)
    if way is None:
        way = wanted()[operation]
        if way == MEASURE:
            way = _fastest(trial(), WAYS[operation][0])
        way = _decided.setdefault(operation, way)
    return way


def wanted() -> dict[str, str]:
    """Operation → its way or `measure`, by the environment variable and this processor.

    Raises:
        ConfigError: see `chosen`.
    """
    text = os.environ.get(VARIABLE, "").strip() or "auto"
    named = {"auto": known(vendor()), "plain": PLAIN, "fast": FAST, MEASURE: dict.fromkeys(WAYS, MEASURE)}
    if text in named:
        return dict(named[text])
    ways = dict(named["auto"])
    for entry in text.split(","):
        operation, _, way = entry.strip().partition("=")
        if way not in (*WAYS.get(operation, ()), MEASURE) or operation not in WAYS:
            listed = ",".join(f"{name}={'|'.join((*choices, MEASURE))}" for name, choices in WAYS.items())
            raise ConfigError(
                f"The environment variable {VARIABLE} is {text!r}, and {entry.strip()!r} is unknown. Set it to "
                f"{', '.join(named)}, or to one or several of {listed}."
            )
        ways[operation] = way
    return ways


def describe() -> str:
    """The ways in use, as a value for `BEIT_CPU_KERNELS`; `measure` for an operation that has not been needed yet."""
    return ",".join(f"{operation}={_decided.get(operation, way)}" for operation, way in wanted().items())


def known(maker: str) -> Mapping[str, str]:
    """The ways that are fast on this vendor's processors; PyTorch's own ways where nobody has measured."""
    has_libraries = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    if not has_libraries or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return PLAIN
    return _KNOWN.get(maker, PLAIN)


def vendor() -> str:
    """The vendor as an x86 processor names it, such as "GenuineIntel"; "" if the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux; Windows has it in the processor's name
        return next((maker for maker in _KNOWN if maker in platform.processor()), "")
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def _fastest(ways: Mapping[str, Callable[[], object]], plain: str) -> str:
    """The fastest way, if it is faster than `plain` by a clear margin; otherwise `plain`.

    In each round all ways run once, one directly after the other, and the first one rotates. Another program's load
    slows down a whole round, whose ratios stay as they are, or disturbs one call, which the median ignores.
    """
    names = list(ways)
    for way in ways.values():
        way()  # the first call allocates memory and lets the libraries choose their code
    gains: dict[str, list[float]] = {name: [] for name in names}
    for number in range(_ROUNDS):
        seconds = {}
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            began = time.perf_counter()
            ways[name]()
            seconds[name] = time.perf_counter() - began
        for name in names:
            gains[name].append(seconds[plain] / max(seconds[name], 1e-9))
    best = max(names, key=lambda name: statistics.median(gains[name]))
    return best if statistics.median(gains[best]) > _MARGIN else plain
