"""Folders of transformers' Trainer that open anywhere: Trainer itself writes config.json for transformers' own classes only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from beit.models.torch.pretrained import PretrainedModule

# Under which names data parallelism, `torch.compile` and PEFT have the model.
_WRAPPERS = ("module", "_orig_mod", "base_model", "model")


class SaveConfigCallback:
    """Writes config.json beside the weights that Trainer saves, so that beit and transformers open its folders.

    `Trainer(model=model, …, callbacks=[beit.SaveConfigCallback()])`. Without it, beit still opens the folders, by settings that
    it reads off the tensors; transformers does not.
    """

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Complete the checkpoint that was just written, and the folder of the run, into which `save_model` writes."""
        if not getattr(args, "should_save", True):
            return
        for folder in (Path(args.output_dir), Path(args.output_dir) / f"checkpoint-{state.global_step}"):
            if folder.is_dir():
                _save_config(model, folder)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Complete the folder of the run, into which `save_model` writes."""
        if getattr(args, "should_save", True):
            _save_config(model, Path(args.output_dir))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):  # the other events
            return lambda *_, **__: None
        raise AttributeError(f"{type(self).__name__} has no {name}")


def _save_config(model: Any, folder: Path) -> None:
    while not isinstance(model, PretrainedModule):
        inner = next((part for name in _WRAPPERS if (part := getattr(model, name, None)) is not None), None)
        if inner is None:
            return  # a model of another library: Trainer's own affair
        model = inner
    model.config.replace(architectures=[type(model).__name__]).save_pretrained(folder)
