"""Unfinished runs of version 0.1, which later versions must be able to resume.

    PYTHONPATH=<a checkout of version 0.1>/src:tests python tests/golden/make_runs.py

writes `v0_1/` beside this file. Every run trains a tiny model for three steps, saves a checkpoint and stops there; version
0.1 itself then resumes it to step 6. Kept are the folder as it was after step 3, and the log of all six steps
(`v0_1/NAME.jsonl`), whose last lines a later version must reproduce.

All paths in the settings are relative, so a test resumes a run from a folder into which it has copied `v0_1` and written
the images anew (`write_inputs`).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from fixtures_runs import save_small_model, write_images
from fixtures_segment import write_segmented
from fixtures_streams import striped

FOLDER = Path(__file__).with_name("v0_1")
CLOCK = ("images_per_second", "data_wait")  # these differ from run to run

_SHARED: dict[str, Any] = {
    "steps": 6,
    "batch_size": 8,
    "save_every": 3,
    "log_every": 1,
    "keep": 9,
    "precision": "fp32",
    "learning_rate": 1e-3,
    "warmup": 0.2,
    "workers": 1,
}
_TOKENS = {
    "images": "images",
    "tokenizer": "tokenizer/checkpoint-000003",
    "model": "start",
    "drop_path": 0.3,
    "weight_decay_end": 0.2,
    "ema": 0.9,
}
_FINETUNE = {"images": "labelled", "model": "start", "drop_path": 0.3, "mixup": 0.8, "cutmix": 1.0, "erase": 0.5}
# name of the run → (its command, its settings); the tokenizer comes first, since pre-training uses its checkpoint.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "tokenizer": (
        "tokenizer train",
        {"images": "images", "image_size": 16, "factor": 4, "vocab_size": 16, "width": 4, "learning_rate": 3e-3},
    ),
    "pretrain_tokens": ("pretrain", _TOKENS),
    "pretrain_pixels": (
        "pretrain",
        {
            "images": "shards/{0..1}.tar",
            "target": "pixels",
            "model": "start",
            "accumulate": 2,
            "shuffle_buffer": 5,
            "jitter": 0.0,
        },
    ),
    "finetune": ("finetune", _FINETUNE),
    "segment": (
        "segment train",
        {"images": "scenes/images", "maps": "scenes/maps", "model": "narrow", "batch_size": 4, "auxiliary_channels": 4},
    ),
    "flax_pretrain": ("pretrain", {**_TOKENS, "framework": "flax"}),
    "flax_finetune": ("finetune", {**_FINETUNE, "framework": "flax"}),
}


def write_inputs(folder: Path) -> None:
    """The images that the runs are trained on; those of two kinds are read from disk, since they are of several sizes."""
    write_images(folder / "images", 24, spread=2)
    write_images(folder / "labelled", 24, labelled=True, spread=2)
    write_segmented(folder / "scenes", 12)
    for number in range(2):
        striped(folder / f"shards/{number}.tar", 12, seed=number)


def log_without_clock(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, without what depends on the machine's speed."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines]


def train(name: str, **changes: Any) -> None:
    """Run or resume one of `RUNS` in the current folder, by version 0.1's functions."""
    from beit.train.segment import segment  # the file's name in version 0.1

    from beit.train.finetune import finetune
    from beit.train.pretrain import pretrain
    from beit.train.settings import RUNS as SETTINGS
    from beit.train.tokenizer import train_tokenizer

    command, values = RUNS[name]
    settings: Any = SETTINGS[command](**{**_SHARED, **values, **changes}, output=Path(name))
    for key in ("images", "maps"):
        if not str(values.get(key, "shards")).startswith("shards"):
            setattr(settings, key, Path(values[key]))
    functions = {"pretrain": pretrain, "finetune": finetune, "segment train": segment}
    functions.get(command, train_tokenizer)(settings)


def make(name: str) -> None:
    """One run: to its end, back to its first checkpoint, and to its end again."""
    train(name)
    output, kept = Path(name), FOLDER / name
    for path in output.iterdir():
        if path.name not in ("settings.json", "log.jsonl", "checkpoint-000003"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    lines = (output / "log.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (output / "log.jsonl").write_text("".join(lines[:3]), encoding="utf-8")
    # Orbax notes where it wrote a checkpoint, and reads nothing from that note.
    shutil.copytree(output, kept, ignore=shutil.ignore_patterns("commit_success.txt"))
    train(name, resume="must")
    text = "".join(json.dumps(line) + "\n" for line in log_without_clock(output / "log.jsonl"))
    (FOLDER / f"{name}.jsonl").write_text(text, encoding="utf-8")


def main() -> None:
    """Make all runs."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_inputs(Path())
        save_small_model(Path("start"), hidden_size=8, intermediate_size=8, num_hidden_layers=1)
        save_small_model(Path("narrow"), hidden_size=4, intermediate_size=8, num_hidden_layers=1)
        for name in RUNS:
            make(name)


if __name__ == "__main__":
    main()
