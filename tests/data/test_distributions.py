"""Random choices have the distributions of the authors' recipe. By chance, a test exceeds its limit once in 10,000 times.

`tests/peers/check_views.py` and `check_augment.py` compare the same draws with the authors' code and with timm.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from beit.config import BeitConfig
from beit.data.masking import BlockMask
from beit.data.transforms import pretrain as pretrain_views
from beit.data.transforms.colours import jitter_factors
from beit.data.transforms.crops import crop_box
from beit.data.transforms.erasing import erase_rectangle
from beit.data.transforms.mixing import mixup
from beit.data.transforms.pretrain import PretrainViews
from beit.data.transforms.sample_seed import SampleSeed
from beit.train.settings import PretrainSettings

DRAWS = 4000
RATIO = (3 / 4, 4 / 3)


def uniform_distance(values: np.ndarray, low: float = 0.0, high: float = 1.0) -> float:
    """Kolmogorov-Smirnov statistic against the uniform distribution on `low` … `high`."""
    parts = np.clip((np.sort(values) - low) / (high - low), 0, 1)
    steps = np.arange(len(parts) + 1) / len(parts)
    return float(max(np.abs(parts - steps[1:]).max(), np.abs(parts - steps[:-1]).max()))


def limit(count: int) -> float:
    return math.sqrt(-math.log(1e-4 / 2) / 2 / count)


def pretraining() -> PretrainViews:
    """With the default settings, the paper's: base at 224 pixels, 112 for the tokenizer."""
    settings = PretrainSettings(images="x", output="y", tokenizer="z", model="base", jitter=0.0)
    return PretrainViews(settings, BeitConfig(), (112, 112))


# --- crops -------------------------------------------------------------------------------------------------------


def boxes_of(size: tuple[int, int], scale: tuple[float, float] = (0.08, 1.0), count: int = DRAWS) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([crop_box(rng, size, scale, RATIO) for _ in range(count)])


def test_area_log_aspect_and_place_of_a_crop_are_uniform():
    """Where the picture leaves room for every shape, so that no try is thrown away."""
    side = 4000
    boxes = boxes_of((side, side), (0.08, 0.5))
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert uniform_distance(w * h / side**2, 0.08, 0.5) < limit(DRAWS)
    assert uniform_distance(np.log(w / h), math.log(3 / 4), math.log(4 / 3)) < limit(DRAWS)
    assert uniform_distance(boxes[:, 0] / (side - w)) < limit(DRAWS)
    assert uniform_distance(boxes[:, 1] / (side - h)) < limit(DRAWS)


@pytest.mark.parametrize(
    ("size", "area", "fallback"),
    [((500, 375), 0.433, None), ((224, 224), 0.480, None), ((900, 300), 0.2235, 0.034), ((200, 700), 0.2053, 0.073)],
)
def test_crops_where_tries_fail(size, area, fallback):
    """Mean areas and rates of the fallback, as 20,000 draws of the authors' code give them."""
    boxes = boxes_of(size)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (size[0] * size[1])
    assert areas.mean() == pytest.approx(area, abs=4.5 * areas.std() / math.sqrt(DRAWS))
    if fallback is not None:
        width, height = size
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
        rate = (boxes == (left, top, left + w, top + h)).all(1).mean()
        assert rate == pytest.approx(fallback, abs=4.5 * math.sqrt(fallback / DRAWS))


def test_pre_training_crops_by_the_papers_scale_and_flips_one_in_two(monkeypatch):
    """`PretrainViews` asks for .08-1 and 3/4-4/3, jitters by .4, and gives both views the same box and flip."""
    seen = []

    def note(image, box, size, resample, flip):
        seen.append((box, size, resample, flip))
        return np.zeros((3, *size), np.float32)

    monkeypatch.setattr(pretrain_views, "view", note)
    views, image = pretraining(), Image.new("RGB", (400, 400))
    views.mask = lambda rng: np.zeros((14, 14), bool)
    for key in range(1500):
        views.one(image, 0, SampleSeed(0, 0, key))
    patches, tokens = seen[::2], seen[1::2]
    assert {each[1:3] for each in patches} == {((224, 224), Image.Resampling.BICUBIC)}
    assert {each[1:3] for each in tokens} == {((112, 112), Image.Resampling.LANCZOS)}
    assert [(each[0], each[3]) for each in patches] == [(each[0], each[3]) for each in tokens]
    assert np.mean([each[3] for each in patches]) == pytest.approx(0.5, abs=0.06)
    boxes = np.array([each[0] for each in patches])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas = w * h / 400**2
    assert 0.08 - 0.001 < areas.min() < 0.1
    assert areas.max() > 0.95
    assert areas.mean() == pytest.approx(0.480, abs=0.03)
    assert 3 / 4 - 0.02 < (w / h).min() < 0.77
    assert PretrainSettings(images="x", output="y", tokenizer="z").jitter == 0.4


def test_jitter_factors_are_uniform():
    rng = np.random.default_rng(0)
    factors = np.array([jitter_factors(0.4, rng) for _ in range(DRAWS)])
    for index in range(3):
        assert uniform_distance(factors[:, index], 0.6, 1.4) < limit(DRAWS)
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.07


# --- masks -------------------------------------------------------------------------------------------------------


def test_block_masks_of_the_recipe():
    """Mean 74.5, exactly 75 in two of three, hardly ever below 66; the authors' code over 20,000 draws: 74.47, 66.3 %."""
    mask, rng = pretraining().mask, np.random.default_rng(0)
    assert (mask.grid, mask.budget, mask.min_block, mask.exact) == ((14, 14), 75, 16, False)
    masks = np.array([mask(rng) for _ in range(DRAWS)])
    counts = masks.sum((1, 2))
    assert counts.mean() == pytest.approx(74.47, abs=0.06)
    assert (counts == 75).mean() == pytest.approx(0.665, abs=0.035)
    assert counts.max() == 75
    assert 62 <= counts.min() <= 70
    # Blocks, not scattered patches: borders between masked and free are few (scattered ones: about 172).
    edges = (masks[:, 1:] != masks[:, :-1]).sum((1, 2)) + (masks[:, :, 1:] != masks[:, :, :-1]).sum((1, 2))
    assert edges.mean() == pytest.approx(40.1, abs=0.7)
    assert masks.any(2).sum(1).mean() == pytest.approx(10.67, abs=0.12)  # rows touched
    assert masks.any(1).sum(1).mean() == pytest.approx(10.68, abs=0.12)
    # The middle is masked more often than the corners, alike on all sides.
    often = masks.mean(0)
    assert np.abs(often - often[::-1]).max() < 0.05
    assert np.abs(often - often[:, ::-1]).max() < 0.05
    assert np.abs(often - often.T).max() < 0.05
    assert often[6:8, 6:8].min() > often[0, 0] + 0.1


def test_the_measures_of_masks_tell_recipes_apart():
    """Smaller blocks, other shapes and an exact budget would not pass for the recipe's."""
    rng = np.random.default_rng(0)

    def facts(mask: BlockMask) -> tuple[float, float]:
        masks = np.array([mask(rng) for _ in range(400)])
        edges = (masks[:, 1:] != masks[:, :-1]).sum((1, 2)) + (masks[:, :, 1:] != masks[:, :, :-1]).sum((1, 2))
        return float((masks.sum((1, 2)) == 75).mean()), float(edges.mean())

    exactly, _ = facts(BlockMask((14, 14), 75, 16, exact=True))
    assert exactly == 1
    _, edges = facts(BlockMask((14, 14), 75, 4))
    assert edges > 45
    _, edges = facts(BlockMask((14, 14), 75, 16, min_aspect=0.9))
    assert edges < 39


# --- fine-tuning -------------------------------------------------------------------------------------------------


def test_erased_rectangles():
    """Area .02-1/3 uniform, log aspect from .3 to 1/.3, standard normal noise (timm's pixel mode)."""
    found, noise = [], []
    for key in range(1500):
        image = np.full((3, 96, 96), 99.0, np.float32)
        erase_rectangle(image, SampleSeed(0, 0, key).rng())
        changed = (image != 99).all(0)
        rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
        h, w = len(rows), len(columns)
        found.append((h * w / 96**2, math.log(w / h), int(rows[0]) / (96 - h), int(columns[0]) / (96 - w)))
        noise.append(image[:, changed][:, 0])
    area, aspect, top, left = np.array(found).T
    # A grid of 96 and the tries that do not fit the square move things by 1 to 2 %.
    assert uniform_distance(area, 0.02, 1 / 3) < limit(1500) + 0.01
    assert uniform_distance(aspect, math.log(0.3), math.log(1 / 0.3)) < limit(1500) + 0.02
    assert uniform_distance(top) < limit(1500) + 0.02
    assert uniform_distance(left) < limit(1500) + 0.02
    values = np.stack(noise)
    assert values.dtype == np.float32
    assert values.mean() == pytest.approx(0, abs=0.06)
    assert values.std(ddof=1) == pytest.approx(1, abs=0.05)


def test_shares_of_mixed_labels():
    """Half of the batches mixup with Beta(.8, .8), half cutmix with Beta(1, 1) less what the border cuts off."""
    rng = np.random.default_rng(0)
    images, targets = np.zeros((2, 1, 64, 64), np.float32), np.eye(2, dtype=np.float32)
    images[0] = 1
    shares: dict[str, list[float]] = {"mixup": [], "cutmix": []}
    for _ in range(3000):
        mixed, labels = mixup(images, targets, 0.8, 1.0, rng)
        kind = "cutmix" if set(np.unique(mixed[0]).tolist()) <= {0.0, 1.0} else "mixup"
        shares[kind].append(float(labels[0, 0]))
    assert len(shares["cutmix"]) / 3000 == pytest.approx(0.5, abs=0.04)
    one = np.array(shares["mixup"])
    assert one.mean() == pytest.approx(0.5, abs=0.035)
    assert one.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.009)  # of Beta(.8, .8)
    # Of a side s = sqrt(1 - share) the border leaves s (1 - s/4) in the mean, on both axes; 1 - share is uniform.
    sides = np.sqrt((np.arange(10_000) + 0.5) / 10_000)
    assert np.mean(shares["cutmix"]) == pytest.approx(1 - np.mean((sides * (1 - sides / 4)) ** 2), abs=0.03)
