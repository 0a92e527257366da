"""The Flax models against the PyTorch ones: stage by stage, end to end, losses, gradients; calls, randomness, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("flax")
torch = pytest.importorskip("torch")
import jax.numpy as jnp
from hypothesis import given, settings
from hypothesis import strategies as st

import beit
from beit import (
    BeitConfig,
    ConfigError,
    FlaxBeitForImageClassification,
    FlaxBeitForMaskedImageModeling,
    FlaxBeitForSemanticSegmentation,
    FlaxBeitModel,
    InputError,
)
from beit.checkpoints import flax_layout, names
from beit.models.flax import beit as flax_beit
from beit.models.flax import losses as flax_losses
from beit.models.flax.beit import AttentionOptions
from beit.models.flax.kernels.position_bias import PositionBias
from beit.models.parameters import Starts
from beit.models.torch import beit as pytorch_beit
from beit.models.torch.kernels import position_bias as pytorch_position_bias
from fixtures_flax import (
    CLOSE,
    as_torch,
    close,
    pair,
    params_of,
    pixels,
    same_gradients,
    same_outputs,
    small,
    some_mask,
)

pytestmark = pytest.mark.usefixtures("quick_compiles")
KINDS = ("BeitModel", "BeitForMaskedImageModeling", "BeitForImageClassification")
LARGEST = {"outputs": 0.0}
BIASES = {
    "none": {"use_shared_relative_position_bias": False},
    "shared": {"use_shared_relative_position_bias": True},
    "own": {"use_shared_relative_position_bias": False, "use_relative_position_bias": True},
    "both": {"use_shared_relative_position_bias": True, "use_relative_position_bias": True},
}


def key(seed: int = 0) -> Any:
    return jax.random.key(seed)


# --- stage by stage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("positions", "keeps"), [(False, False), (True, False), (True, True)])
def test_embeddings(masked: bool, positions: bool, keeps: bool) -> None:
    config = small(
        image_size=(16, 24),
        patch_size=(8, 4),
        num_channels=2,
        use_absolute_position_embeddings=positions,
        mask_keeps_position=keeps,
    )
    model, _, params = pair("BeitModel", config)
    x, mask = pixels(config), some_mask(config) if masked else None
    got = flax_beit.FlaxBeitEmbeddings(config).apply({"params": params["embeddings"]}, x, mask)
    close(got, model.embeddings(torch.from_numpy(x), None if mask is None else torch.from_numpy(mask)))


@pytest.mark.parametrize("image_size", [16, (8, 40)])
def test_relative_position_bias_and_its_gradient(image_size: Any) -> None:
    config = small(image_size=image_size)
    model, _, params = pair("BeitModel", config)
    part, table = flax_beit.FlaxBeitRelativePosition(config), params["encoder"]["relative_position"]
    close(part.apply({"params": table}), model.encoder.relative_position_bias(), 0)
    weight = torch.randn(model.encoder.relative_position_bias().shape, generator=torch.Generator().manual_seed(0))
    (model.encoder.relative_position_bias() * weight).sum().backward()
    gradient = jax.grad(lambda p: (part.apply({"params": p}) * weight.numpy()).sum())(table)
    close(gradient["table"], model.encoder.relative_position_bias.relative_position_bias_table.grad)


@pytest.mark.parametrize(("bias", "scale"), [("none", 0), ("shared", 0.1), ("own", 0.1), ("both", 0)])
def test_one_layer(bias: str, scale: float) -> None:
    config = small(**BIASES[bias], layer_scale_init_value=scale)
    model, _, params = pair("BeitModel", config)
    shared = model.encoder.relative_position_bias
    outside = None if shared is None else shared().detach()
    theirs = pytorch_position_bias.PositionBias(config.grid, total=outside)
    ours = PositionBias(config.grid, None if outside is None else outside.numpy())
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    layer = jax.jit(flax_beit.FlaxBeitLayer(config, 0.0).apply, static_argnums=3)
    given = ({"params": params["encoder"]["layers_1"]}, x.numpy(), ours)
    for weights_too in (False, True):  # the fused attention, and the explicit one
        got, attention = layer(*given, AttentionOptions(weights_too))
        wanted, wanted_attention = model.encoder.layer[1](x, theirs, pytorch_beit.AttentionOptions(True))
        close(got, wanted)
        assert (attention is None) == (not weights_too)
    close(attention, wanted_attention)


def test_encoder_with_all_that_can_be_asked_for() -> None:
    config = small(num_hidden_layers=3)
    model, _, params = pair("BeitModel", config)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    encoder = flax_beit.FlaxBeitEncoder(config)
    got = encoder.apply({"params": params["encoder"]}, x.numpy(), config.grid, AttentionOptions(True), True)
    assert (len(got.hidden_states), len(got.attentions)) == (4, 3)
    same_outputs(got, model.encoder(x, config.grid, pytorch_beit.AttentionOptions(True), True))
    two = encoder.apply({"params": params["encoder"]}, x.numpy(), config.grid, AttentionOptions(), depth=2)
    assert two.keys() == ("last_hidden_state",)
    close(two.last_hidden_state, got.hidden_states[2], 1e-5)


@pytest.mark.parametrize("mean", [False, True])
def test_pooler(mean: bool) -> None:
    config = small(use_mean_pooling=mean)
    model, _, params = pair("BeitModel", config)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    close(
        flax_beit.FlaxBeitPooler(config).apply({"params": params.get("pooler", {})}, x.numpy()),
        model.pooler(x),
    )


@pytest.mark.parametrize("name", sorted(flax_beit.ACTIVATIONS))
def test_activations(name: str) -> None:
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    close(flax_beit.ACTIVATIONS[name](x), pytorch_beit.ACTIVATIONS[name](torch.from_numpy(x)), 2e-6)
    assert set(flax_beit.ACTIVATIONS) == set(pytorch_beit.ACTIVATIONS)


# --- end to end ----------------------------------------------------------------------------------------------------


def draw_case(number: int) -> tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(class, config, constructor's arguments, call) of one random small model."""
    rng = np.random.default_rng([20210615, number])

    def one(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    def chance(p: float) -> bool:
        return bool(rng.random() < p)

    kind, heads, (rows, columns) = KINDS[number % 3], one(1, 2, 4), one((4, 4), (4, 2), (2, 8), (8, 8))
    config = {
        "hidden_size": heads * one(8, 12),
        "num_attention_heads": heads,
        "num_hidden_layers": one(1, 1, 2, 3),
        "intermediate_size": one(12, 32),
        "vocab_size": one(7, 19),
        "hidden_act": ("gelu", "relu", "selu", "gelu_new")[number // 3 % 4],
        "layer_norm_eps": one(1e-12, 1e-6, 1e-3),
        "image_size": (rows * one(1, 2, 3), columns * one(1, 2, 3)),
        "patch_size": (rows, columns),
        "num_channels": one(1, 3, 4),
        "num_labels": one(0, 1, 5),
        "use_mask_token": chance(0.7),
        "use_absolute_position_embeddings": chance(0.5),
        "mask_keeps_position": chance(0.5),
        "use_relative_position_bias": chance(0.5),
        "use_shared_relative_position_bias": chance(0.5),
        "layer_scale_init_value": one(0, 0.1),
        "use_mean_pooling": chance(0.5),
    }
    arguments = {"add_pooling_layer": chance(0.7)} if kind == "BeitModel" else {}
    masked = config["use_mask_token"] and kind != "BeitForImageClassification" and chance(0.85)
    call = {
        "batch": one(1, 2, 3),
        "mask": one("bool", "int", "grid") if masked else None,
        "output_attentions": chance(0.5),
        "output_hidden_states": chance(0.5),
    }
    return kind, config, arguments, call


def draw_inputs(config: BeitConfig, call: dict[str, Any], number: int) -> dict[str, Any]:
    inputs: dict[str, Any] = {"pixel_values": pixels(config, call["batch"], number)}
    if call["mask"]:
        mask = np.random.default_rng(number).random((call["batch"], config.num_patches)) < 0.5
        shape = (call["batch"], *config.grid) if call["mask"] == "grid" else mask.shape
        inputs["bool_masked_pos"] = mask.reshape(shape).astype(np.int64 if call["mask"] == "int" else bool)
    return {**inputs, **{name: call[name] for name in ("output_attentions", "output_hidden_states")}}


CASES = [draw_case(number) for number in range(33)]


def test_cases_cover_all_switches() -> None:
    for kind in KINDS:
        mine = [(config, call) for name, config, _, call in CASES if name == kind]
        for switch in CASES[0][1]:
            if switch not in ("vocab_size", "use_mask_token", "mask_keeps_position", "num_labels"):
                assert len({config[switch] for config, _ in mine}) > 1, (kind, switch)
        assert {call["output_attentions"] for _, call in mine} == {True, False}
        tables = {(c["use_relative_position_bias"], c["use_shared_relative_position_bias"]) for c, _ in mine}
        assert len(tables) == 4, kind
    masked = [(config, call["mask"]) for _, config, _, call in CASES if call["mask"]]
    assert {mask for _, mask in masked} == {"bool", "int", "grid"}
    places = [config["mask_keeps_position"] for config, _ in masked if config["use_absolute_position_embeddings"]]
    assert set(places) == {True, False}


@pytest.mark.parametrize("number", range(len(CASES)))
def test_random_configurations(number: int) -> None:
    kind, values, arguments, call = CASES[number]
    config = BeitConfig(**values)
    model, flax_model, params = pair(kind, config, number, **arguments)
    inputs = draw_inputs(config, call, number)
    got = flax_model(**inputs, params=params)
    with torch.no_grad():
        wanted = model(**as_torch(inputs))
    assert type(got) is type(wanted)
    LARGEST["outputs"] = max(LARGEST["outputs"], same_outputs(got, wanted))


def test_largest_difference() -> None:
    print(f"largest differences from PyTorch: {LARGEST}")
    assert LARGEST["outputs"] < CLOSE


def test_images_of_another_size() -> None:
    """Absolute positions are resized, up and down and each way on its own, as PyTorch does it."""
    config = small(use_absolute_position_embeddings=True, use_shared_relative_position_bias=False, image_size=(24, 32))
    model, _, params = pair("BeitModel", config)
    part = flax_beit.FlaxBeitEmbeddings(config).bind({"params": params["embeddings"]})
    for grid in ((1, 1), (2, 8), (5, 3), (11, 9), (3, 4)):
        close(part._positions(grid), model.embeddings._positions(grid))


def test_whole_model_on_images_of_another_size() -> None:
    config = small(use_absolute_position_embeddings=True, use_shared_relative_position_bias=False, num_hidden_layers=1)
    model, flax_model, params = pair("BeitForMaskedImageModeling", config)
    x, mask = pixels(config.replace(image_size=(24, 8))), np.array([[True, False, True], [False, False, True]])
    got = flax_model(x, mask, params=params)
    same_outputs(got, model(torch.from_numpy(x), torch.from_numpy(mask)))


# --- losses and gradients ------------------------------------------------------------------------------------------


def same_loss_and_gradients(model: Any, flax_model: Any, params: Any, inputs: dict[str, Any]) -> None:
    loss, gradient = jax.value_and_grad(lambda p: flax_model(**inputs, params=p).loss)(params)
    wanted = model(**as_torch(inputs)).loss
    wanted.backward()
    close(loss, wanted)
    same_gradients(gradient, model)


def test_masked_image_modelling_learns_as_in_pytorch() -> None:
    config = small(**BIASES["both"], image_size=(16, 24), use_absolute_position_embeddings=True, use_mean_pooling=False)
    model, flax_model, params = pair("BeitForMaskedImageModeling", config)
    mask = some_mask(config)
    tokens = np.random.default_rng(1).integers(0, 11, mask.shape)
    inputs = {"pixel_values": pixels(config), "bool_masked_pos": mask, "labels": tokens}
    same_loss_and_gradients(model, flax_model, params, inputs)
    inputs["bool_masked_pos"] = mask.reshape(2, 2, 3)
    ways = {
        "at the mask": tokens[mask],
        "as grids": tokens.reshape(2, 2, 3),
        "with numbers under no mask that are no tokens": np.where(mask, tokens, -7),
        "int16": tokens.astype(np.int16),
    }
    wanted = model(**as_torch(inputs)).loss
    for way, labels in ways.items():
        close(flax_model(**{**inputs, "labels": labels}, params=params).loss, wanted, name=way)


def test_classification_learns_as_in_pytorch() -> None:
    several = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 0]], np.float32)
    problems: dict[Any, tuple[np.ndarray, ...]] = {
        None: (np.array([2, -100, 0]), several),
        "single_label_classification": (np.array([1, 1, -100]),),
        "multi_label_classification": (several,),
        "regression": (np.arange(9, dtype=np.float32).reshape(3, 3) / 4,),
    }
    config = small(layer_scale_init_value=0)
    model, flax_model, params = pair("BeitForImageClassification", config)
    for problem, all_labels in problems.items():
        for labels in all_labels:
            # Only the loss asks for it; with one model the rest is compiled once.
            model.config = flax_model.config = config.replace(problem_type=problem)
            model.zero_grad()
            same_loss_and_gradients(model, flax_model, params, {"pixel_values": pixels(config, 3), "labels": labels})


def test_regression_of_one_number() -> None:
    config = small(num_hidden_layers=1, num_labels=1, use_mean_pooling=False)
    model, flax_model, params = pair("BeitForImageClassification", config)
    for labels in (np.array([0.5, -1], np.float32), np.array([[2], [3]], np.float32), np.array([2, 3])):
        inputs = {"pixel_values": pixels(config), "labels": labels}
        close(flax_model(**inputs, params=params).loss, model(**as_torch(inputs)).loss)


@pytest.fixture(scope="module")
def classifier() -> tuple[Any, Any, Any]:
    """One pair for many calls, so that it is compiled once."""
    return pair("BeitForImageClassification", small(num_hidden_layers=1))


@pytest.fixture(scope="module")
def guesser() -> tuple[Any, Any, Any]:
    """The same for masked images."""
    return pair("BeitForMaskedImageModeling", small(num_hidden_layers=1, image_size=(16, 24)))


def test_types_of_labels(classifier: Any) -> None:
    model, flax_model, params = classifier
    x = pixels(model.config)
    for dtype in ("int64", "int32", "int16", "uint8"):
        labels = np.array([2, 1], dtype)
        loss = model(torch.from_numpy(x), labels=torch.from_numpy(labels)).loss
        close(flax_model(x, params=params, labels=labels).loss, loss)
    close(flax_model(x, params=params, labels=jnp.asarray(labels)).loss, loss)
    several = np.array([[True, False, True], [False, False, True]])
    loss = model(torch.from_numpy(x), labels=torch.from_numpy(several)).loss
    close(flax_model(x, params=params, labels=several).loss, loss)


# --- functions of params: jit, grad, vmap --------------------------------------------------------------------------


def test_jit_and_grad_go_through(guesser: Any) -> None:
    model, flax_model, params = guesser
    x, mask = pixels(model.config), some_mask(model.config)
    labels = np.random.default_rng(1).integers(0, 11, mask.shape)

    @jax.jit
    def call(p: Any, x: Any, mask: Any, labels: Any) -> Any:
        return flax_model(x, mask, params=p, labels=labels, output_hidden_states=True)

    output = call(params, x, mask, labels)
    assert type(output) is beit.MaskedLMOutput
    assert output.keys() == ("loss", "logits", "hidden_states")
    wanted = flax_model(x, mask, params=params, labels=labels)
    close(output.loss, wanted.loss, 1e-6)
    close(output.logits, wanted.logits)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, output)
    assert type(doubled) is beit.MaskedLMOutput
    close(doubled.loss, 2 * output.loss, 1e-6)
    assert doubled.attentions is None


def test_vmap_over_images_and_over_params(classifier: Any) -> None:
    model, flax_model, params = classifier
    x = pixels(model.config)
    each = jax.vmap(lambda image: flax_model(image[None], params=params))(x)
    close(each.logits[:, 0], flax_model(x, params=params).logits)
    two = jax.tree.map(lambda leaf: jnp.stack((leaf, 0.5 * leaf)), params)
    ensemble = jax.vmap(lambda p: flax_model(x, params=p).logits)(two)
    close(ensemble[0], flax_model(x, params=params).logits)
    close(ensemble[1], flax_model(x, params=jax.tree.map(lambda leaf: 0.5 * leaf, params)).logits)


def test_a_shape_is_compiled_once(classifier: Any) -> None:
    model, flax_model, params = classifier
    flax_model(pixels(model.config), params=params)
    before = flax_model._run._cache_size()
    for seed in range(3):
        flax_model(pixels(model.config, seed=seed), params=jax.tree.map(lambda leaf, s=seed: leaf + s, params))
    assert flax_model._run._cache_size() == before


def test_return_dict_and_outputs_from_config(classifier: Any) -> None:
    model, flax_model, params = classifier
    x = pixels(model.config)
    plain = flax_model(x, params=params, return_dict=False)
    assert type(plain) is tuple
    close(plain[0], flax_model(x, params=params)["logits"], 0)
    with_loss = flax_model(x, params=params, labels=np.array([0, 1]), return_dict=False)
    assert [np.ndim(item) for item in with_loss] == [0, 2]
    config = small(num_hidden_layers=1, return_dict=False, output_hidden_states=True, output_attentions=True)
    asked = FlaxBeitForImageClassification(config, _do_init=False)(x, params=params)
    assert [len(item) if type(item) is tuple else None for item in asked] == [None, 2, 1]
    output = FlaxBeitForImageClassification(config, _do_init=False)(
        x, params=params, return_dict=True, output_attentions=False, output_hidden_states=False
    )
    assert output.keys() == ("logits",)


def test_logits_of_some_patches_only(guesser: Any) -> None:
    """What training computes: logits at `masked_first`, the same as those of all patches there."""
    model, flax_model, params = guesser
    x, mask = pixels(model.config), some_mask(model.config)
    at, counted = flax_losses.masked_first(jnp.asarray(mask), 4)
    some = jax.jit(lambda at: flax_model.module.apply({"params": params}, x, mask, patches_wanted=at).logits)(at)
    every = np.asarray(flax_model(x, mask, params=params).logits)
    assert some.shape == (2, 4, 11)
    close(some, np.take_along_axis(every, np.asarray(at)[..., None], axis=1))
    close(np.asarray(some)[np.asarray(counted)], every[mask])  # in reading order, as labels (M,) are
    close(some[np.asarray(counted)], model(torch.from_numpy(x), torch.from_numpy(mask)).logits[torch.from_numpy(mask)])


@settings(max_examples=25, deadline=None)
@given(
    mask=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=3, max_size=3),
    more=st.sampled_from([0, 1, 6]),
)
def test_masked_first_is_its_definition(mask: list[list[bool]], more: int) -> None:
    most = min(max(sum(row) for row in mask) + more, 6)
    at, counted = flax_losses.masked_first(jnp.asarray(mask), most)
    assert at.shape == counted.shape == (len(mask), most)
    for row, numbers, masked in zip(mask, np.asarray(at).tolist(), np.asarray(counted).tolist(), strict=True):
        wanted = [i for i, here in enumerate(row) if here]
        assert numbers[: len(wanted)] == wanted
        assert masked == [True] * len(wanted) + [False] * (most - len(wanted))
        assert len(set(numbers)) == most


# --- randomness and training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"])
def test_training_follows_from_its_key(setting: str) -> None:
    model, flax_model, params = pair("BeitModel", small(**{setting: 0.5}))
    x = pixels(model.config, 8)
    with pytest.raises(InputError, match=rf"train=True draws at random \({setting}\).*dropout_rng=jax\.random\.key"):
        flax_model(x, params=params, train=True)
    first, again, other = (
        flax_model(x, params=params, train=True, dropout_rng=key(seed)).pooler_output for seed in (3, 3, 4)
    )
    close(first, again, 0)
    assert not np.allclose(first, other)


def test_training_without_a_key_where_nothing_is_drawn(classifier: Any) -> None:
    model, flax_model, params = classifier
    x = pixels(model.config)
    wanted = flax_model(x, params=params).logits
    close(flax_model(x, params=params, train=True).logits, wanted)
    close(flax_model(x, params=params, dropout_rng=key()).logits, wanted, 0)  # a key alone changes nothing


@pytest.mark.parametrize("scale", [0, 0.1])
def test_drop_path_drops_whole_samples(scale: float) -> None:
    config = small(num_hidden_layers=3, drop_path_rate=0.4, layer_scale_init_value=scale)
    bound = FlaxBeitModel(config, _do_init=False).module.bind({"params": pair("BeitModel", config)[2]})
    assert [layer.drop_path for layer in bound.encoder.layers] == pytest.approx([0.0, 0.2, 0.4])
    x, branch, gamma = np.zeros((4000, 2, 16), "f4"), np.ones((4000, 2, 16), "f4"), np.ones(16, "f4")
    variables = {"params": {"gamma1": gamma, "gamma2": gamma}}

    def add(rate: float, train: bool) -> np.ndarray:
        layer = flax_beit.FlaxBeitLayer(config, rate)
        return np.asarray(layer.apply(
            variables, x, branch, gamma if scale else None, train, method="_add", rngs={"dropout": key()}
        ))  # fmt: skip

    per_sample = add(0.4, True).reshape(4000, -1)
    assert (per_sample == per_sample[:, :1]).all()
    assert (per_sample[:, 0] == 0).mean() == pytest.approx(0.4, abs=0.04)
    assert per_sample.mean() == pytest.approx(1, abs=0.07)  # the expectation stays
    assert per_sample.max() == pytest.approx(1 / 0.6)
    assert (add(0.0, True) == 1).all()
    assert (add(0.4, False) == 1).all()


def test_depth_one_has_no_drop_path() -> None:
    bound = FlaxBeitModel(small(num_hidden_layers=1, drop_path_rate=0.5), _do_init=False).module.bind({})
    assert bound.encoder.layers[0].drop_path == 0


def test_attention_dropout_keeps_the_mean() -> None:
    config = small(attention_probs_dropout_prob=0.5)
    model, _, params = pair("BeitModel", config)
    attention = flax_beit.FlaxBeitAttention(config)
    variables = {"params": params["encoder"]["layers_0"]["attn"]}
    y = np.random.default_rng(0).standard_normal((1, 5, 16)).astype(np.float32)
    bias = PositionBias(config.grid, model.encoder.relative_position_bias().detach().numpy())
    wanted = attention.apply(variables, y, bias, AttentionOptions())[0]
    many = np.broadcast_to(y, (4000, 5, 16))
    got, weights = attention.apply(variables, many, bias, AttentionOptions(True, True), rngs={"dropout": key()})
    close(got.mean(0, keepdims=True), wanted, 0.12)
    assert (np.asarray(weights) == 0).mean() == pytest.approx(0.5, abs=0.02)


def test_gradient_checkpointing_changes_nothing() -> None:
    config = small(**BIASES["both"], drop_path_rate=0.3)
    _, plain, params = pair("BeitForMaskedImageModeling", config)
    saving = FlaxBeitForMaskedImageModeling(config, _do_init=False, gradient_checkpointing=True)
    x, mask = pixels(config), some_mask(config)
    labels, results, programs = np.zeros(mask.shape, int), [], []
    for flax_model in (plain, saving):

        def loss(p: Any, flax_model: Any = flax_model) -> Any:
            return flax_model(x, mask, params=p, train=True, dropout_rng=key(5), labels=labels).loss

        traced = jax.jit(jax.value_and_grad(loss)).trace(params)
        programs.append(str(traced.jaxpr))
        results.append(traced.lower().compile()(params))
    close(results[0][0], results[1][0], 1e-6)
    jax.tree.map(lambda a, b: close(a, b, 1e-5), results[0][1], results[1][1])
    assert ["remat" in program or "checkpoint" in program for program in programs] == [False, True]
    tables = [g for path, g in flax_layout.flatten(results[1][1]) if path[-1] == "table"]
    assert len(tables) == 3
    assert all(np.abs(table).max() > 0 for table in tables)


# --- precision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "most"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_other_precisions_are_near(kind: str, name: str, most: float) -> None:
    config = small(num_hidden_layers=1, use_relative_position_bias=True, use_absolute_position_embeddings=True)
    model, _, params = pair(kind, config)
    x, mask = pixels(config), some_mask(config)
    inputs = {
        "BeitModel": {"bool_masked_pos": mask},
        "BeitForMaskedImageModeling": {"bool_masked_pos": mask, "labels": np.ones(mask.shape, int)},
        "BeitForImageClassification": {"labels": np.array([0, 2])},
    }[kind]
    wanted = model(**as_torch({"pixel_values": x, **inputs}))
    flax_model = getattr(beit, "Flax" + kind)(config, dtype=getattr(jnp, name), _do_init=False)
    got = flax_model(x, **inputs, params=params)
    main = got.last_hidden_state if kind == "BeitModel" else got.logits
    assert main.dtype.name == name
    for field in wanted.keys():  # noqa: SIM118
        value = wanted[field].detach().numpy()
        scale = np.abs(value).max()
        close(np.asarray(got[field], np.float32) / scale, value / scale, most, field)
    if kind != "BeitModel":
        assert got.loss.dtype == jnp.float32


def test_dtype_by_name_and_refused_ones() -> None:
    assert FlaxBeitModel(small(), dtype="bfloat16", _do_init=False).dtype == jnp.bfloat16
    for dtype in ("int8", "float99", int):
        with pytest.raises(ConfigError, match=r"dtype is .*choose float32"):
            FlaxBeitModel(small(), dtype=dtype, _do_init=False)


def test_casts_with_and_without_a_mask() -> None:
    flax_model = FlaxBeitModel(small(num_hidden_layers=1), _do_init=False)
    params = jax.tree.map(lambda shape: np.ones(shape.shape, np.float32), flax_model._shapes())
    params["counter"] = np.zeros((), np.int32)
    for cast, dtype in ((flax_model.to_bf16, "bfloat16"), (flax_model.to_fp16, "float16")):
        types = jax.tree.map(lambda leaf: leaf.dtype.name, cast(params))
        assert types.pop("counter") == "int32"
        assert {name for _, name in flax_layout.flatten(types)} == {dtype}
        back = flax_model.to_fp32(cast(params))
        assert {leaf.dtype.name for leaf in jax.tree.leaves(back)} == {"float32", "int32"}
        norms = jax.tree_util.tree_map_with_path(lambda path, _: "norm" not in str(path), params)
        some = cast(params, norms)
        for path, leaf in flax_layout.flatten(some):
            wanted = "int32" if path == ("counter",) else "float32" if "norm" in str(path) else dtype
            assert leaf.dtype.name == wanted, path


# --- parameters ----------------------------------------------------------------------------------------------------


def test_a_model_that_keeps_nothing() -> None:
    flax_model = FlaxBeitForImageClassification(small(num_hidden_layers=1), _do_init=False)
    x = pixels(flax_model.config)
    for needs_params in (lambda: flax_model.params, lambda: flax_model(x), flax_model.num_parameters):
        with pytest.raises(InputError, match=r"_do_init=False.*init_weights"):
            needs_params()
    flax_model.params = flax_model.init_weights(key())
    assert flax_model(x).logits.shape == (2, 3)


def test_setting_params_refuses_what_is_incomplete() -> None:
    flax_model = FlaxBeitModel(small(num_hidden_layers=1))
    whole = flax_model.params
    assert {path for path, _ in flax_layout.flatten(whole)} == flax_model.required_params
    assert ("encoder", "layers_0", "mlp", "fc1", "kernel") in flax_model.required_params
    lost = jax.tree.map(lambda leaf: leaf, whole)
    del lost["encoder"]["layers_0"]["mlp"]["fc1"]["kernel"]
    with pytest.raises(InputError, match=r"lack 1 tensors.*encoder/layers_0/mlp/fc1/kernel"):
        flax_model.params = lost
    assert flax_model.params is whole
    half = flax_model.to_bf16(whole)
    flax_model.params = half
    assert flax_model.params is half
    frozen = pytest.importorskip("flax.core").freeze(whole)  # as older Flax gave them
    flax_model.params = frozen
    assert flax_model(pixels(flax_model.config)).last_hidden_state.shape == (2, 5, 16)


def test_number_of_parameters_is_that_of_pytorch() -> None:
    for kind in KINDS:
        model, flax_model, params = pair(kind, small(num_hidden_layers=1))
        flax_model.params = params
        assert flax_model.num_parameters() == model.num_parameters()


def test_seed_and_input_shape() -> None:
    config = small(num_hidden_layers=1)

    def token(**arguments: Any) -> np.ndarray:
        return np.asarray(FlaxBeitModel(config, **arguments).params["embeddings"]["cls_token"])

    first = token()
    close(token(seed=0, input_shape=(1, 16, 16, 3)), first, 0)
    assert not np.array_equal(token(seed=1), first)
    with pytest.raises(ConfigError, match=r"input_shape is \(batch, height, width, channels\).*4 channels"):
        FlaxBeitModel(config, input_shape=(1, 16, 16, 4))
    for impossible in ((1, 3, 16, 16), (16, 16, 3), (1, 20, 16, 3)):
        with pytest.raises(ConfigError, match="input_shape"):
            FlaxBeitModel(config, input_shape=impossible)


def test_arguments_that_no_class_has() -> None:
    with pytest.raises(TypeError, match="FlaxBeitModel has no argument 'pooling'"):
        FlaxBeitModel(small(), pooling=True)
    with pytest.raises(TypeError, match="FlaxBeitForImageClassification has no argument 'add_pooling_layer'"):
        FlaxBeitForImageClassification(small(), add_pooling_layer=False)
    bare = FlaxBeitModel(small(), add_pooling_layer=False, _do_init=False)
    assert not any("pooler" in path for path in bare.required_params)


@pytest.mark.parametrize("scheme", ["paper", "reference"])
def test_initialisation_follows_the_table(scheme: str) -> None:
    config = small(
        hidden_size=64,
        intermediate_size=64,
        initializer_range=0.05,
        layer_scale_init_value=0.3,
        use_absolute_position_embeddings=True,
        use_relative_position_bias=True,
        num_labels=50,
    )
    flax_model = FlaxBeitForImageClassification(config, _do_init=False)
    drawn, starts = set(), Starts(config, scheme)
    for path, leaf in flax_layout.flatten({"params": flax_model.init_weights(key(), scheme=scheme)}):
        name, values = flax_layout.name_of(path), np.asarray(leaf)
        start = starts(names.from_short_name(name), len(flax_layout.shape_of(name, path[-1], leaf.shape)))
        assert leaf.dtype == jnp.float32
        if start.kind == "constant":
            assert (values == np.float32(start.value)).all(), name
            continue
        std = start.value * start.scale * (0.5396 if start.kind == "cut" else 1)  # of a normal cut at one deviation
        sure = 4 / math.sqrt(2 * values.size)
        assert values.std() == pytest.approx(std, rel=sure), name
        assert abs(values.mean()) < 4 * std / math.sqrt(values.size), name
        assert (np.abs(values).max() <= 1.0001 * start.value * start.scale) == (start.kind == "cut"), name
        drawn.add(values.reshape(-1)[0].item())
    matrices = 2 * 4 + 2 + (3 if scheme == "paper" else 0)  # layers' four; patches, classifier; tokens and positions
    assert len(drawn) == matrices  # no two tensors start with the same numbers
    with pytest.raises(ConfigError, match="papr"):
        flax_model.init_weights(key(), scheme="papr")


def test_initialisation_keeps_what_it_is_given() -> None:
    flax_model = FlaxBeitForImageClassification(small(num_hidden_layers=1), _do_init=False)
    fresh = flax_model.init_weights(key())
    given = {"beit": jax.tree.map(lambda leaf: leaf + 1, fresh["beit"])}
    mixed = flax_model.init_weights(key(), (1, 16, 16, 3), given)
    jax.tree.map(lambda a, b: close(a, b, 0), mixed, {**fresh, **given})


# --- refusals: the words of PyTorch --------------------------------------------------------------------------------

X = np.zeros((2, 3, 16, 16), np.float32)
MASK = np.array([[True, True, False, False], [False, True, False, False]])
MODEL, MASKED, CLASSES, MAPS = (*KINDS, "BeitForSemanticSegmentation")
WRONG: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "no images": (MODEL, {}, {}),
    "one image": (MODEL, {}, {"pixel_values": X[0]}),
    "one channel": (MODEL, {}, {"pixel_values": X[:, :1]}),
    "no whole patches": (MODEL, {}, {"pixel_values": np.zeros((1, 3, 18, 16), np.float32)}),
    "empty images": (MODEL, {}, {"pixel_values": np.zeros((1, 3, 0, 16), np.float32)}),
    "one patch in height": (MAPS, {}, {"pixel_values": np.zeros((2, 3, 8, 24), np.float32)}),
    "mask of another length": (MODEL, {}, {"pixel_values": X, "bool_masked_pos": np.ones((2, 5), bool)}),
    "mask of another batch": (MASKED, {}, {"pixel_values": X, "bool_masked_pos": MASK[:1]}),
    "mask of another grid": (MODEL, {}, {"pixel_values": X, "bool_masked_pos": np.ones((2, 1, 4), bool)}),
    "no mask token": (MASKED, {"use_mask_token": False}, {"pixel_values": X, "bool_masked_pos": MASK}),
    "labels without a mask": (MASKED, {}, {"pixel_values": X, "labels": np.zeros(3, int)}),
    "nothing masked": (MASKED, {}, {"pixel_values": X, "bool_masked_pos": ~MASK & MASK, "labels": np.zeros((2, 4), int)}),
    "nothing masked, no labels": (MASKED, {}, {"pixel_values": X, "bool_masked_pos": ~MASK & MASK, "labels": np.zeros(0, int)}),
    "too few tokens": (MASKED, {}, {"pixel_values": X, "bool_masked_pos": MASK, "labels": np.zeros(2, int)}),
    "too many tokens": (MASKED, {}, {"pixel_values": X, "bool_masked_pos": MASK, "labels": np.zeros((2, 5), int)}),
    "token out of range": (MASKED, {}, {"pixel_values": X, "bool_masked_pos": MASK, "labels": np.array([0, 11, 99])}),
    "negative token": (MASKED, {}, {"pixel_values": X, "bool_masked_pos": MASK, "labels": np.array([[0, -1, 0, 0]] * 2)}),
    "too many labels": (CLASSES, {}, {"pixel_values": X, "labels": np.zeros(3, int)}),
    "labels for another number of classes": (CLASSES, {}, {"pixel_values": X, "labels": np.zeros((2, 4), np.float32)}),
    "floats for classes": (CLASSES, {}, {"pixel_values": X, "labels": np.array([0.5, 1], np.float32)}),
    "regression of another size": (
        CLASSES,
        {"problem_type": "regression"},
        {"pixel_values": X, "labels": np.zeros(2, np.float32)},
    ),
    "class out of range": (CLASSES, {}, {"pixel_values": X, "labels": np.array([0, 3])}),
    "negative class": (CLASSES, {}, {"pixel_values": X, "labels": np.array([-1, 0])}),
    "many classes out of range": (CLASSES, {"num_labels": 2}, {"pixel_values": pixels(small(), 9), "labels": np.arange(9)}),
    "map without a batch": (MAPS, {}, {"pixel_values": X, "labels": np.zeros((2, 16), int)}),
    "maps of another batch": (MAPS, {}, {"pixel_values": X, "labels": np.zeros((1, 16, 16), int)}),
    "maps of floats": (MAPS, {}, {"pixel_values": X, "labels": np.zeros((2, 16, 16), np.float32)}),
    "maps of bools": (MAPS, {}, {"pixel_values": X, "labels": np.zeros((2, 16, 16), bool)}),
    "empty maps": (MAPS, {}, {"pixel_values": X, "labels": np.zeros((2, 0, 16), int)}),
    "maps with another class": (MAPS, {}, {"pixel_values": X, "labels": np.full((2, 16, 16), 3)}),
    "one image in training": (MAPS, {}, {"pixel_values": X[:1]}),
}  # fmt: skip


@pytest.fixture(scope="module")
def models() -> dict[Any, tuple[Any, Any]]:
    """Pairs that were built before: a refusal needs no other numbers."""
    return {}


@pytest.mark.parametrize("wrong", WRONG)
def test_refusals_have_the_words_of_pytorch(wrong: str, models: dict[Any, tuple[Any, Any]]) -> None:
    kind, changes, inputs = WRONG[wrong]
    if (kind, str(changes)) not in models:
        config = small(num_hidden_layers=4 if kind == MAPS else 1, auxiliary_channels=4, **changes)
        model, flax_model, params = pair(kind, config)
        flax_model._params = params
        models[kind, str(changes)] = model, flax_model
    model, flax_model = models[kind, str(changes)]
    training = wrong == "one image in training"
    words = []
    for call in (
        lambda: model.train(training)(**as_torch(inputs)),
        lambda: flax_model(**inputs, **({"train": True} if training else {})),
    ):
        with pytest.raises(beit.BeitError) as caught:
            call()
        words.append((type(caught.value), str(caught.value)))
    theirs, ours = words
    # PyTorch's types of numbers are called torch.float32, those of numpy and jax float32.
    assert ours == (theirs[0], theirs[1].replace("of torch.", "of "))


@pytest.mark.parametrize("given", [torch.zeros(2, 3, 16, 16), [1, 2], "image"])
def test_what_is_no_array_is_refused(given: object) -> None:
    """In words of its own: what a user is to give, and how to make it, is not what PyTorch wants."""
    config = small(num_hidden_layers=1)
    with pytest.raises(InputError, match=r'pixel_values is a .*wanted a jax or numpy array.*return_tensors="np"'):
        FlaxBeitModel(config, _do_init=False)(given)
    masked = FlaxBeitForMaskedImageModeling(config)
    with pytest.raises(InputError, match="bool_masked_pos is a list"):
        masked(X, MASK.tolist())
    with pytest.raises(InputError, match="labels is a list"):
        masked(X, MASK, labels=[1, 2, 3])


def test_labels_where_there_is_no_head() -> None:
    with pytest.raises(InputError, match="FlaxBeitModel has no head"):
        FlaxBeitModel(small(num_hidden_layers=1))(X, labels=np.zeros(2, int))


def test_impossible_segmentation_is_refused_before_anything_is_built() -> None:
    for changes, words in (({"num_labels": 1}, "two classes"), ({"out_indices": [1, 2]}, "four layers")):
        with pytest.raises(ConfigError, match=words):
            FlaxBeitForSemanticSegmentation(small(num_hidden_layers=4, **changes))


def test_params_of_pytorch_are_a_copy() -> None:
    """jax may lend the memory of numpy's arrays; a step in PyTorch must not change what Flax has."""
    model, _, params = pair("BeitModel", small(num_hidden_layers=1))
    before = np.array(params["embeddings"]["cls_token"])
    with torch.no_grad():
        model.embeddings.cls_token.add_(1)
    close(params["embeddings"]["cls_token"], before, 0)
    assert not np.allclose(params_of(model)["embeddings"]["cls_token"], before)


def test_float64_wants_jax_to_have_it():
    with pytest.raises(ConfigError, match="JAX has float64 switched off"):
        FlaxBeitModel(small(), dtype=jnp.float64)
    with jax.enable_x64(True):
        assert FlaxBeitModel(small(), dtype="float64").dtype == jnp.float64


def test_a_key_is_wanted_only_for_what_is_drawn():
    """The first layer is never left out, and a classifier has no decoder whose channels could be."""
    model = FlaxBeitModel(small(num_hidden_layers=1, drop_path_rate=0.5, decode_dropout_prob=0.5))
    assert model(jnp.zeros((1, 3, 16, 16)), train=True).last_hidden_state.shape == (1, 5, 16)
