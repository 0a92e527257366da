"""Where checkpoints lie, what they say of themselves, and the commands: inspect, convert, resize, models."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

import beit
from beit import BeitConfig, BeitForImageClassification, BeitImageProcessor, CheckpointError
from beit.checkpoints import Checkpoint, catalogue, dialects, infer, locate, read_weights
from beit.checkpoints.names import to_disk, to_state_dict
from beit.checkpoints.write_weights import write_tensors
from beit.cli import main
from beit.export.layouts import write
from beit.export.resize import pixels_for
from beit.models.parameters import shapes_of
from fixtures_runs import tiny_config, write_images
from golden import make_foreign as golden

UNILM = golden.FOLDER / "unilm_finetune.pth"


def tiny_classifier(**overrides: Any) -> BeitForImageClassification:
    torch.manual_seed(0)
    model = BeitForImageClassification(tiny_config(use_relative_position_bias=True, num_labels=3, **overrides))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def memory_of(model: Any) -> dict[str, np.ndarray]:
    return to_state_dict(model.disk_tensors())[0]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A folder behind http: its address and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(locate.MIRRORS, raising=False)


# --- whose names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrapper", "dialect", "kind"),
    [
        ("", "hf", "hf"),
        ("module.", "hf", "hf"),
        ("", "unilm", "unilm"),
        ("module.", "unilm", "unilm"),
        ("backbone.", "unilm", "unilm"),
        ("_orig_mod.", "unilm", "unilm"),
        ("module.", "openmmlab", "openmmlab"),
    ],
)
def test_wrappers_come_off(wrapper: str, dialect: Any, kind: str) -> None:
    memory = memory_of(tiny_classifier())
    disk = to_disk(memory, dialect)
    found = dialects.recognise({wrapper + name: array for name, array in disk.items()}, "file")
    assert found.dialect == kind
    assert to_state_dict(found.tensors, found.dialect)[0].keys() == memory.keys()


def test_a_bare_backbone_of_openmmlab() -> None:
    disk = to_disk(memory_of(tiny_classifier()), "openmmlab")
    bare = {name.removeprefix("backbone."): array for name, array in disk.items() if name.startswith("backbone.")}
    found = dialects.recognise(bare, "file")
    assert found.dialect == "openmmlab"
    assert "beit.pooler.layernorm.weight" in to_state_dict(found.tensors, "openmmlab")[0]


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias"], "DINO"),
        (["vit.encoder.layer.0.attention.attention.key.bias"], "plain vision transformer"),
        (["beit3.encoder.layers.0.self_attn.q_proj.A.weight"], "BEiT-3"),
        (["quantize.embedding.weight"], "VQ-KD"),
        (["conv1.weight"], "conv1.weight"),
    ],
)
def test_relatives_are_named(names: list[str], what: str, tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", {name: np.zeros((4, 4), "f4") for name in names})
    with pytest.raises(CheckpointError, match=what):
        BeitConfig.from_pretrained(tmp_path / "x.safetensors")


def test_eva_is_not_taken_for_beit(tmp_path: Path) -> None:
    disk = to_disk(memory_of(tiny_classifier()), "unilm")
    disk["blocks.0.mlp.norm.weight"] = np.ones(4, "f4")
    write_tensors(tmp_path / "x.safetensors", disk)
    with pytest.raises(CheckpointError, match=r"blocks.0.mlp.norm.weight.*EVA"):
        BeitConfig.from_pretrained(tmp_path / "x.safetensors")


# --- what is inferred ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["BeitModel", "BeitForMaskedImageModeling", "BeitForImageClassification"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_relative_position_bias": True, "use_mask_token": True, "use_mean_pooling": False},
        {"use_shared_relative_position_bias": True, "use_absolute_position_embeddings": True, "image_size": (8, 24)},
        {"layer_scale_init_value": 0.0, "num_channels": 1, "patch_size": (4, 8)},
    ],
)
def test_shapes_are_those_of_the_models(kind: str, changes: dict[str, Any]) -> None:
    config = tiny_config(**changes)
    with torch.device("meta"):
        model = getattr(beit, kind)(config)
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if kind == "BeitModel":
        own = {f"beit.{name}": shape for name, shape in own.items()}
    assert shapes_of(config, kind) == own


@pytest.mark.parametrize(
    "changes", [{}, {"auxiliary_num_convs": 2, "auxiliary_concat_input": True, "pool_scales": [1, 2]}]
)
def test_shapes_of_segmentation(changes: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = beit.BeitForSemanticSegmentation(
            tiny_config(image_size=16, num_hidden_layers=4, num_labels=3, **changes)
        )
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if not name.endswith("_tracked")}
    assert shapes_of(model.config, "BeitForSemanticSegmentation") == own


def test_rectangles_need_an_index_or_a_word(tmp_path: Path) -> None:
    model = tiny_classifier(image_size=(8, 24))
    write(tmp_path / "with_index.pth", "unilm", memory_of(model), model.config, None)
    assert BeitConfig.from_pretrained(tmp_path / "with_index.pth").image_size == (8, 24)
    write_tensors(tmp_path / "without.safetensors", to_disk(memory_of(model), "unilm"))
    with pytest.raises(CheckpointError, match=r"image_size=\(height, width\)"):
        BeitConfig.from_pretrained(tmp_path / "without.safetensors")
    assert BeitConfig.from_pretrained(tmp_path / "without.safetensors", image_size=(8, 24)).grid == model.config.grid
    arguments = ["convert", str(tmp_path / "without.safetensors"), str(tmp_path / "new"), "--to", "hf", "--image-size"]
    assert main([*arguments, "8", "24"]) == 0
    assert BeitConfig.from_pretrained(tmp_path / "new").image_size == (8, 24)


def test_two_norms_are_refused(tmp_path: Path) -> None:
    disk = to_disk(memory_of(tiny_classifier()), "openmmlab")
    disk |= {f"backbone.ln1.{kind}": np.ones(16, "f4") for kind in ("weight", "bias")}
    write_tensors(tmp_path / "x.safetensors", disk)
    with pytest.raises(CheckpointError, match="another after pooling"):
        BeitConfig.from_pretrained(tmp_path / "x.safetensors")


def test_no_positions_no_size(tmp_path: Path) -> None:
    model = BeitForImageClassification(tiny_config(use_shared_relative_position_bias=False))
    write_tensors(tmp_path / "x.safetensors", to_disk(memory_of(model), "unilm"))
    assert BeitConfig.from_pretrained(tmp_path / "x.safetensors", num_attention_heads=2).image_size == 224


def test_a_folder_of_transformers_names_without_settings(tmp_path: Path) -> None:
    model = tiny_classifier()
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    x = torch.randn(1, 3, 16, 16)
    for place in (tmp_path, tmp_path / "model.safetensors"):
        again = beit.load(place)
        torch.testing.assert_close(again(x).logits, model(x).logits)
        assert again.config.layer_norm_eps == 1e-12


def test_a_weight_file_beside_its_settings(tmp_path: Path) -> None:
    tiny_classifier(layer_norm_eps=1e-3).save_pretrained(tmp_path)
    assert beit.load(tmp_path / "model.safetensors").config.layer_norm_eps == 1e-3


def test_command_line_of_the_authors_is_read(tmp_path: Path) -> None:
    import argparse

    content = torch.load(UNILM, weights_only=True)
    for flag, mean in ((True, [0.485, 0.456, 0.406]), (False, [0.5, 0.5, 0.5])):
        torch.save({**content, "args": argparse.Namespace(imagenet_default_mean_and_std=flag)}, tmp_path / "x.pth")
        assert BeitImageProcessor.from_pretrained(tmp_path / "x.pth").image_mean == mean


def test_a_published_name_says_how_pixels_are_normalised(tmp_path: Path) -> None:
    for name, mean in (
        ("beitv2_base_patch16_224_pt1k_ft21kto1k.pth", [0.485, 0.456, 0.406]),
        ("beit_base_patch16_224_pt22k_ft22kto1k.pth", [0.5, 0.5, 0.5]),
    ):
        (tmp_path / name).write_bytes(UNILM.read_bytes())
        checkpoint = Checkpoint(tmp_path / name)
        assert checkpoint.pixels is not None
        assert checkpoint.pixels["image_mean"] == mean
        assert "by the name" in checkpoint.pixel_guesses[0].why


def test_names_of_imagenet_22k_are_renumbered() -> None:
    """The Hub's ImageNet-22k models count over two classes that their classifiers lack."""
    numbers = [number for number in range(21_843) if number not in (9_205, 15_027)]
    names = {str(number): f"class {number}" for number in numbers}
    config = BeitConfig.from_dict({"id2label": names, "label2id": {name: int(n) for n, name in names.items()}})
    assert config.id2label == {place: f"class {number}" for place, number in enumerate(numbers)}
    assert config.label2id["class 21842"] == 21_840


def test_features_are_not_taken_for_tokens(tmp_path: Path) -> None:
    model = beit.BeitForMaskedImageModeling(tiny_config(use_shared_relative_position_bias=True, vocab_size=16))
    write_tensors(tmp_path / "x.safetensors", to_disk(memory_of(model), "unilm"))
    guesses = {guess.name: guess.why for guess in Checkpoint(tmp_path / "x.safetensors").guesses}
    assert "data2vec" in guesses["vocab_size"]


# --- where they lie --------------------------------------------------------------------------------------------------


def test_a_url_is_fetched_once(served: tuple[str, Path]) -> None:
    address, folder = served
    (folder / "model.pth").write_bytes(UNILM.read_bytes())
    url = f"{address}/model.pth"
    first = beit.load(url)
    (folder / "model.pth").unlink()
    second = beit.load(url)
    assert torch.equal(first.classifier.weight, second.classifier.weight)


def test_a_url_to_nothing_leaves_nothing(served: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="404"):
        beit.load(f"{served[0]}/absent.pth")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_file_must_be_what_its_name_says(served: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = served
    content = UNILM.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:8]
    (folder / f"right-{digest}.pth").write_bytes(content)
    (folder / "wrong-abcdef01.pth").write_bytes(content)
    (folder / "dated-20221114.pth").write_bytes(content)
    beit.load(f"{address}/right-{digest}.pth")
    beit.load(f"{address}/dated-20221114.pth")
    with pytest.raises(CheckpointError, match=r"not the file that was published.*abcdef01"):
        beit.load(f"{address}/wrong-abcdef01.pth")
    assert not list((tmp_path / "cache").rglob("wrong*"))


NAME = "beit-base-patch16-224-pt22k-ft22k-ft1k"


def test_a_name_of_the_catalogue_in_a_local_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = tmp_path / "mirror"
    tiny_classifier().save_pretrained(mirror / "microsoft" / "beit-base-patch16-224")
    monkeypatch.setenv(locate.MIRRORS, f"{tmp_path / 'empty'} {mirror}")
    for name in (NAME, "beit-base-patch16-224", "BEiT-base-patch16-224"):
        assert beit.load(name).config.hidden_size == 16
    assert Checkpoint(NAME).published is catalogue.find(NAME)


def test_a_name_of_the_catalogue_in_a_mirror_behind_http(
    served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = served
    (folder / "beit_base_patch16_224_pt22k_ft22kto1k.pth").write_bytes(UNILM.read_bytes())
    monkeypatch.setenv(locate.MIRRORS, address)
    assert beit.load(NAME).config.num_labels == golden.CLASSES


def test_everything_tried_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(locate.MIRRORS, str(tmp_path))
    with pytest.raises(CheckpointError, match=r"is published, but could not be fetched") as caught:
        beit.load(NAME, local_files_only=True)
    told = str(caught.value)
    assert str(tmp_path) in told
    assert "microsoft/beit-base-patch16-224" in told
    assert "was not downloaded before" in told


# --- other sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["torch", "flax"])
@pytest.mark.parametrize("size", [24, (16, 32), 8])
def test_image_size_at_loading(framework: str, size: Any, tmp_path: Path) -> None:
    if framework == "flax":
        pytest.importorskip("flax")
    model = tiny_classifier(use_absolute_position_embeddings=True)
    model.save_pretrained(tmp_path)
    kind = "BeitForImageClassification" if framework == "torch" else "FlaxBeitForImageClassification"
    resized = getattr(beit, kind).from_pretrained(tmp_path, image_size=size)
    assert "were resized from 4x4" in str(resized.load_report)
    height, width = resized.config.grid[0] * 4, resized.config.grid[1] * 4
    x = np.random.default_rng(0).standard_normal((1, 3, height, width)).astype("f4")
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).logits.numpy()  # resized while it runs
    found = resized(torch.from_numpy(x) if framework == "torch" else x).logits
    found = found.detach().numpy() if framework == "torch" else np.asarray(found)
    np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=1e-5)


def test_resize_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_classifier()
    model.save_pretrained(tmp_path / "old")
    BeitImageProcessor(size=18, crop_size=16).save_pretrained(tmp_path / "old")
    assert main(["resize", str(tmp_path / "old"), str(tmp_path / "new"), "--image-size", "32"]) == 0
    assert "from 4x4 to 8x8 patches" in capsys.readouterr().out
    new = beit.load(tmp_path / "new")
    assert new.config.image_size == 32
    processor = BeitImageProcessor.from_pretrained(tmp_path / "new")
    assert processor.crop_size == {"height": 32, "width": 32}
    assert processor.size == {"height": 36, "width": 36}
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(new(x).logits, model(x).logits, atol=1e-5, rtol=1e-5)
    assert main(["resize", str(tmp_path / "old"), str(tmp_path / "new2")]) == 1
    assert "--image-size" in capsys.readouterr().err
    assert main(["resize", str(tmp_path / "old"), str(tmp_path / "new2"), "--image-size", "17"]) == 1
    assert "not a multiple" in capsys.readouterr().err
    assert not (tmp_path / "new2").exists()


def test_pixels_for_another_size() -> None:
    config = tiny_config(image_size=32)
    cropped = {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True}
    assert pixels_for(cropped, config) == {
        "size": {"shortest_edge": 36},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
    }
    whole = {"size": {"height": 16, "width": 16}, "do_center_crop": False}
    found = pixels_for(whole, config)
    assert found is not None
    assert found["size"] == {"height": 32, "width": 32}
    assert pixels_for(None, config) is None


def test_fine_tuning_at_another_size(tmp_path: Path) -> None:
    """As the authors do it at 384 from 224: positions are resized, the processor goes along."""
    tiny_classifier().save_pretrained(tmp_path / "start")
    BeitImageProcessor(size=18, crop_size=16, image_mean=0.3, image_std=0.3).save_pretrained(tmp_path / "start")
    images = write_images(tmp_path / "images", 8, 24, labelled=True)
    arguments = f"--images {images} --model {tmp_path / 'start'} --output {tmp_path / 'run'} --image-size 24 --steps 1"
    assert main(["finetune", *arguments.split(), "--batch-size", "4", "--workers", "0"]) == 0
    assert BeitConfig.from_pretrained(tmp_path / "run").image_size == 24
    processor = BeitImageProcessor.from_pretrained(tmp_path / "run")
    assert processor.crop_size == {"height": 24, "width": 24}
    assert processor.image_mean == [0.3] * 3
    assert main(["finetune", *arguments.split(), "--patch-size", "8"]) == 1


# --- commands --------------------------------------------------------------------------------------------------------


def test_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(UNILM)]) == 0
    text = capsys.readouterr().out
    for line in ("BeitForImageClassification", "layer_norm_eps", "1e-06: no tensor shows it", "Missing: nothing"):
        assert line in text
    assert main(["inspect", str(UNILM), "--json", "--tensors"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["settings"]["num_labels"] == golden.CLASSES
    assert about["files"][0]["sha256"] == hashlib.sha256(UNILM.read_bytes()).hexdigest()
    assert about["parameters"] == sum(np.prod(shape) for name, _, shape in about["tensors"] if "index" not in name)
    assert about["missing"] == about["left_over"] == []


def test_inspect_says_what_is_missing_and_left_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = dict(read_weights.read_file(UNILM).tensors)
    del tensors["blocks.1.norm2.bias"]
    tensors["ema.decay"] = np.ones(1, "f4")
    write_tensors(tmp_path / "odd-abcdef01.safetensors", tensors)
    assert main(["inspect", str(tmp_path / "odd-abcdef01.safetensors")]) == 0
    text = capsys.readouterr().out
    assert "Missing: 1 tensors\n  beit.encoder.layer.1.layernorm_after.bias" in text
    assert "Left over: 1 tensors\n  ema.decay" in text
    assert "WARNING" in text  # its name promises another hash


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["inspect", "{folder}/absent.pth"], "No such folder"),
        (["inspect", "{folder}"], r"config.json"),
        (["inspect", "{folder}/text.pth"], "text that begins with"),
        (["convert", "{unilm}", "{folder}", "--to", "unilm"], "exists already"),
        (["convert", "{unilm}", "{folder}/text.pth", "--to", "unilm"], "exists already"),
        (["convert", "{unilm}", "{folder}/text.pth", "--to", "hf"], "exists already"),
        (["convert", "{unilm}", "{unilm}", "--to", "unilm"], "exists already"),
        (["convert", "{unilm}", "{folder}/new", "--to", "hf", "--num-attention-heads", "2"], "do not agree"),
        (["inspect", "x" * 300], "cannot be a path"),
        (["inspect", "~nosuchuser/x"], "cannot be a path"),
        (["inspect", "/dev/null"], "neither a file nor a folder"),
        (["inspect", "http://["], "is not a valid URL"),
        (["resize", "{unilm}", "{folder}/new", "--image-size", "100000"], "at most 1,000,000"),
        (["convert", "{pretrain}", "{folder}/new", "--to", "timm"], "timm has classifiers and encoders"),
        (["models", "beit-huge"], "No published checkpoint is called"),
        (["resize", "{unilm}", "{folder}/new", "--image-size", "32", "32", "32"], "height and width"),
    ],
)
def test_refusals_are_messages(
    arguments: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.pth").write_text("404: not found")
    before = UNILM.read_bytes()
    names = {"folder": tmp_path, "unilm": UNILM, "pretrain": golden.FOLDER / "unilm_pretrain.pth"}
    assert main([argument.format(**names) for argument in arguments]) == 1
    told = capsys.readouterr().err
    assert why in told
    assert "Traceback" not in told
    assert UNILM.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"text.pth"}


def test_convert_says_what_a_layout_has_no_place_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_classifier(problem_type="multi_label_classification")
    model.config.id2label = dict(enumerate(["cat", "dog", *"xyz"][: model.config.num_labels]))
    model.save_pretrained(tmp_path / "src")
    told = {}
    for to, name in (("unilm", "x.pth"), ("timm", "timm"), ("openmmlab", "y.pth"), ("hf", "hf"), ("flax", "flax")):
        if to == "flax":
            pytest.importorskip("msgpack")
        assert main(["convert", str(tmp_path / "src"), str(tmp_path / name), "--to", to, "--no-check"]) == 0
        told[to] = capsys.readouterr().out
    assert "no place for the names of the" in told["unilm"]
    assert "0 = cat, 1 = dog" in told["unilm"]
    assert all("names of the" not in told[to] for to in ("timm", "openmmlab", "hf", "flax"))
    assert all("this is a multi_label_classification" in told[to] for to in ("unilm", "timm", "openmmlab"))
    assert all("It does not say" not in told[to] for to in ("hf", "flax"))


def test_a_folder_without_a_processor_is_read_alike_by_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """inspect shows the guess of the publisher's pixels, convert writes it and says so."""
    tiny_classifier().save_pretrained(tmp_path / "src")
    checkpoint = Checkpoint(tmp_path / "src")
    assert checkpoint.stored_pixels is None
    assert checkpoint.pixels["image_mean"] == [0.5] * 3
    assert main(["inspect", str(tmp_path / "src")]) == 0
    shown = capsys.readouterr().out
    assert "image_mean, image_std" in shown
    assert "no tensor shows it" in shown
    assert main(["convert", str(tmp_path / "src"), str(tmp_path / "new"), "--to", "hf", "--no-check"]) == 0
    assert "guessed image_mean, image_std = half" in capsys.readouterr().out
    guessed = BeitImageProcessor.from_dict(checkpoint.pixels)
    assert BeitImageProcessor.from_pretrained(tmp_path / "new").to_dict() == guessed.to_dict()


def test_convert_never_writes_through_a_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_classifier().save_pretrained(tmp_path / "src")
    (tmp_path / "link").symlink_to(tmp_path / "src")
    before = (tmp_path / "src" / "config.json").read_bytes()
    for name in ("link", "src/../src", "src"):
        assert main(["convert", str(tmp_path / "src"), str(tmp_path / name), "--to", "timm"]) == 1
        assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "src" / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"layer_scale_init_value": 0.0},
        {"use_relative_position_bias": False},
        {"use_mean_pooling": False},
        {"num_hidden_layers": 1, "out_features": None, "out_indices": None},
    ],
)
def test_settings_that_contradict_the_tensors_are_said(
    change: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_classifier(use_shared_relative_position_bias=False).save_pretrained(tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**stated, **change}))
    beit.load(tmp_path)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "not used because" in caplog.text


def test_integers_are_no_weights(tmp_path: Path) -> None:
    disk = to_disk(memory_of(tiny_classifier()), "unilm")
    disk["blocks.0.attn.qkv.weight"] = (disk["blocks.0.attn.qkv.weight"] * 100).astype(np.int8)
    write_tensors(tmp_path / "x.safetensors", disk)
    with pytest.raises(CheckpointError, match=r"qkv.weight is int8.*quantised"):
        beit.load(tmp_path / "x.safetensors")


def test_nan_is_named_and_not_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = to_disk(memory_of(tiny_classifier()), "unilm")
    disk["blocks.1.norm2.bias"][0] = np.nan
    write_tensors(tmp_path / "x.safetensors", disk)
    assert main(["convert", str(tmp_path / "x.safetensors"), str(tmp_path / "new"), "--to", "hf"]) == 1
    assert "layer.1.layernorm_after.bias holds NaN" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("prefixes", [("student.", "teacher."), ("module.", "")])
def test_two_models_in_one_table(prefixes: tuple[str, str], tmp_path: Path) -> None:
    disk = to_disk(memory_of(tiny_classifier()), "unilm")
    both = {prefix + name: array for prefix in prefixes for name, array in disk.items()}
    write_tensors(tmp_path / "x.safetensors", both)
    with pytest.raises(CheckpointError, match="holds 2 models"):
        beit.load(tmp_path / "x.safetensors")


def test_a_rectangle_whose_table_is_a_squares(tmp_path: Path) -> None:
    """5x13 patches have as many displacements as 8x8."""
    model = tiny_classifier(image_size=(20, 52), use_shared_relative_position_bias=False)
    write_tensors(tmp_path / "x.safetensors", to_disk(memory_of(model), "unilm"))
    assert "rectangle" in {g.name: g.why for g in Checkpoint(tmp_path / "x.safetensors").guesses}["image_size"]
    again = beit.load(tmp_path / "x.safetensors", image_size=(20, 52))
    x = torch.randn(1, 3, 20, 52)
    torch.testing.assert_close(again(x).logits, model(x).logits, atol=1e-4, rtol=1e-4)


def test_a_stray_tensor_is_no_model(tmp_path: Path) -> None:
    state = torch.load(UNILM, weights_only=True)["model"]
    torch.save({"model": {"decay": torch.ones(1)}, "state_dict": state, 7: torch.ones(1)}, tmp_path / "x.pth")
    assert Checkpoint(tmp_path / "x.pth").container == "state_dict"
    torch.save({"model_ema": state}, tmp_path / "ema.pth")
    with pytest.raises(CheckpointError, match=r"it has model_ema.*weights='ema'"):
        beit.load(tmp_path / "ema.pth")


def test_loaded_within_inference_mode_and_trained_outside() -> None:
    with torch.inference_mode():
        model = beit.load(UNILM)
    model(torch.randn(1, 3, 32, 32)).logits.sum().backward()
    assert model.classifier.weight.grad is not None


def test_a_page_in_place_of_a_file_is_not_kept(served: tuple[str, Path]) -> None:
    address, folder = served
    (folder / "model.pth").write_text("<html>down for maintenance</html>")
    with pytest.raises(CheckpointError, match="web page"):
        beit.load(f"{address}/model.pth")
    (folder / "model.pth").write_bytes(UNILM.read_bytes())
    assert beit.load(f"{address}/model.pth?download=true").config.hidden_size == golden.HIDDEN
    assert beit.load(f"{address}/model.pth").config.hidden_size == golden.HIDDEN


@pytest.mark.parametrize("mean", [0.5, "0.5", ["a", "b", "c"], [float("nan")] * 3])
def test_a_mean_that_is_none(mean: Any, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(golden.FOLDER / "timm_beitv2", tmp_path / "timm")
    about = json.loads((tmp_path / "timm" / "config.json").read_text())
    about["pretrained_cfg"]["mean"] = mean
    (tmp_path / "timm" / "config.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="wanted one number per channel"):
        BeitImageProcessor.from_pretrained(tmp_path / "timm")


def test_convert_keeps_what_was_there_when_it_cannot_write(tmp_path: Path) -> None:
    import os

    if os.geteuid() == 0:
        pytest.skip("nothing is forbidden to the superuser")
    target = tmp_path / "old"
    tiny_classifier().save_pretrained(target)
    before = (target / "model.safetensors").read_bytes()
    target.chmod(0o500)
    assert main(["convert", str(UNILM), str(target), "--to", "hf"]) == 1
    target.chmod(0o700)
    assert (target / "model.safetensors").read_bytes() == before


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--task", "segment"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert all("segment" in line for line in lines[1:])
    assert main(["models", "microsoft/beit-base-patch16-224", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == NAME


def test_commands_take_weight_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_images(tmp_path / "images", 2, 40)
    assert main(["predict", *map(str, sorted(images.iterdir())), "--model", str(UNILM), "--top", "1"]) == 0
    assert "LABEL_" in capsys.readouterr().out
    assert main(["embed", "--images", str(images), "--model", str(UNILM), "--output", str(tmp_path / "f.npy")]) == 0
    assert np.load(tmp_path / "f.npy").shape == (2, golden.HIDDEN)


def test_guesses_can_be_corrected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["convert", str(UNILM), str(tmp_path / "new"), "--to", "hf", "--pixels", "imagenet"]
    assert main([*arguments, "--layer-norm-eps", "1e-5"]) == 0
    assert "guessed layer_norm_eps" not in capsys.readouterr().out
    assert BeitConfig.from_pretrained(tmp_path / "new").layer_norm_eps == 1e-5
    assert BeitImageProcessor.from_pretrained(tmp_path / "new").image_mean == list(infer.IMAGENET[0])


def test_downloads_have_a_largest_size(
    served: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = served
    write_tensors(folder / "x.safetensors", {"a": np.zeros(1000, "f4")})
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("BEIT_MAX_BYTES", "1000")
    with pytest.raises(CheckpointError, match=r"at most 1,000 are read.*--max-bytes"):
        locate.download(f"{address}/x.safetensors")
    monkeypatch.setenv("BEIT_MAX_BYTES", "1MB")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5}))
    with pytest.raises(CheckpointError, match=r"has 4,\d\d\d bytes, and .* has room for 5\. Make room"):
        locate.download(f"{address}/x.safetensors")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
