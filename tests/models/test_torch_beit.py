"""The PyTorch models: the reference's numbers, every shortcut against the plain formula, refusals."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import numpy as np
import pytest

from golden import make_models as golden

torch = pytest.importorskip("torch")
import torch.nn.functional as F

from beit import (
    BeitConfig,
    BeitForImageClassification,
    BeitForMaskedImageModeling,
    BeitModel,
    ConfigError,
    InputError,
)
from beit.checkpoints import names as weights
from beit.checkpoints.names import to_state_dict
from beit.models.torch import beit as pytorch_beit
from beit.models.torch.beit import AttentionOptions
from beit.models.torch.kernels.position_bias import PositionBias

CLASSES = {c.__name__: c for c in (BeitModel, BeitForMaskedImageModeling, BeitForImageClassification)}
CASES = golden.load()
LARGEST = {"outputs": 0.0, "gradients": 0.0}  # largest differences, printed by test_largest_difference


def loud(model: Any, seed: int = 0) -> Any:
    """Fill every parameter with numbers that show in the output, and switch to evaluation."""
    shapes = {name: tensor.shape for name, tensor in model.disk_tensors().items()}
    model.fill(*to_state_dict(golden.draw_weights(shapes, seed)))
    return model.eval()


def pixels(config: BeitConfig, batch: int = 2, seed: int = 0) -> Any:
    height, width = np.broadcast_to(config.image_size, 2)
    return torch.randn(
        batch, config.num_channels, int(height), int(width), generator=torch.Generator().manual_seed(seed)
    )


def some_mask(config: BeitConfig, batch: int = 2) -> Any:
    mask = torch.zeros(batch, config.num_patches, dtype=torch.bool)
    mask[:, ::3] = True
    mask[0, 1] = True
    return mask


# --- the reference's numbers -------------------------------------------------------------------------------------


def build(case: dict[str, Any]) -> Any:
    model = CLASSES[case["kind"]](BeitConfig(**case["config"]), **case["arguments"]).eval()
    model.fill(*to_state_dict(golden.draw_weights(case["shapes"], case["seed"])))
    assert str(model.load_report) == "every tensor of the file has its place"
    assert {n: list(a.shape) for n, a in model.disk_tensors().items()} == case["shapes"]
    return model


def name_of(case: dict[str, Any]) -> str:
    return f"{case['seed']}-{case['kind'].removeprefix('Beit').removeprefix('For')}"


def test_cases_cover_all_switches() -> None:
    assert len(CASES) >= 60
    for kind in CLASSES:
        mine = [case for case in CASES if case["kind"] == kind]
        for switch in [
            "use_absolute_position_embeddings",
            "use_relative_position_bias",
            "use_shared_relative_position_bias",
            "layer_scale_init_value",
            "use_mean_pooling",
            "num_channels",
            "hidden_act",
            "num_hidden_layers",
            "layer_norm_eps",
        ]:
            assert len({case["config"][switch] for case in mine}) > 1, (kind, switch)
        for flag in ("output_attentions", "output_hidden_states", "return_dict", "head_mask", "batch"):
            assert len({case["call"][flag] for case in mine}) > 1, (kind, flag)
        both = [c["config"] for c in mine if c["config"]["use_relative_position_bias"]]
        assert any(config["use_shared_relative_position_bias"] for config in both)
        assert any(isinstance(c["config"]["image_size"], list) for c in mine)
    masks = {case["call"]["mask"] for case in CASES}
    assert masks == {None, "bool", "int"}
    masked = [c["config"] for c in CASES if c["call"]["mask"]]
    assert any(config["use_absolute_position_embeddings"] for config in masked)
    assert {c["config"].get("problem_type", "-") for c in CASES} == {
        "-", None, "regression", "single_label_classification", "multi_label_classification"
    }  # fmt: skip
    assert {c["config"].get("num_labels") for c in CASES} == {None, 0, 1, 3}


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_numbers_of_the_reference(case: dict[str, Any]) -> None:
    model = build(case)
    inputs = {name: torch.from_numpy(array) for name, array in golden.draw_inputs(case).items()}
    weight = inputs.pop("weight")
    asked = {name: case["call"][name] for name in ("output_attentions", "output_hidden_states")}
    for fast in (False, True):  # with gradients, and without (bias kept, fused attention)
        with torch.set_grad_enabled(not fast):
            output = model(**inputs, **asked)
        named = golden.flatten(output)
        assert list(named) == list(case["outputs"])
        for name, (shape, wanted) in case["outputs"].items():
            assert list(named[name].shape) == shape
            got = golden.sample(named[name].detach().numpy())
            LARGEST["outputs"] = max(LARGEST["outputs"], float(np.abs(got[:-1] - wanted[:-1]).max()))
            np.testing.assert_allclose(got[:-1], wanted[:-1], atol=1e-5, rtol=1e-5, err_msg=name)
            np.testing.assert_allclose(got[-1], wanted[-1], atol=1e-3, rtol=1e-4, err_msg=f"sum of {name}")
        if not fast:
            golden.scalar(case["kind"], output, weight).backward()

    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients[name] = parameter.grad.numpy()
    on_disk = weights.to_disk(gradients)
    assert set(on_disk) >= set(case["gradients"])
    for name, (shape, wanted) in case["gradients"].items():
        assert list(on_disk[name].shape) == shape
        got = golden.sample(on_disk[name], 8)
        scale = max(1.0, float(np.abs(on_disk[name]).max()))
        LARGEST["gradients"] = max(LARGEST["gradients"], float(np.abs(got[:-1] - wanted[:-1]).max()) / scale)
        np.testing.assert_allclose(got[:-1] / scale, wanted[:-1] / scale, atol=2e-5, rtol=1e-4, err_msg=name)

    plain = model(**inputs, **asked, return_dict=False)
    shapes = [[list(x.shape) for x in item] if isinstance(item, tuple) else list(item.shape) for item in plain]
    assert shapes == case["tuple_shapes"]
    first = output.to_tuple()[0]
    torch.testing.assert_close(plain[0], first)


def test_largest_difference() -> None:
    print(f"largest differences from the reference: {LARGEST}")
    assert LARGEST["outputs"] < 2e-5


def test_return_dict_and_outputs_from_config(tiny: Any) -> None:
    config = tiny(return_dict=False, output_hidden_states=True, output_attentions=True)
    model = loud(BeitModel(config))
    plain = model(pixels(config))
    assert isinstance(plain, tuple)
    assert [len(x) if isinstance(x, tuple) else None for x in plain] == [None, None, 3, 2]
    output = model(pixels(config), return_dict=True, output_attentions=False)
    assert output.keys() == ("last_hidden_state", "pooler_output", "hidden_states")


# --- shortcuts against the plain formula -------------------------------------------------------------------------


def plain_bias(table: Any, grid: tuple[int, int]) -> Any:
    """The bias by its definition, one pair of tokens at a time."""
    height, width = grid
    tokens = 1 + height * width
    bias = torch.zeros(table.shape[1], tokens, tokens)
    for q in range(tokens):
        for k in range(tokens):
            if q == 0 and k == 0:
                row = len(table) - 1
            elif q == 0:
                row = len(table) - 3
            elif k == 0:
                row = len(table) - 2
            else:
                (qy, qx), (ky, kx) = divmod(q - 1, width), divmod(k - 1, width)
                row = (qy - ky + height - 1) * (2 * width - 1) + qx - kx + width - 1
            bias[:, q, k] = table[row]
    return bias


@pytest.mark.parametrize("image_size", [16, (8, 20)])
def test_bias_is_its_definition(tiny: Any, image_size: Any) -> None:
    config = tiny(image_size=image_size)
    part = pytorch_beit.BeitRelativePositionBias(config)
    torch.nn.init.normal_(part.relative_position_bias_table)
    with torch.no_grad():
        wanted = plain_bias(part.relative_position_bias_table, config.grid)
        for _ in range(2):
            torch.testing.assert_close(part()[0], wanted, rtol=0, atol=0)
    torch.testing.assert_close(part()[0], wanted, rtol=0, atol=0)
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            bias = part(dtype=torch.bfloat16)
        torch.testing.assert_close(bias[0], wanted.bfloat16(), rtol=0, atol=0)
        if gradients:  # what is kept for a CPU is as it was kept
            assert bias.stride(2) % 8 == 0, "GPUs read rows that begin anywhere half as fast"
    part().sum().backward()
    assert part.relative_position_bias_table.grad.sum() == (1 + config.num_patches) ** 2 * config.num_attention_heads


BIASES = [
    {"use_shared_relative_position_bias": False},
    {"use_shared_relative_position_bias": True},
    {"use_shared_relative_position_bias": False, "use_relative_position_bias": True},
    {"use_shared_relative_position_bias": True, "use_relative_position_bias": True},
]


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("grad", [True, False])
def test_fused_attention_is_explicit_attention(tiny: Any, bias: dict[str, bool], grad: bool) -> None:
    config = tiny(**bias)
    model = loud(BeitModel(config))
    x, mask = pixels(config), some_mask(config)
    with torch.set_grad_enabled(grad):
        fast = model(x, mask)
        slow = model(x, mask, output_attentions=True)
        all_heads = model(x, mask, head_mask=torch.ones(config.num_attention_heads))
    torch.testing.assert_close(fast.last_hidden_state, slow.last_hidden_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast.last_hidden_state, all_heads.last_hidden_state, rtol=1e-5, atol=1e-5)
    assert len(slow.attentions) == config.num_hidden_layers
    for attention in slow.attentions:
        assert attention.shape == (2, config.num_attention_heads, 17, 17)
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, config.num_attention_heads, 17))


@pytest.mark.parametrize("bias", BIASES)
def test_gradients_of_fused_and_explicit_attention(
    tiny: Any, bias: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loud(BeitModel(tiny(**bias)))
    x = pixels(model.config)
    gradients = []
    for explicit in (False, True):
        monkeypatch.setattr(pytorch_beit, "plain_is_faster", lambda q, bias, explicit=explicit: explicit)
        model.zero_grad()
        model(x).pooler_output.square().sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], rtol=1e-4, atol=1e-4, msg=name)


def test_head_mask_switches_heads_off(tiny: Any) -> None:
    model = loud(BeitModel(tiny(num_hidden_layers=1)))
    x = pixels(model.config)
    with torch.no_grad():
        full = model(x).last_hidden_state
        half = model(x, head_mask=torch.tensor([1.0, 0.0])).last_hidden_state
        other = model(x, head_mask=torch.tensor([[1.0, 0.0]]), output_attentions=True)
        model.encoder.layer[0].attention.output.dense.weight[:, 8:] = 0  # the second head's half of the output
        wanted = model(x).last_hidden_state
    assert not torch.allclose(full, half)
    torch.testing.assert_close(half, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(half, other.last_hidden_state, rtol=1e-5, atol=1e-5)
    assert (other.attentions[0][:, 1] == 0).all()


def fresh_output(model: Any, x: Any) -> Any:
    """What a newly built model with the same weights says: nothing kept from before."""
    twin = type(model)(model.config)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        return twin.eval().to(model.dtype)(x).last_hidden_state


def replace_table(model: Any) -> None:
    state = {name: value + 0.5 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def step(model: Any, **keywords: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.3, **keywords)
    model(pixels(model.config)).last_hidden_state.square().sum().backward()
    optimizer.step()


def moving_average(model: Any) -> None:
    for parameter in model.parameters():  # as momentum teachers are written everywhere
        parameter.data.mul_(0.5).add_(torch.ones_like(parameter).data, alpha=0.5)


def swap_data(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data * 0.5


def round_trip_dtype(model: Any) -> None:
    model.to(torch.bfloat16)
    model.to(torch.float32)


def in_no_grad(model: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3)


CHANGES = {
    "optimiser": step,
    "optimiser, for each": lambda m: step(m, foreach=True),
    "optimiser, fused": lambda m: step(m, fused=True),
    "load_state_dict": lambda m: m.load_state_dict({n: v * 0.7 for n, v in m.state_dict().items()}),
    "load_state_dict, assigned": replace_table,
    "no_grad": in_no_grad,
    "moving average through .data": moving_average,
    "new .data": swap_data,
    "dtype": lambda m: m.to(torch.float64),
    "dtype and back": round_trip_dtype,
    "init_weights": lambda m: m.init_weights(),
    "fill": lambda m: loud(m, 5),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("bias", BIASES[1:3])
def test_kept_bias_notices_a_change(tiny: Any, change: str, bias: dict[str, bool]) -> None:
    model = loud(BeitModel(tiny(**bias)))
    x = pixels(model.config)
    for _ in range(2):  # twice, so that the second finds what the first left
        with torch.no_grad():
            model(x)
        CHANGES[change](model)
        with torch.no_grad():
            got = model(x).last_hidden_state
        torch.testing.assert_close(got, fresh_output(model, x), rtol=1e-6, atol=1e-6)


def test_kept_bias_survives_inference_mode(tiny: Any) -> None:
    model = loud(BeitModel(tiny()))
    x = pixels(model.config)
    with torch.inference_mode():
        first = model(x).last_hidden_state
    assert model.encoder.relative_position_bias.biases.kept is not None
    model.train()(x).last_hidden_state.sum().backward()
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x).last_hidden_state, first.clone())


def test_bias_is_kept_when_not_training(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loud(BeitModel(tiny()))
    built = []
    build_ = pytorch_beit.BeitRelativePositionBias.build
    monkeypatch.setattr(
        pytorch_beit.BeitRelativePositionBias,
        "build",
        lambda self, grid, dtype=None: built.append(1) or build_(self, grid, dtype),
    )
    with torch.no_grad():
        for _ in range(3):
            model(pixels(model.config))
    assert len(built) == 1


def test_copies_and_pickles_are_independent(tiny: Any) -> None:
    for act in ("gelu", "relu", "selu", "gelu_new"):
        model = loud(BeitModel(tiny(hidden_act=act)))
        x = pixels(model.config)
        with torch.no_grad():
            wanted = model(x).last_hidden_state
            twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
            buffer = io.BytesIO()
            torch.save(model, buffer)
            buffer.seek(0)
            twins.append(torch.load(buffer, weights_only=False))
            for twin in twins:
                torch.testing.assert_close(twin(x).last_hidden_state, wanted)
                twin.encoder.relative_position_bias.relative_position_bias_table.add_(1.0)
                twin.encoder.relative_position_bias.relative_position_bias_table[3:].mul_(-2)
                assert not torch.allclose(twin(x).last_hidden_state, wanted)
            torch.testing.assert_close(model(x).last_hidden_state, wanted)


def test_logits_of_masked_patches_only(tiny: Any) -> None:
    model = loud(BeitForMaskedImageModeling(tiny()))
    x, mask = pixels(model.config), some_mask(model.config)
    labels = torch.arange(int(mask.sum())) % model.config.vocab_size
    outputs, gradients = [], []
    for only in (False, True):
        model.zero_grad()
        outputs.append(model(x, mask, labels=labels, masked_logits_only=only))
        outputs[-1].loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    full, some = outputs
    assert some.logits.shape == (int(mask.sum()), 11)
    torch.testing.assert_close(some.logits, full.logits[mask], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(some.loss, full.loss)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_labels_of_all_patches_are_those_at_the_mask(tiny: Any) -> None:
    model = loud(BeitForMaskedImageModeling(tiny()))
    x, mask = pixels(model.config), some_mask(model.config)
    labels = torch.randint(0, 11, mask.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        by_hand = F.cross_entropy(model(x, mask).logits[mask], labels[mask])
        ways = {
            "at the mask": model(x, mask, labels=labels[mask]),
            "all": model(x, mask, labels=labels),
            "as grids": model(x, mask.view(2, 4, 4), labels=labels.view(2, 4, 4)),
            "0/1 mask": model(x, mask.int(), labels=labels),
            "int32 labels": model(x, mask, labels=labels.int()),
        }
    for way, output in ways.items():
        torch.testing.assert_close(output.loss, by_hand, msg=way)


def test_mask_token_replaces_patches(tiny: Any) -> None:
    """What lies under the mask does not matter; what lies beside it does."""
    model = loud(BeitForMaskedImageModeling(tiny()))
    x, mask = pixels(model.config), some_mask(model.config)
    hidden = mask.view(2, 1, 4, 4).repeat_interleave(4, -1).repeat_interleave(4, -2)
    with torch.no_grad():
        wanted = model(x, mask).logits
        torch.testing.assert_close(model(torch.where(hidden, 7.0, x), mask).logits, wanted)
        assert not torch.allclose(model(torch.where(hidden, x, 7.0), mask).logits, wanted)
        assert not torch.allclose(model(x).logits, wanted)


@pytest.mark.parametrize("keeps", [False, True])
def test_mask_keeps_position(tiny: Any, keeps: bool) -> None:
    config = tiny(
        use_absolute_position_embeddings=True, use_shared_relative_position_bias=False, mask_keeps_position=keeps
    )
    model = loud(BeitModel(config))
    everything = torch.ones(1, config.num_patches, dtype=torch.bool)
    with torch.no_grad():
        tokens = model.embeddings(pixels(config, 1), everything)[0, 1:]
    wanted = model.embeddings.mask_token[0].detach().expand(16, -1)
    if keeps:
        wanted = wanted + model.embeddings.position_embeddings[0, 1:].detach()
    torch.testing.assert_close(tokens, wanted)


def test_absolute_positions_fit_other_sizes(tiny: Any) -> None:
    config = tiny(use_absolute_position_embeddings=True, use_shared_relative_position_bias=False, image_size=(8, 12))
    model = loud(BeitModel(config))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 16, 24)).last_hidden_state.shape == (1, 25, 16)
        model.embeddings.position_embeddings[:, 1:] = 3.0  # flat stays flat
        tokens = model.embeddings(torch.zeros(1, 3, 16, 24))[0, 1:]
        torch.testing.assert_close(tokens, (model.embeddings.patch_embeddings.projection.bias + 3.0).expand(24, -1))


@pytest.mark.filterwarnings("ignore")  # what the compiler warns of is not ours
@pytest.mark.slow
@pytest.mark.parametrize("grad", [False, True])
def test_compile_without_graph_breaks(tiny: Any, grad: bool) -> None:
    torch.compiler.reset()  # of what other tests have compiled
    model = loud(BeitForMaskedImageModeling(tiny(num_hidden_layers=1)))
    x, mask = pixels(model.config), some_mask(model.config)
    labels = torch.ones(int(mask.sum()), dtype=torch.long)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(grad):
        if grad:
            wanted, got = model(x, mask), compiled(x, mask)
        else:
            wanted, got = model(x), compiled(x)
    torch.testing.assert_close(got.logits, wanted.logits, rtol=1e-5, atol=1e-5)
    # Labels pick by the mask, whose count the compiler does not know: allowed to break, not to differ.
    loss = torch.compile(model, backend="aot_eager")(x, mask, labels=labels, masked_logits_only=True).loss
    torch.testing.assert_close(loss, model(x, mask, labels=labels).loss, rtol=1e-5, atol=1e-5)
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")
def test_export_round_trip(tiny: Any) -> None:
    model = loud(BeitForImageClassification(tiny(use_relative_position_bias=True)))
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=8)
        program = torch.export.export(model, (pixels(model.config),), dynamic_shapes=({0: batch},), strict=False)
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        buffer.seek(0)
        again = torch.export.load(buffer).module()
        for size in (1, 2, 5):
            x = pixels(model.config, size, seed=size)
            torch.testing.assert_close(again(x).logits, model(x).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("how", ["autocast", "bfloat16", "float16", "float64"])
def test_other_precisions_are_near(tiny: Any, kind: str, how: str) -> None:
    model = loud(CLASSES[kind](tiny(use_relative_position_bias=True, use_absolute_position_embeddings=True)))
    x, mask = pixels(model.config), some_mask(model.config)
    arguments = {} if kind == "BeitForImageClassification" else {"bool_masked_pos": mask}
    labels = {
        "BeitModel": {},
        "BeitForMaskedImageModeling": {"labels": torch.ones(int(mask.sum()), dtype=torch.long)},
        "BeitForImageClassification": {"labels": torch.tensor([0, 2])},
    }[kind]
    wanted = model(x, **arguments, **labels)
    other = copy.deepcopy(model)
    if how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            got = other(x, **arguments, **labels)
    else:
        got = other.to(getattr(torch, how))(x, **arguments, **labels)
        main = got.last_hidden_state if kind == "BeitModel" else got.logits
        assert main.dtype == getattr(torch, how)
    tolerance = {"autocast": 0.08, "bfloat16": 0.1, "float16": 0.02, "float64": 1e-5}[how]
    for name in wanted.keys():  # noqa: SIM118
        scale = wanted[name].abs().max()
        assert ((got[name] - wanted[name]).abs().max() / scale) < tolerance, name
    if kind != "BeitModel":
        assert got.loss.dtype in (torch.float32, torch.float64)
        got.loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in other.parameters() if p.grad is not None)


@pytest.mark.parametrize("scale", [0, 0.1])
def test_layer_is_its_formula(tiny: Any, scale: float) -> None:
    model = loud(BeitModel(tiny(layer_scale_init_value=scale)))
    layer = model.encoder.layer[1]
    x = torch.randn(2, 17, 16)
    with torch.no_grad():
        bias = model.encoder.relative_position_bias()
        got, _ = layer(x, PositionBias(model.config.grid, total=bias), AttentionOptions())
        q_bias = torch.cat(
            (layer.attention.attention.query.bias, torch.zeros(16), layer.attention.attention.value.bias)
        )
        q, k, v = (
            (layer.layernorm_before(x) @ layer.attention.attention.qkv.weight.T + q_bias).view(2, 17, 3, 2, 8).unbind(2)
        )
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(8) + bias
        y = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(2, 17, 16)
        y = layer.attention.output.dense(y)
        after = x + (y if scale == 0 else layer.lambda_1 * y)
        y = layer.output.dense(F.gelu(layer.intermediate.dense(layer.layernorm_after(after))))
        wanted = after + (y if scale == 0 else layer.lambda_2 * y)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [0, 0.1])
def test_drop_path_drops_whole_samples(tiny: Any, scale: float) -> None:
    torch.manual_seed(0)
    config = tiny(num_hidden_layers=3, drop_path_rate=0.4, layer_scale_init_value=scale)
    model = loud(BeitModel(config)).train()
    assert [layer.drop_path for layer in model.encoder.layer] == pytest.approx([0.0, 0.2, 0.4])
    layer = model.encoder.layer[2]
    x, branch, gamma = torch.zeros(4000, 2, 16), torch.ones(4000, 2, 16), layer.lambda_1
    if gamma is not None:
        gamma.data.fill_(1.0)
    out = layer._add(x, branch, gamma).detach()
    per_sample = out.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    dropped = (per_sample[:, 0] == 0).float().mean().item()
    assert dropped == pytest.approx(0.4, abs=0.04)
    torch.testing.assert_close(out.mean(), torch.tensor(1.0), atol=0.07, rtol=0)  # the expectation stays
    torch.testing.assert_close(out.max(), torch.tensor(1 / 0.6))
    first = model.encoder.layer[0]
    assert (first._add(x, branch, None) == 1).all()
    layer.eval()
    assert (layer._add(x, branch, None) == 1).all()


def test_depth_one_has_no_drop_path(tiny: Any) -> None:
    model = BeitModel(tiny(num_hidden_layers=1, drop_path_rate=0.5))
    assert model.encoder.layer[0].drop_path == 0


def test_training_is_random_and_evaluation_is_not(tiny: Any) -> None:
    for setting in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
        model = loud(BeitModel(tiny(**{"drop_path_rate": 0.0, setting: 0.5})))
        x = pixels(model.config, 8)
        torch.testing.assert_close(model(x).pooler_output, model(x).pooler_output)
        model.train()
        torch.manual_seed(3)
        first = model(x).pooler_output
        torch.manual_seed(3)
        again = model(x).pooler_output
        other = model(x).pooler_output
        torch.testing.assert_close(first, again)
        assert not torch.allclose(first, other), setting
    model = loud(BeitModel(tiny(drop_path_rate=0.0))).train()
    with torch.no_grad():
        torch.testing.assert_close(model(x).pooler_output, model.eval()(x).pooler_output, rtol=1e-5, atol=1e-5)


def test_attention_dropout_keeps_the_mean(tiny: Any) -> None:
    torch.manual_seed(0)
    model = loud(BeitModel(tiny(attention_probs_dropout_prob=0.5, num_hidden_layers=1, drop_path_rate=0.0)))
    x = pixels(model.config, 1)
    attention = model.encoder.layer[0].attention
    with torch.no_grad():
        y = torch.randn(1, 17, 16).expand(3000, -1, -1)
        bias = PositionBias(model.config.grid, total=model.encoder.relative_position_bias())
        wanted = attention(y[:1], bias, AttentionOptions())[0]
        attention.train()
        for weights_too in (False, True):
            mean = attention(y, bias, AttentionOptions(weights_too))[0].mean(0, keepdim=True)
            torch.testing.assert_close(mean, wanted, rtol=0.05, atol=0.12)
    assert model(x).last_hidden_state.shape == (1, 17, 16)


@pytest.mark.parametrize("bias", BIASES)
def test_gradient_checkpointing_changes_nothing(tiny: Any, bias: dict[str, bool]) -> None:
    """The reference drops the shared bias here."""
    model = loud(BeitForMaskedImageModeling(tiny(**bias, drop_path_rate=0.3))).train()
    x, mask = pixels(model.config), some_mask(model.config)
    labels = torch.zeros(int(mask.sum()), dtype=torch.long)
    results = []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        model.zero_grad()
        torch.manual_seed(5)
        loss = model(x, mask, labels=labels).loss
        loss.backward()
        results.append((loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    assert model.beit.encoder.gradient_checkpointing
    torch.testing.assert_close(results[0][0], results[1][0])
    assert results[0][1].keys() == results[1][1].keys()
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=1e-5, atol=1e-6, msg=name)
    tables = [n for n in results[1][1] if n.endswith("table")]
    assert len(tables) == 2 * bias.get("use_relative_position_bias", 0) + bias["use_shared_relative_position_bias"]
    assert all(results[1][1][name].abs().max() > 0 for name in tables)


def saved_numbers(model: Any) -> int:
    """How many numbers a forward pass keeps for the backward pass."""
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        model(pixels(model.config))
    return sum(sizes)


def test_checkpointing_keeps_less(tiny: Any) -> None:
    model = loud(BeitModel(tiny(num_hidden_layers=3))).train()
    kept = []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        kept.append(saved_numbers(model))
    assert kept[1] < kept[0] / 2


# --- losses of classification ------------------------------------------------------------------------------------


def test_first_loss_leaves_the_config_alone(tiny: Any) -> None:
    """The reference writes the first problem type into the config, and then keeps to it."""
    model = loud(BeitForImageClassification(tiny()))
    x = pixels(model.config)
    logits = model(x).logits
    torch.testing.assert_close(
        model(x, labels=torch.tensor([2, 0])).loss, F.cross_entropy(logits, torch.tensor([2, 0]))
    )
    assert model.config.problem_type is None
    several = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    torch.testing.assert_close(model(x, labels=several).loss, F.binary_cross_entropy_with_logits(logits, several))
    for dtype in (torch.int32, torch.int16, torch.uint8):
        loss = model(x, labels=torch.tensor([2, 0], dtype=dtype)).loss
        torch.testing.assert_close(loss, F.cross_entropy(logits, torch.tensor([2, 0])))


def test_ignored_class(tiny: Any) -> None:
    model = loud(BeitForImageClassification(tiny()))
    x = pixels(model.config)
    one = F.cross_entropy(model(x).logits[1:], torch.tensor([1]))
    torch.testing.assert_close(model(x, labels=torch.tensor([-100, 1])).loss, one)


# --- refusals ----------------------------------------------------------------------------------------------------


def refused(call: Any, *words: str, kind: type[Exception] = InputError) -> None:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"


def test_refused_pixels(tiny: Any) -> None:
    model = BeitModel(tiny())
    refused(lambda: model(), "No pixel_values", "(batch, 3, 16, 16)", "BeitImageProcessor")
    refused(lambda: model(torch.zeros(3, 16, 16)), "(3, 16, 16)", "(batch, 3, 16, 16)", "pixel_values[None]")
    refused(lambda: model(torch.zeros(1, 1, 16, 16)), "1 channels", "takes 3", 'convert("RGB")', "num_channels=1")
    for free in (model, BeitModel(tiny(use_shared_relative_position_bias=False))):
        assert free(torch.zeros(1, 3, 8, 24)).last_hidden_state.shape == (1, 13, 16)
        refused(
            lambda free=free: free(torch.zeros(1, 3, 18, 16)), "18x16", "4x4", "16x16 and 20x16", "pad_to_patch=True"
        )
        refused(lambda free=free: free(torch.zeros(1, 3, 0, 16)), "0x16", "sizes are 4x16. Resize")
        refused(lambda free=free: free(torch.zeros(1, 3, 19, 3)), "19x3", "sizes are 20x4. Resize")


def test_refused_masks(tiny: Any) -> None:
    bare = BeitModel(tiny(use_mask_token=False))
    x = torch.zeros(2, 3, 16, 16)
    refused(lambda: bare(x, torch.ones(2, 16)), "no mask token", "use_mask_token=True")
    model = BeitModel(tiny())
    refused(lambda: model(x, torch.ones(2, 17)), "(2, 17)", "(2, 16)")
    refused(lambda: model(x, torch.ones(1, 16)), "(1, 16)", "(2, 16)")
    refused(lambda: model(x, torch.ones(2, 2, 8)), "(2, 2, 8)")


def test_refused_head_masks(tiny: Any) -> None:
    model = BeitModel(tiny(num_hidden_layers=3))
    x = torch.zeros(1, 3, 16, 16)
    refused(lambda: model(x, head_mask=torch.ones(3)), "(3,)", "(2,)", "(3, 2)")
    refused(lambda: model(x, head_mask=torch.ones(2, 2)), "(2, 2)", "(3, 2)")


def test_refused_tokens(tiny: Any) -> None:
    model = BeitForMaskedImageModeling(tiny())
    x, mask = torch.zeros(1, 3, 16, 16), torch.zeros(1, 16, dtype=torch.bool)
    refused(lambda: model(x, labels=torch.zeros(3).long()), "bool_masked_pos", "which patches")
    refused(lambda: model(x, masked_logits_only=True), "bool_masked_pos")
    refused(lambda: model(x, mask, labels=torch.zeros(0).long()), "masks no patch", "at least one")
    refused(lambda: model(x, mask, labels=torch.zeros(1, 16).long()), "masks no patch")
    mask[0, :5] = True
    refused(lambda: model(x, mask, labels=torch.zeros(4).long()), "4 tokens", "5 masked", "(1, 16)")
    refused(lambda: model(x, mask, labels=torch.full((5,), 11)), "11", "vocab_size")
    refused(lambda: model(x, mask, labels=torch.full((5,), -1)), "-1", "vocab_size")


def test_refused_classes(tiny: Any) -> None:
    model = BeitForImageClassification(tiny())
    x = torch.zeros(2, 3, 16, 16)
    refused(lambda: model(x, labels=torch.zeros(3).long()), "(3,)", "(2, 3)", "problem_type")
    refused(lambda: model(x, labels=torch.tensor([0.5, 1.0])), "(2,)", "(2, 3)", "multi_label")
    refused(lambda: model(x, labels=torch.tensor([0, 3])), "3", "num_labels")
    refused(lambda: model(x, labels=torch.tensor([-1, 0])), "-1", "num_labels")
    fixed = BeitForImageClassification(tiny(problem_type="regression"))
    refused(lambda: fixed(x, labels=torch.zeros(2)), "regression", "(2, 3)")


# --- initialisation ----------------------------------------------------------------------------------------------


def test_initialisation_schemes(tiny: Any) -> None:
    torch.manual_seed(0)
    config = tiny(
        hidden_size=64,
        intermediate_size=96,
        initializer_range=0.05,
        layer_scale_init_value=0.3,
        use_absolute_position_embeddings=True,
        use_relative_position_bias=True,
        num_labels=50,
    )
    model = BeitForImageClassification(config)
    state = dict(model.named_parameters())
    first, second = (state[f"beit.encoder.layer.{i}.output.dense.weight"] for i in (0, 1))
    plain = state["beit.encoder.layer.1.intermediate.dense.weight"]
    assert plain.abs().max() <= 0.05
    cut = 0.05 * 0.5396  # of a normal cut at one standard deviation
    assert plain.std().item() == pytest.approx(cut, rel=0.05)
    assert first.std().item() == pytest.approx(cut / math.sqrt(2), rel=0.05)
    assert second.std().item() == pytest.approx(cut / 2, rel=0.05)
    assert state["beit.encoder.layer.1.attention.output.dense.weight"].std().item() == pytest.approx(cut / 2, rel=0.08)
    assert state["classifier.weight"].abs().max() <= 0.05 * 0.001
    assert state["beit.embeddings.cls_token"].abs().max() > 0
    model.init_weights("reference")
    assert plain.std().item() == pytest.approx(0.05, rel=0.05)
    assert plain.abs().max() > 0.1
    assert second.std().item() == pytest.approx(0.05, rel=0.05)
    for scheme in ("reference", "paper"):
        model.init_weights(scheme)
        for name, value in state.items():
            if name.endswith(("lambda_1", "lambda_2")):
                assert (value == 0.3).all(), name
            elif name.endswith(("bias", "table")):
                assert (value == 0).all(), name
            elif "norm" in name:
                assert (value == 1).all(), name
            elif name.endswith(("token", "position_embeddings")):
                assert (value == 0).all() == (scheme == "reference"), name
            else:
                assert value.std() > 0, name
    refused(lambda: model.init_weights("papr"), "papr", "paper", kind=ConfigError)


def test_one_layer_learns(tiny: Any) -> None:
    """A few steps on one batch bring the loss down: gradients point the right way."""
    torch.manual_seed(0)
    model = BeitForMaskedImageModeling(tiny(drop_path_rate=0.0)).train()
    x, mask = pixels(model.config), some_mask(model.config)
    labels = torch.arange(int(mask.sum())) % 11
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(x, mask, labels=labels, masked_logits_only=True).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(11), abs=0.2)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("given", [np.zeros((1, 3, 32, 32), np.float32), [1, 2], "image"])
def test_what_is_no_tensor_is_refused(given: object) -> None:
    config = BeitConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    with pytest.raises(InputError, match=r"pixel_values is a .*wanted a torch.Tensor"):
        BeitModel(config)(given)
    with pytest.raises(InputError, match=r"labels is a str; wanted a torch.Tensor"):
        BeitForImageClassification(config)(torch.zeros(1, 3, 32, 32), labels="cat")
    masked = BeitForMaskedImageModeling(config.replace(use_mask_token=True))
    with pytest.raises(InputError, match="bool_masked_pos is a ndarray"):
        masked(torch.zeros(1, 3, 32, 32), np.ones((1, 16), bool))
