"""Do two checkouts of `beit` write the same files? Short runs by each on a CPU, then every file is compared.

    git worktree add ../before COMMIT
    BEIT_CPU_KERNELS=fast python benchmarks/compare_versions.py ../before

Runs of 20 steps: pre-training with tokens and with pixels, fine-tuning, segmentation, a tokenizer, and pre-training and
fine-tuning on JAX; then predict, evaluate, convert and k-NN; and models drawn from a seed. Weights, configs and settings must
be equal byte by byte, logs entry by entry except for times, optimisers number by number.

Set BEIT_CPU_KERNELS to `fast` when one side is version 0.1, which had no other kernels.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RUN = ["--batch-size", "8", "--precision", "fp32", "--log-every", "1", "--steps", "20"]
COMMANDS = {
    "pretrain": "pretrain --images images --output p --tokenizer tokenizer --model model",
    "pretrain pixels": "pretrain --images images --output px --target pixels --model model",
    "finetune": "finetune --images images --output f --model p --validation images",
    "segment": "segment train --images seg/images --maps seg/maps --output s --model deeper --classes seg/names.txt",
    "tokenizer": "tokenizer train --images images --output t --image-size 16 --factor 4",
    "flax pretrain": "pretrain --framework flax --images images --output fp --tokenizer tokenizer --model model",
    "flax finetune": "finetune --framework flax --images images --output ff --model fp",
    "evaluate": "evaluate --model f --images images",
    "predict": "predict images --model f --json",
    "convert": "convert f c --to timm",
    "knn": "knn --model p --images images --validation images",
}
USES = ("evaluate", "predict", "convert", "knn")  # these have no steps
MODELS = ("BeitModel", "BeitForMaskedImageModeling", "BeitForImageClassification", "BeitForSemanticSegmentation")
# What a version after 0.1 is told besides, so that it does what version 0.1 did.
AS_BEFORE = ["--result", "last", "--validate-every", "0"]
VARYING = ("seconds", "images_per_second", "data_wait")  # in logs and results


def record(folder: Path) -> dict[str, Any]:
    """Run everything in `folder` with the `beit` that this interpreter finds; what each file holds."""
    sys.path.insert(0, str(ROOT / "tests"))
    import torch

    import beit
    from beit.cli import main
    from fixtures_runs import save_small_model, save_tokenizer, write_images
    from fixtures_segment import write_names, write_segmented

    torch.set_num_threads(1)
    os.chdir(folder)
    write_images(Path("images"), 24, labelled=True)
    save_tokenizer(Path("tokenizer"))
    save_small_model(Path("model"))
    save_small_model(Path("deeper"), num_hidden_layers=4)
    write_segmented(Path("seg"), 12)
    write_names(Path("seg/names.txt"))
    found: dict[str, Any] = {"public names": sorted(beit.__all__)}
    for name, line in COMMANDS.items():
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            status = main([*line.split(), *([] if name in USES else RUN), *_as_before(name)])
        if status:
            sys.exit(f"beit {line}: {output.getvalue()}")
        if name == "predict":
            found["predictions"] = output.getvalue()
    for name in MODELS:
        torch.manual_seed(1)
        getattr(beit, name)(beit.BeitConfig.preset("tiny")).save_pretrained(Path("seeded") / name)
    for path in sorted(path for path in Path().rglob("*") if path.is_file()):
        content = content_of(path)
        if content is not None:
            found[str(path)] = content
    return found


def _as_before(name: str) -> list[str]:
    """Flags of this version for a command."""
    from beit.train import settings

    if not hasattr(settings, "ValidatedSettings") or name.split()[-1] not in ("finetune", "segment"):
        return []
    return [*AS_BEFORE, *(["--hold-out", "0"] if "finetune" in name else [])]


def content_of(path: Path) -> Any:
    """What must be equal of a file; None for files that hold times or sentences."""
    if path.name in ("log.jsonl", "evaluation.json"):
        text = path.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in (text.splitlines() if path.suffix == ".jsonl" else [text])]
        return [{name: value for name, value in line.items() if name not in VARYING} for line in lines]
    if path.name == "optimizer.pt":
        import torch

        return _digest(torch.load(path, weights_only=True))
    if path.suffix in (".json", ".safetensors", ".msgpack", ".npz", ".png", ".pth"):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return None


def _digest(state: Any) -> str:
    """A hash of the numbers in nested dicts and lists. The file itself has other bytes at each save."""
    found = hashlib.sha256()

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                found.update(str(key).encode())
                visit(value[key])
        elif isinstance(value, list | tuple):
            for part in value:
                visit(part)
        else:
            found.update(value.numpy().tobytes() if hasattr(value, "numpy") else repr(value).encode())

    visit(state)
    return found.hexdigest()


def recorded(source: Path) -> dict[str, Any]:
    """`record` in a process of its own, with the package in `source`."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "found.json"
        runs = Path(folder) / "runs"  # settings hold no absolute paths, but a model's name is that of its folder
        runs.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--record", str(runs), str(result)]
        subprocess.run(command, env=environment, check=True)
        return json.loads(result.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", nargs="?", type=Path, help="the other checkout")
    parser.add_argument("--record", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.record:
        folder, result = (path.resolve() for path in arguments.record)
        result.write_text(json.dumps(record(folder)))
        return
    if arguments.other is None or not (arguments.other / "src" / "beit").is_dir():
        parser.error("give the other checkout: a folder with src/beit")
    before, after = recorded((arguments.other / "src").resolve()), recorded(ROOT / "src")
    names = sorted(before.keys() | after.keys())
    differing = [name for name in names if before.get(name) != after.get(name)]
    print(f"{len(names)} files and results compared, {len(differing)} differ")
    for name in differing:
        print(f"  {name}\n    other  {before.get(name)!s:.200}\n    this   {after.get(name)!s:.200}")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
