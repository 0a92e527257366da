"""Settings of `beit segment train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from beit.core.errors import ConfigError
from beit.data.label_form import NAME_FILES, LabelForm
from beit.data.label_maps import LabelRules, parse_values
from beit.train.settings.base import check_at_least_one, check_fractions, check_normalisation
from beit.train.settings.validated import ValidatedSettings


@dataclass(kw_only=True)
class SegmentSettings(ValidatedSettings):
    """Train semantic segmentation: a class for every pixel, by UPerNet on a pre-trained model or from scratch."""

    ADDED: ClassVar[Mapping[str, Any]] = {
        **ValidatedSettings.ADDED,
        "map_value": (),
        "colors": None,
        "unknown_colors": "refuse",
        "mask_suffix": None,
        "annotations": None,
        "validation_annotations": None,
        "unlabelled": "background",
    }
    """As `RunSettings.ADDED`."""

    model: str
    """A pre-trained model folder or Hub id; or a size (tiny, small, base, large) to train from scratch."""
    maps: Path | None = None
    """Folder with the label maps: grey or palette PNG files with a class number per pixel (or, with --colors, a colour), named and arranged as the images
    (images/street/1.jpg, maps/street/1.png). Or a folder of YOLO's text files; these are also found by themselves in labels/train, for
    --images images/train. Not needed for --images embedded:pasted_garments."""
    annotations: Path | None = None
    """COCO's annotations (instances.json), in place of label maps; or data.yaml or classes.txt with the names of YOLO's classes,
    if they are not in labels/ or above it."""
    validation_images: Path | None = None
    """Folder with images to measure mIoU on, while training and at the end."""
    validation_maps: Path | None = None
    """Folder with their label maps, or YOLO's text files."""
    validation_annotations: Path | None = None
    """Their annotations, if those of --annotations are COCO's."""
    unlabelled: Literal["background", "void"] = "background"
    """What pixels in no outline of COCO's or YOLO's are: the class background (number 0, unless a class has that name), or void,
    no label."""
    classes: Path | None = None
    """Text file with the names of the classes, one per line, from class 0 on. If not given: the classes of the model, if it
    segments already; else as many classes as the largest number in the maps says."""
    ignore_index: int = 255
    """Number in the label maps that means no label."""
    reduce_labels: bool = False
    """The maps count classes from 1, and 0 means no label, as in ADE20K."""
    map_value: tuple[str, ...] = ()
    """Numbers in the label maps that stand for other numbers: 255=1 for masks of 0 and 255."""
    colors: Path | None = None
    """File with the colour of each class, for label maps in colour: label_colors.txt (128 64 128 road), CSV (name,r,g,b) or JSON
    ({"road": [128, 64, 128]}). Its order is the order of the classes unless --classes says otherwise; a class called void or
    unlabelled means no label."""
    unknown_colors: Literal["refuse", "void"] = "refuse"
    """What to do about colours in label maps that the file --colors does not have: refuse them, or take them for no label."""
    mask_suffix: str | None = None
    """How the names of the label maps end after that of their image, if not as they do: _mask.png, _L.png (CamVid),
    _gtFine_labelIds.png (Cityscapes). Other files beside them are left out. If not given: an ending that all have is found."""
    image_size: int | None = None
    """Side of the crops in pixels; the model's own if not given. The positions of a trained model are resized."""
    patch_size: int | None = None
    """Side of the patches in pixels, when training from scratch."""
    short_side: int | None = None
    """Shorter side in pixels to which images are resized before the random scale; the model's image size if not given."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Random scale by which the size of the resized image is multiplied: least and most."""
    cat_max: float = 0.75
    """A crop in which one class fills more than this fraction of the labelled pixels is drawn again, up to ten times; 1
    takes any crop."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    distortion: float = 0.5
    """Probability of each colour change: brightness, contrast, saturation, hue."""
    layer_decay: float = 0.65
    """Learning rate of a layer as a fraction of the next layer's."""
    drop_path: float = 0.1
    """Stochastic depth of the last layer."""
    head_dropout: float = 0.1
    """Dropout of whole channels before the classifiers."""
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's loss; 0 for no such head."""
    auxiliary_channels: int = 256
    """Width of the auxiliary head."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of the channels (ImageNet's), for a model without an image processor of its own."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of the channels (ImageNet's), for a model without an image processor of its own."""
    batch_size: int = 16
    """Images per step, over all devices."""
    min_learning_rate: float = 0.0
    """Learning rate at the end."""
    schedule: Literal["cosine", "linear"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup: float = 1500 / 160_000
    """Fraction of the steps in which the learning rate rises from 0."""

    def paper_learning_rate(self, narrow: bool = False) -> float:
        """7e-4 at a batch of 16, in proportion (base, self-supervised); narrow models take a higher rate."""
        return 1e-3 if narrow else 7e-4 * self.batch_size / 16

    def annotations_to_measure(self) -> Path | None:
        """The annotations of the validation images: their own; or the names of YOLO's classes, which are the same for all."""
        names = self.annotations is not None and self.annotations.suffix.lower() in NAME_FILES
        return self.annotations if self.validation_annotations is None and names else self.validation_annotations

    def label_form(self) -> LabelForm:
        """How the labels are written. Raises ConfigError for settings that exclude each other."""
        rules = LabelRules(self.ignore_index, self.reduce_labels, parse_values(self.map_value))
        return LabelForm(rules, self.colors, self.unknown_colors, self.mask_suffix, self.unlabelled == "background")

    def validate(self) -> None:
        """Check all values. Raises ConfigError."""
        super().validate()
        check_normalisation(self.mean, self.std)
        self.label_form()
        check_fractions(self, "flip", "distortion", "cat_max")
        if self.batch_size < 2:
            raise ConfigError("batch_size is 1; batch norm needs at least 2 images per step.")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay is {self.layer_decay}; it must lie in (0, 1].")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"scale is {self.scale}; wanted two factors, 0 < least ≤ most.")
        for name in ("drop_path", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie in [0, 1).")
        if self.auxiliary_weight < 0:
            raise ConfigError(f"auxiliary_weight is {self.auxiliary_weight}; it must not be negative.")
        check_at_least_one(self, "short_side")
        for name in ("validation_maps", "validation_annotations"):
            if getattr(self, name) is not None and self.validation_images is None:
                raise ConfigError(f"{name} is given without validation_images; give both.")
        coco = self.annotations is not None and self.annotations_to_measure() is None
        if coco and self.validation_images is not None and self.validation_maps is None:
            raise ConfigError(
                f"The labels of the validation images are missing: {self.annotations} is for the others. Give --validation-annotations."
            )
        if self.unlabelled not in ("background", "void"):
            raise ConfigError(f"unlabelled is {self.unlabelled!r}; choose background or void.")
        if self.unknown_colors not in ("refuse", "void"):
            raise ConfigError(f"unknown_colors is {self.unknown_colors!r}; choose refuse or void.")
