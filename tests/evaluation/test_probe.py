"""k-NN and linear probe of every layer, against votes and training by hand, and as the command line shows them."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from beit.cli import main
from fixtures_runs import CLASSES, refused, save_classifier, save_small_model, small_config, stripes, write_images

torch = pytest.importorskip("torch")
pytest.importorskip("tqdm")

from beit import BeitForMaskedImageModeling, BeitImageProcessor, BeitModel
from beit.checkpoints.write_weights import write_weights
from beit.core.errors import ConfigError, DataError
from beit.data.sources.images import ArrayImages, FolderImages
from beit.data.transforms.crops import crop_box, view
from beit.data.transforms.sample_seed import SampleSeed
from beit.evaluation.classification import wilson
from beit.evaluation.hold_out import hold_out
from beit.evaluation.probe import ProbeResult, live_probe, probe
from beit.evaluation.report_probe import write_plot
from beit.evaluation.torch import classifiers as module
from beit.evaluation.torch.classifiers import knn, train_linear_probe
from beit.inference.torch.features import Features, layer_features

PROCESSOR = BeitImageProcessor(size=16, do_center_crop=False)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return BeitForMaskedImageModeling(small_config()).eval()


def striped(count: int, seed: int = 0) -> ArrayImages:
    return ArrayImages(*stripes(count, seed=seed), CLASSES)


def clouds(count: int, layers: int, width: int, classes: int, gap: float, seed: int = 0) -> Features:
    """Features that fall into one cloud per class, `gap` deviations from each other."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, layers, width)) * gap
    labels = rng.integers(0, classes, count)
    tokens = torch.from_numpy((centres[labels] + rng.normal(size=(count, layers, width))).astype(np.float32))
    return Features(list(range(1, layers + 1)), tokens, tokens.new_empty(0, *tokens.shape), np.arange(count), labels)


# --- features ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [3, 64])
def test_features_are_the_cls_token_and_the_mean_of_each_block(model, batch_size):
    images = striped(7)
    pixels = (torch.from_numpy(images.array).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.no_grad():
        states = model.beit(pixels, output_hidden_states=True).hidden_states
    found = layer_features(model, PROCESSOR, images, batch_size=batch_size)
    assert found.tokens.shape == (7, 2, 64)
    assert found.tokens.dtype == torch.float16
    assert found.views.shape == (0, 7, 2, 64)
    for i in (0, 1):
        torch.testing.assert_close(found.tokens[:, i, :32].float(), states[i + 1][:, 0], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(found.tokens[:, i, 32:].float(), states[i + 1][:, 1:].mean(1), atol=1e-3, rtol=1e-3)
    assert found.labels.tolist() == [0, 1] * 3 + [0]
    last = layer_features(model, PROCESSOR, images, layers=[2])
    assert last.layers == [2]
    assert torch.equal(last.tokens, found.tokens[:, 1:])
    with pytest.raises(DataError, match="There is no layer 3; choose one from 1 to 2"):
        layer_features(model, PROCESSOR, images, layers=[1, 3])


def test_views_are_random_crops_that_follow_from_seed_and_image(model):
    images = striped(6)
    found = layer_features(model, PROCESSOR, images, views=2, seed=5, batch_size=4)
    again = layer_features(model, PROCESSOR, images, views=2, seed=5, batch_size=6)
    torch.testing.assert_close(found.views, again.views, atol=1e-3, rtol=0)
    assert torch.equal(found.tokens, layer_features(model, PROCESSOR, images, batch_size=4).tokens)
    other = layer_features(model, PROCESSOR, images, views=2, seed=6)
    for differs in (found.tokens[None], other.views, found.views.flip(0)):
        assert float((found.views - differs).abs().max()) > 0.01

    rng = SampleSeed(5, 1, 3).rng()  # the second view of the fourth image
    image = images.read(3)
    box = crop_box(rng, image.size, (0.08, 1.0), (3 / 4, 4 / 3))
    crop = torch.from_numpy(view(image, box, (16, 16), Image.Resampling.BICUBIC, bool(rng.random() < 0.5)))
    with torch.no_grad():
        states = model.beit(((crop - 0.5) / 0.5)[None], output_hidden_states=True).hidden_states
    torch.testing.assert_close(found.views[1, 3, 0, 32:].float(), states[1][0, 1:].mean(0), atol=1e-3, rtol=1e-3)


def test_features_beyond_float16_are_kept_in_float32(model):
    with torch.no_grad():
        model.beit.embeddings.cls_token.fill_(1e6)
    found = layer_features(model, PROCESSOR, striped(6), batch_size=2)
    assert found.tokens.dtype == torch.float32
    assert float(found.tokens.max()) == pytest.approx(1e6, rel=0.01)


def test_unreadable_images_are_left_out_of_every_view(model, tmp_path):
    folder = write_images(tmp_path / "images", 24, labelled=True)
    (folder / "flat/004.png").write_bytes(b"")
    images = FolderImages(folder, labelled=True)
    found = layer_features(model, PROCESSOR, images, views=1, batch_size=5)
    assert found.numbers.tolist() == [0, 1, *range(3, 24)]
    assert found.labels.tolist() == [0] * 11 + [1] * 12
    assert found.tokens.shape[0] == found.views.shape[1] == 23
    assert len(found.skipped) == 1
    assert "004.png" in found.skipped[0]
    with pytest.raises(DataError, match="needs labelled images"):
        layer_features(model, PROCESSOR, FolderImages(folder))


# --- nearest neighbours ------------------------------------------------------------------------------------------


def test_votes_by_hand():
    # Cosines to the query (1, 0): 1, .8, .8 and 0. Class 1 has the nearest, class 0 the two after it.
    tokens = torch.tensor([[10.0, 0], [0.8, 0.6], [8, -6], [0, 1]]).unsqueeze(1)
    labels = np.array([1, 0, 0, 2])
    query = torch.tensor([[[3.0, 0]]])
    assert knn(tokens, labels, query, k=1).tolist() == [[1]]
    # exp(1 / T) against 2 exp(.8 / T): the two win where T > .2 / ln 2 = .2885.
    assert knn(tokens, labels, query, k=3, temperature=0.28).tolist() == [[1]]
    assert knn(tokens, labels, query, k=3, temperature=0.30).tolist() == [[0]]
    assert knn(tokens, labels, query, k=4, temperature=1e-3).tolist() == [[1]]
    assert knn(tokens, labels, query, k=4, temperature=math.inf).tolist() == [[0]]


@given(st.integers(0, 1000), st.integers(1, 15), st.sampled_from([1, 40, 1 << 24]))
def test_votes_as_in_the_plain_formula(seed, k, similarities):
    rng = np.random.default_rng(seed)
    known, asked = rng.normal(size=(15, 2, 5)), rng.normal(size=(7, 2, 5))
    labels = rng.integers(0, 4, 15)
    block, module._SIMILARITIES = module._SIMILARITIES, similarities  # blocks of one query, of two, of all
    try:
        found = knn(torch.from_numpy(known).float(), labels, torch.from_numpy(asked).float(), k, 0.07)
    finally:
        module._SIMILARITIES = block
    for layer in (0, 1):
        for number, query in enumerate(asked[:, layer]):
            cosines = known[:, layer] @ query / np.linalg.norm(known[:, layer], axis=1) / np.linalg.norm(query)
            votes = np.zeros(4)
            for i in np.argsort(-cosines)[:k]:
                votes[labels[i]] += math.exp(cosines[i] / 0.07)
            first, second = np.sort(votes)[::-1][:2]
            if first > second * 1.001:
                assert found[layer, number] == votes.argmax()


def test_more_neighbours_than_images(model):
    tokens = torch.ones(3, 1, 2)
    for k in (0, 4):
        with pytest.raises(ConfigError, match="between 1 and 3"):
            knn(tokens, np.zeros(3, int), tokens, k=k)
    for temperature in (0, -1, math.nan):
        with pytest.raises(ConfigError, match="temperature"):
            knn(tokens, np.zeros(3, int), tokens, k=1, temperature=temperature)
    with pytest.raises(ConfigError, match="k is 20; it must lie between 1 and 8"):
        probe(model, PROCESSOR, striped(8), striped(8))


# --- the linear probe --------------------------------------------------------------------------------------------


def test_linear_probe_is_the_plain_training_of_each_layer_alone():
    features = clouds(50, layers=3, width=6, classes=4, gap=0.5)
    together = train_linear_probe(features, 4, epochs=5, batch_size=16, learning_rate=0.01, seed=3)
    for i in range(3):
        linear = torch.nn.Linear(6, 4)
        first = np.random.default_rng((3, i + 1)).normal(0, 0.01, (6, 4))
        assert 0.005 < first.std() < 0.015
        linear.weight.data = torch.from_numpy(first.T).float()
        linear.bias.data.zero_()
        optimizer = torch.optim.AdamW(linear.parameters(), lr=0.01, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
        for epoch in range(5):
            for chosen in np.array_split(np.random.default_rng((3, epoch)).permutation(50), [16, 32, 48]):
                optimizer.zero_grad()
                logits = linear(features.tokens[chosen, i])
                torch.nn.functional.cross_entropy(logits, torch.from_numpy(features.labels[chosen])).backward()
                optimizer.step()
            schedule.step()
        torch.testing.assert_close(together.weight[i].T, linear.weight.detach(), atol=1e-5, rtol=0)
        torch.testing.assert_close(together.bias[i, 0], linear.bias.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("standardise", [False, True])
def test_layers_do_not_know_of_each_other(standardise):
    features = clouds(60, layers=4, width=5, classes=3, gap=0.3)
    settings = {"epochs": 8, "batch_size": 32, "learning_rate": 0.02, "standardise": standardise, "seed": 1}
    together = train_linear_probe(features, 3, **settings)
    for i in (0, 3):
        part = slice(i, i + 1)
        alone = dataclasses.replace(
            features, layers=[i + 1], tokens=features.tokens[:, part], views=features.views[:, :, part]
        )
        found = train_linear_probe(alone, 3, **settings)
        torch.testing.assert_close(together.weight[part], found.weight, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.bias[part], found.bias, atol=1e-5, rtol=0)


def test_the_rate_is_in_proportion_to_the_batch():
    features = clouds(40, layers=1, width=3, classes=2, gap=1)
    for batch_size, rate in ((10, 4e-3 * 10 / 1024), (1024, 4e-3 * 40 / 1024)):  # there are 40 images only
        found = train_linear_probe(features, 2, epochs=3, batch_size=batch_size)
        expected = train_linear_probe(features, 2, epochs=3, batch_size=batch_size, learning_rate=rate)
        assert torch.equal(found.weight, expected.weight)


def test_standardised_features_by_hand():
    features = clouds(40, layers=2, width=3, classes=2, gap=1)
    features.tokens = features.tokens * torch.tensor([100.0, 0.01, 1]) + torch.tensor([5.0, -3, 0])
    mean, deviation = features.tokens.mean(0), features.tokens.std(0)
    other = dataclasses.replace(features, tokens=(features.tokens - mean) / deviation)
    found = train_linear_probe(features, 2, epochs=4, learning_rate=0.05, standardise=True)
    expected = train_linear_probe(other, 2, epochs=4, learning_rate=0.05)
    torch.testing.assert_close(found.logits(features.tokens), expected.logits(other.tokens), atol=1e-4, rtol=1e-4)
    features.tokens[:, :, 2] = 7  # a feature that says nothing
    assert torch.isfinite(train_linear_probe(features, 2, epochs=2, standardise=True).weight).all()


def test_separable_classes_are_told_apart_and_random_labels_are_not():
    known, asked = (clouds(count, 2, 8, 5, gap=4, seed=seed) for seed, count in ((1, 300), (2, 200)))
    known.tokens, asked.tokens = known.tokens.half(), asked.tokens.half()
    found = train_linear_probe(known, 5, epochs=30, batch_size=32, learning_rate=0.01, standardise=True)
    assert ((found.classify(asked.tokens) == asked.labels).mean(1) > 0.98).all()
    assert ((knn(known.tokens, known.labels, asked.tokens) == asked.labels).mean(1) > 0.98).all()

    known.labels = np.random.default_rng(3).integers(0, 5, 300)
    asked.labels = np.random.default_rng(4).integers(0, 5, 200)
    found = train_linear_probe(known, 5, epochs=30, batch_size=32, learning_rate=0.01, standardise=True)
    for answers in (found.classify(asked.tokens), knn(known.tokens, known.labels, asked.tokens)):
        assert (np.abs((answers == asked.labels).mean(1) - 0.2) < 0.1).all()  # 3.5 deviations


def test_views_are_learned_from_in_turn():
    features = clouds(30, layers=1, width=4, classes=2, gap=2)
    blank = torch.zeros_like(features.tokens)

    def train(*views: torch.Tensor, epochs: int = 2) -> torch.Tensor:
        part = dataclasses.replace(features, views=torch.stack(views) if views else features.views)
        return train_linear_probe(part, 2, epochs=epochs, learning_rate=0.1).weight

    assert torch.equal(train(features.tokens, features.tokens), train())
    first = torch.from_numpy(np.random.default_rng((0, 1)).normal(0, 0.01, (1, 4, 2))).float()
    assert torch.allclose(train(blank), first, atol=1e-5)  # there is nothing to learn
    assert torch.equal(train(blank, features.tokens, epochs=1), train(blank, epochs=1))
    for others in ((blank,), (features.tokens,), (features.tokens, blank)):
        assert not torch.allclose(train(blank, features.tokens), train(*others), atol=1e-3)


# --- what is held out --------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(2, 40), min_size=2, max_size=6),
    st.integers(0, 99),
    st.one_of(st.none(), st.integers(1, 150)),
)
def test_a_fifth_of_each_class_is_held_out(counts, seed, most):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    array = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1)
    learn, measure = hold_out(ArrayImages(array, labels), seed, most)
    numbers = [set(part.array[:, 0, 0, 0].tolist()) for part in (learn, measure)]
    assert not numbers[0] & numbers[1]
    assert all(labels[part.array[:, 0, 0, 0]].tolist() == part.labels.tolist() for part in (learn, measure))
    part = 1 if most is None else min(most / len(labels), 1)
    for number, count in enumerate(counts):
        share = max(round(part * count), 2)
        held = int((measure.labels == number).sum())
        assert held == max(round(share / 5), 1)
        assert int((learn.labels == number).sum()) == share - held
    again = hold_out(ArrayImages(array, labels), seed, most)
    assert np.array_equal(again[0].array, learn.array)


def test_nothing_can_be_held_out_of_a_single_image():
    images = striped(5)
    with pytest.raises(DataError, match="Class upright has a single image"):
        hold_out(images.subset(np.array([0, 1, 2, 4])))
    with pytest.raises(DataError, match="labelled"):
        hold_out(ArrayImages(images.array))


# --- the result --------------------------------------------------------------------------------------------------


def test_result_as_table_json_and_picture(tmp_path):
    pytest.importorskip("matplotlib")
    result = ProbeResult([1, 2, 3], [8, 9, 7], [6, 10, 10], 100, 20, 0.25, ["a", "b"], {"k": 5}, [])
    assert result.knn == [0.4, 0.45, 0.35]
    assert result.linear == [0.3, 0.5, 0.5]
    assert result.best_layer == 2
    low, high = wilson(9, 20)
    text = str(result)
    assert "Trained on 100 images of 2 classes, measured on 20; always guessing the commonest class: 25.0%" in text
    assert [line.split()[0] for line in text.splitlines() if line.endswith("best")] == ["2"]
    assert f"45.0% ({low:.1%} to {high:.1%})" in text.splitlines()[3]
    result.save(tmp_path / "deep")
    write_plot(tmp_path / "deep", result)
    saved = json.loads((tmp_path / "deep/probe.json").read_text())
    assert saved == result.to_dict()
    assert saved["layers"][1] == {
        "layer": 2,
        "knn": 0.45,
        "knn_interval": [low, high],
        "linear": 0.5,
        "linear_interval": list(wilson(10, 20)),
    }
    with Image.open(tmp_path / "deep/probe.png") as picture:
        assert min(picture.size) > 300
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["probe.json", "probe.png"]

    result.linear_right = []
    assert result.best_layer == 2
    assert "linear" not in str(result)
    assert sorted(result.to_dict()["layers"][0]) == ["knn", "knn_interval", "layer"]


def test_probe_is_its_parts_put_together(model):
    images, validation = striped(40), striped(30, seed=1)
    result = probe(model, PROCESSOR, images, validation, k=3, epochs=4, linear_batch_size=16, views=2, seed=2)
    known = layer_features(model, PROCESSOR, images, views=2, seed=2)
    asked = layer_features(model, PROCESSOR, validation)
    votes = knn(known.tokens[..., 32:], known.labels, asked.tokens[..., 32:], k=3)
    assert result.knn_right == (votes == asked.labels).sum(1).tolist()
    linear = train_linear_probe(known, 2, epochs=4, batch_size=16, seed=2)
    assert result.linear_right == (linear.classify(asked.tokens) == asked.labels).sum(1).tolist()
    assert (result.train_count, result.count, result.commonest) == (40, 30, 0.5)
    assert result.settings["views"] == 2
    only = probe(model, PROCESSOR, images, validation, layers=[2], k=3, epochs=0)
    assert only.knn_right == result.knn_right[1:]
    assert only.linear_right == []


def test_images_that_cannot_be_probed(model):
    images = striped(30)
    one = images.subset(np.arange(0, 30, 2))
    with pytest.raises(DataError, match="only one class, flat"):
        probe(model, PROCESSOR, one, images)
    with pytest.raises(DataError, match="upright missing, none unknown"):
        probe(model, PROCESSOR, images, one)
    with pytest.raises(DataError, match="flat, upright missing, x, y unknown"):
        probe(model, PROCESSOR, images, ArrayImages(images.array, images.labels, ["x", "y"]))
    with pytest.raises(DataError, match="Wanted the same in both: flat, upright"):
        probe(model, PROCESSOR, images, ArrayImages(images.array, 1 - images.labels, CLASSES[::-1]))
    with pytest.raises(DataError, match="needs labelled images"):
        probe(model, PROCESSOR, images, ArrayImages(images.array))


# --- in the middle of training -----------------------------------------------------------------------------------


def test_live_probe_leaves_training_as_it_was(model):
    model.train()
    model.beit.encoder.layer[0].eval()  # a frozen part
    modes = [part.training for part in model.modules()]
    model(torch.zeros(1, 3, 16, 16), torch.ones(1, 16, dtype=torch.bool)).logits.sum().backward()
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    weights = [p.detach().clone() for p in model.parameters()]
    torch.manual_seed(7)
    state = torch.get_rng_state()
    found = live_probe(model, PROCESSOR, striped(60), seed=1, most=50, epochs=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in model.modules()] == modes
    for parameter, gradient, weight in zip(model.parameters(), gradients, weights, strict=True):
        assert parameter.requires_grad
        assert torch.equal(parameter, weight)
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
    names = [f"{kind}_layer_{layer:02}" for kind in ("knn", "linear") for layer in (1, 2)]
    assert sorted(found) == sorted([*names, "knn_best", "linear_best", "best_layer"])
    assert all(isinstance(value, float) for value in found.values())
    assert found["knn_best"] == max(found["knn_layer_01"], found["knn_layer_02"])
    assert found["linear_best"] == found[f"linear_layer_{int(found['best_layer']):02}"]
    assert all(abs(found[name] * 10 - round(found[name] * 10)) < 1e-9 for name in names)  # a fifth of 50
    assert live_probe(model, PROCESSOR, striped(60), seed=1, most=50, epochs=3) == found
    model.eval()
    assert live_probe(model, PROCESSOR, striped(60), seed=1, most=50, epochs=3) == found
    assert live_probe(model, PROCESSOR, striped(4), epochs=1)["knn_best"] >= 0  # fewer images than neighbours


# --- the command line --------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    return write_images(tmp_path / "photos", 40, labelled=True)


@pytest.fixture
def pretrained(tmp_path):
    folder = save_small_model(tmp_path / "pretrained")
    PROCESSOR.save_pretrained(folder)
    return folder


def test_beit_probe(tmp_path, photos, pretrained, capsys):
    pytest.importorskip("matplotlib")
    validation = write_images(tmp_path / "validation", 20, seed=1, labelled=True)
    base = ["probe", "--model", str(pretrained), "--images", str(photos), "--epochs", "3"]
    arguments = [*base, "--validation", str(validation), "--views", "1", "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "Trained on 40 images of 2 classes, measured on 20" in printed.out
    assert "linear probe top-1" in printed.out
    assert printed.err == ""  # no terminal, no bar
    saved = json.loads((tmp_path / "out/probe.json").read_text())
    assert [row["layer"] for row in saved["layers"]] == [1, 2]
    assert (tmp_path / "out/probe.png").stat().st_size > 1000
    assert main(arguments) == 0  # over what is there
    assert json.loads((tmp_path / "out/probe.json").read_text()) == saved

    capsys.readouterr()
    assert main([*base, "--labels-per-class", "12", "--k", "5", "--standardise"]) == 0
    assert "Trained on 24 images of 2 classes, measured on 8" in capsys.readouterr().out
    (photos / "flat/004.png").write_bytes(b"")
    assert main([*base, "--validation", str(validation)]) == 0
    printed = capsys.readouterr()
    assert "Trained on 39 images of 2 classes, measured on 20" in printed.out
    assert "1 images were skipped" in printed.err
    assert "004.png" in printed.err


def test_beit_knn_with_any_model(tmp_path, photos, pretrained, capsys):
    for folder in (pretrained, save_classifier(tmp_path / "classifier", tuple("abc"))):
        assert main(["knn", "--model", str(folder), "--images", str(photos), "--k", "3"]) == 0
        whole = capsys.readouterr().out.splitlines()
        assert whole[0].startswith("Trained on 32 images of 2 classes, measured on 8")
        assert [line.split()[0] for line in whole[1:]] == ["layer", "1", "2"]
        command = ["knn", "--model", str(folder), "--images", str(photos), "--k", "3", "--layer", "2"]
        assert main(command) == 0
        one = capsys.readouterr().out.splitlines()
        assert one[2] == whole[3].removesuffix("  best")


def test_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    for command, option in (("probe", "--epochs"), ("knn", "--layer")):
        assert main([command, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"usage: beit {command}" in text
        assert option in text
        assert "--validation" in text


def test_bad_input(tmp_path, photos, pretrained, capsys):
    base = ["--model", pretrained, "--images", photos]
    for command in ("probe", "knn"):
        one = tmp_path / f"one_{command}"
        shutil.copytree(photos / "flat", one / "flat")
        refused(capsys, [command, "--model", pretrained, "--images", one], "only one class, flat", "one subfolder each")
        refused(capsys, [command, *base, "--validation", one], "upright missing", "Wanted the same in both")
        refused(capsys, [command, *base, "--validation", one / "flat"], "are in no class folder")
        refused(capsys, [command, *base, "--k", "33"], "k is 33; it must lie between 1 and 32")
        refused(capsys, [command, *base, "--labels-per-class", "5"], "k is 20; it must lie between 1 and 10")
        refused(capsys, [command, *base, "--labels-per-class", "99"], "99 were asked for")
        refused(capsys, [command, *base, "--temperature", "0"], "temperature is 0.0; it must be above 0.")
        refused(capsys, [command, *base, "--seed", "-1"], "seed is -1")
        refused(capsys, [command, *base, "--batch-size", "0"], "batch_size is 0; it must be at least 1.")
        refused(capsys, [command, *base, "--output", photos / "flat/000.png"], "is a file; give a folder")
        refused(capsys, [command, "--model", tmp_path / "gone", "--images", photos], "No such folder")
        refused(capsys, [command, "--model", pretrained, "--images", tmp_path / "gone"], "gone is not a folder")
    refused(capsys, ["knn", *base, "--layer", "3"], "There is no layer 3; choose one from 1 to 2.")
    refused(capsys, ["probe", *base, "--epochs", "0"], "epochs is 0; it must be at least 1.")
    refused(capsys, ["probe", *base, "--views", "-1"], "views is -1; it must not be negative.")
    refused(capsys, ["probe", *base, "--learning-rate", "nan"], "learning_rate is nan")
    refused(capsys, ["probe", *base, "--crop-scale", "0.5", "0.1"], "crop_scale is (0.5, 0.1)")


def test_layers_that_start_anew_are_refused(photos, pretrained, capsys):
    tensors = {
        name: value
        for name, value in BeitModel.from_pretrained(pretrained, add_pooling_layer=False).disk_tensors().items()
        if "relative_position" not in name
    }
    (pretrained / "model.safetensors").unlink()
    write_weights(pretrained, tensors)
    refused(
        capsys,
        ["knn", "--model", pretrained, "--images", photos],
        "lacks weights of its layers (encoder.relative_position_bias)",
        "beit pretrain --model",
    )
