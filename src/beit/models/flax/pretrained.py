"""The API of transformers' Flax models around a module: it keeps parameters, checks and compiles calls, reads and writes files.

model = FlaxBeitForImageClassification.from_pretrained(folder)
model(pixel_values).logits                                        # compiled once for each shape
model(pixel_values, params=params, dropout_rng=key, train=True)   # a function of params: jit, grad and vmap go through
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import os
import tempfile
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfinv

from beit.checkpoints import Checkpoint, Source, flax_layout, hub, keywords, model_card, names
from beit.checkpoints.match import LoadReport, match_weights
from beit.checkpoints.msgpack import write_msgpack
from beit.checkpoints.write_weights import as_bytes, remove_other_weights, write_weights
from beit.config import BeitConfig
from beit.core import geometry
from beit.core.errors import CheckpointError, ConfigError, InputError
from beit.models import outputs, validation
from beit.models.parameters import Starts

logger = logging.getLogger("beit")
# What happens in place of keywords that only PyTorch's models honour.
_INSTEAD = {
    "torch_dtype": "parameters are float32; dtype is the type of the arithmetic, and to_bf16 casts parameters",
    "state_dict": "give params to each call, or set model.params",
    "output_loading_info": "model.load_report says it",
    "attn_implementation": "attention is the one formula, which JAX compiles",
    **dict.fromkeys(
        ("device_map", "max_memory"), "JAX puts parameters on its default device; move them by jax.device_put"
    ),
    **dict.fromkeys(("offload_folder", "offload_buffers"), "parameters stay on JAX's device"),
}
Params = Any  # {"params": …}'s content; with statistics of batch norms the whole {"params": …, "batch_stats": …}

# jit, grad and vmap look into outputs through pytrees.
for _kind in (
    outputs.BaseModelOutput,
    outputs.BeitModelOutputWithPooling,
    outputs.MaskedLMOutput,
    outputs.ImageClassifierOutput,
    outputs.SemanticSegmenterOutput,
):
    jax.tree_util.register_dataclass(_kind, list(_kind.__dataclass_fields__), [])


class FlaxPretrained:
    """A Flax module with its config and parameters, called and saved as transformers' FlaxPreTrainedModel.

    Args:
        config: the architecture.
        input_shape: `(B, H, W, channels)` of the images with which transformers initialises; parameters do not depend on it.
        seed: of the random parameters.
        dtype: type of the arithmetic: float32, bfloat16 or float16. Parameters are float32 in any case: see `to_bf16`.
        _do_init: False keeps no parameters in the model: `init_weights` makes them, and each call needs `params`.
        gradient_checkpointing: in training, recompute each layer in the backward pass instead of keeping it.

    Attributes:
        module: the flax.linen module, for `module.apply({"params": params}, …)`.
        load_report: what `from_pretrained` did besides copying tensors; None for a model that was not loaded.

    Raises:
        ConfigError: `input_shape` or `dtype` is impossible.
    """

    config_class = BeitConfig
    framework: ClassVar[str] = "flax"
    main_input_name: ClassVar[str] = "pixel_values"
    generation_config: ClassVar[None] = None  # for code that asks whether there is something to generate
    module_class: ClassVar[type[nn.Module]]
    own_arguments: ClassVar[tuple[str, ...]] = ()
    # Settings that make the module draw random numbers in training.
    rates: ClassVar[tuple[str, ...]] = ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")
    # Name of a method of the module that returns (outputs, more), where a loss needs more than the outputs.
    loss_method: ClassVar[str | None] = None
    load_report: LoadReport | None = None
    origin: str | None = None

    def __init__(
        self,
        config: BeitConfig,
        input_shape: tuple[int, ...] | None = None,
        seed: int = 0,
        dtype: Any = jnp.float32,
        _do_init: bool = True,
        gradient_checkpointing: bool = False,
        **own: Any,
    ) -> None:
        strange = sorted(set(own) - set(self.own_arguments))
        if strange:
            raise TypeError(f"{type(self).__name__} has no argument {strange[0]!r}")
        if not isinstance(config, BeitConfig):
            raise ConfigError(
                f"config is a {type(config).__name__}; wanted a BeitConfig: BeitConfig.from_pretrained(folder)."
            )
        self.config = config = self._checked(config)
        if input_shape is None:
            self.input_shape: tuple[int, ...] = (1, *geometry.pair(config.image_size), config.num_channels)
        else:
            batch, *size, channels = input_shape if len(input_shape) == 4 else (0, 0, 0, 0)
            _refuse(lambda: validation.check_pixels((batch, channels, *size), config))
            self.input_shape = tuple(input_shape)
        self.dtype = _arithmetic(dtype)
        self.seed = seed
        self.key = jax.random.key(seed)
        self.module: Any = self.module_class(
            config=config, dtype=self.dtype, gradient_checkpointing=gradient_checkpointing, **own
        )
        self._own = own
        self._params: Params | None = None
        self._compile()
        if _do_init:
            self._params = self.init_weights(self.key)

    @classmethod
    def _from_config(cls, config: BeitConfig, **arguments: Any) -> Any:
        """A model with random parameters, under transformers' name."""
        return cls(config, **arguments)

    @classmethod
    def can_generate(cls) -> bool:
        """False: BEiT generates no text. Code that serves all models asks."""
        return False

    def enable_gradient_checkpointing(self) -> None:
        """In training, recompute each layer in the backward pass instead of keeping it, from now on."""
        self.module = self.module.clone(gradient_checkpointing=True)
        self._compile()

    def _compile(self) -> None:
        self._run = jax.jit(self._apply, static_argnames=("train", "attentions", "hidden", "method"))

    def __getstate__(self) -> dict[str, Any]:
        # Compiled calls and keys of a random number generator belong to this process.
        return {name: value for name, value in vars(self).items() if name not in ("_run", "key")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.key = jax.random.key(self.seed)
        self._compile()

    def _checked(self, config: BeitConfig) -> BeitConfig:
        return config

    # --- parameters ----------------------------------------------------------------------------------------------

    @property
    def params(self) -> Params:
        """The parameters, a tree of arrays, which can be set. Raises InputError where the model keeps none."""
        if self._params is None:
            raise InputError(
                "This model keeps no params: it was made with _do_init=False. Make params with init_weights(key), or use those "
                "that from_pretrained returned, and pass them to each call."
            )
        return self._params

    @params.setter
    def params(self, params: Params) -> None:
        have, want = (dict(flax_layout.flatten(tree)) for tree in (_plain(params), self._shapes()))
        lost = ["/".join(path) for path in want if path not in have]
        if lost:
            raise InputError(f"params lack {len(lost)} tensors of this model, among them {', '.join(lost[:3])}.")
        self._params = params if type(params) is dict else _plain(params)

    @property
    def params_shape_tree(self) -> Any:
        """The tree of parameters, as `jax.ShapeDtypeStruct`."""
        return self._shapes()

    @property
    def required_params(self) -> set[tuple[str, ...]]:
        """Paths of all parameters."""
        return {path for path, _ in flax_layout.flatten(self._shapes())}

    def num_parameters(self) -> int:
        """Number of parameters, without the statistics of batch norms."""
        tree = self._variables(self.params)["params"]
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))

    def init_weights(
        self, rng: jax.Array, input_shape: tuple[int, ...] | None = None, params: Params = None, scheme: str = "paper"
    ) -> Params:
        """Random parameters, by the table in `models/parameters.py`.

        Args:
            rng: a key of `jax.random`.
            input_shape: accepted as in transformers; parameters do not depend on it.
            params: kept where they exist; only missing ones are drawn.
            scheme: `paper` or `reference`.

        Raises:
            ConfigError: there is no such scheme.
        """
        kept = {} if params is None else dict(flax_layout.flatten(self._variables(_plain(params))))
        tree: Any = {}
        starts = Starts(self.config, scheme)
        for path, leaf in flax_layout.flatten(self._variables(self._shapes())):
            name = flax_layout.name_of(path)
            start = starts(names.from_short_name(name), len(flax_layout.shape_of(name, path[-1], leaf.shape)))
            value = kept.get(path)
            if value is None:
                value = _drawn(start, jax.random.fold_in(rng, zlib.crc32(name.encode())), leaf.shape)
            branch = tree
            for key in path[:-1]:
                branch = branch.setdefault(key, {})
            branch[path[-1]] = value
        return self._bare(tree)

    def _shapes(self) -> Any:
        """The tree of parameters, as shapes."""
        if not hasattr(self, "_known_shapes"):
            size = geometry.pair(self.config.image_size)
            image = jax.ShapeDtypeStruct((1, self.config.num_channels, *size), jnp.float32)
            self._known_shapes = self._bare(_plain(jax.eval_shape(self.module.init, jax.random.key(0), image)))
        return self._known_shapes

    def _variables(self, params: Params) -> Any:
        """Flax's variables from what users call params."""
        return params if "params" in params else {"params": params}

    def _bare(self, variables: Any) -> Params:
        return variables if "batch_stats" in variables else variables["params"]

    def to_bf16(self, params: Params, mask: Any = None) -> Params:
        """The parameters as bfloat16; with a `mask`, a tree of bools like params, only those where it is True."""
        return _cast(params, jnp.bfloat16, mask)

    def to_fp16(self, params: Params, mask: Any = None) -> Params:
        """The parameters as float16; see `to_bf16`."""
        return _cast(params, jnp.float16, mask)

    def to_fp32(self, params: Params, mask: Any = None) -> Params:
        """The parameters as float32; see `to_bf16`."""
        return _cast(params, jnp.float32, mask)

    # --- calls -----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        pixel_values: Any = None,
        bool_masked_pos: Any = None,
        params: Params = None,
        dropout_rng: jax.Array | None = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Any = None,
    ) -> Any:
        """Outputs for images.

        Args:
            pixel_values: `(B, channels, H, W)`, numpy or jax, normalised as the image processor does.
            bool_masked_pos: `(B, N)` or `(B, h, w)`, bool or 0/1: the patches that the mask token replaces.
            params: used instead of the model's own.
            dropout_rng: the key from which dropout and drop path of this call are drawn.
            train: whether dropout and drop path are on.
            output_attentions: return attention weights (computed by the explicit formula, which is slower).
            output_hidden_states: return the embeddings and the output of each layer.
            return_dict: return an output object (default) or a plain tuple.
            labels: targets of the loss: see the class.

        Raises:
            InputError: wrong shape, channel count or size; a mask without a mask token; `train` without a key; labels that do
                not fit.
        """
        config = self.config
        attentions = config.output_attentions if output_attentions is None else output_attentions
        hidden = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        as_dict = config.return_dict if return_dict is None else return_dict
        if pixel_values is None:
            validation.check_pixels(None, config)
        pixels = as_array("pixel_values", pixel_values)
        validation.check_pixels(pixels.shape, config)
        mask = None
        if bool_masked_pos is not None:
            mask = as_array("bool_masked_pos", bool_masked_pos)
            validation.check_mask(mask.shape, pixels.shape, config)
            mask = mask.reshape(len(mask), -1).astype(bool)
        self._check_key(train, dropout_rng)
        variables = self._variables(self.params if params is None else params)
        keys = None if dropout_rng is None or not train else {"dropout": dropout_rng}
        method = None if labels is None else self.loss_method
        output, changed = self._run(
            variables, pixels, mask, keys, train=train, attentions=attentions, hidden=hidden, method=method
        )
        if labels is not None:
            output, more = output if method is not None else (output, mask)
            output.loss = self._loss(output, more, as_array("labels", labels))
        result = output if as_dict else output.to_tuple()
        return (result, changed) if changed else result

    def _apply(
        self,
        variables: Any,
        pixels: Any,
        mask: Any,
        keys: Any,
        train: bool,
        attentions: bool,
        hidden: bool,
        method: str | None,
    ) -> tuple[Any, Any]:
        mutable = ["batch_stats"] if train and "batch_stats" in variables else []
        call = (pixels, mask, train, attentions, hidden)
        return self.module.apply(variables, *call, rngs=keys or {}, mutable=mutable, method=method)

    def _loss(self, output: Any, more: Any, labels: Any) -> Any:
        raise InputError(
            f"{type(self).__name__} has no head, so there is nothing to compare labels with. Leave them out."
        )

    def _check_key(self, train: bool, key: jax.Array | None) -> None:
        drawn = [name for name in self.rates if getattr(self.config, name)]
        if self.config.num_hidden_layers == 1 and "drop_path_rate" in drawn:  # the first layer is never dropped
            drawn.remove("drop_path_rate")
        if train and key is None and drawn:
            raise InputError(
                f"train=True draws at random ({', '.join(drawn)}) and there is no dropout_rng. Pass a fresh key for each step: "
                "dropout_rng=jax.random.key(step)."
            )

    # --- files -----------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Source,
        dtype: Any = jnp.float32,
        *model_args: Any,
        config: BeitConfig | str | os.PathLike[str] | None = None,
        ignore_mismatched_sizes: bool = False,
        **given: Any,
    ) -> Any:
        """Load a model from any BEiT checkpoint, whichever framework and project wrote it.

        Args:
            pretrained_model_name_or_path: as for `BeitModel.from_pretrained`: a folder, a weight file, an id, a URL, a name of
                the catalogue, or an open `Checkpoint`, whose files are not read again.
            dtype: type of the arithmetic; parameters are float32, whatever the file has.
            *model_args: arguments of the constructor after the config.
            config: used instead of the checkpoint's own; or the path or id of one.
            ignore_mismatched_sizes: newly initialise tensors of another shape instead of raising.
            **given: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, `subfolder` say where
                files come from, `variant` and `use_safetensors` which weight file is taken; arguments of the constructor
                (`seed`, `gradient_checkpointing`, …) go there; `from_pt` is accepted but not needed; all others override fields
                of the config (`num_labels=10`). With another `image_size`, positions are resized: see `core/resampling.py`. A
                name that is none of these is warned of.

        Returns:
            The model; with `_do_init=False` (model, params).

        Raises:
            CheckpointError: no such folder or id; damaged or incomplete files; another architecture; other shapes.
            ConfigError: an override is impossible.
        """
        where, files, overrides = keywords.split(
            given, f"{cls.__name__}.from_pretrained", keywords.WEIGHT_FILES, _INSTEAD
        )
        where |= {name: value for name, value in files.items() if value is not None}
        keep = overrides.pop("_do_init", True)
        own = {*inspect.signature(FlaxPretrained.__init__).parameters, *cls.own_arguments} - {"self", "config", "own"}
        arguments = {name: overrides.pop(name) for name in own & set(overrides)}
        if config is not None and not isinstance(config, BeitConfig):
            places = {name: value for name, value in where.items() if name not in keywords.WEIGHT_FILES}
            config = cast(BeitConfig, BeitConfig.from_pretrained(config, **places))
        fields = overrides if config is None else config.to_dict()
        checkpoint = Checkpoint.open(pretrained_model_name_or_path, fields, **where)
        if config is None:
            config = cast(BeitConfig, BeitConfig.from_pretrained(checkpoint))
        elif overrides:
            config = config.replace(**overrides)
        arguments |= dict(zip(("input_shape", "seed"), model_args, strict=False))
        model = cls(config, dtype=dtype, _do_init=False, **arguments)
        model.origin = model_card.folder_of(checkpoint.source)
        params = model.fill(
            checkpoint.take(),
            checkpoint.left_over,
            grid=checkpoint.grid,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
        )
        report = model.load_report
        if report:
            level = logging.WARNING if report.needs_training or report.contradicts else logging.INFO
            logger.log(level, "%s from %s, besides the tensors that fit:\n%s", cls.__name__, checkpoint.source, report)
        if not keep:
            return model, params
        model._params = params
        return model

    def fill(
        self,
        state_dict: Mapping[str, np.ndarray],
        left_over: Sequence[str] = (),
        *,
        grid: tuple[int, int] | None = None,
        ignore_mismatched_sizes: bool = False,
    ) -> Params:
        """Parameters from named arrays; what they lack is initialised. Sets `load_report`.

        Args:
            state_dict: arrays by parameter name, as `names.to_state_dict` gives them.
            left_over: names of tensors in the file that no model has, for the report.
            grid: patches `(h, w)` that the positions belong to. They are resized to the config's; None leaves them.
            ignore_mismatched_sizes: newly initialise tensors of another shape instead of raising.

        Raises:
            CheckpointError: the tensors are of another architecture, incomplete, or of other shapes.
        """
        outline = {}
        for path, leaf in flax_layout.flatten(self._variables(self._shapes())):
            name = flax_layout.name_of(path)
            shape = flax_layout.shape_of(name, path[-1], leaf.shape)
            outline[name] = np.broadcast_to(np.float32(0), shape)  # takes no memory
            if name.endswith("running_var"):
                outline[name.removesuffix("running_var") + "num_batches_tracked"] = np.zeros((), np.int64)
        wanted = {name: array.shape for name, array in names.from_short(outline).items()}
        found, self.load_report = match_weights(
            state_dict,
            wanted,
            model=type(self).__name__,
            left_over=left_over,
            grids=None if grid is None else (grid, self.config.grid),
            ignore_mismatched_sizes=ignore_mismatched_sizes,
        )
        tree = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), flax_layout.to_tree(found))
        return self.init_weights(jax.random.key(self.seed), params=tree)

    def disk_tensors(self, params: Params = None) -> dict[str, np.ndarray]:
        """All parameters and statistics by their names in the PyTorch model, as arrays; bfloat16 becomes float32, which is exact."""

        def as_numpy(leaf: Any) -> np.ndarray:
            array = np.asarray(leaf)
            return array.astype(np.float32) if array.dtype.name == "bfloat16" else array

        tree = self._variables(_plain(self.params if params is None else params))
        return flax_layout.from_tree(jax.tree.map(as_numpy, tree))

    def _narrow(self, params: Params) -> bool:
        """Whether all parameters are bfloat16, so that the file is to be."""
        tree = self._variables(_plain(self.params if params is None else params))
        return all(leaf.dtype.name == "bfloat16" for leaf in jax.tree.leaves(tree["params"]))

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        params: Params = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "5GB",
        token: str | bool | None = None,
        safe_serialization: bool = True,
        **keywords: Any,
    ) -> None:
        """Write config.json and the weights, each atomically, with the reference's tensor names.

        Args:
            save_directory: created if it does not exist.
            params: saved instead of the model's own.
            push_to_hub: also upload the folder, to `repo_id` (default: the name of the folder).
            max_shard_size: bytes, or text like `500MB`; larger safetensors files are split into shards.
            token: for the upload.
            safe_serialization: `model.safetensors`, which both frameworks read; False for `flax_model.msgpack`, which
                transformers' Flax models write unless they are told otherwise.
            **keywords: `repo_id`, and what `hub.upload_folder` takes.

        Raises:
            CheckpointError: it could not be written; what was there before is untouched.
        """
        if not isinstance(push_to_hub, bool):
            raise TypeError(
                f"push_to_hub is {push_to_hub!r}, wanted a bool; name what follows it: max_shard_size='5GB'"
            )
        path = Path(save_directory)
        if path.is_file():
            raise CheckpointError(f"{path} is a file; give a folder to save a model in.")
        repo_id = keywords.pop("repo_id", path.name)
        upload = hub.upload_keywords({"token": token, **keywords})
        disk = self.disk_tensors(params)
        if self._narrow(params):
            disk = {
                name: array.astype(jnp.bfloat16) if array.dtype.kind == "f" else array for name, array in disk.items()
            }
        if safe_serialization:
            write_weights(path, disk, as_bytes(max_shard_size))
        else:
            write_msgpack(path / hub.MSGPACK, disk)
            remove_other_weights(path, hub.MSGPACK)
        # A folder belongs to no framework: transformers writes the name without Flax too, and its pipelines read it.
        kinds = [array.dtype.name for array in disk.values() if array.dtype.kind != "i"]
        architecture = type(self).__name__.removeprefix("Flax")
        self.config.replace(architectures=[architecture], torch_dtype=kinds[0]).save_pretrained(path)
        if push_to_hub:  # from a folder of its own: what else lies in this one is nobody's business
            self.push_to_hub(
                repo_id, params, max_shard_size=max_shard_size, safe_serialization=safe_serialization, **upload
            )

    def push_to_hub(
        self,
        repo_id: str,
        params: Params = None,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        **keywords: Any,
    ) -> str:
        """Upload the model to the Hub; see `BeitModel.push_to_hub`, and `save_pretrained` for how it is written.

        Raises:
            CheckpointError: the Hub refused, or was not reached.
        """
        upload = hub.upload_keywords(keywords)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, params, max_shard_size=max_shard_size, safe_serialization=safe_serialization)
            model_card.add_card(Path(folder), self.origin)
            return hub.upload_folder(folder, repo_id, **upload)


def as_array(name: str, value: Any) -> Any:
    """Return `value` if it is a numpy or jax array, or a tracer of one. Raises InputError for anything else."""
    if not isinstance(value, np.ndarray | jax.Array):
        raise InputError(
            f"{name} is a {type(value).__name__}; wanted a jax or numpy array. From lists: numpy.asarray(...); from images: "
            'BeitImageProcessor(...)(images, return_tensors="np").'
        )
    return value


def whole_numbers(labels: Any) -> bool:
    """Whether labels are integers; booleans are not."""
    return bool(jnp.issubdtype(labels.dtype, jnp.integer))


def check_classes(labels: Any, number: int, setting: str, ignore: int = -100) -> None:
    """Refuse class numbers outside [0, number), except `ignore`.

    Under `jit` values are unknown, so nothing is refused; there, such a number counts as the nearest class.
    """
    if isinstance(labels, jax.core.Tracer):
        return
    known = np.asarray(labels)
    wrong = known[((known < 0) | (known >= number)) & (known != ignore)]
    if wrong.size:
        raise validation.outside_classes(np.unique(wrong).tolist(), number, setting, ignore)


def warn_all_ignored(ignore: int) -> None:
    """Warn that a batch of label maps has no label."""
    warnings.warn(validation.all_ignored(ignore), stacklevel=4)


def _refuse(check: Callable[[], None]) -> None:
    try:
        check()
    except InputError as error:
        raise ConfigError(f"input_shape is (batch, height, width, channels) of the images: {error}") from error


def _arithmetic(dtype: Any) -> Any:
    try:
        found = jnp.dtype(dtype)
    except TypeError as error:
        raise ConfigError(f"dtype is {dtype!r}; choose float32, bfloat16, float16 or float64.") from error
    if not jnp.issubdtype(found, jnp.floating):
        raise ConfigError(f"dtype is {dtype!r}; choose float32, bfloat16, float16 or float64.")
    if found == jnp.float64 and jax.dtypes.canonicalize_dtype(found) != found:
        raise ConfigError('JAX has float64 switched off. Switch it on: jax.config.update("jax_enable_x64", True).')
    return found


@functools.partial(jax.jit, static_argnums=(0, 2))
def _drawn(start: Any, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if start.kind == "constant":
        return jnp.full(shape, start.value, jnp.float32)
    if start.kind == "normal":
        return start.scale * start.value * jax.random.normal(key, shape)
    inside = math.erf(1 / math.sqrt(2))  # fraction of a normal distribution within ±1 std
    uniform = jax.random.uniform(key, shape, minval=-inside, maxval=inside)
    return start.scale * jnp.clip(math.sqrt(2) * start.value * erfinv(uniform), -start.value, start.value)


def _cast(params: Params, dtype: Any, mask: Any) -> Params:
    def one(leaf: Any, chosen: Any = True) -> Any:
        return leaf.astype(dtype) if chosen and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    params = _plain(params)
    return jax.tree.map(one, params) if mask is None else jax.tree.map(one, params, _plain(mask))


def _plain(tree: Any) -> Any:
    """A tree of plain dicts, whatever mappings it is made of (older versions of Flax froze them)."""
    return {key: _plain(value) for key, value in tree.items()} if isinstance(tree, Mapping) else tree
