"""Segmentation in Flax against PyTorch: parts, logits, losses, gradients, statistics of batch norms."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("flax")
torch = pytest.importorskip("torch")
import flax.linen as nn
import jax.numpy as jnp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import beit
from beit import BeitConfig, FlaxBeitForSemanticSegmentation, InputError
from beit.checkpoints import flax_layout
from beit.models.flax import segmentation as flax_segmentation
from beit.models.flax.kernels import maps as flax_maps
from fixtures_flax import (
    as_torch,
    close,
    pair,
    pixels,
    same_gradients,
    same_outputs,
)

pytestmark = pytest.mark.usefixtures("quick_compiles")
KIND = "BeitForSemanticSegmentation"


def small(**changes: Any) -> BeitConfig:
    values: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "image_size": 16,
        "patch_size": 4,
        "auxiliary_channels": 6,
        "use_relative_position_bias": True,
        "drop_path_rate": 0.0,
        "num_labels": 3,
        # Rounding of a layer norm of eight numbers that hardly differ would hide whether the rest agrees.
        "layer_norm_eps": 1e-5,
    }
    return BeitConfig(**{**values, **changes})


def maps(config: BeitConfig, batch: int = 2, side: int = 16, ignored: float = 0.3) -> np.ndarray:
    """Label maps in which some pixels have no label."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, config.num_labels, (batch, side, side))
    labels[rng.random(labels.shape) < ignored] = config.semantic_loss_ignore_index
    return labels


def image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def segmenter() -> tuple[Any, Any, Any]:
    """One pair for many calls, so that it is compiled once."""
    return pair(KIND, small())


# --- parts ---------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 5), width=st.integers(1, 5), rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_resizing_is_that_of_pytorch(height: int, width: int, rows: int, columns: int) -> None:
    x = image(1, height, width, 2)
    wanted = F.interpolate(torch.from_numpy(x).permute(0, 3, 1, 2), size=(rows, columns), mode="bilinear")
    close(flax_segmentation.resize(jnp.asarray(x), (rows, columns)), wanted.permute(0, 2, 3, 1), 2e-6)


@given(side=st.integers(1, 20), count=st.integers(1, 8))
def test_pooling_is_that_of_pytorch(side: int, count: int) -> None:
    x = image(1, 1, side)
    wanted = F.adaptive_avg_pool1d(torch.from_numpy(x), count)
    close(np.einsum("ys,bcs->bcy", flax_maps._parts(side, count), x), wanted, 2e-6)


def test_upsampling_is_a_transposed_convolution() -> None:
    theirs = torch.nn.ConvTranspose2d(3, 3, kernel_size=2, stride=2)
    memory = {f"fpn1.0.{name}": value.detach().numpy() for name, value in theirs.state_dict().items()}
    tree = flax_layout.to_tree(memory)["params"]["fpn1_0"]
    x = image(2, 2, 5, 3)
    wanted = theirs(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    close(flax_maps.Upsample().apply({"params": tree}, x), wanted, 1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (2, 3, 4, 3), (1, 2, 2, 3)])
def test_batch_norm_is_that_of_pytorch(shape: tuple[int, ...]) -> None:
    """Of two pooled images too, where the biased variance would be half the unbiased one."""
    theirs = torch.nn.BatchNorm2d(3)
    with torch.no_grad():
        for value in (theirs.weight, theirs.bias, theirs.running_mean, theirs.running_var.mul_(0.5)):
            value.add_(torch.rand(3))
    state = {name: jnp.asarray(value.numpy().copy()) for name, value in theirs.state_dict().items()}
    variables = {
        "params": {"scale": state["weight"], "bias": state["bias"]},
        "batch_stats": {"mean": state["running_mean"], "var": state["running_var"]},
    }
    x = 3 + 2 * image(*shape)
    y = torch.from_numpy(x).permute(0, 3, 1, 2)
    close(flax_maps.BatchNorm().apply(variables, x, False), theirs.eval()(y).permute(0, 2, 3, 1))
    got, moved = flax_maps.BatchNorm().apply(variables, x, True, mutable=["batch_stats"])
    close(got, theirs.train()(y).permute(0, 2, 3, 1))
    close(moved["batch_stats"]["mean"], theirs.running_mean, 1e-6)
    close(moved["batch_stats"]["var"], theirs.running_var, 1e-6)


# --- end to end ----------------------------------------------------------------------------------------------------

CASES: list[dict[str, Any]] = [
    {},
    {"image_size": (8, 20), "num_channels": 1, "use_absolute_position_embeddings": True, "use_auxiliary_head": False},
    {
        "use_shared_relative_position_bias": True,
        "use_relative_position_bias": False,
        "layer_scale_init_value": 0,
        "pool_scales": [2, 5],
        "auxiliary_concat_input": True,
        "auxiliary_num_convs": 2,
    },
    {
        "patch_size": (8, 4),
        "num_hidden_layers": 5,
        "segmentation_layers": [1, 2, 4, 5],
        "auxiliary_num_convs": 0,
        "auxiliary_channels": 8,
        "num_labels": 7,
    },
]


@pytest.mark.parametrize("changes", CASES, ids=range(len(CASES)))
def test_logits_and_loss_of_evaluation(changes: dict[str, Any]) -> None:
    config = small(**changes)
    model, flax_model, params = pair(KIND, config)
    labels = maps(config, side=19)  # of another size than the images
    inputs = {"pixel_values": pixels(config), "labels": labels}
    got = flax_model(**inputs, params=params)  # both heads
    with torch.no_grad():
        same_outputs(got, model(**as_torch(inputs)))


def test_all_that_can_be_asked_for(segmenter: Any) -> None:
    model, flax_model, params = segmenter
    x = pixels(model.config)
    asked = {"output_hidden_states": True, "output_attentions": True}
    got = flax_model(x, params=params, **asked)
    assert (len(got.hidden_states), len(got.attentions)) == (5, 4)
    same_outputs(got, model(torch.from_numpy(x), **asked))
    plain = flax_model(x, params=params, return_dict=False)
    assert [item.shape for item in plain] == [(2, 3, 16, 16)]
    close(plain[0], got.logits)


def test_training_moves_statistics_and_gradients_as_in_pytorch(segmenter: Any) -> None:
    _, flax_model, params = segmenter
    model = pair(KIND, small())[0].train()
    inputs = {"pixel_values": pixels(model.config), "labels": maps(model.config)}

    @jax.jit
    def step(weights: Any) -> Any:
        def loss(weights: Any) -> Any:
            variables = {"params": weights, "batch_stats": params["batch_stats"]}
            output, changed = flax_model(**inputs, params=variables, train=True)
            return output.loss, (output, changed)

        return jax.value_and_grad(loss, has_aux=True)(weights)

    (loss, (output, changed)), gradient = step(params["params"])
    wanted = model(**as_torch(inputs))
    wanted.loss.backward()
    close(loss, wanted.loss)
    close(output.logits, wanted.logits, 1e-4)  # batch norm of two numbers a channel enlarges every rounding
    same_gradients(gradient, model)
    statistics = flax_layout.from_tree(changed)
    moved = {name: value.numpy() for name, value in model.named_buffers() if "running" in name}
    assert moved.keys() == {name for name in statistics if "running" in name}
    before = flax_layout.from_tree({"batch_stats": params["batch_stats"]})
    for name, value in moved.items():
        np.testing.assert_allclose(statistics[name], value, rtol=2e-5, atol=2e-5, err_msg=name)
        assert not np.allclose(value, before[name]), name


def test_a_step_of_training_is_a_model_to_call(segmenter: Any) -> None:
    """What a call in training returns puts the moved statistics back into params."""
    model, flax_model, params = segmenter
    x = pixels(model.config)
    output, changed = flax_model(x, params=params, train=True)
    assert set(changed) == {"batch_stats"}
    assert output.logits.shape == (2, 3, 16, 16)
    later = {**params, **changed}
    assert not np.allclose(flax_model(x, params=later).logits, flax_model(x, params=params).logits)
    flax_model._params = None
    flax_model.params = later
    assert flax_model.num_parameters() == model.num_parameters()
    flax_model._params = None


def test_loss_by_hand(segmenter: Any) -> None:
    """The mean over counted pixels of both heads' cross-entropy, whatever type the labels have."""
    model, flax_model, params = segmenter
    x, labels = pixels(model.config), maps(model.config)
    wanted = float(model(torch.from_numpy(x), labels=torch.from_numpy(labels)).loss.detach())
    for dtype in ("int64", "int32", "uint8"):
        assert float(flax_model(x, params=params, labels=labels.astype(dtype)).loss) == pytest.approx(wanted, abs=2e-5)
    assert float(flax_model(x, params=params, labels=jnp.asarray(labels, "uint8")).loss) == pytest.approx(
        wanted, abs=2e-5
    )
    again = flax_model(x, params=params, labels=np.where(labels == 255, 255, labels), return_dict=False)
    assert float(again[0]) == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize("ignore", [-100, 0])
def test_other_ignored_numbers(ignore: int) -> None:
    config = small(semantic_loss_ignore_index=ignore, use_auxiliary_head=False)
    model, flax_model, params = pair(KIND, config)
    x, labels = pixels(config), maps(config)
    close(
        flax_model(x, params=params, labels=labels).loss,
        model(torch.from_numpy(x), labels=torch.from_numpy(labels)).loss,
    )
    unsigned = np.random.default_rng(0).integers(1, 3, labels.shape).astype(np.uint8)  # a type without -100
    wanted = model(torch.from_numpy(x), labels=torch.from_numpy(unsigned)).loss
    for given_labels in (unsigned, jnp.asarray(unsigned)):
        close(flax_model(x, params=params, labels=given_labels).loss, wanted)


def test_all_ignored_batch_has_loss_0_and_a_warning(segmenter: Any) -> None:
    model, flax_model, params = segmenter
    x, labels = pixels(model.config), np.full((2, 16, 16), 255)
    with pytest.warns(UserWarning, match="all labels of this batch are 255") as ours:
        assert float(flax_model(x, params=params, labels=labels).loss) == 0
    with pytest.warns(UserWarning, match="all labels of this batch are 255") as theirs:
        model(torch.from_numpy(x), labels=torch.from_numpy(labels))
    assert str(ours[0].message) == str(theirs[0].message)
    assert ours[0].filename == __file__  # it names the line that called the model
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = jax.jit(lambda y: flax_model(x, params=params, labels=y).loss)(labels)  # nobody can look there
    assert float(loss) == 0


# --- what is not computed ------------------------------------------------------------------------------------------


def parts_run(flax_model: Any, params: Any, *call: Any, **keywords: Any) -> list[str]:
    """Names of the modules that a call runs, in order."""
    names: list[str] = []

    def note(following: Any, arguments: Any, given: Any, context: Any) -> Any:
        if context.method_name == "__call__":
            names.append("/".join(context.module.path))
        return following(*arguments, **given)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda p: flax_model.module.apply(p, *call, **keywords), params)
    return names


def test_layers_that_nobody_reads_are_not_computed() -> None:
    config = small(out_indices=[1, 2, 3, 4])  # layers 0, 1, 2, 3 of 4
    _, flax_model, params = pair(KIND, config)
    x = pixels(config)

    def layers(*call: Any, **keywords: Any) -> list[str]:
        names = parts_run(flax_model, params, x, *call, **keywords)
        return [name[-1] for name in names if name.startswith("beit/encoder/layers") and name.count("/") == 2]

    assert layers() == ["0", "1", "2"]
    assert layers(None, False, False, True) == ["0", "1", "2", "3"]
    assert layers(None, False, True, False) == ["0", "1", "2", "3"]


def test_auxiliary_head_costs_nothing_without_labels(segmenter: Any) -> None:
    """It is traced, and the compiler drops what no output needs."""
    model, flax_model, params = segmenter

    def cost(method: str) -> float:
        call = jax.jit(lambda p, x: flax_model.module.apply(p, x, method=method))
        cost = call.lower(params, pixels(model.config)).compile().cost_analysis()
        return (cost[0] if isinstance(cost, list) else cost)["flops"]

    assert cost("__call__") < cost("both_heads")


# --- training ------------------------------------------------------------------------------------------------------


def test_dropout_of_whole_channels_before_the_classifiers() -> None:
    config = small(decode_dropout_prob=0.5)
    _, flax_model, params = pair(KIND, config)
    x = pixels(config)
    with pytest.raises(InputError, match="decode_dropout_prob"):
        flax_model(x, params=params, train=True)
    seen: list[np.ndarray] = []

    def note(following: Any, arguments: Any, given: Any, context: Any) -> Any:
        result = following(*arguments, **given)
        if context.module.name == "dropout" and context.method_name == "__call__" and "head" in context.module.path[0]:
            seen.append(result)
        return result

    def run(key: Any) -> list[Any]:
        seen.clear()
        with nn.intercept_methods(note):
            flax_model.module.apply(
                params, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"], method="both_heads"
            )
        return list(seen)

    dropped = [np.asarray(y == 0).all((1, 2)) for y in jax.jit(run)(jax.random.key(1))]
    assert len(dropped) == 2
    for channels in dropped:
        assert 0 < channels.mean() < 1


def test_gradient_checkpointing_changes_nothing() -> None:
    config = small(use_shared_relative_position_bias=True)
    _, plain, params = pair(KIND, config)
    saving = FlaxBeitForSemanticSegmentation(config, _do_init=False, gradient_checkpointing=True)
    x, labels, results = pixels(config), maps(config), []
    for flax_model in (plain, saving):

        def loss(table: Any, flax_model: Any = flax_model) -> Any:
            encoder = {**params["params"]["beit"]["encoder"], "relative_position": {"table": table}}
            weights = {**params["params"], "beit": {**params["params"]["beit"], "encoder": encoder}}
            output, _ = flax_model(x, params={**params, "params": weights}, labels=labels, train=True)
            return output.loss

        results.append(
            jax.jit(jax.value_and_grad(loss))(params["params"]["beit"]["encoder"]["relative_position"]["table"])
        )
    close(results[0][0], results[1][0], 1e-6)
    close(results[0][1], results[1][1])
    assert np.abs(results[0][1]).max() > 0


def test_bfloat16_is_near(segmenter: Any) -> None:
    model, _, params = segmenter
    x = pixels(model.config)
    half = FlaxBeitForSemanticSegmentation(model.config, dtype="bfloat16", _do_init=False)
    got = half(x, params=params).logits
    assert got.dtype == jnp.bfloat16
    wanted = model(torch.from_numpy(x)).logits.detach().numpy()
    scale = np.abs(wanted).max()
    close(np.asarray(got, np.float32) / scale, wanted / scale, 0.1)


# --- start and files -----------------------------------------------------------------------------------------------


def test_a_new_model_starts_as_the_table_says_and_survives_its_folder(tmp_path: Path) -> None:
    flax_model = FlaxBeitForSemanticSegmentation(small(num_channels=1))
    assert set(flax_model.params) == {"params", "batch_stats"}
    for path, leaf in flax_layout.flatten(flax_model.params["batch_stats"]):
        assert (leaf == (path[-1] == "var")).all(), path
    assert np.asarray(flax_model.params["params"]["decode_head"]["classifier"]["kernel"]).std() > 0
    flax_model.save_pretrained(tmp_path)
    model = beit.load(tmp_path)
    assert type(model) is beit.BeitForSemanticSegmentation
    assert not model.load_report
    assert model.layers == [1, 2, 3, 4]
    assert model.config.out_indices == [0, 1, 2, 3]  # without four of them the reference does not build the class
    again = FlaxBeitForSemanticSegmentation.from_pretrained(tmp_path)
    assert not again.load_report
    jax.tree.map(lambda a, b: close(a, b, 0), again.params, flax_model.params)


def test_heads_start_anew_from_a_classifier_and_the_report_says_so(tmp_path: Path) -> None:
    beit.BeitForImageClassification(small()).save_pretrained(tmp_path)
    flax_model, params = FlaxBeitForSemanticSegmentation.from_pretrained(tmp_path, num_labels=5, _do_init=False)
    model = beit.BeitForSemanticSegmentation.from_pretrained(tmp_path, num_labels=5)
    ours, theirs = (sorted(str(m.load_report).splitlines()) for m in (flax_model, model))
    assert ours == [line.replace("BeitForS", "FlaxBeitForS") for line in theirs]
    assert flax_model.load_report.needs_training
    assert (params["batch_stats"]["decode_head"]["fpn_bottleneck"]["bn"]["var"] == 1).all()
