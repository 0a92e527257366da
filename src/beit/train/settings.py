"""What a run does: one dataclass a command. A field's text is its `--help`; the values are saved beside the result.

What the weights are is said by `BeitConfig`; these say how they come about. Loads no framework.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from beit.core.errors import CheckpointError, ConfigError

SETTINGS_FILE = "settings.json"
_PATHS = "images validation tokenizer model maps validation_images validation_maps classes".split()
_SCHEMES = ("http", "https", "hub", "embedded")
NARROW = ("tiny", "small")  # presets of ours


@dataclass(kw_only=True)
class RunSettings:
    """What all training runs share."""

    images: str | Path
    """Where images come from: a folder, with subfolders or without; tar shards in WebDataset's layout, such as
    shards/train-{000..099}.tar, local or https://…; or hub:OWNER/NAME, a data set of the Hub, hub:OWNER/NAME:SPLIT for
    another split than train. Shards and data sets are streamed."""
    output: Path
    """Folder for the result: a model folder, its checkpoints, the log and these settings."""
    steps: int | None = None
    """Number of steps; overrides epochs."""
    images_per_epoch: int | None = None
    """Images in an epoch of a stream, whose length nobody knows before its end."""
    shuffle_buffer: int = 4096
    """Images of a stream that are shuffled together, in each worker."""
    epochs: float = 100
    """How often each image is seen."""
    batch_size: int = 128
    """Images a step, over all devices."""
    learning_rate: float = 0.0
    """Highest learning rate; 0 for the paper's, scaled to the batch."""
    min_learning_rate: float = 1e-5
    """Learning rate at the end."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: float = 0.05
    """Part of the steps in which the learning rate rises from 0."""
    weight_decay: float = 0.05
    """Weight decay of matrices; biases, norms, positions and the cls token have none."""
    weight_decay_end: float | None = None
    """Weight decay at the end, along a cosine from the first; constant if not given."""
    beta2: float = 0.999
    """Second-moment decay of AdamW."""
    clip: float = 3.0
    """Largest norm of the gradient; 0 for no clipping."""
    seed: int = 0
    """Seed of everything random."""
    accumulate: int = 1
    """Parts in which a batch goes through the model one after the other: the same step in less memory."""
    ema: float = 0.0
    """Decay a step of a moving average of the weights (0.9999, say), saved in output/ema; 0 for none."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of matrix products: bf16 where the device has instructions for it, or as said; fp16 scales the loss."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: about a third slower, far less memory."""
    compile: bool = False
    """Compile the model by torch.compile: minutes at the start, faster steps on a GPU."""
    shard: bool = False
    """Split weights, gradients and optimiser over the processes (FSDP) instead of copying them to each (DDP)."""
    workers: int = 2
    """Processes that read images from disk (images held in memory need none)."""
    log_every: int = 20
    """Steps between lines of the log."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints to keep."""
    resume: Literal["never", "auto", "must"] = "never"
    """Go on from the last checkpoint in the output folder: auto (what --resume alone means) starts if there is none, must
    refuses to; never refuses a folder that holds a run."""

    def __post_init__(self) -> None:
        if self.learning_rate == 0:
            self.learning_rate = self.paper_learning_rate()
        self.validate()

    def paper_learning_rate(self) -> float:
        """What a learning rate of 0 stands for."""
        return 1.5e-3 * self.batch_size / 2048

    def validate(self) -> None:
        """Check all values. Raises ConfigError."""
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise ConfigError(f"{item.name} is {value}; it must be finite.")
        if str(self.output) in ("", "."):
            raise ConfigError("output is the current folder; name a folder for the result.")
        if self.seed >= 2**63:
            raise ConfigError(f"seed is {self.seed}; it must be below 2^63.")
        for name in (
            "batch_size",
            "log_every",
            "save_every",
            "keep",
            "accumulate",
            "shuffle_buffer",
            "images_per_epoch",
        ):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; it must be at least 1.")
        if self.epochs <= 0:
            raise ConfigError(f"epochs is {self.epochs}; it must be above 0.")
        if self.learning_rate <= 0 or self.min_learning_rate < 0:
            raise ConfigError("learning_rate must be above 0 and min_learning_rate not below 0.")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup is {self.warmup}; it is a part of the steps, in [0, 1).")
        for name in ("workers", "clip", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative.")
        for name in ("beta2", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie in [0, 1).")
        if self.weight_decay_end is not None and self.weight_decay_end < 0:
            raise ConfigError(f"weight_decay_end is {self.weight_decay_end}; it must not be negative.")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"A batch of {self.batch_size} cannot be divided into {self.accumulate} parts (accumulate)."
            )
        if self.shard and self.precision == "fp16":
            raise ConfigError("fp16 does not go with shard; choose --precision bf16.")

    def total_steps(self, steps_per_epoch: int | None) -> int:
        """Number of steps of the run; `steps_per_epoch` is None where nobody knows. Raises ConfigError when that leaves none."""
        if self.steps is not None:
            return self.steps
        if steps_per_epoch is None:
            raise ConfigError("A stream has no known length. Give --steps, or --images-per-epoch with --epochs.")
        return max(round(self.epochs * steps_per_epoch), 1)

    def to_dict(self) -> dict[str, Any]:
        """All values as JSON can hold them."""
        values = dataclasses.asdict(self)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


@dataclass(kw_only=True)
class TokenizerSettings(RunSettings):
    """Train a visual tokenizer (a dVAE) on your own images."""

    image_size: int = 64
    """Side of the training crops in pixels; tokens later come from images of any size."""
    factor: Literal[2, 4, 8, 16] = 8
    """Pixels a token, per side. A token should cover one patch: factor = patch size of the view given to it."""
    vocab_size: int = 512
    """Number of codes."""
    width: int = 32
    """Channels of the first group (256 in DALL-E's)."""
    blocks: int = 1
    """Residual blocks a group (2 in DALL-E's)."""
    usage_weight: float = 0.1
    """Pull towards using all codes alike; 0 invites collapse."""
    crop_scale: tuple[float, float] = (0.3, 1.0)
    """Part of an image's area that a crop keeps."""
    min_temperature: float = 0.0625
    """Temperature of the Gumbel-softmax at the end; it starts at 1."""
    learning_rate: float = 3e-3
    """Highest learning rate."""
    weight_decay: float = 0.0
    """Weight decay of matrices."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 for no clipping."""
    batch_size: int = 64
    """Images a step, over all devices."""

    def validate(self) -> None:
        """Check all values. Raises ConfigError."""
        super().validate()
        _check_scale(self.crop_scale)
        if self.min_temperature <= 0 or self.image_size < 1:
            raise ConfigError("min_temperature and image_size must be above 0.")


@dataclass(kw_only=True)
class PretrainSettings(RunSettings):
    """Pre-train BEiT: predict the visual tokens of masked patches."""

    tokenizer: str | None = None
    """Folder or Hub id of a trained tokenizer, or a folder with OpenAI's encoder.pkl and decoder.pkl."""
    target: Literal["tokens", "pixels"] = "tokens"
    """What is predicted: visual tokens, or the patches' own pixels, normalised patch by patch (needs no tokenizer)."""
    crops: int | None = None
    """Different crops of each image, taken in turn, one a pass; new ones in each pass if not given."""
    token_cache: Path | None = None
    """Folder that beit tokenize wrote: tokens are read instead of computed. Its crops are used."""
    model: str = "base"
    """A size (tiny, small, base, large), or a model folder or Hub id to go on from."""
    image_size: int | None = None
    """Side of the images in pixels, if not the model's own."""
    patch_size: int | None = None
    """Side of the patches in pixels, if not the model's own."""
    framework: Literal["torch", "flax"] = "torch"
    """What computes: PyTorch, or JAX with the models in Flax."""
    model_parallel: int = 1
    """Devices over which each matrix of a Flax model is split; the others share the batch."""
    mask: Literal["block", "random"] = "block"
    """Masks made of rectangles, as in the paper, or of patches chosen at random."""
    mask_ratio: float = 75 / 196
    """Part of the patches to mask."""
    min_block: int | None = None
    """Fewest patches of a masked block; 16 of 196, in proportion, if not given."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Part of an image's area that a crop keeps."""
    jitter: float = 0.4
    """Colour jitter of both views."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    drop_path: float | None = None
    """Stochastic depth of the last layer, if not the model's own."""
    layer_scale: float | None = None
    """Initial layer scale, if not the model's own."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of the patch view's channels, when training from scratch."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation of the patch view's channels, when training from scratch."""
    probe: Path | None = None
    """Labelled folder, one subfolder a class: every so often a k-NN classifier and a linear probe of each layer say what
    the features are worth. A fifth of each class is held out to measure on."""
    probe_every: int = 5000
    """Steps between probes; there is one at the end too."""

    def paper_learning_rate(self) -> float:
        """1.5e-3 at a batch of 2,048, in proportion; our narrow models bear, and need, more."""
        return 1.5e-3 if _is_narrow(self.model) else 1.5e-3 * self.batch_size / 2048

    def validate(self) -> None:
        """Check all values. Raises ConfigError."""
        super().validate()
        _check_normalisation(self.mean, self.std)
        _check_framework(self)
        if self.crops is not None and self.crops < 1:
            raise ConfigError(f"crops is {self.crops}; it must be at least 1.")
        if self.probe_every < 1:
            raise ConfigError(f"probe_every is {self.probe_every}; it must be at least 1.")
        if not 0 < self.mask_ratio < 1:
            raise ConfigError(f"mask_ratio is {self.mask_ratio}; it must lie between 0 and 1 (the paper: about 0.4).")
        _check_scale(self.crop_scale)
        _check_parts(self, "flip", "jitter")


@dataclass(kw_only=True)
class TokenizeSettings:
    """Compute the visual tokens of crops of images once, for many passes of pre-training (--token-cache)."""

    images: str | Path
    """Where images come from: a folder, tar shards or a data set of the Hub, as in beit pretrain."""
    output: Path
    """Folder for the tokens. Where it holds some of them already, only the others are computed."""
    tokenizer: str
    """Folder or Hub id of a trained tokenizer, or a folder with OpenAI's encoder.pkl and decoder.pkl."""
    crops: int = 10
    """Different crops of each image; pre-training takes them in turn, one a pass."""
    model: str = "base"
    """The model to be pre-trained: a size (tiny, small, base, large), a folder or a Hub id. Only its patch grid counts."""
    image_size: int | None = None
    """Side of the images in pixels, if not the model's own."""
    patch_size: int | None = None
    """Side of the patches in pixels, if not the model's own."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Part of an image's area that a crop keeps."""
    jitter: float = 0.4
    """Colour jitter of both views."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    seed: int = 0
    """Seed of the crops."""
    batch_size: int = 64
    """Crops at a time."""
    workers: int = 2
    """Processes that read images."""

    def __post_init__(self) -> None:
        for name in ("crops", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("workers", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative.")
        _check_scale(self.crop_scale)
        _check_parts(self, "flip", "jitter")


@dataclass(kw_only=True)
class FinetuneSettings(RunSettings):
    """Fine-tune a classifier on labelled images: one subfolder a class."""

    model: str
    """A pre-trained model folder or Hub id; or a size (tiny, small, base, large) to train from scratch."""
    validation: Path | None = None
    """Folder with images to measure top-1 on, in the same class subfolders."""
    classes: Path | None = None
    """Text file with the names of the classes, one a line, from class 0 on: for tar shards, whose labels are numbers. A
    folder's classes are its subfolders, in the order of the alphabet if not given."""
    labels_per_class: int | None = None
    """Use only the first so many images of each class."""
    image_size: int | None = None
    """Side of the images in pixels, if not the model's own; a trained model's positions are resized."""
    patch_size: int | None = None
    """Side of the patches in pixels, when training from scratch."""
    framework: Literal["torch", "flax"] = "torch"
    """What computes: PyTorch, or JAX with the models in Flax."""
    model_parallel: int = 1
    """Devices over which each matrix of a Flax model is split; the others share the batch."""
    layer_decay: float = 0.65
    """Learning rate of a layer as a part of that of the next."""
    label_smoothing: float = 0.1
    """Part of the target spread over all classes."""
    drop_path: float = 0.1
    """Stochastic depth of the last layer."""
    crop: Literal["resized", "simple", "centre"] = "resized"
    """A crop of random size and shape; DeiT III's simple one, nearly all of the image; or always the middle 224/256."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Part of an image's area that a resized crop keeps."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect ratio of a resized crop."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    augment: Literal["none", "rand", "three"] = "none"
    """RandAugment as BEiT is fine-tuned with (rand-m9-mstd0.5-inc1 in timm's words), or DeiT III's 3-Augment."""
    jitter: float = 0.0
    """Colour jitter (the authors' code: 0.4). None with RandAugment, whatever this says, as in timm; 0.3 with 3-Augment
    unless this says otherwise."""
    erase: float = 0.0
    """Probability of erasing a random rectangle with noise (the paper: 0.25)."""
    mixup: float = 0.0
    """Beta parameter of mixup; 0 for none (the paper: 0.8)."""
    cutmix: float = 0.0
    """Beta parameter of cutmix; 0 for none (the paper: 1). With both, each batch has one or the other."""
    mix_probability: float = 1.0
    """Probability that a batch is mixed at all."""
    min_learning_rate: float = 1e-6
    """Learning rate at the end."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of the channels, when training from scratch."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation of the channels, when training from scratch."""

    def paper_learning_rate(self) -> float:
        """4e-3 at a batch of 1,024, in proportion (base, self-supervised); our narrow models bear more."""
        return 2e-3 if _is_narrow(self.model) else 4e-3 * self.batch_size / 1024

    def validate(self) -> None:
        """Check all values. Raises ConfigError."""
        super().validate()
        _check_normalisation(self.mean, self.std)
        _check_scale(self.crop_scale)
        _check_framework(self)
        _check_parts(self, "label_smoothing", "drop_path", "flip", "jitter", "erase", "mix_probability")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay is {self.layer_decay}; it must lie in (0, 1].")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ConfigError(f"crop_ratio is {self.crop_ratio}; wanted two aspect ratios, 0 < from ≤ to.")
        if self.augment not in ("none", "rand", "three"):
            raise ConfigError(f"augment is {self.augment!r}; choose none, rand or three.")
        if self.crop not in ("resized", "simple", "centre"):
            raise ConfigError(f"crop is {self.crop!r}; choose resized, simple or centre.")
        if self.mixup < 0 or self.cutmix < 0:
            raise ConfigError("mixup and cutmix must not be negative.")
        if self.labels_per_class is not None and self.labels_per_class < 1:
            raise ConfigError(f"labels_per_class is {self.labels_per_class}; it must be at least 1.")


@dataclass(kw_only=True)
class SegmentSettings(RunSettings):
    """Train semantic segmentation: a class for every pixel, by UPerNet on a pre-trained model or from scratch."""

    model: str
    """A pre-trained model folder or Hub id; or a size (tiny, small, base, large) to train from scratch."""
    maps: Path | None = None
    """Folder with the label maps: grey or palette PNG, one class number a pixel, named and arranged as the images
    (images/street/1.jpg, maps/street/1.png). Not needed for --images embedded:pasted_garments."""
    validation_images: Path | None = None
    """Folder with images to measure mIoU on at the end."""
    validation_maps: Path | None = None
    """Folder with their label maps."""
    classes: Path | None = None
    """Text file with the names of the classes, one a line, from class 0 on. Without it: the classes of the model, if it
    segments already; else as many as the largest number in the maps says."""
    ignore_index: int = 255
    """Number in the label maps that means: no label here."""
    reduce_labels: bool = False
    """Maps count classes from 1, and 0 means no label, as in ADE20K."""
    image_size: int | None = None
    """Side of the crops in pixels, if not the model's own; a trained model's positions are resized."""
    patch_size: int | None = None
    """Side of the patches in pixels, when training from scratch."""
    short_side: int | None = None
    """Shorter side in pixels to which images are resized before the random scale; the model's image size if not given."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Random scale of that."""
    cat_max: float = 0.75
    """A crop in which one class fills more of the labelled pixels is drawn again, up to ten times; 1 takes any."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    distortion: float = 0.5
    """Probability of each change of colour: brightness, contrast, saturation, hue."""
    layer_decay: float = 0.65
    """Learning rate of a layer as a part of that of the next."""
    drop_path: float = 0.1
    """Stochastic depth of the last layer."""
    head_dropout: float = 0.1
    """Dropout of whole channels before the classifiers."""
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's loss; 0 for no such head."""
    auxiliary_channels: int = 256
    """Width of the auxiliary head."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of the channels, when training from scratch (ImageNet's)."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of the channels, when training from scratch (ImageNet's)."""
    batch_size: int = 16
    """Images a step, over all devices."""
    min_learning_rate: float = 0.0
    """Learning rate at the end."""
    schedule: Literal["cosine", "linear"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup: float = 1500 / 160_000
    """Part of the steps in which the learning rate rises from 0."""

    def paper_learning_rate(self) -> float:
        """7e-4 at a batch of 16, in proportion (base, self-supervised); our narrow models bear more."""
        return 1e-3 if _is_narrow(self.model) else 7e-4 * self.batch_size / 16

    def validate(self) -> None:
        """Check all values. Raises ConfigError."""
        super().validate()
        _check_normalisation(self.mean, self.std)
        _check_parts(self, "flip", "distortion", "cat_max")
        if self.batch_size < 2:
            raise ConfigError("batch_size is 1; batch norm needs at least 2 images a step.")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay is {self.layer_decay}; it must lie in (0, 1].")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"scale is {self.scale}; wanted two factors, 0 < from ≤ to.")
        for name in ("drop_path", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie in [0, 1).")
        if self.auxiliary_weight < 0:
            raise ConfigError(f"auxiliary_weight is {self.auxiliary_weight}; it must not be negative.")
        if self.short_side is not None and self.short_side < 1:
            raise ConfigError(f"short_side is {self.short_side}; it must be at least 1.")
        if self.validation_maps is not None and self.validation_images is None:
            raise ConfigError("validation_maps is given without validation_images; give both.")


# command of `beit` → what its run is told
RUNS: dict[str, type[RunSettings]] = {
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
    "segment train": SegmentSettings,
    "tokenizer train": TokenizerSettings,
}


def _is_narrow(model: str) -> bool:
    """Whether a model is one of our narrow presets, or a local folder of such a width."""
    if model in NARROW:
        return True
    try:
        values = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        return int(values["hidden_size"]) < 512
    except (OSError, ValueError, KeyError, TypeError):
        return False  # an id, or no model folder; loading says so


def _check_scale(scale: tuple[float, float]) -> None:
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ConfigError(f"crop_scale is {scale}; wanted two parts of the area, 0 < from ≤ to ≤ 1.")


def _check_normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if min(mean) < 0:
        raise ConfigError(f"mean is {mean}; pixels are in [0, 1], so it must not be negative.")
    if min(std) <= 0:
        raise ConfigError(f"std is {std}; pixels are divided by it, so it must be above 0.")


def _check_framework(settings: PretrainSettings | FinetuneSettings) -> None:
    if settings.framework not in ("torch", "flax"):
        raise ConfigError(f"framework is {settings.framework!r}; choose torch or flax.")
    if settings.model_parallel < 1:
        raise ConfigError(f"model_parallel is {settings.model_parallel}; it must be at least 1.")
    if settings.framework == "torch":
        if settings.model_parallel > 1:
            raise ConfigError("model_parallel splits Flax models. With PyTorch choose --shard, or --framework flax.")
        return
    if settings.precision == "fp16":
        raise ConfigError("fp16 needs a scaled loss, which Flax runs do without; choose --precision bf16.")
    if settings.compile:
        raise ConfigError("Flax runs are always compiled; leave out --compile.")
    if getattr(settings, "probe", None) is not None:
        raise ConfigError("probe looks at PyTorch models; leave it out, and after the run: beit probe OUTPUT.")
    if settings.shard:
        raise ConfigError("shard splits PyTorch models; of a Flax model choose --model-parallel devices.")


def _check_parts(settings: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise ConfigError(f"{name} is {getattr(settings, name)}; it must lie in [0, 1].")


def from_dict(kind: type[RunSettings], values: dict[str, Any]) -> RunSettings:
    """Settings as `to_dict` gave them, read from JSON.

    Raises:
        CheckpointError: a field is unknown or missing.
    """
    hints = typing.get_type_hints(kind)
    known = {item.name for item in dataclasses.fields(kind)}
    strange = sorted(set(values) - known)
    if strange:
        raise CheckpointError(f"Saved settings have unknown fields: {', '.join(strange)}. Another version wrote them.")
    ready: dict[str, Any] = {}
    for name, value in values.items():
        wanted = hints[name]
        options = typing.get_args(wanted) if typing.get_origin(wanted) in (types.UnionType, typing.Union) else (wanted,)
        # Sources that are no paths stay as they are written: Path would take a slash from https://.
        if isinstance(value, str) and Path in options and value.partition(":")[0] not in _SCHEMES:
            value = Path(value)
        ready[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**ready)
    except TypeError as error:
        raise CheckpointError(f"Saved settings are incomplete: {error}.") from error


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two runs, in words; how a run is watched and saved does not count."""
    old, new = dict(old), dict(new)
    free = {"output", "resume", "workers", "log_every", "save_every", "keep"}
    for values in (old, new):
        for name in _PATHS:  # the same folder, however it is written
            if isinstance(values.get(name), str) and os.path.exists(values[name]):
                values[name] = os.path.abspath(values[name])
    old, new = ({k: list(v) if isinstance(v, tuple) else v for k, v in values.items()} for values in (old, new))
    return [
        f"{name}: {old.get(name)} then, {new.get(name)} now"
        for name in sorted(set(old) | set(new))
        if name not in free and old.get(name) != new.get(name)
    ]
