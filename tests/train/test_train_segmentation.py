"""Training of segmentation: that it learns, what it starts from, that its numbers are true and that it resumes exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fixtures_runs import log_lines, save_classifier, save_small_model, weights_of
from fixtures_segment import NAMES, blocks, save_segmenter, write_names, write_segmented

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("matplotlib")

import beit
from beit import BeitConfig, BeitForMaskedImageModeling, BeitForSemanticSegmentation, BeitImageProcessor
from beit.cli import main
from beit.core.errors import ConfigError, DataError, InputError, TrainingError
from beit.data.label_maps import LabelRules
from beit.data.loader import Loader
from beit.data.order import Order
from beit.data.sources.bad_images import BadImages
from beit.data.sources.labelled_folders import LabelledFolders
from beit.data.transforms.segmentation import SegmentViews
from beit.data.workers.torch import in_torch_workers
from beit.train import recipes
from beit.train.distributed import Alone
from beit.train.run import Run
from beit.train.schedule import learning_rate
from beit.train.segmentation import segment, segmenter_config
from beit.train.settings import SegmentSettings, differences, from_dict
from beit.train.start import open_start
from beit.train.torch import segmentation as torch_segmentation
from beit.train.torch.segmentation import pixel_accuracy


@pytest.fixture
def parts(tmp_path) -> dict[str, Any]:
    """Settings of a short run from a small pre-trained model."""
    images, maps = write_segmented(tmp_path, 12)
    return {
        "images": images,
        "maps": maps,
        "output": tmp_path / "run",
        "model": str(save_small_model(tmp_path / "model", num_hidden_layers=4)),
        "batch_size": 4,
        "steps": 4,
        "auxiliary_channels": 8,
        "precision": "fp32",
        "workers": 0,
        "log_every": 1,
    }


def segmenter(settings: SegmentSettings, classes: Sequence[str]) -> BeitForSemanticSegmentation:
    """The model with which a run of these settings starts."""
    start = open_start(settings)
    config = segmenter_config(settings, start, list(classes))
    return torch_segmentation.model(Run(Alone(), settings), start, config)


# --- settings ----------------------------------------------------------------------------------------------------


def make(**changes: Any) -> SegmentSettings:
    return SegmentSettings(**{"images": Path("i"), "maps": Path("m"), "output": Path("o"), "model": "base", **changes})


def test_settings_are_the_papers():
    assert make().learning_rate == 7e-4
    assert make(batch_size=4).learning_rate == pytest.approx(1.75e-4)
    assert make(model="tiny").learning_rate == make(model="tiny", batch_size=4).learning_rate == 1e-3
    settings = make(classes=Path("names.txt"), scale=(0.75, 1.5))
    assert (settings.schedule, settings.min_learning_rate, settings.warmup * 160_000) == ("linear", 0.0, 1500)
    back = from_dict(SegmentSettings, json.loads(json.dumps(settings.to_dict())))
    assert back == settings
    assert isinstance(back.maps, Path)
    assert differences(settings.to_dict(), back.to_dict()) == []
    assert differences(settings.to_dict(), make(scale=(0.75, 1.5)).to_dict()) == ["classes: names.txt then, None now"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "batch norm needs at least 2"),
        ({"scale": (2.0, 0.5)}, "wanted two factors"),
        ({"layer_decay": 0.0}, "layer_decay is 0"),
        ({"cat_max": 1.5}, "cat_max is 1.5"),
        ({"head_dropout": 1.0}, "head_dropout is 1"),
        ({"auxiliary_weight": -1.0}, "must not be negative"),
        ({"short_side": 0}, "short_side is 0"),
        ({"std": (0.0, 1.0, 1.0)}, "std is"),
        ({"validation_maps": Path("v")}, "validation_maps is given without validation_images"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(ConfigError, match=message):
        make(**changes)


def test_the_rate_falls_along_a_line():
    rates = [learning_rate(step, 110, 10, peak=2.0, floor=0.5, schedule="linear") for step in range(111)]
    assert rates[5] == 1.0
    assert rates[10] == 2.0
    np.testing.assert_allclose(np.diff(rates[10:]), -0.015)
    assert rates[110] == 0.5
    assert learning_rate(60, 110, 10, 2.0, 0.5) == pytest.approx(rates[60])  # half way a cosine is there too
    assert learning_rate(30, 110, 10, 2.0, 0.5) > rates[30] + 0.05


def test_recipes_of_the_authors():
    for recipe, rate, decay, drop in (
        (recipes.ade20k_base, 7e-4, 0.65, 0.1),
        (recipes.ade20k_base_labels, 3e-5, 0.9, 0.1),
        (recipes.ade20k_large_labels, 2e-5, 0.95, 0.2),
    ):
        found = recipe(Path("ade"), Path("o"), "some/model")
        assert (found.learning_rate, found.layer_decay, found.drop_path) == (rate, decay, drop)
        assert (found.steps, found.batch_size, found.weight_decay, found.reduce_labels) == (160_000, 16, 0.05, True)
        assert (found.head_dropout, found.auxiliary_weight, found.auxiliary_channels) == (0.1, 0.4, 256)
        half = recipe(Path("ade"), Path("o"), "some/model", batch_size=8)
        assert (half.steps, half.learning_rate) == (320_000, rate / 2)
        assert "mIoU" in str(recipe.__doc__)


# --- runs --------------------------------------------------------------------------------------------------------


def test_a_run_writes_a_model_and_true_numbers(tmp_path, parts):
    held_out = write_segmented(tmp_path / "held_out", 4, seed=50)
    settings = SegmentSettings(
        **parts, classes=write_names(tmp_path / "names.txt"), validation_images=held_out[0], validation_maps=held_out[1]
    )
    history, result = segment(settings)
    assert log_lines(settings.output) == history
    assert history[0].keys() >= {"loss", "accuracy", "gradient_norm", "learning_rate"}
    assert [line["learning_rate"] for line in history] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])

    model = beit.load(settings.output)
    assert type(model) is BeitForSemanticSegmentation
    config = model.config
    assert list(config.id2label.values()) == list(NAMES)
    assert config.segmentation_layers == BeitConfig.authors_segmentation_layers(4) == [1, 2, 3, 4]
    assert (config.drop_path_rate, config.decode_dropout_prob, config.auxiliary_channels) == (0.1, 0.1, 8)
    assert (config.auxiliary_loss_weight, config.semantic_loss_ignore_index) == (0.4, 255)
    processor = BeitImageProcessor.from_pretrained(settings.output)
    assert (processor.size, processor.do_center_crop) == ({"height": 16, "width": 16}, False)
    assert (processor.do_reduce_labels, processor.semantic_loss_ignore_index) == (False, 255)
    assert processor.image_mean == list(settings.mean)  # the model that it started from has no processor
    assert processor(Image.new("RGB", (40, 30)), return_tensors="pt")["pixel_values"].shape == (1, 3, 16, 16)

    assert result is not None
    assert result.count == 4
    saved = json.loads((settings.output / "evaluation.json").read_text())
    assert saved["miou"] == result.miou
    assert (settings.output / "report.html").stat().st_size > 20_000


def test_the_first_line_by_hand(parts):
    """Loss and accuracy of the initial weights on the first batch, by plain formulas."""
    start = save_segmenter(Path(parts["output"]).parent / "start", auxiliary_channels=8)
    settings = SegmentSettings(
        **{**parts, "model": str(start), "steps": 1}, drop_path=0.0, head_dropout=0.0, ignore_index=2
    )
    (line,), _ = segment(settings)
    views = SegmentViews((16, 16), (0.5,) * 3, (0.5,) * 3, 16, ignore_index=2)  # mean and std of the start's processor
    images = LabelledFolders(settings.images, settings.maps, NAMES, LabelRules(2))
    loader = Loader(images, views, Order(12, 4, settings.seed), BadImages(12), pool=in_torch_workers)
    batch = next(loader.batches(0, 1))
    model = BeitForSemanticSegmentation.from_pretrained(start, drop_path_rate=0.0).train()
    with torch.no_grad():
        logits = model(batch["pixel_values"]).logits
    counted = batch["labels"] != 2
    assert 0 < int(counted.sum()) < counted.numel()
    right = (logits.argmax(1) == batch["labels"])[counted]
    assert line["accuracy"] == pytest.approx(float(right.float().mean()), abs=1e-6)
    picked = logits.log_softmax(1).gather(1, batch["labels"].clamp(max=2)[:, None])[:, 0]
    main = float(-picked[counted].mean())
    assert main < line["loss"] < main + 0.4 * 3  # the auxiliary head's part comes on top


def test_accuracy_is_of_labelled_pixels():
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 1] = 1.0
    labels = torch.full((1, 8, 8), 255)
    assert float(pixel_accuracy(logits, labels, 255)) == 0.0
    labels[:, :4, :4] = 1
    assert float(pixel_accuracy(logits, labels, 255)) == 1.0
    labels[:, :4, 4:] = 0
    labels[:, 4:, :4] = 2
    assert float(pixel_accuracy(logits, labels, 255)) == pytest.approx(1 / 3)


def test_it_learns(tmp_path, parts):
    """From scratch, on blocks that are told by their colour: clearly better than the commonest class everywhere."""
    held_out = write_segmented(tmp_path / "held_out", 6, seed=50)
    start = save_segmenter(tmp_path / "start", auxiliary_channels=8)
    parts |= {"model": str(start), "steps": 60, "batch_size": 8, "learning_rate": 5e-3, "layer_decay": 1.0}
    settings = SegmentSettings(**parts, validation_images=held_out[0], validation_maps=held_out[1], drop_path=0.0)
    history, result = segment(settings)
    assert result is not None
    ground = result.confusion.sum(1)[0] / result.confusion.sum()
    assert result.pixel_accuracy > ground + 0.1
    assert result.miou > 0.6
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]


def test_starting_from_every_kind_of_model(tmp_path, parts):
    images = {"images": parts["images"], "output": tmp_path / "x"}
    start = BeitForMaskedImageModeling.from_pretrained(parts["model"])
    with torch.no_grad():
        start.beit.encoder.relative_position_bias.relative_position_bias_table.normal_()
    start.save_pretrained(parts["model"])
    model = segmenter(SegmentSettings(**images, model=parts["model"]), NAMES)
    layers = model.beit.encoder.layer
    assert all(
        torch.equal(
            x.attention.attention.relative_position_bias.relative_position_bias_table,
            start.beit.encoder.relative_position_bias.relative_position_bias_table,
        )
        for x in layers
    )
    assert (
        len({x.attention.attention.relative_position_bias.relative_position_bias_table.data_ptr() for x in layers}) == 4
    )
    assert not model.config.use_mask_token
    assert torch.equal(layers[3].intermediate.dense.weight, start.beit.encoder.layer[3].intermediate.dense.weight)

    # The Hub's models name layers for a head that they do not have.
    tuned = save_classifier(tmp_path / "tuned", num_hidden_layers=4, out_indices=[1, 2, 3, 4])
    model = segmenter(SegmentSettings(**images, model=str(tuned)), NAMES)
    assert model.layers == [1, 2, 3, 4]
    # A model that segments already keeps the layers that its heads know, and its heads where the classes fit.
    own = save_segmenter(tmp_path / "own", segmentation_layers=[1, 1, 2, 3])
    model = segmenter(SegmentSettings(**images, model=str(own)), "abc")
    assert model.layers == [1, 1, 2, 3]
    assert torch.equal(model.decode_head.classifier.weight, beit.load(own).decode_head.classifier.weight)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    model = segmenter(SegmentSettings(**images, model=str(own)), "abcd")
    assert model.decode_head.classifier.weight.shape[0] == 4

    model = segmenter(SegmentSettings(**images, model="tiny", image_size=32, patch_size=16), NAMES)
    assert (model.config.image_size, model.config.grid) == (32, (2, 2))
    assert model.config.use_relative_position_bias
    model = segmenter(SegmentSettings(**images, model="tiny", auxiliary_weight=0.0), NAMES)
    assert model.auxiliary_head is None
    with pytest.raises(ConfigError, match=r"for training from scratch; .*own has patches of its own"):
        segmenter(SegmentSettings(**images, model=str(own), patch_size=16), NAMES)
    model = segmenter(SegmentSettings(**images, model=str(own), image_size=64), NAMES)
    assert model.config.image_size == 64
    assert "were resized" in str(model.load_report)


def test_where_the_classes_come_from(tmp_path, parts):
    def trained(**changes: Any) -> list[str]:
        shutil.rmtree(parts["output"], ignore_errors=True)
        segment(SegmentSettings(**{**parts, "steps": 1, **changes}))
        return list(beit.load(parts["output"]).config.id2label.values())

    assert trained() == ["0", "1", "2"]
    own = save_segmenter(tmp_path / "own", names=("a", "b", "c", "d"))
    assert trained(model=str(own)) == ["a", "b", "c", "d"]
    assert trained(model=str(own), classes=write_names(tmp_path / "names.txt")) == list(NAMES)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_has_the_same_losses_to_the_bit(parts, workers):
    """Dropout, drop path, distortion and the batch norms' statistics do not depend on where the run was cut."""
    parts |= {"steps": 6, "save_every": 3, "workers": workers}
    whole, cut = parts["output"], Path(parts["output"]).parent / "cut"
    segment(SegmentSettings(**parts))
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoint-000006")
    (cut / "model.safetensors").unlink()
    segment(SegmentSettings(**{**parts, "output": cut, "resume": "auto"}))
    assert [line["loss"] for line in log_lines(cut)] == [line["loss"] for line in log_lines(whole)]
    assert len(log_lines(cut)) == 6
    assert weights_of(cut) == weights_of(whole)
    with pytest.raises(TrainingError, match="ignore_index: 255 then, 7 now"):
        segment(SegmentSettings(**{**parts, "resume": "auto", "ignore_index": 7}))
    # Other images under the same settings.
    (parts["images"] / "a/00.png").unlink()
    (parts["maps"] / "a/00.png").unlink()
    with pytest.raises(TrainingError, match="are not those of"):
        segment(SegmentSettings(**{**parts, "resume": "auto"}))


def test_cls_pooling_and_the_final_norm(tmp_path, parts):
    """The heads do not see the final norm of models that pool by their cls token: it must not wait for a gradient."""
    start = save_small_model(tmp_path / "cls", num_hidden_layers=4, use_mean_pooling=False)
    segment(SegmentSettings(**{**parts, "model": str(start), "steps": 2}))
    model = segmenter(SegmentSettings(**{**parts, "model": str(start)}), NAMES).train()
    model(torch.randn(2, 3, 16, 16), labels=torch.zeros(2, 16, 16, dtype=torch.long)).loss.backward()
    lonely = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert lonely == []


def test_wrong_labels_end_a_run(parts):
    Image.new("L", (16, 16), 77).save(parts["maps"] / "a/00.png")
    with pytest.raises(DataError, match="only one image"):
        segment(SegmentSettings(**parts), LabelledFolders(parts["images"], parts["maps"]).subset(np.array([0])))
    start = save_segmenter(Path(parts["output"]).parent / "start")
    with pytest.raises(InputError, match=r"00\.png has the values 77\. Wanted 0 to 2"):
        segment(SegmentSettings(**{**parts, "model": str(start)}))


def write_masks(maps: Path, change: Any) -> None:
    for path in maps.rglob("*.png"):
        Image.fromarray(change(np.asarray(Image.open(path))).astype(np.uint8)).save(path)


def test_masks_of_0_and_255_are_refused_and_the_remedy_works(parts, tmp_path, caplog):
    """255 means no label unless it is said otherwise: the object would never be learned, and mIoU be 100 % of the rest."""
    write_masks(parts["maps"], lambda numbers: 255 * (numbers > 0))
    named = {**parts, "classes": write_names(tmp_path / "c.txt", ("background", "object"))}
    remedy = r"If 255, which is in \S+00\.png, means class 1, say so with --map-value 255=1\."
    with pytest.raises(DataError, match=rf"1 of the 2 classes are in none of the label maps in \S+: object\. {remedy}"):
        segment(SegmentSettings(**named))
    with pytest.raises(DataError, match=rf"class 0 alone.*{remedy}"):
        segment(SegmentSettings(**parts))
    assert not Path(parts["output"]).exists()
    held_out = {"validation_images": parts["images"], "validation_maps": parts["maps"]}
    _, result = segment(SegmentSettings(**named, **held_out, map_value=("255=1",)))
    assert "in none of the label maps" not in caplog.text
    assert result.classes == ["background", "object"]
    assert all(accuracy is not None for accuracy in result.accuracy)
    assert json.loads((Path(parts["output"]) / "settings.json").read_text())["map_value"] == ["255=1"]
    # The evaluation takes the same flag, and says what is absent without it.
    arguments = [
        "segment",
        "evaluate",
        "--model",
        parts["output"],
        "--images",
        parts["images"],
        "--maps",
        parts["maps"],
    ]
    assert main([str(argument) for argument in [*arguments, "--map-value", "255=1"]]) == 0
    caplog.clear()
    assert main([str(argument) for argument in arguments]) == 0
    assert "1 of the 2 classes are in none of the label maps" in caplog.text
    assert "--map-value 255=1" in caplog.text


def test_classes_in_no_map_are_named(parts, tmp_path, caplog):
    parts |= {"classes": write_names(tmp_path / "c.txt", (*NAMES, "owl")), "steps": 1}
    segment(SegmentSettings(**parts))
    assert f"1 of the 4 classes are in none of the label maps in {parts['maps']}: owl." in caplog.text


def test_numbers_far_apart_are_no_classes(parts):
    write_masks(parts["maps"], lambda numbers: 128 * (numbers > 0))
    with pytest.raises(DataError, match=r"have the values 0, 128 alone: 127 of the 129 .* --map-value 128=1"):
        segment(SegmentSettings(**parts))


@pytest.mark.parametrize("named", [True, False])
def test_maps_of_another_size_are_found_before_the_first_step(parts, tmp_path, named):
    Image.fromarray(np.zeros((9, 16), np.uint8)).save(parts["maps"] / "b/11.png")
    if named:
        parts["classes"] = write_names(tmp_path / "c.txt")
    with pytest.raises(InputError, match=r"11\.png has shape \(9, 16\) and its image \(\d+, \d+\)"):
        segment(SegmentSettings(**parts))
    assert not Path(parts["output"]).exists()


def test_a_head_for_other_classes_is_said_to_be_one(parts, tmp_path, caplog):
    start = save_segmenter(tmp_path / "start")
    parts |= {"model": str(start), "steps": 1}
    segment(SegmentSettings(**parts, classes=write_names(tmp_path / "c.txt", ("ground", "green", "red"))))
    assert "was trained for other classes: its class 1 is red, here it is green" in caplog.text


@pytest.mark.parametrize("value", ["255", "255=", "a=1", "255=1=2", "-1=0", "255=1.5"])
def test_map_values_that_are_none(parts, value):
    with pytest.raises(ConfigError, match=r"map_value has .*wanted VALUE=CLASS"):
        SegmentSettings(**parts, map_value=(value,))


def test_a_batch_without_labels_has_no_loss(parts, monkeypatch):
    monkeypatch.setattr("beit.train.segmentation.check_maps", lambda images, refuse=True: None)
    write_masks(parts["maps"], lambda numbers: np.full(numbers.shape, 255))
    start = save_segmenter(Path(parts["output"]).parent / "start")
    with pytest.warns(UserWarning, match="all labels of this batch are 255"):
        history, _ = segment(SegmentSettings(**{**parts, "model": str(start), "steps": 2}))
    assert [line["loss"] for line in history] == [0.0, 0.0]


def test_images_given_by_the_caller(parts):
    class Made:
        labels = None
        classes = list(NAMES)

        def __len__(self) -> int:
            return 6

        def read(self, index: int) -> Image.Image:
            return Image.fromarray(blocks(index)[0])

        def target(self, index: int) -> np.ndarray:
            return blocks(index)[1].astype(np.int64)

        def name(self, index: int) -> str:
            return f"made {index}"

        def fingerprint(self) -> str:
            return "made"

    _, result = segment(SegmentSettings(**parts), Made(), Made())
    assert result is not None
    assert result.count == 6
    other = Made()
    other.classes = ["a", "b"]
    with pytest.raises(DataError, match="must be the same"):
        segment(SegmentSettings(**{**parts, "output": parts["output"].parent / "y"}), Made(), other)


def test_the_best_model_by_miou_is_the_result(parts, tmp_path):
    images, maps = write_segmented(tmp_path / "held", 4, seed=1)
    settings = SegmentSettings(
        **{**parts, "steps": 6, "save_every": 100, "keep": 1},
        validation_images=images,
        validation_maps=maps,
        validate_every=2,
    )
    lines, evaluation = segment(settings)
    measured = {line["step"]: line["validation_miou"] for line in lines if "validation_miou" in line}
    assert list(measured) == [2, 4, 6]
    best = max(measured, key=lambda step: (measured[step], -step))
    assert weights_of(settings.output) == weights_of(settings.output / f"checkpoint-{best:06}")
    assert evaluation.miou == pytest.approx(measured[best], abs=1e-6)
    assert all(0 <= line.get("validation_pixel_accuracy", 0) <= 1 for line in lines)


def test_a_run_on_outlines_resumes_to_the_bit(tmp_path, parts):
    """From the file of COCO; shapes that have changed are other images."""
    images = [path.relative_to(parts["images"]) for path in sorted(parts["images"].rglob("*.png"))]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    entries, annotations = [], []
    for number, name in enumerate(images):
        with Image.open(parts["images"] / name) as image:
            entries.append({"id": number, "file_name": str(name), "width": image.width, "height": image.height})
        for category, left in ((1, 2), (2, 9)):
            ring = [left, 2, left + 6, 2, left + 6, 12, left, 12]
            annotations.append({"image_id": number, "category_id": category, "segmentation": [ring]})
    file = tmp_path / "coco.json"
    content = {"images": entries, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(content))
    del parts["maps"]
    settings = SegmentSettings(**parts, annotations=file, save_every=2)
    segment(settings)
    assert beit.BeitConfig.from_pretrained(tmp_path / "run").class_names == ["background", "cat", "dog"]
    whole = weights_of(tmp_path / "run")
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "run", again)
    for name in ("model.safetensors", "checkpoint-000004"):
        path = again / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    segment(SegmentSettings(**{**parts, "output": again}, annotations=file, save_every=2, resume="must"))
    assert weights_of(again) == whole
    annotations[0]["segmentation"][0][0] += 1
    file.write_text(json.dumps(content))
    shutil.rmtree(again / "checkpoint-000004")
    with pytest.raises(TrainingError, match="The images, their order or their classes are not those of"):
        segment(SegmentSettings(**{**parts, "output": again}, annotations=file, save_every=2, resume="must"))
