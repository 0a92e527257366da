"""Segmentation by BEiT-B/16 at 640 pixels, 150 classes, one image: speed and memory beside transformers, and where it goes.

    python benchmarks/segmentation.py
    python benchmarks/segmentation.py --peer old=PATH/TO/python --rounds 7 --json segmentation.json

One folder with random weights, norms and tables included, is written once; every engine loads it, answers for the same
image and takes turns with the others (see `paired.py`). Logits are compared with those of our plain formulas. `--peer
NAME=PYTHON` adds the transformers library of another environment, such as 4.37.2, and ours on that environment's PyTorch.
The last table splits our time: seconds, multiplications and additions done and as the formulas are written, and the share of
the machine's measured product peak.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import paired

SIZE, CLASSES, INDICES = 640, 150, [3, 5, 7, 11]


def model_folder(folder: Path, authors_layers: bool) -> None:
    """Write the model that all engines load."""
    import torch

    from beit import BeitConfig, BeitForSemanticSegmentation

    torch.manual_seed(0)
    layers = {"segmentation_layers": [4, 6, 8, 12]} if authors_layers else {}
    config = BeitConfig(
        image_size=SIZE, use_relative_position_bias=True, num_labels=CLASSES, out_indices=INDICES, **layers
    )
    model = BeitForSemanticSegmentation(config)
    for name, tensor in model.state_dict().items():
        if name.endswith("table") or (tensor.ndim == 1 and name.endswith(("bias", "running_mean"))):
            tensor.normal_(std=0.1)
        elif tensor.ndim == 1 and tensor.is_floating_point() and "gamma" not in name:
            tensor.uniform_(0.5, 1.5)
    model.save_pretrained(folder)


def pixels() -> Any:
    import torch

    return torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def worker(engine: str, folder: Path, logits: Path, threads: int) -> None:
    """Load the model, answer once, then once for each line of standard input."""
    import torch

    torch.set_num_threads(threads)
    if engine == "transformers":
        import transformers as library
    else:
        import beit as library
    model = library.BeitForSemanticSegmentation.from_pretrained(folder).eval()
    if engine == "plain":
        model.fast = False
    x = pixels()
    step = torch.inference_mode()(lambda: model(x).logits)
    np.save(logits, step().numpy())
    paired.serve(step, {"ready": f"{engine} {library.__version__}", "torch": torch.__version__})


def breakdown(folder: Path, threads: int, rounds: int, peak: float) -> list[dict[str, Any]]:
    """Where our time goes, part by part; medians over rounds."""
    import torch

    from beit import BeitForSemanticSegmentation

    torch.set_num_threads(threads)
    model = BeitForSemanticSegmentation.from_pretrained(folder)
    x = pixels()
    seconds: dict[str, list[float]] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments, **keywords)
            seconds.setdefault(name, []).append(time.perf_counter() - began)
            return result

        return call

    with torch.inference_mode():
        model(x)
        head = model.folded.kept[1]
        for layer in model.beit.encoder.layer:
            layer.attention.forward = timed("attention", layer.attention.forward)
            layer.intermediate.forward = timed("MLP", layer.intermediate.forward)
            layer.output.forward = timed("MLP", layer.output.forward)
        for name in ("first", "fine", "middle", "coarse", "top", "fuse", "classifier"):
            setattr(head, name, timed(name, getattr(head, name)))
        head.outputs = [timed(f"output {4 // 2**i}", conv) for i, conv in enumerate(head.outputs)]
        model(x)
        totals = []
        seconds.clear()
        for _ in range(rounds):
            began = time.perf_counter()
            model(x)
            totals.append(time.perf_counter() - began)
    spent = {name: sum(values) / rounds for name, values in seconds.items()}
    total = float(np.mean(totals))
    spent["norms, embeddings, resizing, activations"] = total - sum(spent.values())
    rows = []
    for name, (label, done, written) in parts(model, head).items():
        used = spent.pop(name)
        rows.append({"part": label, "seconds": used, "done": done, "written": written, "share": done / used / peak})
    rows += [{"part": n, "seconds": s, "done": 0.0, "written": 0.0, "share": 0.0} for n, s in spent.items()]
    done, written = (sum(row[key] for row in rows) for key in ("done", "written"))
    rows.append({"part": "all", "seconds": total, "done": done, "written": written, "share": done / total / peak})
    return rows


def parts(model: Any, head: Any) -> dict[str, tuple[str, float, float]]:
    """Part → what it is, GFLOP that we do, GFLOP as the formulas are written (with all layers of the encoder)."""
    config = model.config
    c, n, t = config.hidden_size, config.num_patches, config.num_patches + 1
    depth, used = config.num_hidden_layers, max(model.layers)
    square, giga = 2 * c * c, 1e9
    attention, mlp = 4 * square * t + 4 * t * t * c, 8 * square * t
    pooled = sum(scale * scale for scale in config.pool_scales)

    def three(pixels: float, conv: Any) -> float:
        """A 3x3 convolution of so many pixels."""
        return (2.25 if conv is not None and conv.winograd is not None else 9) * square * pixels

    outputs = [getattr(conv, "__closure__", None) for conv in head.outputs]
    convs = [
        next(cell.cell_contents for cell in closure if hasattr(cell.cell_contents, "winograd")) for closure in outputs
    ]
    fuse = next(c_.cell_contents for c_ in head.fuse.__closure__ if hasattr(c_.cell_contents, "taps"))
    rows = {
        "attention": (f"attention, {used} layers", used * attention, depth * attention),
        "MLP": (f"MLP, {used} layers", used * mlp, depth * mlp),
        "first": ("pyramid: first transposed convolution", 4 * square * n, 4 * square * n),
        "fine": ("pyramid 4x with lateral", 16 * square * n, 16 * square * n + 16 * square * n),
        "middle": ("pyramid 2x with lateral", 4 * square * n, 4 * square * n + 4 * square * n),
        "coarse": ("lateral 1x", square * n, square * n),
        "top": ("pooled maps fused, 3x3", 9 * square * (n / 4 + pooled), 9 * 5 * square * n / 4),
    }
    for factor, pixels_, conv in zip((4, 2, 1), (16 * n, 4 * n, n), convs, strict=True):
        rows[f"output {factor}"] = (f"output {factor}x, 3x3", three(pixels_, conv), 9 * square * pixels_)
    mixing = three(16 * n, fuse.first) + 9 * square * (4 * n + n + n / 4)
    rows["fuse"] = ("four maps fused, 3x3", mixing, 9 * 4 * square * 16 * n)
    classify = 2 * c * config.num_labels * 16 * n
    rows["classifier"] = ("classifier", classify, classify)
    return {name: (label, done / giga, written / giga) for name, (label, done, written) in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="another transformers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        engine, folder, logits = arguments.worker
        worker(engine, Path(folder), Path(logits), arguments.threads)
        return

    by_product, by_convolution = paired.matrix_peak(arguments.threads)
    peak = max(by_product, by_convolution)
    print(f"{paired.processor()}; {arguments.threads} threads, float32, {arguments.rounds} rounds")
    print(f"large matrix product: {by_product:.0f} GFLOP/s by torch.mm, {by_convolution:.0f} as a convolution\n")
    engines = [("beit", "beit", sys.executable)]
    if importlib.util.find_spec("transformers"):
        engines.append(("transformers", "transformers", sys.executable))
    for peer in arguments.peer:
        name, _, python = peer.partition("=")
        engines += [(name, "transformers", python), (f"beit, {name}", "beit", python)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model_folder(folder / "reference layers", authors_layers=False)
        plain = paired.Engine(
            "beit plain", sys.executable, _script("plain", folder, "plain", arguments), arguments.threads
        )
        plain.close()
        running = []
        for name, engine, python in engines:
            script = _script(engine, folder, name, arguments)
            running.append(paired.Engine(name, python, script, arguments.threads))
        paired.take_turns(running, arguments.rounds)
        rows = paired.compared(running)
        wanted = np.load(folder / "plain.npy")
        print(f"one image of {SIZE}x{SIZE}, {CLASSES} classes, the layers that the reference reads of {INDICES}")
        print(paired.HEADER.replace("  peak", "  logits: largest difference from the plain formulas"))
        for row, (name, _, _) in zip(rows, engines, strict=True):
            difference = np.abs(np.load(folder / f"{name}.npy") - wanted).max() / np.abs(wanted).max()
            row["difference"] = float(difference)
            print(f"{paired.as_line(row, None)}  {difference:.1e}", flush=True)
        print(paired.kernels_of(rows))
        tables = {}
        for title, authors in (
            ("the reference's layers 2, 4, 6, 10", False),
            ("the authors' layers 4, 6, 8, 12", True),
        ):
            if authors:
                model_folder(folder / "authors", authors_layers=True)
            found = breakdown(
                folder / ("authors" if authors else "reference layers"), arguments.threads, arguments.rounds, peak
            )
            tables[title] = found
            print(f"\nours with {title}: seconds, GFLOP done and as written, share of the product peak")
            for row in found:
                print(
                    f"  {row['part']:42} {row['seconds']:7.3f} {row['done']:7.0f} {row['written']:7.0f} {row['share']:6.0%}"
                )
    if arguments.json:
        content = {"processor": paired.processor(), "matrix_peak_gflops": peak, "rows": rows, "breakdown": tables}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


def _script(engine: str, folder: Path, name: str, arguments: argparse.Namespace) -> list[str]:
    paths = [str(folder / "reference layers"), str(folder / f"{name}.npy")]
    return [__file__, "--worker", engine, *paths, "--threads", str(arguments.threads)]


if __name__ == "__main__":
    main()
