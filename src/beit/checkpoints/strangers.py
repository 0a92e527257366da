"""Files of other tools in a folder that was given as a model, and what to do about them."""

from __future__ import annotations

import re
from collections.abc import Iterable

# (what a file's name looks like, what it is and what to do). `FOLDER` stands for the folder.
_KNOWN = (
    (
        r"zero_to_fp32\.py|global_step\d+|.*zero_pp_rank_\d+.*\.pt",
        "It is a checkpoint of DeepSpeed, whose weights are split over processes. Merge them: "
        "python FOLDER/zero_to_fp32.py FOLDER OUTPUT",
    ),
    (
        r"pytorch_model_fsdp_\d+",
        "It is a checkpoint of FSDP, whose weights are split over processes. Merge them: "
        "accelerate merge-weights FOLDER/pytorch_model_fsdp_0 OUTPUT",
    ),
    (
        r".*\.distcp|\.metadata",
        "It is a checkpoint of torch.distributed, whose weights are split over processes. Merge them: "
        "accelerate merge-weights FOLDER OUTPUT",
    ),
    (
        r"tf_model(-\d+-of-\d+)?\.h5",
        "tf_model.h5 holds weights for TensorFlow, which are not read. Open the folder in transformers 4 with from_tf=True, "
        "and save it with save_pretrained",
    ),
    (r".*\.onnx", "An .onnx file is a program, not weights to load. Give the folder that it was exported from"),
    (r".*\.gguf", "GGUF files are not read. Give a folder or file with safetensors"),
    (r"adapter_(model|config)\..*", "It is an adapter, not a model. Load the model that it was trained on, then model.load_adapter(FOLDER)"),
)  # fmt: skip


def hint(names: Iterable[str], folder: str) -> str:
    """What the files in a folder are, if another tool wrote them, and what to do; with a space before it, or ""."""
    for pattern, advice in _KNOWN:
        if any(re.fullmatch(pattern, name) for name in names):
            return f" {advice.replace('FOLDER', folder)}."
    return ""
