"""Images of any size are segmented by a model of one size: windows, scales and flips against plain formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from fixtures_segment import blocks, save_segmenter

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")
pytest.importorskip("matplotlib")

import torch.nn.functional as F

from beit import BeitForSemanticSegmentation, BeitImageProcessor
from beit.core.errors import CheckpointError, ConfigError, InputError
from beit.inference.files import ImageFiles
from beit.inference.segmentation import segment, segment_images
from beit.inference.sliding_window import SlidingWindow, stride_of, window_starts
from beit.inference.torch import segmentation
from beit.inference.torch.segmentation import Segmenter, best_classes, enlarged_rows

Model = tuple[BeitForSemanticSegmentation, BeitImageProcessor]


@pytest.fixture
def trained(tmp_path) -> Model:
    folder = save_segmenter(tmp_path / "model")
    return BeitForSemanticSegmentation.from_pretrained(folder), BeitImageProcessor.from_pretrained(folder)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def logits_of(trained: Model, pixels: Any) -> Any:
    with torch.no_grad():
        return trained[0].eval()(pixels).logits


def as_pixels(trained: Model, image: Image.Image) -> Any:
    """`(1, 3, H, W)`, by hand."""
    array = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return ((array - 0.5) / 0.5)[None]


def test_windows_cover_the_picture():
    assert stride_of(512, 4) == 340  # the authors' 341 and 426, on the logits' grid
    assert stride_of(640, 4) == 424
    assert stride_of(4, 4) == 4
    assert window_starts(512, 512, 340) == [0]
    assert window_starts(300, 512, 340) == [0]
    assert window_starts(684, 512, 340) == [0, 172]
    assert window_starts(2048, 512, 340) == [0, 340, 680, 1020, 1360, 1536]


@pytest.mark.parametrize("size", [(16, 40), (35, 16), (16, 16)])
def test_sliding_windows_are_averaged(trained, size):
    """Four logits a patch of four pixels: here scores have the size of the picture, so that a plain loop can do the same."""
    image = picture(*size)
    pixels = as_pixels(trained, image)
    total, count = torch.zeros(3, *size), torch.zeros(size)
    for top in window_starts(size[0], 16, 10):
        for left in window_starts(size[1], 16, 10):
            total[:, top : top + 16, left : left + 16] += logits_of(
                trained, pixels[..., top : top + 16, left : left + 16]
            )[0]
            count[top : top + 16, left : left + 16] += 1
    assert bool((count > 0).all())
    expected = (total / count).argmax(0)
    for batch_size in (1, 3, 50):
        found = Segmenter(*trained, SlidingWindow(batch_size=batch_size))(image)
        assert found.shape == size
        assert float((found == expected).float().mean()) > 0.998  # equal scores up to rounding
    assert len(found.unique()) > 1


def test_windows_of_another_grid(tmp_path):
    """Patches of 6 pixels: 1.5 pixels a logit. Windows must begin where logits do."""
    folder = save_segmenter(tmp_path / "six", image_size=24, patch_size=6)
    trained = BeitForSemanticSegmentation.from_pretrained(folder), BeitImageProcessor.from_pretrained(folder)
    segmenter = Segmenter(*trained, SlidingWindow(short_side=24))
    assert segmenter.unit == (3, 3)
    image = picture(24, 39)
    pixels = as_pixels(trained, image)
    total, count = torch.zeros(3, 16, 26), torch.zeros(16, 26)
    for left in (0, 15):
        total[..., left * 2 // 3 : left * 2 // 3 + 16] += logits_of(trained, pixels[..., left : left + 24])[0]
        count[:, left * 2 // 3 : left * 2 // 3 + 16] += 1
    expected = F.interpolate((total / count)[None], size=(24, 39), mode="bilinear")[0].argmax(0)
    assert float((segmenter(image) == expected).float().mean()) > 0.998


def test_pictures_smaller_than_the_window_are_padded(trained):
    """With 0 after normalisation, at the right and below; the padding gets no class."""
    image = picture(10, 12)
    pixels = F.pad(as_pixels(trained, image), (0, 4, 0, 6))
    expected = logits_of(trained, pixels)[0, :, :10, :12].argmax(0)
    assert torch.equal(Segmenter(*trained, SlidingWindow(short_side=10))(image), expected)


def test_a_picture_is_resized_with_its_proportions(trained):
    image = picture(50, 80)
    small = image.resize((26, 16), Image.Resampling.BILINEAR)
    scores = Segmenter(*trained)._scores(small, 1.0)
    assert scores.shape == (3, 16, 26)
    expected = F.interpolate(scores[None], size=(50, 80), mode="bilinear")[0].argmax(0)
    assert torch.equal(Segmenter(*trained)(image), expected)


def test_the_processors_filter_is_used(trained, monkeypatch):
    model, processor = trained
    image = Image.fromarray(blocks(3, 40, 40)[0])
    seen = {}
    for number in (Image.Resampling.NEAREST, Image.Resampling.BILINEAR):
        monkeypatch.setattr(processor, "resample", number)
        seen[number] = Segmenter(model, processor)._scores(image, 1.0)
    assert not torch.allclose(*seen.values())


def test_the_whole_picture_as_the_processor_has_it(trained):
    model, processor = trained
    image = picture(50, 80)
    logits = logits_of(trained, processor(image, return_tensors="pt")["pixel_values"])
    (expected,) = processor.post_process_semantic_segmentation(logits, [(50, 80)])
    assert torch.equal(Segmenter(model, processor, SlidingWindow(mode="whole"))(image), expected)
    assert not torch.equal(Segmenter(model, processor)(image), expected)


def test_scales_and_flips_average_probabilities(trained):
    image = picture(24, 32)
    views = []
    for mirrored in (False, True):
        source = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
        for scale in (0.75, 1.5):
            scores = Segmenter(*trained)._scores(source, scale)
            enlarged = F.interpolate(scores[None], size=(24, 32), mode="bilinear")[0]
            views.append((enlarged.flip(2) if mirrored else enlarged).softmax(0))
    segmenter = Segmenter(*trained, SlidingWindow(scales=(0.75, 1.5), flip=True))
    found = segmenter(image)
    assert torch.equal(found, torch.stack(views).mean(0).argmax(0))
    turned = segmenter(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert float((turned.flip(1) == found).float().mean()) > 0.995
    assert not torch.equal(found, Segmenter(*trained)(image))


def test_enlarging_in_bands_is_enlarging(monkeypatch):
    scores = torch.randn(5, 7, 9, generator=torch.Generator().manual_seed(0))
    for size in ((30, 23), (7, 9), (4, 31)):
        whole = F.interpolate(scores[None], size=size, mode="bilinear")[0]
        rows = F.interpolate(scores[None], size=(size[0], 9), mode="bilinear")[0]
        torch.testing.assert_close(enlarged_rows(scores, size[0], 1, 4), rows[:, 1:4])
        for band in (1, 5 * size[1] * 3, 1 << 24):
            monkeypatch.setattr(segmentation, "_BAND", band)
            assert torch.equal(best_classes([scores], size), whole.argmax(0))


def test_ways_that_make_no_sense(trained):
    for changes, message in (
        ({"mode": "crop"}, "choose slide or whole"),
        ({"scales": ()}, "wanted factors above 0"),
        ({"scales": (0.0,)}, "wanted factors above 0"),
        ({"mode": "whole", "scales": (0.5, 1.0)}, "scales are for --mode slide"),
        ({"short_side": 0}, "short_side is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            SlidingWindow(**changes)
    with torch.no_grad():
        trained[0].decode_head.classifier.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="NaN"):
        Segmenter(*trained)(picture(16, 16))


def test_images_and_arrays_are_segmented_without_a_path(tmp_path, trained):
    image = picture(24, 32)
    expected = Segmenter(*trained)(image).numpy()
    for same in (image, np.asarray(image), image.convert("RGBA")):
        found = segment(*trained, same)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, expected)
    grey = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(segment(*trained, grey), segment(*trained, np.repeat(grey[..., None], 3, 2)))
    for wrong in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)):
        with pytest.raises(InputError, match="wanted uint8"):
            segment(*trained, wrong)

    image.save(tmp_path / "image.png")
    (tmp_path / "broken.png").write_text("nothing")
    errors: dict[int, str] = {}
    files = ImageFiles([tmp_path / "broken.png", tmp_path / "image.png"])
    ((number, read, labels),) = segment_images(*trained, files, errors.__setitem__)
    assert (number, read.size) == (1, image.size)
    np.testing.assert_array_equal(labels, expected)
    assert list(errors) == [0]
    assert "broken.png" in errors[0]
