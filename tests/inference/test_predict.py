"""Predictions, against the model's own outputs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fixtures_runs import save_classifier, stripes

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")

from beit import BeitForImageClassification, BeitImageProcessor
from beit.cli import main
from beit.core.errors import ConfigError
from beit.data.sources.images import ArrayImages
from beit.evaluation.evaluate import evaluate
from beit.inference.classification import batch_logits, classify, logit_batches, predict
from beit.inference.files import ImageFiles

SEVEN = tuple("abcdefg")


@pytest.fixture
def trained(tmp_path):
    folder = save_classifier(tmp_path / "model", SEVEN)
    return BeitForImageClassification.from_pretrained(folder), BeitImageProcessor.from_pretrained(folder)


def direct(model, array: np.ndarray) -> torch.Tensor:
    """Logits without processor and batches; the images have the model's size."""
    pixels = (torch.from_numpy(array).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.no_grad():
        return model(pixels).logits


def test_predictions_keep_the_order_of_the_files(trained, tmp_path):
    model, processor = trained
    array, _ = stripes(6)
    paths = []
    for number in (4, 0, 5, 2, 1):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(array[number]).save(paths[-1])
    paths.insert(2, tmp_path / "missing.png")
    (tmp_path / "broken.png").write_text("no image")
    paths.append(tmp_path / "broken.png")
    results = list(predict(model, processor, ImageFiles(paths), top=7, batch_size=2))
    assert [result["image"] for result in results] == [str(path) for path in paths]
    assert [sorted(result.keys() - {"image"}) for result in results] == [["labels"]] * 2 + [["error"]] + [
        ["labels"]
    ] * 3 + [["error"]]
    expected = direct(model, array).softmax(-1)
    for path, result in zip(paths, results, strict=True):
        if "labels" not in result:
            assert path.name in result["error"]
            continue
        found = {entry["label"]: entry["probability"] for entry in result["labels"]}
        assert sum(found.values()) == pytest.approx(1, abs=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        for number, name in enumerate(SEVEN):
            assert found[name] == pytest.approx(float(expected[int(path.stem), number]), abs=2e-5)
    for top, shown in ((3, 3), (99, 7)):
        found = predict(model, processor, ImageFiles(paths[:2]), top)
        assert [len(result["labels"]) for result in found] == [shown, shown]
    assert ["error" in result for result in predict(model, processor, ImageFiles([tmp_path / "missing.png"]))] == [True]
    assert list(predict(model, processor, ImageFiles([]))) == []


def test_pictures_in_memory_are_classified_without_a_path(trained):
    """PIL images and arrays, in one batch, as a server has them."""
    model, processor = trained
    array, _ = stripes(6)
    expected = direct(model, array)
    for pictures in ([Image.fromarray(image) for image in array], list(array), array):
        np.testing.assert_allclose(batch_logits(model, processor, pictures), expected, atol=2e-5)
        found = classify(model, processor, pictures, top=2)
        assert [[label["label"] for label in labels] for labels in found] == [
            [SEVEN[i] for i in row] for row in expected.argsort(-1, descending=True)[:, :2].tolist()
        ]
    assert classify(model, processor, []) == []


def test_batches_come_as_they_are_done(trained):
    """Nothing is read before it is asked for: a batch job may stop at any time, and holds one batch."""
    model, processor = trained
    read = []

    class Watched(ArrayImages):
        def read(self, index):
            read.append(index)
            return super().read(index)

    images = Watched(stripes(10)[0])
    batches = logit_batches(model, processor, images, lambda *_: None, batch_size=4)
    numbers, logits = next(batches)
    assert (numbers, logits.shape) == ([0, 1, 2, 3], (4, 7))
    assert read == [0, 1, 2, 3]
    assert [numbers for numbers, _ in batches] == [[4, 5, 6, 7], [8, 9]]
    predictions = predict(model, processor, images, batch_size=5)
    assert next(predictions)["image"] == "image 0"
    assert read[10:] == [0, 1, 2, 3, 4]


def test_flax_gives_the_same_labels(trained, tmp_path):
    """The same functions for both frameworks; a batch that is not full is filled up, and nothing of that is seen."""
    pytest.importorskip("flax")
    from beit import FlaxBeitForImageClassification

    model, processor = trained
    twin = FlaxBeitForImageClassification.from_pretrained(tmp_path / "model")
    images = ArrayImages(stripes(5)[0])
    ours, theirs = (list(predict(kind, processor, images, batch_size=3)) for kind in (twin, model))
    assert len(ours) == 5
    for one, other in zip(ours, theirs, strict=True):
        assert [label["label"] for label in one["labels"]] == [label["label"] for label in other["labels"]]
        np.testing.assert_allclose(*([label["probability"] for label in x["labels"]] for x in (one, other)), atol=2e-5)


def model_that_says(tmp_path, problem: str | None, logits: list[float]):
    """A classifier whose logits are these, whatever it sees."""
    names = tuple(f"class {i}" for i in range(len(logits)))
    model = BeitForImageClassification.from_pretrained(save_classifier(tmp_path / "said", names, problem_type=problem))
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor(logits))
    model.save_pretrained(tmp_path / "said")
    return model, BeitImageProcessor.from_pretrained(tmp_path / "said")


def test_several_labels_have_a_sigmoid_each(tmp_path):
    model, processor = model_that_says(tmp_path, "multi_label_classification", [4.0, -800.0, 4.0])
    (result,) = predict(model, processor, ArrayImages(stripes(1)[0]), top=3)
    assert [(entry["label"], entry["probability"]) for entry in result["labels"]] == [
        ("class 0", 0.982014),
        ("class 2", 0.982014),
        ("class 1", 0.0),
    ]
    assert classify(model, processor, [stripes(1)[0][0]], top=3) == [result["labels"]]


@pytest.mark.parametrize(("problem", "logits"), [("regression", [-3.25, 1200.5]), (None, [7.5])])
def test_a_regression_gives_its_numbers(tmp_path, capsys, problem, logits):
    model, processor = model_that_says(tmp_path, problem, logits)
    (result,) = predict(model, processor, ArrayImages(stripes(1)[0]), top=1)
    assert result["labels"] == [{"label": f"class {i}", "value": value} for i, value in enumerate(logits)]
    Image.fromarray(stripes(1)[0][0]).save(tmp_path / "1.png")
    assert main(["predict", str(tmp_path / "1.png"), "--model", str(tmp_path / "said"), "--top", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"  {value:11.5g}  class {i}" for i, value in enumerate(logits)]
    with pytest.raises(ConfigError, match="problem_type is regression, and the labels are for single_label"):
        evaluate(model, processor, ArrayImages(*stripes(4)))


def test_the_evaluation_of_several_labels_says_how_often_they_are_exact(tmp_path):
    model, processor = model_that_says(tmp_path, "multi_label_classification", [3.0, 1.0])
    result = evaluate(model, processor, ArrayImages(*stripes(4)))
    assert (result.top1, result.exact) == (0.5, 0.0)  # it always gives both
    assert "exactly the true class above one half 0.0%" in str(result)
    model.classifier.bias.data[1] = -1.0
    result = evaluate(model, processor, ArrayImages(*stripes(4)))
    assert (result.top1, result.exact, result.to_dict()["exact"]) == (0.5, 0.5, 0.5)
    model.config.problem_type = None
    assert "exact" not in evaluate(model, processor, ArrayImages(*stripes(4))).to_dict()


def test_a_model_folder_without_a_processor_is_opened_with_the_published_guess(tmp_path, caplog):
    """What `model.save_pretrained` writes: every command that infers takes it, and says what it guesses."""
    from beit.inference.trained import open_classifier, open_encoder, open_trained_layers

    save_classifier(tmp_path, SEVEN)
    (tmp_path / "preprocessor_config.json").unlink()
    for opened in (open_classifier, open_encoder, open_trained_layers):
        caplog.clear()
        _, processor = opened(tmp_path)
        assert processor.image_mean == [0.5] * 3
        assert "has no preprocessor_config.json" in caplog.text
        assert "image_mean, image_std = half" in caplog.text
