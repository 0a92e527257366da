"""Golden relative-position tables: random ones, and what the authors' own code makes of them for larger images.

    PYTHONPATH= <environment with scipy < 1.14 and torch>/bin/python tests/golden/make_resize.py <checkout of microsoft/unilm>

writes `resize.npz` beside this file. The authors' code stands within their `beit/run_class_finetuning.py` and needs SciPy's
interp2d, which is gone since 1.14; it is read from the checkout and run as it stands there. Tables are not stored: both sides
draw them from numpy's RandomState (frozen by numpy's promise).
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("resize.npz")
SIDES = ((14, 24), (14, 32), (14, 40), (7, 12), (14, 15), (14, 20))  # patches, old and new
HEADS = 2
OTHERS = 3
GROWTH = {(14, 24): 1.090307, (14, 32): 1.134918, (14, 40): 1.168504}  # q, as the authors' code finds it


def draw_table(old: int, new: int) -> np.ndarray:
    """A table for squares of `old` patches, float32 `((2·old-1)²+3, HEADS)`; another one for each `new`."""
    rows = (2 * old - 1) ** 2 + OTHERS
    return np.random.RandomState(100 * old + new).standard_normal((rows, HEADS)).astype(np.float32)


def load() -> dict[tuple[int, int], np.ndarray]:
    """(old, new) → the authors' table for squares of `new` patches, float32."""
    with np.load(FILE) as stored:
        return {(old, new): stored[f"{old}-{new}"] for old, new in SIDES}


class _Model:
    """As much of a model as the authors' code asks for."""

    def __init__(self, side: int, rows: int) -> None:
        self.patch_embed = self
        self.patch_shape = (side, side)
        self.rows = rows

    def state_dict(self) -> Any:
        import torch

        return {"relative_position_bias_table": torch.empty(self.rows, HEADS)}


def authors_resizing(checkout: Path) -> Any:
    """The statement of their script that resizes a table, compiled."""
    source = checkout / "beit" / "run_class_finetuning.py"
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.If) and "relative_position_bias_table' in key" in ast.unparse(node.test):
            return compile(ast.Module([node], []), str(source), "exec")
    raise SystemExit(f"{source} has no statement about relative-position tables.")


def main() -> None:
    import torch
    from scipy import interpolate

    code, found = authors_resizing(Path(sys.argv[1])), {}
    for old, new in SIDES:
        key = "relative_position_bias_table"
        checkpoint = {key: torch.from_numpy(draw_table(old, new))}
        names = {
            "key": key,
            "checkpoint_model": checkpoint,
            "model": _Model(new, (2 * new - 1) ** 2 + OTHERS),
            "np": np,
            "torch": torch,
            "interpolate": interpolate,
            "print": lambda *_: None,
        }
        exec(code, names)
        found[f"{old}-{new}"] = checkpoint[key].numpy()
        if (old, new) in GROWTH:
            print(f"{old} → {new}: q = {names['q']:.6f}")
    np.savez_compressed(FILE, **found)
    print(f"{FILE}: {FILE.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
