"""What models refuse, in the same words in both frameworks: images, masks and labels of a wrong shape, impossible heads.

The functions look at shapes and counts only, never into arrays, so they also work while a compiler traces the model. Loads
neither torch nor jax.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from beit.config import BeitConfig
from beit.core import geometry
from beit.core.errors import ClassNumberError, ConfigError, InputError, ShapeError

Shape = Sequence[int]


def check_pixels(shape: Shape | None, config: BeitConfig) -> None:
    """Refuse images that a model of `config` does not take.

    Args:
        shape: of the images, wanted `(B, channels, H, W)`; None when there are none.
        config: the patch must divide H and W, unless `pad_to_patch`.

    Raises:
        InputError: no images, or another number of dimensions or channels.
        ShapeError: a size that is not whole patches.
    """
    height, width = geometry.pair(config.image_size)
    wanted = f"(batch, {config.num_channels}, {height}, {width})"
    if shape is None:
        raise InputError(f"No pixel_values. Give a tensor {wanted}, as BeitImageProcessor returns it.")
    if len(shape) != 4:
        raise InputError(
            f"pixel_values has shape {tuple(shape)}; wanted {wanted}. For one image, add a batch "
            "dimension: pixel_values[None]."
        )
    _, channels, *size = shape
    if channels != config.num_channels:
        raise InputError(
            f"pixel_values has {channels} channels; this model takes {config.num_channels}: {wanted}. Convert the "
            'images (PIL: image.convert("RGB")) or build a model with num_channels='
            f"{channels}."
        )
    patch = geometry.pair(config.patch_size)
    if min(size) < 1 or (not config.pad_to_patch and any(side % p for side, p in zip(size, patch, strict=True))):
        below = [side // p * p for side, p in zip(size, patch, strict=True)]
        above = [max(-(-side // p), 1) * p for side, p in zip(size, patch, strict=True)]
        near = " and ".join(f"{rows}x{columns}" for rows, columns in (below, above) if rows and columns)
        raise ShapeError(
            f"Images are {size[0]}x{size[1]} pixels; this model takes whole patches of {patch[0]}x{patch[1]}. The nearest "
            f"sizes are {near}. Resize or crop the images, for example with BeitImageProcessor(size={height}, "
            f"crop_size={height}), or load the model with pad_to_patch=True, which pads them with zeros."
        )


def check_pyramid(pixels: Shape, config: BeitConfig) -> None:
    """Refuse images of shape `pixels` with too few patches for a feature pyramid. Raises ShapeError."""
    grid, patch = config.grid_of(pixels[2:]), geometry.pair(config.patch_size)
    if min(grid) < 2:
        raise ShapeError(
            f"Images are {pixels[2]}x{pixels[3]} pixels, {grid[0]}x{grid[1]} patches. The feature pyramid halves them, so it "
            f"needs two each way. Give images of at least {2 * patch[0]}x{2 * patch[1]} pixels."
        )


def check_mask(shape: Shape, pixels: Shape, config: BeitConfig) -> None:
    """Refuse a mask that is not `(B, N)` or `(B, h, w)` for images of shape `pixels`. Raises InputError or ShapeError."""
    if not config.use_mask_token:
        raise InputError(
            "bool_masked_pos was given, but this model has no mask token. Build or load it with use_mask_token=True."
        )
    grid = config.grid_of(pixels[2:])
    patches = grid[0] * grid[1]
    if tuple(shape) not in ((pixels[0], patches), (pixels[0], *grid)):
        raise ShapeError(
            f"bool_masked_pos has shape {tuple(shape)}; wanted ({pixels[0]}, {patches}): one value per patch, row by row."
        )


def check_needs_mask(mask: object, labels: object, masked_logits_only: bool = False) -> None:
    """Refuse labels, or the wish for masked logits, without a mask. Raises InputError."""
    if mask is None and (labels is not None or masked_logits_only):
        raise InputError("labels and masked_logits_only need bool_masked_pos: which patches are masked.")


def check_masked_labels(labels: int, masked: int, mask: Shape) -> None:
    """Refuse a number of tokens that is neither that of the masked patches nor that of all patches.

    Args:
        labels: number of tokens.
        masked: number of masked patches.
        mask: shape of the mask.

    Raises:
        InputError: another number, or nothing is masked.
    """
    if masked == 0:
        raise InputError("bool_masked_pos masks no patch: the loss has nothing to average. Mask at least one.")
    if labels not in (masked, math.prod(mask)):
        raise InputError(
            f"labels has {labels} tokens for {masked} masked patches; wanted one per masked patch, in reading "
            f"order, or one per patch: {tuple(mask)}."
        )


def problem_type(config: BeitConfig, whole_numbers: bool) -> str:
    """The `problem_type` of a classifier of `config`.

    Args:
        config: its own `problem_type` counts, if it has one.
        whole_numbers: whether labels are integers (and not bool).

    Returns:
        `regression`, `single_label_classification` or `multi_label_classification`.
    """
    if config.problem_type is not None:
        return config.problem_type
    if config.num_labels == 1:
        return "regression"
    return "single_label_classification" if whole_numbers else "multi_label_classification"


def check_labels(labels: Shape, logits: Shape, problem: str) -> None:
    """Refuse labels of a shape that does not fit a classifier's logits. Raises InputError."""
    wanted = {
        "regression": math.prod(labels) == math.prod(logits),
        "single_label_classification": math.prod(labels) == logits[0],
        "multi_label_classification": tuple(labels) == tuple(logits),
    }
    if not wanted[problem]:
        raise InputError(
            f"labels has shape {tuple(labels)} for logits {tuple(logits)} and {problem}. Wanted one class "
            "number per image, or one value per logit; config.problem_type says which."
        )


def check_label_maps(labels: Shape, dtype: object, whole_numbers: bool, batch: int) -> None:
    """Refuse label maps that are not `(B, H', W')` integers. Raises ShapeError."""
    if not whole_numbers or len(labels) != 3 or labels[0] != batch or min(labels[1:]) < 1:
        raise ShapeError(
            f"labels is {tuple(labels)} of {dtype}; wanted class numbers (int64) of shape "
            f"({batch}, height, width), one map per image, as BeitImageProcessor(images, maps) gives them."
        )


def label_padding(labels: Shape, size: Shape, config: BeitConfig) -> tuple[int, int]:
    """How much label maps are padded where images are padded.

    Args:
        labels: shape of the label maps, `(B, H', W')`.
        size: height and width of the images before padding, in pixels.
        config: with `pad_to_patch`, or images are never padded.

    Returns:
        Rows below and columns on the right.

    Raises:
        InputError: the images are padded, and the maps have neither their size nor the padded one.
    """
    patch = geometry.pair(config.patch_size)
    padded = tuple(count * p for count, p in zip(config.grid_of(size), patch, strict=True))
    if tuple(size) == padded or tuple(labels[1:]) == padded:
        return 0, 0
    if tuple(labels[1:]) != tuple(size):
        raise InputError(
            f"labels are {labels[1]}x{labels[2]} for images of {size[0]}x{size[1]} pixels, which are padded to "
            f"{padded[0]}x{padded[1]}. Give label maps of one of these two sizes, so that it is clear what they cover."
        )
    return padded[0] - size[0], padded[1] - size[1]


def outside_classes(values: Sequence[int], number: int, setting: str, ignore: int) -> ClassNumberError:
    """The error for class numbers outside [0, number).

    Args:
        values: the class numbers, at least one.
        number: how many classes there are.
        setting: the config's field with that number.
        ignore: the class number that stands for no label.
    """
    shown = ", ".join(map(str, values[:5])) + (", …" if len(values) > 5 else "")
    return ClassNumberError(
        f"labels has {shown}, which is outside the {number} classes; wanted integers from 0 to {number - 1}, or "
        f"{ignore} for no label. Correct the labels, or build the model with a larger {setting}."
    )


def all_ignored(ignore: int) -> str:
    """The warning for a batch of label maps without any label."""
    return (
        f"all labels of this batch are {ignore}, which is ignored, so its loss is 0. Check the label maps and "
        "semantic_loss_ignore_index if this happens often."
    )


def segmentation_config(config: BeitConfig) -> tuple[BeitConfig, list[int]]:
    """The config of a segmentation model, completed so that the reference builds the same model from it.

    Returns:
        The config, and the four layers that the heads see, counted from 1.

    Raises:
        ConfigError: there are too few patches for the pyramid, too few classes, or not four layers.
    """
    layers = config.tapped_layers()
    if min(config.grid) < 2:
        raise ConfigError(
            f"Images have {config.grid[0]}x{config.grid[1]} patches. The feature pyramid halves them, so segmentation needs at "
            "least two each way. Use a larger image_size or a smaller patch_size."
        )
    if config.num_labels < 2:
        raise ConfigError(f"num_labels is {config.num_labels}; segmentation needs at least two classes.")
    channels, width = config.auxiliary_channels, config.hidden_size
    without = config.auxiliary_num_convs == 0 and not config.auxiliary_concat_input
    if config.use_auxiliary_head and without and channels != width:
        raise ConfigError(
            f"auxiliary_num_convs is 0, so the classifier sees hidden_size {width} channels, not auxiliary_channels "
            f"{channels}. Set auxiliary_channels={width}, or use a convolution."
        )
    if config.segmentation_layers is None and len(config.stages()[1]) != 4:
        # The reference reads `out_indices`, and does not build the class without them.
        indices = {} if len(set(layers)) < 4 else {"out_indices": [layer - 1 for layer in layers]}
        config = config.replace(segmentation_layers=layers, **indices)
    return config, layers


def check_batch_norm(batch: int, scales: Sequence[int]) -> None:
    """Refuse one image in training where batch norm comes after pooling to 1x1. Raises InputError."""
    if batch == 1 and 1 in scales:
        raise InputError(
            "Got a batch of one image in training. Batch norm after pooling to 1x1 needs at least two images: give more, "
            "or call eval()."
        )
