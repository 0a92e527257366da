"""Short runs of all three kinds: what they write, that they learn, and that their numbers are what they say."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fixtures_runs import (
    log_lines,
    save_classifier,
    save_small_model,
    save_tokenizer,
    small_config,
    small_run,
    stripes,
    weights_of,
    write_images,
)

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import beit
from beit import BeitConfig, BeitForImageClassification, BeitForMaskedImageModeling
from beit.core.errors import CheckpointError, ConfigError, DataError
from beit.data import embedded as assets
from beit.data.loader import Loader
from beit.data.masking import mask_sizes
from beit.data.order import Order
from beit.data.processor import BeitImageProcessor
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import ArrayImages, FolderImages
from beit.data.transforms.pretrain import PretrainViews
from beit.data.workers.torch import in_torch_workers
from beit.tokenizers import load_tokenizer
from beit.train.checkpoint import list_checkpoints
from beit.train.distributed import Alone
from beit.train.finetune import classifier_config, finetune
from beit.train.parts import first_of_each_class
from beit.train.pretrain import pretrain
from beit.train.run import Run
from beit.train.settings import FinetuneSettings, PretrainSettings, TokenizerSettings
from beit.train.start import make_processor, open_start
from beit.train.targets.tokens import token_view_size
from beit.train.task import SINGLE_TASK
from beit.train.tokenizer import evaluate_tokenizer, measure, train_tokenizer
from beit.train.torch import finetune as torch_finetune
from beit.train.torch.engine import precision

COMMON = {"step", "epoch", "loss", "gradient_norm", "learning_rate", "images_per_second", "data_wait"}
TOKENS = {"masked_accuracy", "commonest_token", "token_entropy", "prediction_entropy", "codes_used"}


@pytest.fixture
def parts(tmp_path) -> dict[str, Any]:
    """Settings of a pre-training run on a small model and an untrained tokenizer."""
    return small_run(tmp_path, images=tmp_path / "images", workers=0, jitter=0.0, drop_path=0.0)


def array_images(count: int = 24, seed: int = 0) -> ArrayImages:
    return ArrayImages(*stripes(count, seed=seed), ["flat", "upright"])


def check_folder(output: Path, settings: Any, keys: set[str], steps: int) -> list[dict[str, Any]]:
    """What every run leaves behind; returns the log."""
    assert json.loads((output / "settings.json").read_text()) == json.loads(json.dumps(settings.to_dict()))
    lines = log_lines(output)
    assert all(line.keys() == keys for line in lines)
    assert lines[-1]["step"] == steps
    assert all(line["images_per_second"] > 0 and math.isfinite(line["loss"]) for line in lines)
    events = list((output / "tensorboard").glob("events.*"))
    assert sum(path.stat().st_size for path in events) > 200
    assert not [path for path in output.rglob("*") if path.name.startswith(".") or path.name.endswith(".tmp")]
    return lines


# --- tokenizer ---------------------------------------------------------------------------------------------------


def test_a_tokenizer_learns_and_keeps_its_codebook_in_use(tmp_path):
    arrays = assets.fashion_mnist_subset()
    settings = TokenizerSettings(
        images=tmp_path,
        output=tmp_path / "run",
        image_size=28,
        factor=4,
        vocab_size=64,
        width=8,
        steps=150,
        crop_scale=(0.6, 1.0),
        log_every=25,
        precision="fp32",
    )
    history = train_tokenizer(settings, ArrayImages(arrays["x_train"][:2000]))
    lines = check_folder(settings.output, settings, COMMON | {"reconstruction", "codes_used", "perplexity"}, 150)
    assert lines == history
    assert [line["step"] for line in lines] == [25, 50, 75, 100, 125, 150]
    assert lines[-1]["reconstruction"] < 0.6 * lines[0]["reconstruction"]
    assert lines[-1]["codes_used"] >= 0.5
    assert 16 <= lines[-1]["perplexity"] <= 64

    tokenizer = load_tokenizer(settings.output)
    images = torch.from_numpy(ArrayImages(arrays["x_test"][:300]).array).permute(0, 3, 1, 2) / 255
    found = measure(tokenizer, images, batch_size=128)
    assert found["codes_used"] >= 0.5
    assert found["error"] < 0.6 * found["blank"]  # pictures from codes beat the picture that knows nothing
    tokens = tokenizer.tokens(images)
    share = np.bincount(tokens.flatten(), minlength=64) / tokens.numel()
    assert found["codes_used"] == (share > 0).mean()
    assert found["perplexity"] == pytest.approx(math.exp(-sum(p * math.log(p) for p in share if p)), rel=1e-6)
    error = ((tokenizer.decode(tokens) - images) ** 2).mean()
    assert found["error"] == pytest.approx(float(error), rel=1e-4)
    assert found["blank"] == pytest.approx(float(images.var(0, correction=0).mean()), rel=1e-4)


def test_a_tokenizer_run_on_a_folder(tmp_path):
    write_images(tmp_path / "images", 12, side=20, spread=3)
    settings = TokenizerSettings(
        images=tmp_path / "images",
        output=tmp_path / "run",
        image_size=8,
        factor=2,
        vocab_size=8,
        width=8,
        steps=5,
        batch_size=4,
        workers=0,
        save_every=2,
        log_every=2,
        precision="fp32",
    )
    lines = train_tokenizer(settings)
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert lines[-1]["epoch"] == 1.667
    assert [path.name for path in list_checkpoints(settings.output)] == ["checkpoint-000004", "checkpoint-000005"]
    assert weights_of(settings.output) == weights_of(settings.output / "checkpoint-000005")
    assert weights_of(settings.output) != weights_of(settings.output / "checkpoint-000004")
    config = load_tokenizer(settings.output).config
    assert (config.factor, config.vocab_size, config.n_hid) == (2, 8, 8)
    found = evaluate_tokenizer(settings.output, FolderImages(settings.images), 8)
    assert found.keys() == {"codes_used", "perplexity", "error", "blank"}


def test_evaluating_a_tokenizer_passes_over_bad_images(tmp_path):
    folder = save_tokenizer(tmp_path / "tokenizer")
    write_images(tmp_path / "images", 20)
    (tmp_path / "images/000.png").write_bytes(b"")
    (tmp_path / "images/001.png").write_bytes(b"")
    whole = evaluate_tokenizer(folder, FolderImages(tmp_path / "images"), 16)
    (tmp_path / "images/000.png").unlink()
    (tmp_path / "images/001.png").unlink()
    assert evaluate_tokenizer(folder, FolderImages(tmp_path / "images"), 16) == whole
    (tmp_path / "images/002.png").write_bytes(b"")
    (tmp_path / "images/003.png").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 18"):
        evaluate_tokenizer(folder, FolderImages(tmp_path / "images"), 16)


# --- pre-training ------------------------------------------------------------------------------------------------


def test_pretraining_writes_a_model_folder_and_true_numbers(tmp_path, parts):
    write_images(parts["images"], 24, spread=2)
    settings = PretrainSettings(**parts, steps=7, save_every=2, warmup=0.3)
    history = pretrain(settings)
    lines = check_folder(settings.output, settings, COMMON | TOKENS, 7)
    assert lines == history
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert [line["epoch"] for line in lines] == [0.333, 0.667, 1.0, 1.333, 1.667, 2.0, 2.333]
    assert lines[0]["learning_rate"] == 0.0
    assert lines[2]["learning_rate"] == settings.learning_rate

    # Checkpoints: the last two, each a model folder that can be used.
    found = list_checkpoints(settings.output)
    assert [path.name for path in found] == ["checkpoint-000006", "checkpoint-000007"]
    for folder in (*found, settings.output):
        model = beit.load(folder)
        assert type(model) is BeitForMaskedImageModeling
        assert BeitImageProcessor.from_pretrained(folder).size == {"height": 16, "width": 16}
    assert weights_of(settings.output) == weights_of(found[-1]) != weights_of(found[0])
    assert json.loads((found[-1] / "state.json").read_text())["step"] == 7

    # The first lines by hand: the learning rate is 0 in step 0, so two steps see the initial weights.
    initial = BeitForMaskedImageModeling.from_pretrained(settings.model)
    tokenizer = load_tokenizer(settings.tokenizer)
    views = PretrainViews(settings, initial.config, (16, 16))
    order = Order(24, 8, settings.seed)
    loader = Loader(FolderImages(settings.images), views, order, BadImages(24), pool=in_torch_workers)
    for batch, line in zip(loader.batches(0, 2), lines, strict=False):
        tokens = tokenizer.tokens(batch["token_pixels"])
        masked = tokens[batch["mask"]]
        with torch.no_grad():
            logits = initial(batch["pixel_values"], batch["mask"]).logits[batch["mask"]]
        loss = -logits.log_softmax(-1)[torch.arange(len(masked)), masked].mean()
        assert line["loss"] == pytest.approx(float(loss), abs=2e-5)
        counts = np.bincount(masked.numpy(), minlength=16)
        assert line["commonest_token"] == pytest.approx(counts.max() / counts.sum(), abs=1e-6)
        assert line["masked_accuracy"] == pytest.approx(float((logits.argmax(-1) == masked).float().mean()), abs=1e-6)


def test_pretraining_learns_more_than_the_commonest_token(tmp_path, parts):
    parts |= {"learning_rate": 5e-3, "log_every": 50, "batch_size": 32}
    rng = np.random.default_rng(0)
    flat = np.repeat(rng.integers(0, 256, (64, 1, 3), dtype=np.uint8), 256, axis=1).reshape(64, 16, 16, 3)
    lines = pretrain(PretrainSettings(**parts, steps=200), ArrayImages(flat))
    assert lines[-1]["loss"] < 0.75 * lines[0]["loss"]
    # The visible patches tell the colour of the hidden ones.
    assert lines[-1]["masked_accuracy"] > lines[-1]["commonest_token"] + 0.1
    assert weights_of(parts["output"]) != weights_of(Path(parts["model"]))

    # What has been learned about relative positions goes into every layer of a classifier.
    pretrained = BeitForMaskedImageModeling.from_pretrained(parts["output"])
    table = pretrained.beit.encoder.relative_position_bias.relative_position_bias_table
    assert float(table.detach().abs().max()) > 0.01
    settings = FinetuneSettings(images=tmp_path, output=tmp_path / "tuned", model=str(parts["output"]))
    start = open_start(settings)
    config = classifier_config(settings, start, ["a", "b", "c"])
    model = torch_finetune.model(Run(Alone(), settings), start, config, SINGLE_TASK)
    assert model.beit.encoder.relative_position_bias is None
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.drop_path_rate == 0.1
    tables = [
        layer.attention.attention.relative_position_bias.relative_position_bias_table
        for layer in model.beit.encoder.layer
    ]
    assert len(tables) == 2
    assert all(torch.equal(own, table) for own in tables)
    assert len({own.data_ptr() for own in tables}) == 2  # copies, which then learn on their own
    layers = zip(model.beit.encoder.layer, pretrained.beit.encoder.layer, strict=True)
    assert all(torch.equal(a.intermediate.dense.weight, b.intermediate.dense.weight) for a, b in layers)


def test_a_run_in_bfloat16(tmp_path, parts):
    full = pretrain(PretrainSettings(**parts, steps=3), array_images())
    parts |= {"precision": "bf16", "output": tmp_path / "bf16"}
    half = pretrain(PretrainSettings(**parts, steps=3), array_images())
    for a, b in zip(full, half, strict=True):
        assert a["commonest_token"] == b["commonest_token"]  # the tokenizer stays exact
        assert a["loss"] == pytest.approx(b["loss"], rel=0.02)
    assert [line["loss"] for line in full] != [line["loss"] for line in half]
    assert {p.dtype for p in beit.load(tmp_path / "bf16").parameters()} == {torch.float32}
    with pytest.raises(ConfigError, match="Choose auto, fp32, bf16 or fp16"):
        precision("fp8", torch.device("cpu"))
    assert precision("fp32", torch.device("cpu")) is None
    assert precision("bf16", torch.device("cpu")) is torch.bfloat16
    assert precision("auto", torch.device("cpu")) in (None, torch.bfloat16)


def test_the_seed_decides_a_run(tmp_path, parts):
    def run(name: str, seed: int) -> bytes:
        settings = PretrainSettings(**{**parts, "output": tmp_path / name, "drop_path": 0.2}, steps=2, seed=seed)
        pretrain(settings, array_images())
        return weights_of(settings.output)

    first = run("a", 1)
    torch.rand(5)  # what happened before plays no part
    assert run("b", 1) == first
    assert run("c", 2) != first


def test_pretraining_a_preset(tmp_path, parts):
    parts |= {"model": "tiny", "tokenizer": str(save_tokenizer(tmp_path / "t", vocab_size=12, groups=2))}
    parts["drop_path"] = 0.25
    settings = PretrainSettings(**parts, steps=1, image_size=12, layer_scale=0.5)
    pretrain(settings, array_images())
    config = beit.load(settings.output).config
    assert (config.image_size, config.patch_size, config.hidden_size) == (12, 4, 128)
    assert (config.vocab_size, config.drop_path_rate, config.layer_scale_init_value) == (12, 0.25, 0.5)
    assert config.use_shared_relative_position_bias
    assert config.use_mask_token


def test_sizes_of_masks_views_and_processors():
    paper = BeitConfig()
    settings = PretrainSettings(images="x", output="y", tokenizer="z")
    assert mask_sizes(settings, paper) == (75, 16)
    assert mask_sizes(PretrainSettings(images="x", output="y", tokenizer="z", min_block=5, mask_ratio=0.5), paper) == (
        98,
        5,
    )

    class Tokenizer:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        def grid(self, size: tuple[int, int]) -> tuple[int, int]:
            if size[0] % self.factor:
                raise ValueError("no")
            return size[0] // self.factor, size[1] // self.factor

    assert token_view_size(Tokenizer(8), (14, 14)) == (112, 112)
    assert token_view_size(Tokenizer(4), (7, 9)) == (28, 36)
    with pytest.raises(ConfigError, match="no grid of 7x7 tokens"):
        token_view_size(Tokenizer(3), (7, 7))

    processor = make_processor(paper, (0.5,) * 3, (0.25,) * 3)
    assert processor.size == {"height": 256, "width": 256}
    assert processor.crop_size == {"height": 224, "width": 224}
    assert processor.do_center_crop
    assert processor.image_std == [0.25] * 3
    for size in (384, 28):
        whole = make_processor(BeitConfig(image_size=size, patch_size=4), (0.5,) * 3, (0.5,) * 3)
        assert whole.size == {"height": size, "width": size}
        assert not whole.do_center_crop


def test_steps_and_epochs(parts):
    loader = Loader(array_images(), None, Order(24, 8, 0), BadImages(24))
    assert PretrainSettings(**parts, epochs=2.5).total_steps(loader.steps_per_epoch) == 8
    assert PretrainSettings(**parts, epochs=0.01).total_steps(loader.steps_per_epoch) == 1
    assert PretrainSettings(**parts, epochs=9, steps=5).total_steps(loader.steps_per_epoch) == 5


def test_skipped_images_are_named_at_the_end(parts, caplog):
    write_images(parts["images"], 20, spread=2)
    Image.new("RGB", (9, 3)).save(parts["images"] / "000.png")
    (parts["images"] / "001.png").write_text("no image")
    with caplog.at_level(logging.WARNING, logger="beit"):
        pretrain(PretrainSettings(**parts, epochs=2))
    assert "2 images were skipped" in caplog.text
    assert "000.png: 9x3 pixels, smaller than a patch (4)." in caplog.text
    assert "001.png: not an image" in caplog.text


# --- fine-tuning -------------------------------------------------------------------------------------------------


def tuning(tmp_path: Path, **changes: Any) -> FinetuneSettings:
    values: dict[str, Any] = {
        "images": tmp_path / "images",
        "output": tmp_path / "run",
        "model": str(tmp_path / "model"),
        "batch_size": 16,
        "learning_rate": 4e-3,
        "crop_scale": (0.6, 1.0),
        "precision": "fp32",
        "workers": 0,
        "log_every": 20,
    }
    return FinetuneSettings(**{**values, **changes})


def test_finetuning_learns_to_tell_two_classes_apart(tmp_path):
    save_small_model(tmp_path / "model")
    write_images(tmp_path / "images", 64, labelled=True)
    write_images(tmp_path / "held out", 60, seed=9, labelled=True)
    settings = tuning(tmp_path, steps=100, layer_decay=0.9, validation=tmp_path / "held out", validate_every=0)
    history, result = finetune(settings)
    lines = check_folder(settings.output, settings, COMMON | {"accuracy"}, 100)
    assert lines == history
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["accuracy"] > 0.9
    assert result.top1 > 0.9
    assert result.count == 60
    assert json.loads((settings.output / "evaluation.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    model = beit.load(settings.output)
    assert type(model) is BeitForImageClassification
    assert model.config.id2label == {0: "flat", 1: "upright"}
    assert not model.load_report.needs_training


def test_finetuning_from_scratch_with_everything_on(tmp_path):
    changes = {"jitter": 0.4, "erase": 0.5, "mixup": 0.8, "cutmix": 1.0, "image_size": 16, "patch_size": 8}
    settings = tuning(
        tmp_path, model="tiny", steps=2, log_every=1, mean=(0.2, 0.3, 0.4), labels_per_class=5, hold_out=0.0, **changes
    )
    history, result = finetune(settings, array_images())
    assert result is None
    assert [line["epoch"] for line in history] == [1.0, 2.0]  # ten images: one step an epoch
    config = beit.load(settings.output).config
    assert (config.image_size, config.patch_size, config.num_labels) == (16, 8, 2)
    assert config.use_relative_position_bias
    processor = BeitImageProcessor.from_pretrained(settings.output)
    assert processor.image_mean == [0.2, 0.3, 0.4]


def test_finetuning_keeps_the_processor_of_its_start(tmp_path):
    save_classifier(tmp_path / "model", ("x", "y", "z"))
    values = json.loads((tmp_path / "model/preprocessor_config.json").read_text())
    values["image_mean"] = [0.1, 0.2, 0.3]
    (tmp_path / "model/preprocessor_config.json").write_text(json.dumps(values))
    settings = tuning(tmp_path, steps=1)
    finetune(settings, array_images())  # three classes become two: a new head
    assert BeitImageProcessor.from_pretrained(settings.output).image_mean == [0.1, 0.2, 0.3]
    assert beit.load(settings.output).classifier.weight.shape == (2, 32)


def test_one_class_per_image_is_learned_whatever_the_start_was_for(tmp_path):
    """Else the result would be asked by sigmoids, though it has learned by softmax."""
    start = save_classifier(tmp_path / "start", problem_type="multi_label_classification")
    shared = {"images": tmp_path, "output": tmp_path / "run", "model": str(start), "batch_size": 4, "steps": 1}
    finetune(FinetuneSettings(**shared), ArrayImages(*stripes(8), ["flat", "upright"]))
    assert BeitConfig.from_pretrained(tmp_path / "run").problem_type == "single_label_classification"


def test_the_first_images_of_each_class():
    images = ArrayImages(stripes(10)[0], np.array([1, 0, 1, 1, 0, 0, 1, 0, 1, 1]), ["a", "b"])
    few = first_of_each_class(images, 2)
    assert few.labels.tolist() == [1, 0, 1, 0]
    np.testing.assert_array_equal(few.array, images.array[[0, 1, 2, 4]])
    with pytest.raises(DataError, match="Class a has 4 images; 5 were asked for"):
        first_of_each_class(images, 5)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_finetuning_refuses_what_it_cannot_learn_from(tmp_path):
    save_small_model(tmp_path / "model")
    with pytest.raises(DataError, match="needs labelled images"):
        finetune(tuning(tmp_path), ArrayImages(stripes(4)[0]))
    one = ArrayImages(stripes(4)[0], np.zeros(4, int), ["cat"])
    with pytest.raises(DataError, match="only one class, cat"):
        finetune(tuning(tmp_path), one)
    with pytest.raises(ConfigError, match="patch_size is for training from scratch"):
        finetune(tuning(tmp_path, patch_size=8), array_images())
    with pytest.raises(DataError, match="10 images; 13 were asked for"):
        finetune(tuning(tmp_path, labels_per_class=13), array_images())
    write_images(tmp_path / "images", 8, labelled=True)
    Image.new("RGB", (16, 16)).save(write_images(tmp_path / "v", 2, labelled=True) / "flat/x.png")
    (tmp_path / "v/strange").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "v/strange/x.png")
    with pytest.raises(DataError, match="does not know: strange"):
        finetune(tuning(tmp_path, validation=tmp_path / "v"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("owl/1.xyz", b"", r"owl has 1 files \(\.xyz\), but no image"),
        ("owl/1.png", b"<html>", r"None of the 1 images of class owl can be opened"),
    ],
)
def test_a_class_without_an_image_that_can_be_read_is_refused(tmp_path, name, content, says):
    write_images(tmp_path / "t", 8, labelled=True)
    (tmp_path / "t/owl").mkdir()
    (tmp_path / "t" / name).write_bytes(content)
    settings = FinetuneSettings(images=tmp_path / "t", output=tmp_path / "run", model="tiny", batch_size=4, workers=0)
    with pytest.raises(DataError, match=says):
        finetune(settings)
    assert not (tmp_path / "run").exists()


def test_parts_of_a_data_set_are_no_classes(tmp_path):
    for part in ("val", "test"):
        write_images(tmp_path / "t" / part, 4, labelled=True)
    settings = FinetuneSettings(images=tmp_path / "t", output=tmp_path / "run", model="tiny", batch_size=4, workers=0)
    with pytest.raises(DataError, match=r"has the subfolders test, val: parts of a data set.*--validation"):
        finetune(settings)


def test_other_classes_of_the_checkpoint_and_absent_ones_of_the_validation_are_named(tmp_path, caplog):
    write_images(tmp_path / "t", 8, labelled=True)
    write_images(tmp_path / "v/flat", 2)
    (tmp_path / "t/empty").mkdir()
    start = save_classifier(tmp_path / "start", ("cat", "dog"))
    finetune(
        FinetuneSettings(
            images=tmp_path / "t",
            validation=tmp_path / "v",
            output=tmp_path / "run",
            model=str(start),
            batch_size=4,
            steps=1,
            workers=0,
        )
    )
    assert "1 of the 2 classes have no image in" in caplog.text
    assert "v: upright." in caplog.text
    assert "was trained for other classes: its class 0 is cat, here it is flat" in caplog.text
    assert "empty is empty, and is no class" in caplog.text


def test_a_run_that_failed_before_its_first_step_leaves_nothing(tmp_path, parts):
    """After a mistake is mended the same command works: no half-made run is in the way."""
    settings = PretrainSettings(**parts, steps=1)
    with pytest.raises(DataError, match="is not a folder"):
        pretrain(settings)
    parts["tokenizer"] = str(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="No such folder"):
        pretrain(PretrainSettings(**parts, steps=1), array_images())
    parts["tokenizer"] = parts["model"]
    with pytest.raises(CheckpointError, match="wanted a tokenizer"):
        pretrain(PretrainSettings(**parts, steps=1), array_images())
    assert not settings.output.exists()
    pretrain(settings, array_images())
    with pytest.raises(DataError, match="already holds a run"):
        pretrain(settings, array_images())


def test_output_folders_that_hold_something_are_refused(tmp_path, parts):
    before = weights_of(Path(parts["model"]))
    with pytest.raises(DataError, match="holds a model, which would be overwritten"):
        pretrain(PretrainSettings(**{**parts, "output": Path(parts["model"])}, steps=1), array_images())
    assert weights_of(Path(parts["model"])) == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file; give a folder"):
        pretrain(PretrainSettings(**{**parts, "output": tmp_path / "file"}, steps=1), array_images())


def test_impossible_sizes_are_refused(tmp_path, parts):
    with pytest.raises(ConfigError, match="n_hid=6; wanted a multiple of 4"):
        train_tokenizer(TokenizerSettings(images=tmp_path, output=tmp_path / "t", width=6, steps=1), array_images())
    with pytest.raises(beit.InputError, match="multiples of 8"):
        train_tokenizer(TokenizerSettings(images=tmp_path, output=tmp_path / "t", image_size=12), array_images())
    with pytest.raises(ConfigError, match="budget"):
        pretrain(PretrainSettings(**parts, steps=1, min_block=9, mask_ratio=0.3), array_images())
    assert small_config().num_patches == 16
