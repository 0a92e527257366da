"""Which parameters decay, how fast each layer learns, and the schedule."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from fixtures_runs import small_config

torch = pytest.importorskip("torch")

from beit import BeitForImageClassification, BeitForMaskedImageModeling
from beit.train.schedule import decays, layer_number, learning_rate
from beit.train.torch.optim import adamw, parameter_groups


def by_name(model, groups) -> dict[str, dict]:
    """The group of each parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(parameter)], group) for group in groups for parameter in group["params"]]
    assert len(found) == len(dict(found)) == len(names), "each parameter is in exactly one group"
    return dict(found)


def test_what_decays():
    model = BeitForMaskedImageModeling(small_config())
    free = {name for name, parameter in model.named_parameters() if not decays(name, parameter.ndim)}
    layer = {
        *(f"layernorm_{place}.{kind}" for place in ("before", "after") for kind in ("weight", "bias")),
        *("attention.attention.query.bias", "attention.attention.value.bias", "attention.output.dense.bias"),
        *("intermediate.dense.bias", "output.dense.bias", "lambda_1", "lambda_2"),
    }
    assert free == {
        "beit.embeddings.cls_token",
        "beit.embeddings.position_embeddings",
        "beit.embeddings.patch_embeddings.projection.bias",
        *(f"beit.encoder.layer.{i}.{name}" for i in (0, 1) for name in layer),
        *("layernorm.weight", "layernorm.bias", "lm_head.bias"),
    }
    decayed = {name for name, _ in model.named_parameters()} - free
    assert {
        "beit.embeddings.mask_token",
        "beit.encoder.relative_position_bias.relative_position_bias_table",
        "lm_head.weight",
    } <= decayed
    own = BeitForImageClassification(
        small_config(use_shared_relative_position_bias=False, use_relative_position_bias=True)
    )
    name = "beit.encoder.layer.1.attention.attention.relative_position_bias.relative_position_bias_table"
    assert decays(name, own.get_parameter(name).ndim)

    found = by_name(model, parameter_groups(model, 0.05))
    assert {name for name, group in found.items() if group["weight_decay"] == 0.0} == free
    assert {group["weight_decay"] for group in found.values()} == {0.0, 0.05}
    assert {group["scale"] for group in found.values()} == {1.0}


def test_layer_wise_rates_by_hand():
    """L = 4, d = .5: embeddings d⁵, layers d⁴ … d¹, head, last norm and the shared table d⁰."""
    config = small_config(num_hidden_layers=4)
    for model in (BeitForMaskedImageModeling(config), BeitForImageClassification(config)):
        found = by_name(model, parameter_groups(model, 0.05, layer_decay=0.5, depth=4))
        for name, group in found.items():
            if ".layer." in name:
                expected = {"0": 1 / 16, "1": 1 / 8, "2": 1 / 4, "3": 1 / 2}[name.split(".layer.")[1][0]]
            elif ".embeddings." in name:
                expected = 1 / 32
            else:
                expected = 1.0
            assert group["scale"] == expected, name
    assert found["beit.encoder.relative_position_bias.relative_position_bias_table"]["scale"] == 1.0
    assert found["beit.pooler.layernorm.weight"]["scale"] == 1.0
    assert found["classifier.weight"]["scale"] == 1.0


def test_layer_numbers_of_deep_models():
    assert layer_number("beit.embeddings.cls_token", 24) == 0
    assert layer_number("beit.encoder.layer.0.lambda_1", 24) == 1
    assert layer_number("beit.encoder.layer.23.attention.output.dense.weight", 24) == 24
    assert (
        layer_number("beit.encoder.layer.1.attention.attention.relative_position_bias.relative_position_bias_table", 24)
        == 2
    )
    assert layer_number("classifier.weight", 24) == 25


def test_frozen_parameters_are_left_out():
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    groups = parameter_groups(model, 0.1)
    assert [len(group["params"]) for group in groups] == [1]
    assert groups[0]["params"][0] is model.weight


def test_adamw_is_the_papers():
    model = torch.nn.Linear(3, 2)
    optimizer = adamw(parameter_groups(model, 0.1), beta2=0.98)
    for group in optimizer.param_groups:
        assert group["betas"] == (0.9, 0.98)
        assert group["eps"] == 1e-8
        assert group["lr"] == 0.0
    # One step by hand: m/√v is the sign of the gradient; decay is decoupled and applies to the matrix alone.
    before, bias = model.weight.detach().clone(), model.bias.detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    (3 * model.weight.sum() - 2 * model.bias.sum()).backward()
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before * (1 - 0.01 * 0.1) - 0.01)
    torch.testing.assert_close(model.bias.detach(), bias + 0.01)


def test_schedule():
    rates = [learning_rate(step, 100, 20, peak=2.0, floor=0.5) for step in range(101)]
    assert rates[0] == 0.0
    assert rates[10] == 1.0
    assert rates[20] == 2.0
    assert rates[60] == pytest.approx(1.25)  # half of the cosine
    assert rates[40] == pytest.approx(0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert rates[100] == 0.5
    assert all(a < b for a, b in pairwise(rates[:21]))
    assert all(a > b for a, b in pairwise(rates[20:]))
    assert learning_rate(1000, 100, 20, 2.0, 0.5) == 0.5
    assert learning_rate(0, 100, 0, 2.0, 0.5) == 2.0
    assert learning_rate(0, 1, 0, 2.0, 0.5) == 2.0
    assert [learning_rate(step, 9, 2, peak=0.1, floor=0.5) for step in (0, 1, 2, 5, 9)] == [0.0, 0.05, 0.1, 0.1, 0.1]
