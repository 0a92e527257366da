"""Methods and attributes that scripts written for transformers use on any model, and Trainer, Accelerate and PEFT look for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from beit.config import BeitConfig
from beit.core.errors import CheckpointError, ConfigError, require


class Conventions(nn.Module):
    """What transformers' models offer besides their outputs and files. Facts: transformers 4.37.2 and 5.x.

    Args:
        config: the architecture.

    Attributes:
        base_model_prefix: under which name models with a head have the encoder.
        main_input_name: the argument of `forward` that holds the images.
        framework: `pt`, by which pipelines choose tensors.
        supports_gradient_checkpointing: True.
        warnings_issued: warnings that Trainer gives once.
    """

    base_model_prefix: ClassVar[str] = "beit"
    main_input_name: ClassVar[str] = "pixel_values"
    framework: ClassVar[str] = "pt"
    supports_gradient_checkpointing: ClassVar[bool] = True
    is_parallelizable: ClassVar[bool] = False
    # What Accelerate must keep on one device: a layer adds its input to its output.
    _no_split_modules: ClassVar[list[str]] = ["BeitLayer", "BeitEmbeddings"]
    _tied_weights_keys: ClassVar[list[str] | None] = None
    _keys_to_ignore_on_save: ClassVar[list[str] | None] = None
    config: BeitConfig

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        self.config = config
        self.warnings_issued: dict[str, bool] = {}
        self._embeddings_hook: Any = None

    # --- parts and numbers -----------------------------------------------------------------------------------------

    @property
    def base_model(self) -> nn.Module:
        """The encoder: the model itself where it has no head."""
        return getattr(self, self.base_model_prefix, self)

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of patches."""
        embeddings = self.base_model.embeddings
        assert isinstance(embeddings, nn.Module)
        patches = embeddings.patch_embeddings
        assert isinstance(patches, nn.Module)
        return patches

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of patches by `value`: images → `(B, N, C)` and the grid of patches."""
        self.base_model.embeddings.patch_embeddings = value  # type: ignore[union-attr]

    def get_output_embeddings(self) -> None:
        """None: no model here shares weights between its input and its output."""
        return

    def tie_weights(self, *_: Any, **__: Any) -> None:
        """Nothing: no model here shares weights between its input and its output."""

    def post_init(self) -> None:
        """Nothing: our weights are drawn by the constructor, and what a subclass adds keeps the numbers that it drew."""

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of parameters, without the statistics of batch norms.

        Args:
            only_trainable: count those with `requires_grad` alone.
            exclude_embeddings: leave out the embedding of patches.
        """
        left_out = set(map(id, self.get_input_embeddings().parameters())) if exclude_embeddings else set()
        return sum(
            parameter.numel()
            for parameter in self.parameters()
            if (parameter.requires_grad or not only_trainable) and id(parameter) not in left_out
        )

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of all parameters and, with `return_buffers`, of all buffers."""
        tensors: list[Tensor] = list(self.parameters())
        return sum(tensor.nbytes for tensor in (tensors + list(self.buffers()) if return_buffers else tensors))

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """A batch of one black image of the configured size: `model(**model.dummy_inputs)`."""
        size = torch.Size((1, self.config.num_channels, *_sides(self.config.image_size)))
        parameter = next(self.parameters())
        return {"pixel_values": torch.zeros(size, device=parameter.device, dtype=parameter.dtype)}

    @property
    def name_or_path(self) -> str:
        """Where the model was loaded from; "" for a model that was not loaded."""
        return str(getattr(self, "_name_or_path", "") or getattr(self.config, "name_or_path", ""))

    @name_or_path.setter
    def name_or_path(self, value: str) -> None:
        self._name_or_path = value

    def can_generate(self) -> bool:
        """False: no model here generates text."""
        return False

    @classmethod
    def _from_config(cls, config: BeitConfig, **keywords: Any) -> Self:
        """A model with new weights, in the type `torch_dtype` or `dtype` if it is given."""
        keywords.pop("attn_implementation", None)
        dtype = keywords.pop("dtype", None)
        dtype = keywords.pop("torch_dtype", None) or dtype
        model = cls(config, **keywords)
        if isinstance(dtype, str):
            dtype = getattr(torch, dtype.removeprefix("torch."))
        return model if dtype is None else model.to(dtype)

    # --- training --------------------------------------------------------------------------------------------------

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Trade time for memory: in training, recompute each layer in the backward pass instead of keeping its numbers.

        Args:
            gradient_checkpointing_kwargs: for `torch.utils.checkpoint.checkpoint`. `use_reentrant=True` is not followed,
                and said so: it would drop the gradient of a relative-position bias that layers share.
            every_n_layers: recompute every n-th layer only.
            offload: not followed, and said so: what is kept stays on its device.
        """
        if offload:
            warnings.warn("offload=True is not followed: what layers keep stays on its device.", stacklevel=2)
        options = dict(gradient_checkpointing_kwargs or {})
        if options.pop("use_reentrant", False):
            warnings.warn(
                "use_reentrant=True is not followed: it would drop the gradient of the shared relative-position bias. "
                "Layers are recomputed with use_reentrant=False, which gives the same numbers.",
                stacklevel=2,
            )
        encoder = self.base_model.encoder
        encoder.gradient_checkpointing, encoder.checkpointing_options = True, options  # type: ignore[union-attr]
        encoder.checkpoint_every = max(int(every_n_layers or 1), 1)  # type: ignore[union-attr]

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **keywords: Any
    ) -> None:
        """The name of `gradient_checkpointing_enable` in later versions of transformers."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, **keywords)

    def gradient_checkpointing_disable(self) -> None:
        """Undo `gradient_checkpointing_enable`."""
        self.base_model.encoder.gradient_checkpointing = False  # type: ignore[union-attr]

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether layers are recomputed in the backward pass."""
        return bool(self.base_model.encoder.gradient_checkpointing)  # type: ignore[union-attr]

    @property
    def is_activation_checkpointing(self) -> bool:
        """The name of `is_gradient_checkpointing` in later versions of transformers."""
        return self.is_gradient_checkpointing

    def enable_input_require_grads(self) -> None:
        """Make the embedded patches require gradients, as adapters with gradient checkpointing need."""

        def require_grads(_: nn.Module, __: Any, output: Any) -> None:
            (output[0] if isinstance(output, tuple) else output).requires_grad_(True)

        self._embeddings_hook = self.get_input_embeddings().register_forward_hook(require_grads)

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        if self._embeddings_hook is not None:
            self._embeddings_hook.remove()
            self._embeddings_hook = None

    def floating_point_ops(self, input_dict: dict[str, Any], exclude_embeddings: bool = True) -> int:
        """Multiplications and additions of a training step, about: 6 per parameter and token.

        Args:
            input_dict: a batch with `pixel_values (B, channels, H, W)`.
            exclude_embeddings: leave out the embedding of patches.
        """
        pixels = input_dict.get(self.main_input_name)
        if pixels is None:
            return 0
        rows, columns = self.config.grid_of(pixels.shape[2:])
        tokens = pixels.shape[0] * (1 + rows * columns)
        return 6 * tokens * self.num_parameters(exclude_embeddings=exclude_embeddings)

    # --- what has no sense here ------------------------------------------------------------------------------------

    def prune_heads(self, heads_to_prune: dict[int, list[int]]) -> None:
        """Refuse: with relative positions, transformers fails here too.

        Raises:
            ConfigError: always; names what to do instead.
        """
        raise ConfigError(
            f"Heads {heads_to_prune} cannot be removed: the relative-position tables have a column for each head, and folders "
            "have no place for layers of different widths. Switch heads off by head_mask=…, which gives the same outputs."
        )

    def resize_token_embeddings(self, *_: Any, **__: Any) -> None:
        """Refuse: images have no vocabulary.

        Raises:
            ConfigError: always; names what to do instead.
        """
        raise ConfigError(
            "Images are embedded by patches, not by a vocabulary. For another number of visual tokens, load the model with "
            "vocab_size=…, ignore_mismatched_sizes=True."
        )

    # --- adapters --------------------------------------------------------------------------------------------------

    def add_adapter(self, adapter_config: Any, adapter_name: str = "default") -> None:
        """Put an adapter, such as a `peft.LoraConfig`, on the layers that it names, and freeze all other parameters.

        Raises:
            MissingExtraError: peft is not installed.
        """
        require("peft", "peft", "add_adapter")
        from peft import inject_adapter_in_model

        inject_adapter_in_model(adapter_config, self, adapter_name)

    def load_adapter(self, folder: str | Path, adapter_name: str = "default") -> None:
        """Put an adapter on the model that peft saved in `folder`, such as one trained on transformers' BEiT.

        Raises:
            MissingExtraError: peft is not installed.
            CheckpointError: the adapter has tensors for layers that this model lacks.
        """
        require("peft", "peft", "load_adapter")
        from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
        from peft.utils import load_peft_weights

        inject_adapter_in_model(PeftConfig.from_pretrained(str(folder)), self, adapter_name)
        tensors = load_peft_weights(str(folder), device=str(next(self.parameters()).device))
        tensors = {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}
        result = set_peft_model_state_dict(self, tensors, adapter_name)
        strange: Sequence[str] = getattr(result, "unexpected_keys", None) or ()
        if strange:
            raise CheckpointError(
                f"{folder} has {len(strange)} tensors for layers that {type(self).__name__} lacks, among them {strange[0]}. "
                "The adapter is for another architecture."
            )

    def set_adapter(self, adapter_name: str) -> None:
        """Choose which of several adapters is used."""
        for layer in self._adapted():
            layer.set_adapter(adapter_name)

    def disable_adapters(self) -> None:
        """Compute without adapters, until `enable_adapters`."""
        for layer in self._adapted():
            layer.enable_adapters(enabled=False)

    def enable_adapters(self) -> None:
        """Compute with adapters again."""
        for layer in self._adapted():
            layer.enable_adapters(enabled=True)

    def _adapted(self) -> list[Any]:
        layers = [
            module
            for module in self.modules()
            if hasattr(module, "enable_adapters") and not isinstance(module, Conventions)
        ]
        if not layers:
            raise ConfigError(f"{type(self).__name__} has no adapter. Put one on it by add_adapter(…).")
        return layers


def _sides(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
