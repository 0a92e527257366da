"""A head on frozen layers: the regression is the best one there is, and the saved model is the probe."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from beit.cli import main
from fixtures_runs import CLASSES, refused, save_small_model, stripes, write_images

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import torch.nn.functional as F

from beit import BeitForImageClassification, BeitModel
from beit.data.sources.images import ArrayImages, FolderImages
from beit.evaluation.torch.frozen_classifier import frozen_classifier, logistic_regression
from beit.inference.trained import open_classifier, open_trained_layers


@pytest.mark.parametrize("strength", [1e-3, 0.1])
def test_no_other_weights_have_a_lower_loss(strength):
    torch.manual_seed(0)
    features, labels = torch.randn(60, 5) * torch.tensor([1.0, 10, 0.1, 1, 1]) + 3, torch.arange(60) % 3
    features[:, 0] += labels
    weight, bias = logistic_regression(features, labels, 3, strength)
    deviation = features.std(0, correction=0)
    scaled = (weight * deviation[:, None]).requires_grad_()
    free = bias.clone().requires_grad_()
    logits = features @ (scaled / deviation[:, None]) + free
    loss = F.cross_entropy(logits, labels) + strength / 2 * scaled.square().sum()
    for gradient in torch.autograd.grad(loss, [scaled, free]):
        assert float(gradient.abs().max()) < 1e-3  # the loss is convex


def test_the_model_is_the_probe(tmp_path):
    """The saved model answers with the regression on the layer norm of the mean of the patches of that layer."""
    folder = save_small_model(tmp_path / "start")
    body, processor = open_trained_layers(str(folder))
    images, other = (ArrayImages(*stripes(24, seed=seed), CLASSES) for seed in (0, 1))
    for layer in (1, 2):
        made = frozen_classifier(body, processor, images, other, layers=[layer], progress=False)
        assert made.layer == layer == made.model.config.num_hidden_layers
        made.model.save_pretrained(tmp_path / str(layer))
        saved = BeitForImageClassification.from_pretrained(tmp_path / str(layer)).eval()
        pixels = processor([Image.fromarray(image) for image in other.array], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            states = BeitModel.from_pretrained(folder).eval()(pixels, output_hidden_states=True).hidden_states[layer]
            features = F.layer_norm(states[:, 1:].mean(1), states.shape[-1:], eps=saved.config.layer_norm_eps)
            expected = features @ saved.classifier.weight.T + saved.classifier.bias
            logits = saved(pixels).logits
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        right = int((logits.argmax(1).numpy() == other.labels).sum())
        assert abs(right - made.right) <= 1  # features of all images are held in float16


def test_the_command_saves_a_model_that_predicts(tmp_path, capsys):
    folder = save_small_model(tmp_path / "start")
    photos = write_images(tmp_path / "photos", 20, labelled=True)
    output = tmp_path / "head"
    command = [
        "probe",
        "--model",
        str(folder),
        "--images",
        str(photos),
        "--k",
        "3",
        "--epochs",
        "1",
        "--save",
        str(output),
    ]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert f"Saved {output}: logistic regression on layer" in shown
    assert f"beit predict IMAGES --model {output}" in shown
    assert main(["predict", str(photos / CLASSES[0] / "000.png"), "--model", str(output), "--json"]) == 0
    assert {label["label"] for label in json.loads(capsys.readouterr().out)[0]["labels"]} == set(CLASSES)
    model, processor = open_classifier(str(output))
    assert model.config.class_names == FolderImages(photos, labelled=True).classes
    assert np.allclose(processor.image_mean, 0.5)
    refused(capsys, command, "holds a model, which would be overwritten")
