"""What people's scripts do with a BEiT of transformers, done with ours: Trainer, pipelines, PEFT, Accelerate, tracing.

    PYTHONPATH=src:tests <environment with transformers, accelerate, peft>/bin/python tests/peers/check_ecosystem.py [--only TEXT]

One line for each check: PASS, FAIL or SKIP (what this version of transformers cannot show), what was checked, and the figure.
Exits with 1 when one fails. Run with 4.37.2 (accelerate 0.30, peft 0.10), whose names of layers are ours, and with 5.x, which
has other names in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers

from peers.ecosystem.common import CHECKS, Row, one_line

PARTS = ("trainer", "pipelines", "adapters", "offload", "modules", "folders", "tracing")


def rows(only: str = "") -> Iterator[Row]:
    """Run the checks whose name contains `only`; one that raises gives a row that failed."""
    for part in PARTS:
        importlib.import_module(f"peers.ecosystem.{part}")
    for check in CHECKS:
        name = f"{check.__module__.rpartition('.')[2]}.{check.__name__}"
        if only not in name:
            continue
        noise = io.StringIO()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(noise):
            found: list[Row] = []
            try:
                for row in check(Path(folder)):
                    found.append(row)
            except Exception as error:
                found.append(Row("as a whole", one_line(error), False))
        yield from (Row(f"{name}: {row.name}", row.figure, row.passed) for row in found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="only checks whose name contains this")
    given = parser.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    versions = {
        name: importlib.import_module(name).__version__ for name in ("transformers", "accelerate", "peft", "torch")
    }
    print(", ".join(f"{name} {version}" for name, version in versions.items()), flush=True)
    counts = {True: 0, False: 0, None: 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in rows(given.only):
            counts[row.passed] += 1
            word = {True: "PASS", False: "FAIL", None: "SKIP"}[row.passed]
            print(f"{word} {row.name:70} {row.figure}", flush=True)
    print(f"{counts[True]} passed, {counts[False]} failed, {counts[None]} skipped")
    return int(counts[False] > 0 or counts[True] == 0)


if __name__ == "__main__":
    sys.exit(main())
