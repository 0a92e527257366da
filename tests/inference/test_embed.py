"""Features of images, against the model's own outputs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fixtures_runs import save_classifier, save_small_model, stripes, write_images

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")

from beit import BeitForImageClassification, BeitImageProcessor, BeitModel
from beit.core.errors import DataError
from beit.data.sources.images import ArrayImages, FolderImages
from beit.inference.features import batch_features, embed, feature_batches

SEVEN = tuple("abcdefg")


@pytest.fixture
def trained(tmp_path):
    folder = save_classifier(tmp_path / "model", SEVEN)
    return BeitForImageClassification.from_pretrained(folder), BeitImageProcessor.from_pretrained(folder)


def test_features_are_the_models_own(trained):
    model, processor = trained
    array, _ = stripes(7)
    images = ArrayImages(array)
    pixels = (torch.from_numpy(array).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.no_grad():
        output = model.beit(pixels, output_hidden_states=True)
    kept, pooled, skipped = embed(model, processor, images, batch_size=3)
    assert kept == list(range(7))
    assert skipped == []
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, output.pooler_output, atol=2e-5)
    for layer in (1, 2):
        _, found, _ = embed(model, processor, images, layer=layer)
        assert found.shape == (7, 32)
        np.testing.assert_allclose(found, output.hidden_states[layer][:, 1:].mean(1), atol=2e-5)
    for layer in (0, 3, -1):
        with pytest.raises(DataError, match="choose one from 1 to 2"):
            embed(model, processor, images, layer=layer)


def test_features_without_a_pooler(tmp_path, trained):
    body = BeitModel.from_pretrained(save_small_model(tmp_path / "mim"), add_pooling_layer=False)
    array, _ = stripes(3)
    _, found, _ = embed(body, trained[1], ArrayImages(array))
    _, last, _ = embed(body, trained[1], ArrayImages(array), layer=2)
    np.testing.assert_allclose(found, last, atol=1e-6)


def test_features_of_a_folder_with_a_bad_image(tmp_path, trained):
    write_images(tmp_path / "images", 12)
    (tmp_path / "images/003.png").write_bytes(b"")
    kept, found, skipped = embed(*trained, FolderImages(tmp_path / "images"), batch_size=5)
    assert kept == [0, 1, 2, *range(4, 12)]
    assert found.shape == (11, 32)
    assert len(skipped) == 1
    assert "003.png" in skipped[0]


def test_features_of_pictures_in_memory(trained):
    model, processor = trained
    array, _ = stripes(5)
    _, expected, _ = embed(model, processor, ArrayImages(array), layer=1)
    for pictures in ([Image.fromarray(image) for image in array], list(array)):
        np.testing.assert_allclose(batch_features(model, processor, pictures, layer=1), expected, atol=1e-6)
    batches = feature_batches(model, processor, ArrayImages(array), lambda *_: None, layer=1, batch_size=2)
    numbers, found = next(batches)
    assert numbers == [0, 1]
    np.testing.assert_allclose(found, expected[:2], atol=1e-6)
    assert [numbers for numbers, _ in batches] == [[2, 3], [4]]
