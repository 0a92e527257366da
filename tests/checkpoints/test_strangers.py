"""Folders that other tools wrote are called by their names, with the command that makes a model of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from beit import BeitConfig, CheckpointError
from beit.checkpoints import Checkpoint


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zero_to_fp32.py", r"DeepSpeed.*python .*/zero_to_fp32.py .* OUTPUT"),
        ("global_step100", r"DeepSpeed"),
        ("pytorch_model_fsdp_0", r"FSDP.*accelerate merge-weights .*/pytorch_model_fsdp_0 OUTPUT"),
        ("__0_0.distcp", r"torch.distributed.*accelerate merge-weights"),
        ("tf_model.h5", r"tf_model.h5 holds weights for TensorFlow"),
        ("model.onnx", r"is a program, not weights"),
        ("model.gguf", r"GGUF files are not read"),
        ("adapter_config.json", r"It is an adapter, not a model.*load_adapter"),
    ],
)
def test_folders_of_other_tools(name: str, words: str, with_config: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    if with_config:
        BeitConfig().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        _ = Checkpoint(tmp_path).state_dict


def test_an_ordinary_folder_gets_no_hint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"it holds: notes.txt\). Is it a model folder"):
        BeitConfig.from_pretrained(tmp_path)
