"""BEiT-B/16 of 224 pixels on one GPU, at its own size and at 384 pixels: ours, transformers 5 and timm, in one process.

    python benchmarks/gpu_inference.py --json gpu_inference.json
    python benchmarks/gpu_inference.py --compile        # batch 64 in bfloat16, each side compiled
    python benchmarks/gpu_inference.py --kernels        # of the layer's attention, and where ours spends its time

All sides are given the same weights, and their logits in float32 are compared before anything is timed. In each round
every side computes the same batch, one after the other, the first one rotating; figures are medians over rounds of `--calls`
calls each, and ratios round by round. At 384 pixels ours and transformers resize their tables at run time; timm is built for it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import any_size
from beit import BeitForImageClassification
from beit.export.layouts import write
from pretrain_gpu import GPU, peak_tflops

OURS = "beit"
Model = Callable[[torch.Tensor], torch.Tensor]


def gflop(size: int) -> float:
    """Of one image of BEiT-B/16: 12 layers of 12·C²·T + 2·T²·C products, and the patch projection."""
    tokens = (size // 16) ** 2 + 1
    return 2 * (12 * (12 * 768**2 * tokens + 2 * tokens**2 * 768) + (tokens - 1) * 768 * 768) / 1e9


def open_all(size: int, peers: list[str]) -> dict[str, Model]:
    """The sides by name, in float32 on the GPU, with one set of random weights and tables."""
    sides: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "hf"
        any_size.write_model(str(folder), "base")
        sides[OURS] = BeitForImageClassification.from_pretrained(folder)
        if "transformers" in peers:
            import transformers

            theirs = transformers.BeitForImageClassification.from_pretrained(folder)
            sides[f"transformers {transformers.__version__}"] = theirs
        if "timm" in peers:
            import timm

            tensors = {name: value.numpy() for name, value in sides[OURS].state_dict().items()}
            write(Path(temporary) / "timm", "timm", tensors, sides[OURS].config, None)
            sides[f"timm {timm.__version__}"] = timm.create_model(
                f"local-dir:{temporary}/timm", pretrained=True, **({} if size == 224 else {"img_size": size})
            )
    return {name: side.to(GPU).eval() for name, side in sides.items()}


def as_call(name: str, model: Any, size: int) -> Model:
    """Pixels → logits."""
    if name == OURS:
        return lambda pixels: model(pixels).logits
    if name.startswith("timm"):
        return model  # type: ignore[no-any-return]
    return lambda pixels: model(pixels, interpolate_pos_encoding=size != 224).logits


def seconds_of(call: Callable[[], Any], calls: int) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(calls):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / calls


def compare(
    sides: dict[str, Any], size: int, batch: int, dtype: torch.dtype, rounds: int, calls: int, compiled: bool
) -> list[dict[str, Any]]:
    """A row a side."""
    pixels = torch.randn(batch, 3, size, size, device=GPU, dtype=dtype, generator=torch.Generator(GPU).manual_seed(1))
    ready: dict[str, Callable[[], torch.Tensor]] = {}
    first, peak = {}, {}
    for name, model in sides.items():
        call = as_call(name, torch.compile(model.to(dtype)) if compiled else model.to(dtype), size)
        ready[name] = lambda call=call: call(pixels)
        torch.cuda.synchronize()
        first[name] = seconds_of(ready[name], 1)
        seconds_of(ready[name], 3)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ready[name]()
        peak[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
    names, seconds = list(ready), {name: [] for name in ready}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds[name].append(seconds_of(ready[name], calls))
    rows = []
    for name in names:
        ratios = [theirs / ours for theirs, ours in zip(seconds[name], seconds[OURS], strict=True)]
        rows.append(
            {
                "side": name,
                "size": size,
                "batch": batch,
                "dtype": str(dtype).removeprefix("torch."),
                "compiled": compiled,
                "ms": 1000 * statistics.median(seconds[name]),
                "images_per_second": batch / statistics.median(seconds[name]),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "first_s": first[name],
                "peak_mib": peak[name],
                "tflops": gflop(size) * batch / statistics.median(seconds[name]) / 1000,
            }
        )
    return rows


def as_line(row: dict[str, Any]) -> str:
    return (
        f"{row['size']} px, batch {row['batch']:3}, {row['dtype']:8} {'compiled' if row['compiled'] else 'eager':8} "
        f"{row['side']:20} {row['ms']:8.2f} ms {row['images_per_second']:7.0f} images/s {row['tflops']:5.0f} TFLOP/s  "
        f"theirs/ours {row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})  first {row['first_s']:.2f} s "
        f"{row['peak_mib']:6.0f} MiB"
    )


def differences(sides: dict[str, Any], size: int) -> dict[str, float]:
    """Largest difference of each side's logits from ours in float32, of the largest logit."""
    pixels = torch.randn(2, 3, size, size, device=GPU, generator=torch.Generator(GPU).manual_seed(2))
    logits = {name: as_call(name, model, size)(pixels) for name, model in sides.items()}
    return {
        name: float((other - logits[OURS]).abs().max() / logits[OURS].abs().max()) for name, other in logits.items()
    }


# --- what the time goes into -----------------------------------------------------------------------------------------


@torch.inference_mode(False)
def attention_kernels(size: int, batch: int) -> None:
    """Milliseconds of one layer's attention in bfloat16 by each of PyTorch's kernels, forward and with the gradient."""
    tokens = (size // 16) ** 2 + 1
    q, k, v = (torch.randn(batch, 12, tokens, 64, device=GPU, dtype=torch.bfloat16) for _ in range(3))
    plain = torch.randn(1, 12, tokens, tokens, device=GPU, dtype=torch.bfloat16)
    room = torch.randn(1, 12, tokens, (tokens + 7) // 8 * 8, device=GPU, dtype=torch.bfloat16)
    biases = {"no bias": None, "bias": plain, "bias, aligned rows": room[..., :tokens]}
    for kernel in (
        SDPBackend.MATH,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
    ):
        for name, bias in biases.items():
            for gradient in (False, True):
                leaves = [x.detach().clone().requires_grad_(gradient) for x in (q, k, v)]
                mask = None if bias is None else bias.detach().requires_grad_(gradient)

                def call(leaves: Any = leaves, mask: Any = mask, gradient: bool = gradient) -> None:
                    y = F.scaled_dot_product_attention(*leaves, attn_mask=mask)
                    if gradient:
                        y.backward(y.detach())

                what = f"{size} px, batch {batch}, {kernel.name:20} {name:20} {'with gradient' if gradient else 'forward':14}"
                try:
                    with sdpa_kernel(kernel), torch.set_grad_enabled(gradient):
                        seconds_of(call, 3)
                        print(
                            f"{what} {1000 * statistics.median(seconds_of(call, 10) for _ in range(5)):.3f} ms",
                            flush=True,
                        )
                except RuntimeError as error:
                    print(f"{what} none: {str(error).splitlines()[0][:90]}", flush=True)


def profile(model: Any, size: int, batch: int, dtype: torch.dtype) -> None:
    """Kernels of one forward pass by the time they take."""
    pixels = torch.randn(batch, 3, size, size, device=GPU, dtype=dtype)
    model.to(dtype)
    for _ in range(3):
        model(pixels)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        model(pixels)
        torch.cuda.synchronize()
    print(
        found.key_averages().table(sort_by="self_cuda_time_total", row_limit=14, max_name_column_width=60), flush=True
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 384])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--peers", nargs="*", default=["transformers", "timm"], choices=["transformers", "timm"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--kernels", action="store_true")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    dtypes = {name: getattr(torch, name) for name in options.dtypes}
    limits = {name: peak_tflops(dtype) for name, dtype in dtypes.items()}
    spoken = ", ".join(f"{name} {value:.0f}" for name, value in limits.items())
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; matrix products: {spoken} TFLOP/s", flush=True)
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        sides = open_all(size, options.peers)
        print(f"{size} px, float32, difference of logits from ours: {differences(sides, size)}", flush=True)
        for batch in options.batches:
            for dtype in dtypes.values():
                found = compare(sides, size, batch, dtype, options.rounds, options.calls, options.compile)
                print("\n".join(map(as_line, found)), flush=True)
                rows += found
        if options.kernels:
            attention_kernels(size, options.batches[-1])
            profile(sides[OURS], size, options.batches[-1], torch.bfloat16)
            profile(sides[OURS], size, 1, torch.bfloat16)
    if options.json:
        content = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "peak_tflops": limits, "rows": rows}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
