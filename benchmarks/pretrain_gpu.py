"""Pre-training BEiT-B/16 on one GPU in bf16: images/s, memory and share of the matrix-product peak, batch by batch.

    python benchmarks/pretrain_gpu.py --batches 64 128 256 512

The steps are those of the training loop (loss of `TokenTarget`, gradient, clipping, fused AdamW) on images that lie on the
GPU: tokens read from a cache, tokens computed by a dVAE of DALL-E's size (random weights cost as much), and the encoder
compiled. The last line is a whole run of `pretrain` from JPEG files, where on most machines reading them is the limit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from beit import BeitConfig, BeitForMaskedImageModeling
from beit.tokenizers import DalleConfig, DalleTokenizer
from beit.train.pretrain import pretrain
from beit.train.settings import PretrainSettings
from beit.train.targets.torch.tokens import TokenTarget
from beit.train.torch.optim import adamw, parameter_groups
from pretrain import MODELS, gflop, link_images

SIZES = MODELS["base"]
GPU = torch.device("cuda")


def peak_tflops(dtype: torch.dtype = torch.bfloat16) -> float:
    """Of a product of two 8192x8192 matrices of random numbers."""
    a, b = (torch.randn(8192, 8192, device=GPU, dtype=dtype) for _ in range(2))
    return 2 * 8192**3 / statistics.median(timed(lambda: torch.mm(a, b), 20)) / 1e12


def timed(step: Any, count: int) -> list[float]:
    """Seconds of each of `count` calls, after three that warm up."""
    seconds = []
    for number in range(count + 3):
        torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        if number >= 3:
            seconds.append(time.perf_counter() - began)
    return seconds


def config() -> BeitConfig:
    """The authors' base model for pre-training."""
    return BeitConfig(
        use_shared_relative_position_bias=True,
        use_mask_token=True,
        mask_keeps_position=True,
        layer_scale_init_value=0.1,
        drop_path_rate=0.1,
    )


def measure(batch_size: int, way: str, tokenizer: DalleTokenizer, peak: float, steps: int) -> dict[str, Any]:
    """One row: seconds of a step, images/s, memory, share of the peak."""
    torch.manual_seed(0)
    model = BeitForMaskedImageModeling(config()).to(GPU).train()
    if "compiled" in way:
        model.beit.encoder.compile()
    optimizer = adamw(parameter_groups(model, 0.05))
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 1e-5
    target = TokenTarget(tokenizer, None)
    target.to(GPU)
    mask = torch.zeros(batch_size, SIZES.grid**2, dtype=torch.bool)
    for row in mask:
        row[torch.randperm(SIZES.grid**2)[: SIZES.masked]] = True
    batch = {"pixel_values": torch.randn(batch_size, 3, 224, 224, device=GPU), "mask": mask.to(GPU)}
    if "dVAE" in way:
        batch["token_pixels"] = torch.rand(batch_size, 3, 112, 112, device=GPU)
    else:
        batch["tokens"] = torch.randint(SIZES.vocab_size, (batch_size, SIZES.grid**2), device=GPU)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss, _ = target.loss(model, batch, 0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(timed(step, steps))
    work = gflop(SIZES)
    done = work["forward"] + work["backward"] + (work["tokenise"] if "dVAE" in way else 0.0)
    return {
        "batch": batch_size,
        "way": way,
        "ms": round(1000 * seconds, 1),
        "images_per_second": round(batch_size / seconds),
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        "share_of_peak": round(done * batch_size / seconds / 1000 / peak, 3),
    }


def whole_run(images: Path | None, tokenizer: DalleTokenizer, batch_size: int, workers: int) -> dict[str, Any]:
    """`pretrain` from JPEG files to updated weights; the speed of the second half of its lines."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        link_images(folder / "images", images, batch_size * 12)
        tokenizer.cpu().save_pretrained(folder / "tokenizer")
        BeitForMaskedImageModeling(config()).save_pretrained(folder / "model")
        settings = PretrainSettings(
            images=folder / "images",
            output=folder / "run",
            tokenizer=str(folder / "tokenizer"),
            model=str(folder / "model"),
            batch_size=batch_size,
            steps=36,
            log_every=6,
            workers=workers,
            precision="bf16",
        )
        lines = pretrain(settings)[3:]
    return {
        "way": "whole run from JPEG files, dVAE",
        "batch": batch_size,
        "workers": workers,
        "images_per_second": round(statistics.median(line["images_per_second"] for line in lines)),
        "data_wait": statistics.median(line["data_wait"] for line in lines),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--images", type=Path, help="folder with JPEG files; the embedded photographs by default")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    tokenizer = DalleTokenizer(DalleConfig()).to(GPU).eval()
    peak = peak_tflops()
    rows: list[dict[str, Any]] = []
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16 matrix product: {peak:.0f} TFLOP/s",
        flush=True,
    )
    for way in ("tokens read", "dVAE", "tokens read, compiled"):
        for batch_size in arguments.batches:
            try:
                rows.append(measure(batch_size, way, tokenizer, peak, arguments.steps))
            except Exception as error:  # a row that fails must not take the others with it
                rows.append({"batch": batch_size, "way": way, "failed": f"{type(error).__name__}: {str(error)[:200]}"})
            torch.cuda.empty_cache()
            print(rows[-1], flush=True)
    rows.append(whole_run(arguments.images, tokenizer, 256, arguments.workers))
    print(rows[-1], flush=True)
    if arguments.json:
        content = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "peak_tflops": peak, "rows": rows}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
