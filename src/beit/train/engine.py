"""A model in training: on its device, copied (DDP) or split (FSDP) over processes, compiled, in reduced precision; and
the moving average of its weights.

DDP and process groups are Accelerate's. FSDP is PyTorch's `fully_shard` itself, which is what Accelerate calls on GPUs and
which, unlike Accelerate, also works on CPUs, so that tests can hold it against one process.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beit.errors import CheckpointError, ConfigError
from beit.train.checkpoint import AVERAGE_FILE, OPTIMIZER_FILE, SHARDS, read, write
from beit.train.run import Run


def precision(choice: str, device: torch.device) -> torch.dtype | None:
    """The autocast type, or None. "auto" takes bfloat16 where the device multiplies it natively.

    Raises:
        ConfigError: there is no such choice.
    """
    if choice not in ("auto", "fp32", "bf16", "fp16"):
        raise ConfigError(f"Unknown precision {choice!r}. Choose auto, fp32, bf16 or fp16.")
    if choice == "fp32":
        return None
    if choice in ("bf16", "fp16"):
        return torch.bfloat16 if choice == "bf16" else torch.float16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private, so it may go
    return torch.bfloat16 if device.type == "cpu" and asked is not None and asked() else None


class Average:
    """An exponential moving average of a model's weights (Polyak averaging; Tarvainen & Valpola 2017, arXiv 1703.01780).

    At step t, counted from 0, the decay is min(decay, (1+t)/(10+t)), so that the random start is soon forgotten.
    Statistics of batch norms are copied, not averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model's weights."""
        learned = dict(self.model.named_parameters())
        averaged = [_local(self.weights[name]) for name in learned]
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(averaged, [_local(value) for value in learned.values()], 1 - decay)
        for name, value in self.model.named_buffers():
            if name in self.weights:
                self.weights[name].copy_(value)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights for as long as the `with` lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, value in self.model.state_dict().items():
            own, averaged = _local(value), _local(self.weights[name])
            kept = own.clone()
            own.copy_(averaged)
            averaged.copy_(kept)


def _local(value: Tensor) -> Tensor:
    """This process's part of a split tensor; other tensors as they are."""
    return value.to_local() if hasattr(value, "to_local") else value


class Engine:
    """A model and its optimiser, placed.

    Args:
        run: device, processes and settings.
        model: with its weights; moved to the device.
        optimizer: makes the optimiser; called when the model's parameters are where they stay.

    Raises:
        ConfigError: the model cannot do what the settings say.
        CheckpointError: the checkpoint's optimiser is damaged or another's.
    """

    def __init__(self, run: Run, model: nn.Module, optimizer: Callable[[], torch.optim.Optimizer]) -> None:
        settings = run.settings
        self.run, self.model = run, model
        self.device: torch.device = run.accelerator.device
        self.dtype = precision(settings.precision, self.device)
        if settings.gradient_checkpointing:
            enable = getattr(model, "gradient_checkpointing_enable", None)
            if enable is None:
                raise ConfigError("A tokenizer has no gradient checkpointing; leave it out and accumulate instead.")
            enable()
        if settings.compile:
            # The encoder is where the time goes. Around it shapes follow from masks, at which a compiler stops.
            body: Any = getattr(model, "beit", model)
            body.encoder.compile()
        self.split = settings.shard and run.world > 1
        self._whole: nn.Module | None = None
        self.module: nn.Module
        if self.split:
            self._whole = copy.deepcopy(model) if run.main else None
            self.module = shard(model.to(self.device))
        else:
            self.module = run.accelerator.prepare(model)
        self.optimizer = optimizer()
        self.scaler = torch.amp.GradScaler(self.device.type) if self.dtype == torch.float16 else None
        self.average = Average(model, settings.ema) if settings.ema else None

    # --- one step -----------------------------------------------------------------------------------------------

    def autocast(self) -> Any:
        """Products in the run's precision."""
        return torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradients; between processes after the `last` part of a batch only."""
        loss = self.scaler.scale(loss) if self.scaler is not None else loss
        if self.split:
            self.module.set_requires_gradient_sync(last)  # type: ignore[operator]
        with contextlib.nullcontext() if last or self.split else self.run.accelerator.no_sync(self.module):
            loss.backward()

    def clip(self, most: float) -> Tensor:
        """Scale the gradient down to the norm `most` (inf: leave it); its norm before that, ()."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), most)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def update(self, step: int) -> None:
        """One step of the optimiser (left out by fp16 where a gradient overflowed), and of the average."""
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(step)

    def finite_weights(self) -> bool:
        """Whether all weights are numbers, in all processes."""
        finite = all(bool(torch.isfinite(_local(parameter)).all()) for parameter in self.model.parameters())
        return not (self.run.any_process(not finite) if self.split else not finite)

    # --- what is saved --------------------------------------------------------------------------------------------

    def whole(self) -> nn.Module | None:
        """The model with all its weights, in the main process; all processes must ask."""
        if not self.split:
            return self.model if self.run.main else None
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        state = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if self._whole is None:
            return None
        self._whole.load_state_dict(state, assign=True)
        return self._whole

    def save(self, folder: Path) -> dict[str, Any]:
        """Write optimiser and average into a checkpoint's folder; all processes take part when the model is split.

        Returns:
            What goes into state.json.
        """
        if self.split:
            from torch.distributed.checkpoint import FileSystemWriter
            from torch.distributed.checkpoint import save as save_shards

            save_shards(self._shards(), storage_writer=FileSystemWriter(folder / SHARDS))
        elif self.run.main:
            write(folder / OPTIMIZER_FILE, self.optimizer.state_dict())
            if self.average is not None:
                write(folder / AVERAGE_FILE, self.average.weights)
        return {} if self.scaler is None else {"scaler": self.scaler.state_dict()}

    def load(self, folder: Path, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's optimiser and average. Raises CheckpointError when they are damaged."""
        try:
            if self.split:
                from torch.distributed.checkpoint import FileSystemReader
                from torch.distributed.checkpoint import load as load_shards
                from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

                found = self._shards()
                load_shards(found, storage_reader=FileSystemReader(folder / SHARDS))
                set_optimizer_state_dict(self.model, self.optimizer, found["optimizer"])
                if self.average is not None:
                    self.average.weights = found["ema"]
            else:
                self.optimizer.load_state_dict(read(folder / OPTIMIZER_FILE))
                if self.average is not None:
                    self.average.weights = {k: v.to(self.device) for k, v in read(folder / AVERAGE_FILE).items()}
        except (ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"The optimiser in {folder} does not fit this run: {error}") from error
        if self.scaler is not None and "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])

    def _shards(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        parts: dict[str, Any] = {"optimizer": get_optimizer_state_dict(self.model, self.optimizer)}
        if self.average is not None:
            parts["ema"] = self.average.weights
        return parts


def shard(model: nn.Module) -> nn.Module:
    """Split the parameters of each layer, then the rest, over all processes: a layer is whole only while it computes."""
    from torch.distributed.fsdp import fully_shard

    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for layer in module:
                fully_shard(layer)
    fully_shard(model)
    return model
