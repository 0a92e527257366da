"""The bias as one object: against the plain formula, added up, kept, resized, compiled and recomputed."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch.utils import _pytree

from beit import BeitConfig, BeitModel
from beit.core import geometry
from beit.core import resampling as resize
from beit.models.torch.beit import AttentionOptions, BeitRelativePositionBias, attention
from beit.models.torch.kernels.attention import fused_attention
from beit.models.torch.kernels.position_bias import KeptBiases, PositionBias, gather, product_dtype, resize_table
from beit.models.torch.kernels.position_tables import ROW, relative_position_index

GRID, OTHER = (3, 4), (5, 2)
CPU = torch.device("cpu")
BIASES = [
    {"use_shared_relative_position_bias": shared, "use_relative_position_bias": own}
    for shared in (True, False)
    for own in (True, False)
]


def small(**changes: Any) -> BeitConfig:
    values: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": (12, 16),
        "patch_size": 4,
        "drop_path_rate": 0.0,
    }
    return BeitConfig(**{**values, **changes})


def loud(module: Any) -> Any:
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def plain(table: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """`table[index]`, as it is written in the paper's code."""
    index = torch.from_numpy(geometry.relative_position_index(grid).copy())
    return table[index].permute(2, 0, 1)[None]


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float64])
def test_gathering_is_indexing(dtype: Any) -> None:
    table = torch.randn(geometry.num_relative_distances(GRID), 3, requires_grad=True)
    found, wanted = gather(table, relative_position_index(GRID, CPU), dtype), plain(table, GRID)
    assert torch.equal(found, wanted.to(dtype or torch.float32))
    assert found.stride(2) == 16
    assert found.stride(2) % ROW == 0
    weight = torch.randn_like(found)
    (got,) = torch.autograd.grad(found, table, weight)
    (right,) = torch.autograd.grad(wanted, table, weight.float())
    torch.testing.assert_close(got, right)


def test_resizing_is_that_of_arrays() -> None:
    table = torch.randn(geometry.num_relative_distances(GRID), 3)
    wanted = torch.from_numpy(resize.resize_table(table.double().numpy(), GRID, OTHER))
    torch.testing.assert_close(resize_table(table.double(), GRID, OTHER), wanted, atol=1e-6, rtol=0)
    single = resize_table(table, GRID, OTHER)
    torch.testing.assert_close(single.double(), wanted, atol=1e-4, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resize_table(table, GRID, OTHER), single)
    assert resize_table(table.to("meta"), GRID, OTHER).shape == wanted.shape


@pytest.mark.parametrize("grid", [GRID, OTHER])
@pytest.mark.parametrize("gradients", [True, False])
def test_sums_are_sums(grid: tuple[int, int], gradients: bool) -> None:
    parts = [loud(BeitRelativePositionBias(small())), loud(BeitRelativePositionBias(small()))]
    with torch.set_grad_enabled(gradients):
        nothing = PositionBias(grid)
        assert nothing.dense(torch.float32) is None
        one = nothing.plus(parts[0], torch.float32)
        both = one.plus(parts[1], torch.float32)
        found = [bias.dense(torch.float32) for bias in (one, both)]
        wanted = [plain(parts[0](grid, as_table=True), grid)]
        wanted.append(wanted[0] + plain(parts[1](grid, as_table=True), grid))
        assert all(map(torch.equal, found, wanted))
        assert both.dense(torch.float16).dtype == torch.float16
        tables = PositionBias(grid, by_head=True).plus(parts[0], torch.float32).plus(parts[1], torch.float32)
        assert torch.equal(tables.total, parts[0](grid, as_table=True) + parts[1](grid, as_table=True))
        with pytest.raises(AssertionError):
            tables.dense(torch.float32)


@pytest.mark.parametrize("by_head", [True, False])
def test_fused_attention_is_the_plain_formula(by_head: bool) -> None:
    part = loud(BeitRelativePositionBias(small()))
    q, k, v = torch.randn(3, 2, 13, 2, 8).transpose(2, 3)
    with torch.no_grad():
        wanted, weights = attention(q, k, v, PositionBias(GRID).plus(part, torch.float32))
        bias = PositionBias(GRID, by_head).plus(part, torch.float32)
        torch.testing.assert_close(fused_attention(q, k, v, bias, 0.0), wanted, atol=1e-5, rtol=1e-5)
    assert wanted.shape == (2, 13, 16)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 13))


def test_compilers_and_wrappers_see_the_tensors_inside() -> None:
    bias, options = PositionBias(GRID, total=torch.zeros(1)), AttentionOptions(head_mask=torch.zeros(2, 1))
    doubled = _pytree.tree_map(lambda x: x + 1 if isinstance(x, torch.Tensor) else x, (bias, options))
    assert doubled == (PositionBias(GRID, total=torch.ones(1)), AttentionOptions(head_mask=doubled[1].head_mask))
    assert doubled[1].head_mask.eq(1).all()


def test_when_biases_are_kept() -> None:
    table = torch.zeros(3, 2)
    assert not KeptBiases.applies(table)  # gradients
    with torch.no_grad():
        assert KeptBiases.applies(table)
        assert not KeptBiases.applies(table.to("meta"))
    with torch.inference_mode():
        assert KeptBiases.applies(table)


def test_a_kept_bias_belongs_to_the_numbers_of_its_table() -> None:
    kept, table, built = KeptBiases(), torch.zeros(3, 2), []

    def build(grid: tuple[int, int]) -> torch.Tensor:
        built.append(grid)
        return table + 1

    first = kept.get(table, GRID, build)
    assert kept.get(table.clone(), GRID, build) is first
    table.data[0] = 5
    assert torch.equal(kept.get(table, GRID, build), table + 1)
    assert kept.get(table.double(), GRID, build) is not first
    assert built == [GRID] * 3
    for twin in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        assert twin.kept is None


def test_the_type_of_products() -> None:
    x = torch.zeros(2, 3)
    assert product_dtype(x) == torch.float32
    assert product_dtype(x.half()) == torch.float16
    with torch.autocast("cpu", torch.bfloat16):
        assert product_dtype(x) == torch.nn.Linear(3, 2)(x).dtype == torch.bfloat16
        assert product_dtype(x.to("meta")) == torch.float32


@pytest.mark.parametrize("changes", BIASES)
def test_the_shared_bias_is_built_once(changes: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    model, built = loud(BeitModel(small(**changes))), []
    build = BeitRelativePositionBias.build
    monkeypatch.setattr(
        BeitRelativePositionBias, "build", lambda self, grid, dtype=None: built.append(self) or build(self, grid, dtype)
    )
    model.train().gradient_checkpointing_enable()
    model(torch.randn(1, 3, 12, 16)).last_hidden_state.sum().backward()
    shared, own = changes["use_shared_relative_position_bias"], changes["use_relative_position_bias"]
    assert built.count(model.encoder.relative_position_bias) == shared
    assert len(built) == shared + 4 * own  # those of layers are built again in the backward pass


@pytest.mark.filterwarnings("ignore")  # what the compiler warns of is not ours
@pytest.mark.slow
@pytest.mark.parametrize("changes", [BIASES[0], BIASES[3]])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_compiled_model_recomputes_its_layers(changes: dict[str, bool], checkpointing: bool) -> None:
    """Without graph breaks, at one size after the other, all that can be asked for included."""
    torch.compiler.reset()  # of what other tests have compiled
    # Two layers share the bias of the first case, each layer of the second has its own; the compiler takes time for each.
    layers = 2 if checkpointing and changes["use_shared_relative_position_bias"] else 1
    model = loud(BeitModel(small(num_hidden_layers=layers, **changes))).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for size in ((12, 16), (16, 8), (24, 12)):
        x, outputs, gradients = torch.randn(2, 3, *size), [], []
        for call in (model, compiled):
            model.zero_grad()
            outputs.append(call(x, head_mask=torch.tensor([0.5, 1.0]), output_attentions=True))
            (outputs[-1].last_hidden_state.square().sum() + outputs[-1].pooler_output.sum()).backward()
            gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        torch.testing.assert_close(outputs[0].last_hidden_state, outputs[1].last_hidden_state, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(outputs[0].attentions, outputs[1].attentions, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
    torch.compiler.reset()
