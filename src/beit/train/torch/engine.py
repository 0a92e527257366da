"""A PyTorch model in training: on its device, copied (DDP) or split (FSDP) over processes, compiled, in reduced precision.

DDP and process groups are Accelerate's. FSDP is PyTorch's `fully_shard`, which Accelerate calls too, but on GPUs only. Called
directly it works on CPUs as well, so tests can compare it with a single process.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from beit.checkpoints.torch import read_saved, write_pickle
from beit.core.errors import CheckpointError, ConfigError
from beit.train.run import Run
from beit.train.torch import v0_1
from beit.train.torch.distributed import Accelerated
from beit.train.torch.ema import Average, local

OPTIMIZER_FILE = "optimizer.pt"
AVERAGE_FILE = "ema.pt"
TRAINED_FILE = "trained.pt"  # the weights that are trained, where the saved model is derived from them
SHARDS = "sharded"  # folder: each process's part of optimiser and average, in runs whose model is split

Batch = dict[str, Tensor]  # on the device
Metrics = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch, int], tuple[Tensor, Metrics]]


def precision(choice: str, device: torch.device) -> torch.dtype | None:
    """The type for autocast, or None for float32 throughout. "auto" takes bfloat16 where the device multiplies it natively.

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
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private: a later PyTorch may not have it
    return torch.bfloat16 if device.type == "cpu" and asked is not None and asked() else None


def number_of_images(batch: Batch) -> Tensor:
    """The weight of a batch whose loss is a mean over images."""
    first = next(iter(batch.values()))
    return torch.tensor(float(len(first)), device=first.device)


class TorchEngine:
    """`beit.train.engine.Engine` of a PyTorch model.

    Args:
        run: device, processes and settings.
        model: with its weights; moved to the device.
        optimizer: makes the optimiser over the model's parameters, in groups as `optim.parameter_groups` makes them; called
            when the parameters are on the device.
        loss: (model, batch, step) → (mean loss, metrics, which are means too).
        weight: over how many terms a batch's mean is taken, (). Parts of a batch, and processes, count in proportion to it, so
            that together they give the mean over the whole batch.
        keeps_weights: whether the model is saved in another form than it is trained, so that checkpoints need the trained
            weights too.

    Raises:
        ConfigError: the model cannot do what the settings say.
        CheckpointError: the checkpoint's optimiser is damaged or another's.
    """

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        optimizer: Callable[[], torch.optim.Optimizer],
        loss: Loss,
        weight: Callable[[Batch], Tensor] = number_of_images,
        keeps_weights: bool = False,
    ) -> None:
        settings = run.settings
        self.run, self.model, self.loss, self.weight = run, model, loss, weight
        self.keeps_weights = keeps_weights
        processes = cast(Accelerated, run.processes)
        self.accelerator, self.device = processes.accelerator, processes.device
        self.immediate = self.device.type == "cpu"
        self.dtype = precision(settings.precision, self.device)
        if settings.gradient_checkpointing:
            enable = getattr(model, "gradient_checkpointing_enable", None)
            if enable is None:
                raise ConfigError("A tokenizer has no gradient checkpointing; leave it out and accumulate instead.")
            enable()
        if settings.compile:
            # The encoder takes nearly all of the time. Outside of it shapes depend on masks, which a compiler cannot follow.
            body: Any = getattr(model, "beit", model)
            body.encoder.compile()
        self.split = settings.shard and run.world > 1  # a single process holds all of the model anyway
        self._full_model: nn.Module | None = None
        self.module: nn.Module
        if self.split:
            # A split model cannot be saved or probed. The main process keeps a copy, filled in when it is asked for.
            self._full_model = copy.deepcopy(model) if run.main else None
            self.module = shard(model.to(self.device))
        else:
            self.module = self.accelerator.prepare(model)
        # Only now: `fully_shard` replaces the parameters, and the optimiser must hold the new ones.
        self.optimizer = optimizer()
        self.scaler = torch.amp.GradScaler(self.device.type) if self.dtype == torch.float16 else None
        self.average = Average(model, settings.ema) if settings.ema else None
        # Stays on the device, so that no step waits for it; `finite` looks at it.
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)

    # --- one step -----------------------------------------------------------------------------------------------

    def step(self, batch: Mapping[str, Any], step: int, rate: float, weight_decay: float | None) -> Metrics:
        """Batch to the device → for each part of it: loss, backward → clip → AdamW → average."""
        settings = self.run.settings
        # Dropout and drop path depend on the step's number alone, so a resumed run draws the same.
        torch.manual_seed(hash((settings.seed, step, self.run.rank)) % 2**63)
        # Set by hand and not by a scheduler: the rate follows from the step, so a checkpoint need not keep it.
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
            if weight_decay is not None and group["decays"]:
                group["weight_decay"] = weight_decay
        on_device = {name: torch.as_tensor(value).to(self.device, non_blocking=True) for name, value in batch.items()}
        metrics = self._gradients(on_device, step)
        metrics["gradient_norm"] = self._clip(settings.clip or math.inf)
        self._finite &= torch.isfinite(metrics["loss"])
        if self.scaler is None:  # with a scaler a gradient may overflow: the step is skipped, and the scale lowered
            self._finite &= torch.isfinite(metrics["gradient_norm"])
        self._update(step)
        return metrics

    def _gradients(self, batch: Batch, step: int) -> Metrics:
        """Add up the gradients of the mean loss over the whole batch, all its parts and processes.

        Returns:
            Means over this process's share.
        """
        parts = [
            dict(zip(batch, values, strict=True))
            for values in zip(*(value.chunk(self.run.settings.accumulate) for value in batch.values()), strict=True)
        ]
        weights = torch.stack([self.weight(part) for part in parts])
        total = weights.sum()
        if self.run.world > 1:
            total = self.accelerator.reduce(total, reduction="mean")  # DDP and FSDP average gradients over processes
        sums: Metrics = {}
        for number, part in enumerate(parts):
            share = weights[number] / total  # parts with more masked patches count more
            with self._autocast():
                loss, metrics = self.loss(self.module, part, step)
            self._backward(loss * share, last=number == len(parts) - 1)
            for name, value in {"loss": loss, **metrics}.items():
                value = value.detach().float() * share
                sums[name] = sums[name] + value if name in sums else value
        return sums

    def _autocast(self) -> Any:
        """Matrix products in the run's precision."""
        return torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def _backward(self, loss: Tensor, last: bool) -> None:
        """Add up the gradients. Processes exchange them after the `last` part of a batch only."""
        loss = self.scaler.scale(loss) if self.scaler is not None else loss
        if self.split:
            self.module.set_requires_gradient_sync(last)  # type: ignore[operator]  # FSDP's `no_sync`
        with contextlib.nullcontext() if last or self.split else self.accelerator.no_sync(self.module):
            loss.backward()

    def _clip(self, most: float) -> Tensor:
        """Scale the gradient down to the norm `most` (inf: leave it as it is). Returns its norm before that, ()."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)  # the limit is for the real gradient
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), most)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of a split model a DTensor

    def _update(self, step: int) -> None:
        """One step of the optimiser, which fp16 skips where a gradient overflowed, and of the average."""
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(step)

    def finite(self) -> bool:
        """Whether all losses and gradients so far were finite, and fp16 has found a scale for them."""
        # A scale that has fallen below 1 means that gradients overflow however small the loss is made.
        return bool(self._finite) and (self.scaler is None or self.scaler.get_scale() >= 1)

    def finite_weights(self) -> bool:
        """Whether all weights are finite, in all processes."""
        finite = all(bool(torch.isfinite(local(parameter)).all()) for parameter in self.model.parameters())
        # Copies are equal in all processes; of a split model, each process has seen its part only.
        return not (self.run.processes.any(not finite) if self.split else not finite)

    def train_mode(self) -> None:
        """As `Engine.train_mode`."""
        self.module.train()

    # --- what is saved --------------------------------------------------------------------------------------------

    def full_model(self) -> nn.Module | None:
        """As `Engine.full_model`."""
        if not self.split:
            return self.model if self.run.main else None
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        state = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if self._full_model is None:
            return None
        self._full_model.load_state_dict(state, assign=True)
        return self._full_model

    def averaged(self) -> AbstractContextManager[None] | None:
        """As `Engine.averaged`."""
        return None if self.average is None else self._averaged(self.average)

    @contextlib.contextmanager
    def _averaged(self, average: Average) -> Iterator[None]:
        with average.applied():
            yield
        self.full_model()  # or the copy of a split model would keep the averaged weights

    def save(self, folder: Path) -> dict[str, Any]:
        """Write optimiser and average into a checkpoint's folder. All processes must call it.

        Returns:
            What goes into state.json.
        """
        if self.split:
            from torch.distributed.checkpoint import FileSystemWriter
            from torch.distributed.checkpoint import save as save_shards

            save_shards(self._shards(), storage_writer=FileSystemWriter(folder / SHARDS))
        elif self.run.main:
            write_pickle(folder / OPTIMIZER_FILE, self.optimizer.state_dict())
            if self.average is not None:
                write_pickle(folder / AVERAGE_FILE, self.average.weights)
            if self.keeps_weights:
                write_pickle(folder / TRAINED_FILE, self._trained())
        return {} if self.scaler is None else {"scaler": self.scaler.state_dict()}

    def load(self, folder: Path, state: dict[str, Any]) -> None:
        """As `Engine.load`."""
        try:
            if (folder / SHARDS).is_dir():
                self._load_shards(folder / SHARDS)
            elif self.split:  # what one process wrote, which had all of the model
                self._split(folder)
            else:
                if self.keeps_weights:
                    self._load_trained(read(folder / TRAINED_FILE))
                saved = v0_1.optimizer_of(read(folder / OPTIMIZER_FILE), self.model, self.optimizer)
                self.optimizer.load_state_dict(saved)
                _check_optimizer(self.optimizer)
                if self.average is not None:
                    averaged = v0_1.average_of(read(folder / AVERAGE_FILE))
                    _check_average(averaged, self.average.weights)
                    self.average.weights = {name: value.to(self.device) for name, value in averaged.items()}
            if self.scaler is not None and "scaler" in state:
                self.scaler.load_state_dict(state["scaler"])
        except CheckpointError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
            raise CheckpointError(f"The optimiser in {folder} does not fit this run: {error}") from error

    def _trained(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.model.named_parameters() if value.requires_grad}

    def _load_trained(self, found: dict[str, Any]) -> None:
        """Take the trained weights of a checkpoint. Raises ValueError where they are others."""
        own = self._trained()
        _check_average(found, own)
        for name, value in own.items():
            value.copy_(found[name])

    def _load_shards(self, folder: Path) -> None:
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

        from beit.train.torch.shards import load_shards

        found = self._shards()
        load_shards(found, folder)
        set_optimizer_state_dict(self.model, self.optimizer, found["optimizer"])
        # Each process sees its own part; one that went on alone would leave the others waiting.
        if self.run.processes.any(not _finite_parts(self.optimizer)):
            raise ValueError("a moment of the optimiser is NaN or infinite")
        if self.average is not None:
            self.average.weights = found["ema"]

    def _split(self, folder: Path) -> None:
        """Take this process's part of an optimiser and an average that were written whole."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
        from torch.distributed.tensor import DTensor, distribute_tensor

        saved = v0_1.optimizer_of(read(folder / OPTIMIZER_FILE), self.model, self.optimizer)
        called = {id(parameter): name for name, parameter in self.model.named_parameters()}
        state, groups = {}, []
        for old, group in zip(saved["param_groups"], self.optimizer.param_groups, strict=True):
            names = [called[id(parameter)] for parameter in group["params"]]
            for number, parameter, name in zip(old["params"], group["params"], names, strict=True):
                state[name] = saved["state"][number]
                _check_moments(parameter, state[name])
            groups.append({**old, "params": names})
        whole = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(self.model, self.optimizer, {"state": state, "param_groups": groups}, options=whole)
        if self.average is not None:
            averaged = v0_1.average_of(read(folder / AVERAGE_FILE))
            _check_average(averaged, self.average.weights)
            for name, own in self.average.weights.items():
                value = averaged[name].to(self.device)
                own.copy_(
                    distribute_tensor(value, own.device_mesh, own.placements) if isinstance(own, DTensor) else value
                )

    def _shards(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        parts: dict[str, Any] = {"optimizer": get_optimizer_state_dict(self.model, self.optimizer)}
        if self.average is not None:
            parts["ema"] = self.average.weights
        return parts


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Refuse moments that no run has written. Raises ValueError.

    Where they had another shape than their parameter, the fused kernel would read beyond them.
    """
    for parameter, state in optimizer.state.items():
        _check_moments(parameter, state)


def _check_moments(parameter: Tensor, state: Mapping[str, Any]) -> None:
    """`_check_optimizer` for one parameter."""
    for name, value in state.items():
        if not isinstance(value, Tensor) or (value.ndim and value.shape != parameter.shape):
            what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} is {what}, its parameter {tuple(parameter.shape)}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} of a parameter {tuple(parameter.shape)} is NaN or infinite")


def _finite_parts(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this process's parts of all moments are finite."""
    values = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return all(bool(torch.isfinite(local(value)).all()) for value in values)


def _check_average(found: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    """Refuse averaged weights of other names or shapes than the model's, and NaN. Raises ValueError."""
    for name in wanted:
        value = found.get(name)
        if not isinstance(value, Tensor) or value.shape != wanted[name].shape:
            raise ValueError(f"the average of {name} is missing or has another shape than {tuple(wanted[name].shape)}")
        if not torch.isfinite(value).all():
            raise ValueError(f"the average of {name} is NaN or infinite")


def shard(model: nn.Module) -> nn.Module:
    """Split the parameters of each layer, then the others, over all processes. A layer is complete only while it computes."""
    from torch.distributed.fsdp import fully_shard

    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for layer in module:
                fully_shard(layer)
    fully_shard(model)
    return model


# --- files -----------------------------------------------------------------------------------------------------------


def check(folder: Path) -> None:
    """Raises CheckpointError when the optimiser or the average in a checkpoint cannot be read."""
    if not (folder / SHARDS / ".metadata").is_file():
        read(folder / OPTIMIZER_FILE)
    for name in (AVERAGE_FILE, TRAINED_FILE):
        if (folder / name).exists():
            read(folder / name)


def read(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote, read without running code from it. Raises CheckpointError when it is damaged."""
    try:
        found = read_saved(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is missing or damaged: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged: it holds a {type(found).__name__}, wanted a dict.")
    return found
