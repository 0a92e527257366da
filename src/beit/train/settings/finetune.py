"""Settings of `beit finetune`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from beit.core.errors import ConfigError
from beit.data.sources.table_images import TableSettings
from beit.train.settings.base import (
    AUTO,
    PaperRate,
    check_at_least_one,
    check_fractions,
    check_framework,
    check_normalisation,
    check_not_negative,
    check_scale,
)
from beit.train.settings.by_count import batch_for, epochs_for
from beit.train.settings.validated import ValidatedSettings

_PROVISIONAL = 32  # images in a batch that is not decided yet


@dataclass(kw_only=True)
class FinetuneSettings(ValidatedSettings, TableSettings):
    """Fine-tune a model on labelled images: one subfolder per class, or a table (CSV, JSON, Parquet) with classes, several labels or
    numbers. A folder of train/ and val/ or test/ is taken in these parts."""

    ADDED: ClassVar[Mapping[str, Any]] = {
        **ValidatedSettings.ADDED,
        "hold_out": 0.0,
        "image_folder": None,
        "path_column": None,
        "label_columns": None,
        "split": None,
        "problem": "auto",
        "class_weights": "none",
        "balanced": False,
        "freeze": False,
        "lora": 0,
    }
    """As `RunSettings.ADDED`."""

    model: str | None = None
    """A pre-trained model folder, a Hub id or a name that beit models lists; or a size (tiny, small, base, large) to train from
    scratch. If not given, the recommended published checkpoint."""
    validation: Path | None = None
    """Folder with images to measure on, in the same class subfolders; or a table; or tar shards or a data set, of which a temporary
    copy is made. If not given, val/ or test/ beside train/; else images that are held out."""
    hold_out: float = 0.2
    """Fraction of each class that is held out to measure on, where nothing else is given; 0 to learn from all images."""
    batch_size: int = 0
    """Images per step, over all devices; 0 to choose by the number of images."""
    epochs: float = 0.0
    """How often each image is seen; 0 to choose by the number of images."""
    classes: Path | None = None
    """Text file with the names of the classes, one per line, from class 0 on: for tar shards, whose labels are numbers. If not
    given, the classes of a folder are its subfolders, in alphabetical order."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: the loss counts all classes the same, however many images they have; of several labels an image, each label's
    presence as much as its absence."""
    balanced: bool = False
    """Draw images of all classes equally often: those of small classes come several times in an epoch, those of large ones not in
    each."""
    freeze: bool = False
    """Train the head alone; all layers stay as they are. Fast, and enough where their features are good."""
    lora: int = 0
    """Rank of low-rank updates (LoRA) of the layers' matrices, which are trained in place of them, and added to them when the model
    is saved: 8 or 16 for a large model on a small machine; 0 to train all weights."""
    labels_per_class: int | None = None
    """Use only the first N images of each class."""
    image_size: int | None = None
    """Side of the images in pixels; the model's own if not given. The positions of a trained model are resized."""
    patch_size: int | None = None
    """Side of the patches in pixels, when training from scratch."""
    framework: Literal["torch", "flax"] = "torch"
    """Framework that trains: PyTorch, or JAX with the models in Flax."""
    model_parallel: int = 1
    """Number of devices over which each matrix of a Flax model is split. The batch is shared among the groups of this many devices."""
    layer_decay: float = 0.65
    """Learning rate of a layer as a fraction of the next layer's."""
    label_smoothing: float = 0.1
    """Fraction of the target that is spread over all classes; 0 for several labels or numbers."""
    drop_path: float = 0.1
    """Stochastic depth of the last layer."""
    crop: Literal["resized", "simple", "centre"] = "resized"
    """resized: a crop of random size and shape. simple: nearly the whole image, as in DeiT III. centre: always the middle
    224/256."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Fraction of an image's area that a resized crop keeps: least and most."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect ratio of a resized crop: least and most."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    augment: Literal["none", "rand", "three"] = "none"
    """rand: RandAugment as the authors fine-tune BEiT (timm's rand-m9-mstd0.5-inc1). three: DeiT III's 3-Augment."""
    jitter: float = 0.0
    """Strength of the colour jitter (the authors' code: 0.4). RandAugment ignores it, as in timm; 3-Augment takes 0.3 if this
    is 0."""
    erase: float = 0.0
    """Probability of erasing a random rectangle with noise (the paper: 0.25)."""
    mixup: float = 0.0
    """Beta parameter of mixup; 0 for none (the paper: 0.8)."""
    cutmix: float = 0.0
    """Beta parameter of cutmix; 0 for none (the paper: 1). With both, each batch gets one or the other."""
    mix_probability: float = 1.0
    """Probability that a batch is mixed at all."""
    min_learning_rate: float = 1e-6
    """Learning rate at the end."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of the channels, for a model without an image processor of its own."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation of the channels, for a model without an image processor of its own."""

    def paper_learning_rate(self, narrow: bool = False) -> float:
        """4e-3 at a batch of 1,024, in proportion (base, self-supervised); narrow models, a head alone and LoRA take a higher rate."""
        if self.freeze:
            return 5e-3
        if self.lora:
            return 2e-3 if narrow else 1e-3
        return 2e-3 if narrow else 4e-3 * (self.batch_size or _PROVISIONAL) / 1024

    def decided(self, count: int | None) -> Self:
        """As `RunSettings.decided`: the batch and the epochs where they are 0, and the learning rate of that batch."""
        changes: dict[str, Any] = {}
        if self.batch_size == 0:
            changes["batch_size"] = batch_for(count, self.accumulate)
            if isinstance(self.learning_rate, PaperRate):
                changes["learning_rate"] = AUTO  # is made anew, for this batch
        if self.epochs == 0 and self.steps is None:
            changes["epochs"] = epochs_for(count)
        return replace(self, **changes) if changes else self

    def with_task(self, several: bool) -> Self:
        """The settings as the labels decide them.

        Args:
            several: whether an image has several labels, or numbers: targets are then not spread.
        """
        changes: dict[str, Any] = {}
        if several:
            changes["label_smoothing"] = 0.0
        if self.freeze:
            changes["drop_path"] = 0.0  # of layers that do not learn, it would be noise alone
        if self.lora:
            changes["layer_decay"] = 1.0  # the updates begin at 0 in all layers
        return (
            replace(self, **changes) if any(getattr(self, name) != value for name, value in changes.items()) else self
        )

    def check_length(self) -> None:
        """As `RunSettings.check_length`; 0 is left to be decided."""
        check_not_negative(self, "batch_size", "epochs")

    def validate(self) -> None:
        """Check all values. Raises ConfigError."""
        super().validate()
        if not 0 <= self.hold_out < 1:
            raise ConfigError(f"hold_out is {self.hold_out}; it must lie in [0, 1).")
        check_normalisation(self.mean, self.std)
        check_scale(self.crop_scale)
        check_framework(self)
        check_fractions(self, "label_smoothing", "drop_path", "flip", "jitter", "erase", "mix_probability")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay is {self.layer_decay}; it must lie in (0, 1].")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ConfigError(f"crop_ratio is {self.crop_ratio}; wanted two aspect ratios, 0 < least ≤ most.")
        if self.augment not in ("none", "rand", "three"):
            raise ConfigError(f"augment is {self.augment!r}; choose none, rand or three.")
        if self.crop not in ("resized", "simple", "centre"):
            raise ConfigError(f"crop is {self.crop!r}; choose resized, simple or centre.")
        if self.mixup < 0 or self.cutmix < 0:
            raise ConfigError("mixup and cutmix must not be negative.")
        check_at_least_one(self, "labels_per_class")
        check_not_negative(self, "lora")
        self.check_table()
        if self.class_weights not in ("none", "balanced"):
            raise ConfigError(f"class_weights is {self.class_weights!r}; choose none or balanced.")
        self._check_part()

    def _check_part(self) -> None:
        """Of settings by which only a part of the weights is trained."""
        names = [name for name in ("freeze", "lora") if getattr(self, name)]
        if len(names) > 1:
            raise ConfigError("freeze leaves all layers as they are, and lora trains a part of each; choose one.")
        if names and self.framework == "flax":
            raise ConfigError(f"{names[0]} is for PyTorch only: --framework torch. The saved model runs in both.")
        if self.lora and self.shard:
            raise ConfigError("lora does not split the model over processes: leave out shard.")
