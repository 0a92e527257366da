"""`import beit` is light, and the framework-free rooms work where torch and jax are not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
ROOMS = (
    "config",
    "core.errors",
    "core.geometry",
    "core.resampling",
    "checkpoints",
    "checkpoints.catalogue",
    "checkpoints.hub",
    "checkpoints.names",
    "checkpoints.read_weights",
    "data.image_input",
    "data.masking",
    "data.processor",
    "data.tensors",
    "evaluation.classification",
    "evaluation.segmentation",
    "export.describe",
    "export.layouts",
    "export.resize",
    "inference.classification",
    "inference.features",
    "inference.segment_files",
    "models.outputs",
)
BLOCK = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ImportError("blocked: " + name, name=name)
sys.meta_path.insert(0, Block())
"""
FRAMEWORKS = ("torch", "torchvision", "jax", "jaxlib", "flax", "tensorflow", "transformers")


def run(code: str, *blocked: str) -> str:
    """The output of a fresh interpreter in which some packages cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCK.format(names=blocked) + code],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_of_the_package_needs_the_standard_library_only() -> None:
    got = run(
        """
before = set(sys.modules)
import beit
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(names - set(sys.stdlib_module_names)))
"""
    )
    assert got.strip() == "['beit']"


@pytest.mark.parametrize("room", ROOMS)
def test_room_without_frameworks(room: str) -> None:
    run(f"import beit.{room}", *FRAMEWORKS)


def test_rooms_do_not_load_frameworks_that_are_there() -> None:
    lines = "\n".join(f"import beit.{room}" for room in ROOMS)
    loaded = run(f"{lines}\nfrom beit import BeitConfig, load\nprint(sorted(set({FRAMEWORKS}) & set(sys.modules)))")
    assert loaded.strip() == "[]"


def test_rooms_are_of_use_without_frameworks(tmp_path: Path) -> None:
    run(
        f"""
import numpy as np
from pathlib import Path
from PIL import Image
import beit
from beit.checkpoints import hub
from beit.checkpoints.write_weights import write_weights
from beit.checkpoints import read_weights as weight_files
from beit.core import geometry
from beit.data import masking
config = beit.BeitConfig.preset("tiny")
config.save_pretrained({str(tmp_path)!r})
assert beit.BeitConfig.from_pretrained({str(tmp_path)!r}) == config
assert masking.BlockMask((14, 14), 75, exact=True)(np.random.default_rng(0)).sum() == 75
assert geometry.relative_position_index((2, 2)).shape == (5, 5)
write_weights(Path({str(tmp_path)!r}), {{"a": np.ones(2, "f4")}})
assert weight_files.read_files(hub.resolve_weights({str(tmp_path)!r})).tensors["a"].sum() == 2
processor = beit.BeitImageProcessor()
image = Image.fromarray(np.zeros((300, 280, 3), np.uint8))
assert processor(image, return_tensors="np")["pixel_values"].shape == (1, 3, 224, 224)
assert beit.MaskedLMOutput(logits=1)[0] == 1
""",
        *FRAMEWORKS,
    )


def test_a_missing_framework_is_said_in_words() -> None:
    got = run(
        """
import beit
try:
    beit.BeitModel
except ImportError as error:
    print(type(error).__name__, error)
""",
        *FRAMEWORKS,
    )
    assert got.startswith("MissingExtraError")
    assert "pip install 'beit[torch]'" in got


def test_a_file_of_torch_save_is_opened_without_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.arange(3.0)}, tmp_path / "x.bin")
    got = run(
        f"""
from pathlib import Path
from beit.checkpoints.read_weights import read_file
print(read_file(Path({str(tmp_path / "x.bin")!r})).tensors["a"].tolist())
""",
        *FRAMEWORKS,
    )
    assert got.strip() == "[0.0, 1.0, 2.0]"


def test_models_do_not_load_the_compiler() -> None:
    """Half of the seconds and 150 MB of an import, which only who compiles should pay."""
    pytest.importorskip("torch")
    assert run("import sys, beit.models.torch.segmentation\nprint('torch._dynamo' in sys.modules)").strip() == "False"
