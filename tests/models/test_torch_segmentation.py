"""Segmentation and backbone: the reference's numbers, the fast way against the plain formulas, arguments, refusals."""

from __future__ import annotations

import copy
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden import make_models as base
from golden import make_segmentation as golden

torch = pytest.importorskip("torch")
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import beit
from beit import BeitBackbone, BeitConfig, BeitForSemanticSegmentation, CheckpointError, ConfigError, InputError
from beit.checkpoints.names import to_state_dict
from beit.models.torch.kernels import upernet as pytorch_upernet
from beit.models.torch.kernels import winograd as pytorch_winograd

CLASSES = {c.__name__: c for c in (BeitForSemanticSegmentation, BeitBackbone)}
CASES = golden.load()
LARGEST = {"outputs": 0.0, "gradients": 0.0}


def small(**changes: Any) -> BeitConfig:
    values: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": 24,
        "patch_size": 4,
        "auxiliary_channels": 6,
        "use_relative_position_bias": True,
        "drop_path_rate": 0.0,
        "num_labels": 3,
    }
    if "id2label" in changes:
        del values["num_labels"]
    return BeitConfig(**{**values, **changes})


def loud(model: Any, seed: int = 0) -> Any:
    shapes = {name: tensor.shape for name, tensor in model.disk_tensors().items()}
    model.fill(*to_state_dict(golden.draw_weights(shapes, seed)))
    return model.eval()


def pixels(config: BeitConfig, batch: int = 2) -> Any:
    height, width = np.broadcast_to(config.image_size, 2).tolist()
    return torch.randn(batch, config.num_channels, height, width, generator=torch.Generator().manual_seed(0))


def maps(config: BeitConfig, batch: int = 2) -> Any:
    height, width = np.broadcast_to(config.image_size, 2).tolist()
    return torch.randint(0, config.num_labels, (batch, height, width), generator=torch.Generator().manual_seed(1))


# --- the reference's numbers -------------------------------------------------------------------------------------


def build(case: dict[str, Any]) -> Any:
    model = CLASSES[case["kind"]](BeitConfig(**case["config"])).eval()
    model.fill(*to_state_dict(golden.draw_weights(case["shapes"], case["seed"])))
    assert str(model.load_report) == "every tensor of the file has its place"
    assert {n: list(a.shape) for n, a in model.disk_tensors().items()} == case["shapes"]
    return model.train(case["call"].get("train", False))


def test_cases_cover_all_switches() -> None:
    segmentation = [c for c in CASES if c["kind"] == "BeitForSemanticSegmentation"]
    assert len(segmentation) >= 30
    for switch in ("use_auxiliary_head", "auxiliary_num_convs", "auxiliary_concat_input", "semantic_loss_ignore_index"):
        assert len({c["config"][switch] for c in segmentation}) > 1
    assert {c["call"]["labels"] for c in segmentation} == {None, "image", "other size"}
    assert {c["call"]["train"] for c in segmentation} == {True, False}
    backbones = [c["config"] for c in CASES if c["kind"] == "BeitBackbone"]
    assert {c["add_fpn"] for c in backbones} == {c["reshape_hidden_states"] for c in backbones} == {True, False}
    assert any("out_features" in c for c in backbones)
    assert any("out_indices" in c for c in backbones)
    assert any("out_features" not in c and "out_indices" not in c for c in backbones)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['seed']}-{case['kind'][4:]}")
def test_numbers_of_the_reference(case: dict[str, Any]) -> None:
    inputs = {name: torch.from_numpy(array) for name, array in golden.draw_inputs(case).items()}
    asked = {name: case["call"][name] for name in ("output_attentions", "output_hidden_states")}
    for gradients in (True, False):  # without: the fast way, for a segmentation model without labels
        model = build(case)
        with torch.set_grad_enabled(gradients):
            output = model(**inputs, **asked)
        named = base.flatten(output)
        assert list(named) == list(case["outputs"])
        for name, (shape, wanted) in case["outputs"].items():
            assert list(named[name].shape) == shape
            got = base.sample(named[name].detach().numpy())
            scale = max(1.0, float(np.abs(wanted[:-1]).max()))
            LARGEST["outputs"] = max(LARGEST["outputs"], float(np.abs(got[:-1] - wanted[:-1]).max()) / scale)
            np.testing.assert_allclose(got[:-1] / scale, wanted[:-1] / scale, atol=1e-5, err_msg=name)
            np.testing.assert_allclose(got[-1], wanted[-1], atol=1e-3, rtol=1e-4, err_msg=f"sum of {name}")
        if gradients:
            golden.scalar(output).backward()
            found = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        plain = build(case)(**inputs, **asked, return_dict=False)
        shapes = [[list(x.shape) for x in item] if isinstance(item, tuple) else list(item.shape) for item in plain]
        assert shapes == case["tuple_shapes"]

    on_disk = beit.checkpoints.names.to_disk(found)
    scale = max(float(np.abs(wanted).max()) for _, wanted in case["gradients"].values())
    for name, (shape, wanted) in case["gradients"].items():
        # Parameters that the loss does not reach have no gradient here; there, zeros (or numbers as small, in training).
        got = on_disk.get(name, np.zeros(shape, np.float32))
        difference = np.abs(base.sample(got, 8)[:-1] - wanted[:-1]).max() / scale
        LARGEST["gradients"] = max(LARGEST["gradients"], float(difference))
        assert difference < 2e-5, name


def test_largest_difference() -> None:
    print(f"largest differences from the reference: {LARGEST}")
    assert LARGEST["outputs"] < 1e-5


def test_which_layers_the_heads_see() -> None:
    twelve = {"num_hidden_layers": 12}
    assert BeitForSemanticSegmentation(small(**twelve)).layers == [4, 6, 8, 12]
    assert BeitForSemanticSegmentation(small(num_hidden_layers=24)).layers == [8, 12, 16, 24]
    assert BeitForSemanticSegmentation(small(**twelve, out_indices=[3, 5, 7, 11])).layers == [2, 4, 6, 10]
    said = BeitForSemanticSegmentation(small(**twelve, out_indices=[3, 5, 7, 11], segmentation_layers=[1, 2, 3, 12]))
    assert said.layers == [1, 2, 3, 12]
    named = small(**twelve, out_features=["stage3", "stage5", "stage7", "stage11"])
    assert BeitForSemanticSegmentation(named).layers == [2, 4, 6, 10]


def test_a_new_models_layers_survive_its_folder(tmp_path: Path) -> None:
    model = loud(BeitForSemanticSegmentation(small(num_hidden_layers=6)))
    model.save_pretrained(tmp_path)
    again = beit.load(tmp_path)
    assert type(again) is BeitForSemanticSegmentation
    assert again.layers == model.layers == [2, 3, 4, 6]
    assert again.config.out_indices == [1, 2, 3, 5]  # without four of them the reference does not build the class
    x = pixels(model.config)
    with torch.no_grad():
        torch.testing.assert_close(again(x).logits, model(x).logits, atol=0, rtol=0)


def test_another_depth_than_the_files_has_another_last_stage(tmp_path: Path) -> None:
    values = small().to_dict() | {"out_features": ["stage4"], "out_indices": [4]}  # as the reference writes its default
    BeitForSemanticSegmentation(small()).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = BeitConfig.from_pretrained(tmp_path, num_hidden_layers=2)
    assert (config.out_features, config.out_indices) == (["stage2"], [2])
    assert config.replace(num_hidden_layers=3).out_indices == [3]
    assert config.replace(out_indices=[0, 1]).out_features == ["stem", "stage1"]
    assert BeitConfig.from_dict(small(out_indices=[1, 2]).to_dict(), out_features=["stage3"]).out_indices == [3]


def test_layers_that_nobody_reads_are_not_computed() -> None:
    model = loud(BeitForSemanticSegmentation(small(out_indices=[1, 2, 3, 4])))  # layers 0, 1, 2, 3 of 4
    ran = []
    for number, layer in enumerate(model.beit.encoder.layer, 1):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    model(pixels(model.config))
    assert ran == [1, 2, 3]
    model(pixels(model.config), output_hidden_states=True)
    assert ran == [1, 2, 3, 1, 2, 3, 4]


# --- the fast way against the plain formulas ------------------------------------------------------------------------


def both_ways(model: Any, x: Any) -> tuple[Any, Any]:
    with torch.no_grad():
        model.fast = False
        plain = model(x).logits
        model.fast = True
        return plain, model(x).logits


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    batch=st.integers(1, 3),
    scales=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    seed=st.integers(0, 9999),
)
def test_fast_head_is_the_plain_head_exactly(height: int, width: int, batch: int, scales: list[int], seed: int) -> None:
    """In float64, where rounding cannot hide a mistake."""
    config = small(image_size=(4 * height, 4 * width), pool_scales=scales, hidden_size=8, num_labels=4)
    model = loud(BeitForSemanticSegmentation(config), seed).double()
    plain, fast = both_ways(model, pixels(config, batch).double())
    assert fast.is_contiguous()
    assert fast.shape == (batch, 4, 4 * height, 4 * width)
    torch.testing.assert_close(fast, plain, atol=1e-11, rtol=1e-11)


def test_fast_head_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(image_size=96, hidden_size=64, num_labels=5)
    model = loud(BeitForSemanticSegmentation(config))
    plain, fast = both_ways(model, pixels(config))
    torch.testing.assert_close(fast, plain, atol=2e-5 * float(plain.abs().max()), rtol=0)
    for name in ("_MOST_AT_ONCE", "_PIXELS_AT_ONCE", "_BAND"):  # in the smallest parts
        monkeypatch.setattr(pytorch_upernet, name, 1)
    pytorch_upernet._across.cache_clear()
    pytorch_upernet._down.cache_clear()
    monkeypatch.setattr(pytorch_winograd, "pays", lambda *_: True)
    torch.testing.assert_close(both_ways(model, pixels(config))[1], fast, atol=1e-5 * float(plain.abs().max()), rtol=0)


def test_fast_head_is_taken_and_only_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loud(BeitForSemanticSegmentation(small()))
    x, calls = pixels(model.config), []
    monkeypatch.setattr(model.folded, "forward", lambda *_: calls.append(1) or torch.zeros(2, 3, 24, 24))
    with torch.no_grad():
        model(x)
    with torch.inference_mode():
        model(x)
    assert calls == [1, 1]
    model(x)  # gradients
    with torch.no_grad():
        model(x, labels=maps(model.config))
        model.train()(x)
        model.eval().fast = False
        model(x)
    assert calls == [1, 1]


def broken_into(model: Any, how: str) -> None:
    head = model.decode_head
    if how == "hook":
        head.classifier.register_forward_hook(lambda module, inputs, output: 2 * output)
    elif how == "dropout in training":  # Monte Carlo dropout
        head.dropout.p = 0.5
        head.dropout.train()
    elif how == "statistics in training":
        for part in head.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.train()
    elif how == "another class":
        head.classifier = torch.nn.Sequential(head.classifier, torch.nn.ReLU())
    elif how == "another norm":
        head.fpn_bottleneck.bn = torch.nn.GroupNorm(4, 16)
    elif how == "a norm without weights":
        head.fpn_bottleneck.bn = torch.nn.BatchNorm2d(16, affine=False).eval()
    elif how == "a subclass":

        class Doubled(type(head)):  # type: ignore[misc]
            def forward(self, maps: Any) -> Any:
                return 2 * super().forward(maps)

        head.__class__ = Doubled


@pytest.mark.parametrize(
    "how",
    [
        "hook",
        "dropout in training",
        "statistics in training",
        "another class",
        "another norm",
        "a subclass",
        "a norm without weights",
    ],
)
def test_a_head_that_is_not_as_it_was_built_takes_the_plain_way(how: str) -> None:
    model = loud(BeitForSemanticSegmentation(small()))
    both_ways(model, pixels(model.config))
    broken_into(model, how)
    answers = []
    for fast in (False, True):
        model.fast = fast
        torch.manual_seed(0)
        statistics = model.decode_head.fpn_convs[0].bn.running_mean.clone()
        with torch.no_grad():
            answers.append(model(pixels(model.config)).logits)
        moved = not torch.equal(statistics, model.decode_head.fpn_convs[0].bn.running_mean)
        assert moved == (how == "statistics in training")
    torch.testing.assert_close(*answers, atol=0, rtol=0)


def test_a_traced_model_takes_any_batch() -> None:
    model = loud(BeitForSemanticSegmentation(small(return_dict=False)))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing itself
        traced = torch.jit.trace(model, pixels(model.config, 2), check_trace=False)
        for batch in (1, 3):
            x = pixels(model.config, batch)
            torch.testing.assert_close(traced(x)[0], model(x)[0], atol=1e-4, rtol=1e-4)


def test_an_empty_batch() -> None:
    model = loud(BeitForSemanticSegmentation(small()))
    with torch.no_grad():
        assert model(pixels(model.config)[:0]).logits.shape == (0, 3, 24, 24)


def test_what_evaluation_keeps_is_let_go() -> None:
    model = loud(BeitForSemanticSegmentation(small()))
    for change in (lambda: model.train(), lambda: model.double().float()):
        both_ways(model.eval(), pixels(model.config))
        assert model.folded.kept is not None
        change()
        assert model.folded.kept is None


def test_a_model_built_in_inference_mode_spoils_no_other() -> None:
    config = small(image_size=(28, 52))  # a grid that no other test has
    with torch.inference_mode():
        BeitForSemanticSegmentation(config).eval()(pixels(config))
    model = BeitForSemanticSegmentation(config).train()
    model(pixels(config), labels=maps(config)).loss.backward()


@pytest.mark.parametrize(
    "change",
    ["in place", "data", "fused optimiser", "statistics", "other tensor", "loaded", "rows", "columns", "bias", "eps"],
)
def test_fast_head_follows_its_weights(change: str) -> None:
    model = loud(BeitForSemanticSegmentation(small()))
    x = pixels(model.config)
    _, before = both_ways(model, x)
    weight = model.decode_head.fpn_bottleneck.conv.weight
    if change == "in place":
        with torch.no_grad():
            weight[:, :, 1, 1] += 0.1
    elif change == "data":
        weight.data[:, :, 1, 1] += 0.1
    elif change == "fused optimiser":
        model(x, labels=maps(model.config)).loss.backward()
        torch.optim.AdamW(model.parameters(), lr=0.1, fused=True).step()
    elif change == "statistics":
        model.train()(x)
        model.eval()
    elif change == "other tensor":
        model.decode_head.fpn_bottleneck.conv.weight = torch.nn.Parameter(weight.detach() * 1.5)
    elif change == "rows":  # as many in all as before, and the next two
        weight.data.copy_(weight.data.roll(1, 0))
    elif change == "columns":
        weight.data.copy_(weight.data.roll(1, 1))
    elif change == "bias":
        model.decode_head.lateral_convs[0].bn.bias.data.copy_(model.decode_head.lateral_convs[0].bn.bias.data.flip(0))
    elif change == "eps":
        model.decode_head.fpn_bottleneck.bn.eps = 0.5
    else:
        model.load_state_dict({name: 0.9 * value for name, value in model.state_dict().items()})
    plain, after = both_ways(model, x)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, plain, atol=1e-4, rtol=1e-4)


def test_a_copy_has_its_own_fast_head() -> None:
    model = loud(BeitForSemanticSegmentation(small()))
    both_ways(model, pixels(model.config))
    twin = copy.deepcopy(model)
    assert twin.folded is not model.folded
    assert twin.folded.kept is None
    torch.testing.assert_close(both_ways(twin, pixels(model.config))[1], both_ways(model, pixels(model.config))[1])


def test_threads_may_share_a_model() -> None:
    model = loud(BeitForSemanticSegmentation(small(image_size=48)))
    x = pixels(model.config)
    wanted, _ = both_ways(model, x)
    model.folded.kept = None

    def answer(_: int) -> Any:
        with torch.no_grad():
            return model(x).logits

    with ThreadPoolExecutor(4) as pool:
        for logits in pool.map(answer, range(12)):
            torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", list(CLASSES))
def test_export(kind: str) -> None:
    model = loud(CLASSES[kind](small(out_indices=[1, 2, 3, 4], add_fpn=kind == "BeitBackbone")))
    x = pixels(model.config)
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=8)
        again = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=False).module()
        for size in (1, 3):
            x = pixels(model.config, size)
            for found, wanted in zip(base.flatten(again(x)).values(), base.flatten(model(x)).values(), strict=True):
                torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_auxiliary_head_runs_only_for_the_loss() -> None:
    model = loud(BeitForSemanticSegmentation(small()))
    ran = []
    model.auxiliary_head.register_forward_hook(lambda *_: ran.append(1))
    model(pixels(model.config))
    assert ran == []
    model(pixels(model.config), labels=maps(model.config))
    assert ran == [1]


# --- arguments and outputs -------------------------------------------------------------------------------------------


def test_loss_by_hand() -> None:
    model = loud(BeitForSemanticSegmentation(small(use_auxiliary_head=False)))
    labels = maps(model.config)
    labels[:, :5] = 255
    output = model(pixels(model.config), labels=labels)
    scores = F.interpolate(output.logits, size=(24, 24), mode="bilinear", align_corners=False).log_softmax(1)
    kept = [-scores[b, labels[b, y, x], y, x] for b in range(2) for y in range(5, 24) for x in range(24)]
    torch.testing.assert_close(output.loss, torch.stack(kept).mean())


def test_all_ignored_batch_has_loss_0_and_a_warning() -> None:
    model = loud(BeitForSemanticSegmentation(small())).train()
    with pytest.warns(UserWarning, match="all labels of this batch are 255"):
        loss = model(pixels(model.config), labels=torch.full((2, 24, 24), 255)).loss
    assert loss.item() == 0
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_rectangular_images_and_odd_grids() -> None:
    config = small(image_size=(20, 28))
    model = loud(BeitForSemanticSegmentation(config))
    output = model(pixels(config), labels=maps(config))
    assert output.logits.shape == (2, 3, 20, 28)
    assert torch.isfinite(output.loss)


def test_dropout_of_whole_channels_before_the_classifiers() -> None:
    model = loud(BeitForSemanticSegmentation(small(decode_dropout_prob=0.5))).train()
    seen = []
    for head in (model.decode_head, model.auxiliary_head):
        head.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(pixels(model.config), labels=maps(model.config))
    for x in seen:
        dropped = (x == 0).flatten(2).all(-1)
        assert 0 < dropped.float().mean() < 1
    model.eval()
    with torch.no_grad():
        first, second = (model(pixels(model.config)).logits for _ in range(2))
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_gradient_checkpointing_changes_nothing() -> None:
    results = []
    for on in (False, True):
        model = loud(BeitForSemanticSegmentation(small(use_shared_relative_position_bias=True))).train()
        if on:
            model.gradient_checkpointing_enable()
        loss = model(pixels(model.config), labels=maps(model.config)).loss
        loss.backward()
        results.append((loss, model.beit.encoder.relative_position_bias.relative_position_bias_table.grad))
    torch.testing.assert_close(*results)


def test_backbone_stages_and_channels() -> None:
    model = BeitBackbone(small(out_features=["stem", "stage2", "stage4"]))
    assert model.stage_names == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert model.out_indices == [0, 2, 4]
    assert model.channels == [16, 16, 16]
    maps = model.eval()(pixels(model.config)).feature_maps
    assert [tuple(x.shape) for x in maps] == [(2, 16, 6, 6)] * 3
    model.out_indices = [-1]
    assert model.out_features == ["stage4"]
    assert len(model(pixels(model.config)).feature_maps) == 1
    model.out_features = ["stage1", "stage3"]
    assert model.out_indices == [1, 3]


def test_backbone_pyramid_has_four_sizes() -> None:
    model = BeitBackbone(small(out_indices=[1, 2, 3, 4], add_fpn=True, image_size=(16, 24)))
    shapes = [tuple(x.shape[2:]) for x in model.eval()(pixels(model.config)).feature_maps]
    assert shapes == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_backbone_from_a_classifiers_folder(tmp_path: Path) -> None:
    classifier = beit.BeitForImageClassification(small()).eval()
    classifier.save_pretrained(tmp_path)
    backbone = BeitBackbone.from_pretrained(tmp_path, out_features=["stage2", "stage4"])
    x = pixels(classifier.config)
    hidden = classifier(x, output_hidden_states=True).hidden_states
    for found, tokens in zip(backbone(x).feature_maps, (hidden[2], hidden[4]), strict=True):
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens[:, 1:])
    assert "classifier" in str(backbone.load_report)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(CLASSES))
def test_folder_round_trip(kind: str, tmp_path: Path) -> None:
    config = small(out_indices=[1, 2, 3, 4], add_fpn=kind == "BeitBackbone")
    model = loud(CLASSES[kind](config))
    model.save_pretrained(tmp_path)
    again = beit.load(tmp_path)
    assert type(again) is CLASSES[kind]
    assert not again.load_report
    for name, array in again.disk_tensors().items():
        np.testing.assert_array_equal(array, model.disk_tensors()[name])
        assert array.dtype == model.disk_tensors()[name].dtype


def test_heads_start_anew_from_a_classifier_and_the_report_says_so(tmp_path: Path) -> None:
    beit.BeitForImageClassification(small()).save_pretrained(tmp_path)
    model = BeitForSemanticSegmentation.from_pretrained(tmp_path, num_labels=5)
    assert model.layers == [1, 2, 3, 4]
    report = str(model.load_report)
    assert model.load_report.needs_training
    assert report.count("no segmentation head; train it before use") == 2  # main and auxiliary, each as a whole
    assert report.count("no feature pyramid") == 2
    assert "classifier: in the file, not used" in report
    head = model.decode_head.fpn_bottleneck.bn
    assert head.running_var.eq(1).all()
    assert head.weight.eq(1).all()
    assert head.num_batches_tracked.dtype == torch.int64


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    model = BeitForSemanticSegmentation(small())
    tensors = model.disk_tensors()
    del tensors["decode_head.fpn_convs.1.conv.weight"]
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors .*fpn_convs\.1\.conv"):
        model.fill(*to_state_dict(tensors))
    tensors = model.disk_tensors()
    model.fill(
        *to_state_dict({name: array for name, array in tensors.items() if not name.startswith("auxiliary_head")})
    )
    assert "only training uses" in str(model.load_report)
    model.fill(
        *to_state_dict({name: array for name, array in tensors.items() if not name.endswith("num_batches_tracked")})
    )
    assert int(model.decode_head.bottleneck.bn.num_batches_tracked) == 0


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"out_indices": [1, 2, 4]}, "four layers"),
        ({"out_indices": [0, 1, 2, 4]}, "above 0"),
        ({"out_indices": [1, 2, 3, 9]}, "stage1 to stage4"),
        ({"out_indices": [4, 3, 2, 1]}, "in this order"),
        ({"out_features": ["stage1", "stage1", "stage2", "stage3"]}, "each once"),
        ({"out_features": ["stage1"], "out_indices": [2]}, "not the same stages"),
        ({"segmentation_layers": [1, 2, 3]}, "four rising numbers"),
        ({"segmentation_layers": [1, 2, 3, 5]}, "four rising numbers"),
        ({"segmentation_layers": [1, 2, 3, 4.0]}, "whole numbers"),
        ({"pool_scales": []}, "pool_scales"),
        ({"pool_scales": [0]}, "pool_scales"),
        ({"pool_scales": None}, "pool_scales"),
        ({"semantic_loss_ignore_index": 255.0}, "semantic_loss_ignore_index"),
        ({"image_size": (4, 24)}, "1x6 patches"),
        ({"num_labels": 1}, "at least two classes"),
        ({"auxiliary_num_convs": 0}, "auxiliary_channels=16"),
        ({"decode_dropout_prob": 1.0}, "decode_dropout_prob"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BeitForSemanticSegmentation(small(**changes))


def test_add_fpn_needs_four_maps() -> None:
    with pytest.raises(ConfigError, match="four stages"):
        BeitBackbone(small(add_fpn=True))
    four = BeitBackbone(small(add_fpn=True, out_indices=[1, 2, 3, 4]))
    with pytest.raises(ConfigError, match="Choose four"):
        four.out_indices = [1, 2]
    assert four.out_indices == [1, 2, 3, 4]
    with pytest.raises(ConfigError, match="reshape_hidden_states"):
        BeitBackbone(small(add_fpn=True, out_indices=[1, 2, 3, 4], reshape_hidden_states=False))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(2, 24, dtype=torch.long), "one map per image"),
        (torch.zeros(1, 24, 24, dtype=torch.long), "one map per image"),
        (torch.zeros(2, 24, 24), "class numbers"),
        (torch.zeros(2, 24, 24, dtype=torch.bool), "class numbers"),
        (torch.zeros(2, 0, 0, dtype=torch.long), "one map per image"),
        (torch.full((2, 24, 24), 3), "has 3, which is outside the 3 classes"),
        (np.zeros((2, 24, 24), np.int64), r"torch\.Tensor"),
    ],
)
def test_wrong_labels(labels: Any, words: str) -> None:
    model = BeitForSemanticSegmentation(small())
    with pytest.raises(InputError, match=words):
        model(pixels(model.config), labels=labels)
    with pytest.raises(InputError, match=r"head_mask is a list; wanted a torch\.Tensor"):
        model(pixels(model.config), head_mask=[1, 1])


def test_training_on_a_single_image_says_what_to_do() -> None:
    model = BeitForSemanticSegmentation(small()).train()
    with pytest.raises(InputError, match="two images"):
        model(pixels(model.config, 1), labels=maps(model.config, 1))
    wide = BeitForSemanticSegmentation(small(pool_scales=[2])).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wide(pixels(wide.config, 1), labels=maps(wide.config, 1)).loss.backward()
