"""Eight devices, made of one CPU, give the losses and the weights of one, on any mesh; a checkpoint goes from one to another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flax")
pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")

MESHES = {"one": (1, 1), "data": (8, 1), "both": (2, 4), "model": (1, 8)}
CLOSE = 1e-5

# In a process of its own: the number of devices is fixed when JAX starts.
SCRIPT = """
import json, sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from beit import BeitConfig
from beit.train.flax import finetune as flax_finetune
from beit.train.flax import mesh as flax_mesh
from beit.train.flax import pretrain as flax_pretrain
from beit.train.distributed import Alone
from beit.train.run import Run
from beit.train.settings import FinetuneSettings, PretrainSettings
from beit.train.start import Start
from beit.train.task import SINGLE_TASK
from beit.train.targets.flax.tokens import TokenTarget

meshes, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
rng = np.random.default_rng(0)
images = rng.standard_normal((16, 3, 16, 16)).astype("f4")
small = dict(hidden_size=32, num_attention_heads=8, num_hidden_layers=2, intermediate_size=64, image_size=16, patch_size=4,
             drop_path_rate=0.2, layer_scale_init_value=0.5)
common = dict(images="x", output="y", framework="flax", precision="fp32", learning_rate=1e-3, warmup=0.0, batch_size=16)


class Cache:
    vocab_size, view_size = 16, None


def pretraining():
    settings = PretrainSettings(**common, tokenizer="z", ema=0.9, accumulate=2)
    config = BeitConfig(**small, vocab_size=16, use_mask_token=True, use_shared_relative_position_bias=True)
    run = Run(Alone(), settings)
    target = TokenTarget(None, Cache())
    masks = np.stack([rng.permutation(16) < 6 for _ in range(16)])
    batch = {"pixel_values": images, "mask": masks, "tokens": rng.integers(0, 16, (16, 16))}
    return flax_pretrain.engine(run, flax_pretrain.model(run, Start(None, config, None), config), target), batch


def finetuning():
    settings = FinetuneSettings(**common, model="tiny")
    config = BeitConfig(**small, num_labels=3, use_relative_position_bias=True)
    run = Run(Alone(), settings)
    targets = np.eye(3, dtype="f4")[rng.integers(0, 3, 16)]
    model = flax_finetune.model(run, Start(None, config, None), config, SINGLE_TASK)
    return flax_finetune.engine(run, model, SINGLE_TASK), {"pixel_values": images, "targets": targets}


def arrays(tree):
    return jax.tree.map(np.array, tree)


def apart(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(abs(x - y).max()), arrays(a), arrays(b))))


found, saved = {}, None
for job in (pretraining, finetuning):
    first = None
    for name, (data, model) in meshes.items():
        devices = np.array(jax.devices()[: data * model]).reshape(data, model)
        flax_mesh.make_mesh = lambda _, __, devices=devices: Mesh(devices, ("data", "model"))
        rng = np.random.default_rng(1)
        engine, batch = job()
        start = arrays(engine.state["params"])
        losses = [float(engine.step(batch, step, 1e-3, None)["loss"]) for step in range(2)]
        after = arrays(engine.state["params"])
        first = first or (losses, after)
        kernel = engine.state["params"]["beit"]["encoder"]["layers_0"]["attn"]["qkv"]["kernel"]
        moments = engine.state["moments"].mu["beit"]["encoder"]["layers_0"]["mlp"]["fc2"]["kernel"]
        found[f"{job.__name__}, {name}"] = {
            "losses": losses,
            "loss": max(abs(a - b) for a, b in zip(losses, first[0])),
            "weights": apart(after, first[1]),
            "moved": apart(after, start),
            "parts": [list(array.addressable_shards[0].data.shape) for array in (kernel, moments)],
            "devices": len(kernel.sharding.device_set),
        }
        if job is pretraining:
            saved = {part: arrays(engine.state[part]) for part in ("moments", "average")} if name == "one" else saved
            if name == "one":
                engine.save(folder)
            engine.step(batch, 2, 1e-3, None)  # or what is loaded would be there already
            later = {part: apart(engine.state[part], saved[part]) for part in saved}
            engine.load(folder, {})
            split = engine.state["moments"].mu["beit"]["encoder"]["layers_0"]["mlp"]["fc2"]["kernel"].addressable_shards[0]
            found[f"{job.__name__}, {name}"] |= {
                "later": later,
                "loaded": {part: apart(engine.state[part], saved[part]) for part in saved},
                "still split": list(split.data.shape),
            }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script prints."""
    folder = tmp_path_factory.mktemp("meshes")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-c", SCRIPT, json.dumps(MESHES), str(folder)]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1], timeout=900
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("job", ["pretraining", "finetuning"])
@pytest.mark.parametrize("name", list(MESHES))
def test_any_mesh_gives_what_one_device_gives(found: dict[str, Any], job: str, name: str) -> None:
    here = found[f"{job}, {name}"]
    assert here["devices"] == MESHES[name][0] * MESHES[name][1]
    assert here["loss"] <= CLOSE
    assert here["weights"] <= CLOSE
    assert here["moved"] > 1e-3  # so that equality means something
    assert here["losses"][0] != here["losses"][1]


@pytest.mark.parametrize("name", list(MESHES))
def test_matrices_are_split(found: dict[str, Any], name: str) -> None:
    """Each device holds its heads of query, key and value, and its hidden units; the moments of AdamW likewise."""
    parts = MESHES[name][1]
    assert found[f"pretraining, {name}"]["parts"] == [[32, 3, 32 // parts], [64 // parts, 32]]


@pytest.mark.parametrize("name", list(MESHES))
def test_a_checkpoint_goes_from_mesh_to_mesh(found: dict[str, Any], name: str) -> None:
    """That of one device is read on each mesh, and split as that one splits."""
    here = found[f"pretraining, {name}"]
    assert min(here["later"].values()) > 1e-4
    assert here["loaded"] == {"moments": 0, "average": 0}
    assert here["still split"] == [64 // MESHES[name][1], 32]


def test_impossible_meshes_are_refused() -> None:
    import jax
    import numpy as np
    from jax.sharding import Mesh

    from beit import BeitConfig, ConfigError
    from beit.train.flax.mesh import check_mesh, make_mesh

    with pytest.raises(ConfigError, match=r"1 devices cannot be divided into groups of 3 \(model_parallel\)"):
        make_mesh(3)

    class Shape:  # of more devices than there are here
        shape: dict[str, int]

        def __init__(self, data: int, model: int) -> None:
            self.shape = {"data": data, "model": model}

    config = BeitConfig()
    one = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))
    check_mesh(one, config, 7)
    with pytest.raises(ConfigError, match=r"num_attention_heads is 12, which model_parallel \(8\) does not divide"):
        check_mesh(Shape(1, 8), config, 8)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"batch of 12 in 2 parts cannot be divided among 4 devices\. Choose a multiple of 8"
    ):
        check_mesh(Shape(4, 1), config, 12, 2)  # type: ignore[arg-type]
