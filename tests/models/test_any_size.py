"""Images of another size than the model was built for: both frameworks, every shortcut, padding, export, refusals."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("flax")
torch = pytest.importorskip("torch")
import torch.nn.functional as F

import beit
from beit import BeitConfig, InputError
from beit.checkpoints.names import to_state_dict
from beit.core import geometry
from beit.core import resampling as resize
from beit.models.torch import beit as pytorch_beit
from beit.models.torch.kernels import attention as pytorch_attention
from beit.models.torch.kernels import choice, position_bias
from fixtures_flax import close, pair, same_gradients, same_outputs, small
from golden import make_segmentation as golden

pytestmark = pytest.mark.usefixtures("quick_compiles")
MODEL, MASKED, CLASSES, MAPS, BACKBONE = (
    "BeitModel",
    "BeitForMaskedImageModeling",
    "BeitForImageClassification",
    "BeitForSemanticSegmentation",
    "BeitBackbone",
)
KINDS = (MODEL, MASKED, CLASSES, MAPS, BACKBONE)
TABLES = {
    "shared": {"use_shared_relative_position_bias": True, "use_relative_position_bias": False},
    "own": {"use_shared_relative_position_bias": False, "use_relative_position_bias": True},
    "both": {"use_shared_relative_position_bias": True, "use_relative_position_bias": True},
}
GROWN, SHRUNK, MIXED = (40, 56), (16, 24), (48, 16)  # of (24, 32): 5x7, 2x3 and 6x2 patches instead of 3x4
SIZES = (GROWN, SHRUNK, MIXED)


def settings(kind: str, **changes: Any) -> BeitConfig:
    """(24, 32) pixels, 3x4 patches; tables of both sorts, absolute positions."""
    values: dict[str, Any] = {"image_size": (24, 32), "use_absolute_position_embeddings": True, **TABLES["both"]}
    if kind == MAPS:
        values |= {"segmentation_layers": [1, 1, 2, 2], "auxiliary_channels": 4, "pool_scales": [1, 2]}
    if kind == BACKBONE:
        values |= {"out_indices": [1, 2]}
    return small(**{**values, **changes})


def build(kind: str, seed: int = 0, **changes: Any) -> Any:
    """A PyTorch model each of whose numbers shows in the output."""
    model = getattr(beit, kind)(settings(kind, **changes)).eval()
    shapes = {name: array.shape for name, array in model.disk_tensors().items()}
    model.fill(*to_state_dict(golden.draw_weights(shapes, seed)))
    return model


def images(size: tuple[int, int], batch: int = 2) -> Any:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


def some_patches(config: BeitConfig, size: tuple[int, int], batch: int = 2) -> Any:
    patches = int(np.prod(config.grid_of(size)))
    return (torch.arange(batch * patches) % 3 == 0).view(batch, patches)


def arguments(model: Any, size: tuple[int, int]) -> dict[str, Any]:
    given = {"pixel_values": images(size)}
    if type(model).__name__ == MASKED:
        given["bool_masked_pos"] = some_patches(model.config, size)
    return given


def result(output: Any) -> Any:
    """What a model is for: maps, logits or hidden states, as one row of numbers."""
    named = output.get("feature_maps") or [output.get("logits", output.get("last_hidden_state"))]
    return torch.cat([x.detach().flatten() for x in named])


def built_for(model: Any, size: tuple[int, int]) -> Any:
    """A model of this size with resized tables and positions and otherwise the same numbers."""
    old = model.config.grid
    other = type(model)(model.config.replace(image_size=size)).eval().to(next(model.parameters()).dtype)
    state = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("relative_position_bias_table"):
            tensor = torch.from_numpy(resize.resize_table(tensor.numpy(), old, other.config.grid))
        elif name.endswith("embeddings.position_embeddings"):
            tensor = torch.from_numpy(resize.resize_positions(tensor.numpy(), old, other.config.grid))
        state[name] = tensor
    other.load_state_dict(state)
    return other


# --- the same model, whatever its size -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tables", TABLES)
def test_it_is_the_model_built_for_that_size(kind: str, tables: str) -> None:
    model = build(kind, **TABLES[tables])
    for size in SIZES:
        given, other = arguments(model, size), built_for(model, size)
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                got, wanted = result(model(**given)), result(other(**given))
            assert got.shape == wanted.shape
            scale = max(1.0, float(wanted.abs().max()))
            torch.testing.assert_close(got / scale, wanted / scale, atol=5e-6, rtol=0)
    model = model.double()  # where rounding does not show
    given = {name: x.double() if x.is_floating_point() else x for name, x in arguments(model, MIXED).items()}
    torch.testing.assert_close(result(model(**given)), result(built_for(model, MIXED)(**given)), atol=1e-6, rtol=0)


def test_tables_matter() -> None:
    """Models of another size would answer the same if positions were left out."""
    model = build(CLASSES)
    before = model(images(GROWN)).logits
    with torch.no_grad():
        model.beit.encoder.layer[0].attention.attention.relative_position_bias.relative_position_bias_table[:4] += 1
    assert not torch.allclose(model(images(GROWN)).logits, before, atol=1e-3)


def test_gradients_reach_the_tables() -> None:
    """They are those of the model built for that size, led back through the linear map."""
    model = build(MASKED).double()
    other = built_for(model, MIXED)
    given = arguments(model, MIXED)
    given["pixel_values"] = given["pixel_values"].double()
    labels = torch.arange(int(given["bool_masked_pos"].sum())) % 11
    for each in (model, other):
        each(**given, labels=labels).loss.backward()
    theirs = dict(other.named_parameters())
    tables = 0
    for name, parameter in model.named_parameters():
        wanted = theirs[name].grad
        if name.endswith("relative_position_bias_table"):
            tables += 1
            rows, columns = (
                torch.from_numpy(resize.table_weights(have, want).astype(np.float64))
                for have, want in zip((3, 4), (6, 2), strict=True)
            )
            near = torch.einsum("yh,xw,yxc->hwc", rows, columns, wanted[:-3].view(11, 3, 2)).flatten(0, 1)
            wanted = torch.cat((near, wanted[-3:]))
            assert wanted.abs().max() > 1e-4
        if not name.endswith("position_embeddings"):
            torch.testing.assert_close(parameter.grad, wanted, atol=1e-8, rtol=0, msg=name)
    assert tables == 3


@pytest.mark.parametrize("size", SIZES)
def test_attention_weights(size: tuple[int, int]) -> None:
    model = build(MODEL)
    with torch.no_grad():
        output = model(images(size), output_attentions=True)
        tokens = 1 + model.config.grid_of(size)[0] * model.config.grid_of(size)[1]
        assert [x.shape for x in output.attentions] == [(2, 2, tokens, tokens)] * 2
        torch.testing.assert_close(sum(x.sum(-1) for x in output.attentions), torch.full((2, 2, tokens), 2.0))
        torch.testing.assert_close(output.last_hidden_state, model(images(size)).last_hidden_state, atol=1e-5, rtol=0)
        masked = model(images(size), head_mask=torch.ones(2)).last_hidden_state
        torch.testing.assert_close(masked, output.last_hidden_state)


@pytest.mark.parametrize("how", ["autocast", "bfloat16", "float16", "meta"])
def test_other_precisions(how: str) -> None:
    model = build(CLASSES)
    x = images(GROWN)
    wanted = model(x).logits
    table = model.beit.encoder.relative_position_bias
    if how == "autocast":
        exact = table((5, 7), as_table=True)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(table((5, 7), as_table=True), exact)
            got = model(x).logits
    elif how == "meta":
        with torch.device("meta"):  # as a run's cost is counted; what is kept between models stays sound
            output = beit.BeitForImageClassification(model.config).eval()(torch.zeros(2, 3, 16, 64))
        assert output.logits.shape == wanted.shape
        assert torch.isfinite(model(images((16, 64))).logits).all()
        assert model.to("meta")(x.to("meta")).logits.shape == wanted.shape
        return
    else:
        kind = getattr(torch, how)
        got = copy.deepcopy(model).to(kind)(x).logits
        exact = table((5, 7), as_table=True)
        assert got.dtype == kind
        torch.testing.assert_close(table.to(kind)((5, 7), as_table=True).float(), exact, rtol=0.02, atol=0.02)
    assert (got.float() - wanted).abs().max() < 0.1 * wanted.abs().max()


def test_gradient_checkpointing_changes_nothing() -> None:
    model = build(MAPS).train()
    labels = torch.arange(2 * 40 * 56).view(2, 40, 56) % 3
    losses, gradients = [], []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        model.zero_grad()
        losses.append(model(images(GROWN), labels=labels).loss)
        losses[-1].backward()
        gradients.append(model.beit.encoder.relative_position_bias.relative_position_bias_table.grad)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


# --- shortcuts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tables", TABLES)
def test_head_by_head(tables: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = build(MODEL, **TABLES[tables]), []
    wanted = {size: model(images(size)).last_hidden_state for size in (*SIZES, (24, 32))}
    monkeypatch.setattr(choice, "_decided", dict(choice.FAST))
    monkeypatch.setattr(pytorch_attention, "_FEWEST_TOKENS", 2)
    attend = pytorch_attention.attend_head_by_head
    monkeypatch.setattr(
        pytorch_attention, "attend_head_by_head", lambda *given: calls.append(given[4]) or attend(*given)
    )
    with torch.no_grad():
        for size, output in wanted.items():
            torch.testing.assert_close(model(images(size)).last_hidden_state, output, atol=1e-5, rtol=1e-5)
    assert calls == [grid for grid in ((5, 7), (2, 3), (6, 2), (3, 4)) for _ in range(2)]


@pytest.mark.parametrize("size", [(72, 40), (40, 88)])
def test_upernet_of_another_size(size: tuple[int, int]) -> None:
    model = build(MAPS, pool_scales=[1, 2, 3, 6], hidden_size=32).double()
    x = images(size, 1).double()
    with torch.no_grad():
        fast = model(x).logits
        assert model.folded.kept is not None, "the fast way was taken"
        model.fast = False
        plain = model(x).logits
    assert plain.shape == (1, 3, size[0] // 2, size[1] // 2)
    torch.testing.assert_close(fast, plain, atol=1e-10, rtol=1e-10)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Grids for which a bias was built."""
    noted: list[tuple[int, int]] = []
    build_ = pytorch_beit.BeitRelativePositionBias.build
    monkeypatch.setattr(
        pytorch_beit.BeitRelativePositionBias,
        "build",
        lambda self, grid, dtype=None: noted.append(grid) or build_(self, grid, dtype),
    )
    return noted


def test_bias_is_kept_for_each_size(built: list[tuple[int, int]]) -> None:
    model = build(MODEL, **TABLES["shared"])
    grids = [(3, 4), (5, 7), (6, 2)]
    with torch.inference_mode():
        for _ in range(3):
            for size in ((24, 32), GROWN, MIXED):
                first = model(images(size)).last_hidden_state
    assert built == grids
    with torch.no_grad():
        model.encoder.relative_position_bias.relative_position_bias_table.data[10:] *= -2  # raises no version
        assert not torch.allclose(model(images(MIXED)).last_hidden_state, first, atol=1e-3)
        model(images(GROWN))
        model(images(MIXED))
    assert built == [*grids, (6, 2), (5, 7)]
    model.train()(images(MIXED)).last_hidden_state.sum().backward()  # what inference mode made is not in the way
    assert model.encoder.relative_position_bias.relative_position_bias_table.grad is not None


def test_few_biases_are_kept(built: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    part = build(MODEL, **TABLES["shared"]).encoder.relative_position_bias
    with torch.no_grad():
        for rows in (1, 2, 4, 5, 6):
            part((rows, 4))
        assert list(part.biases.kept[1]) == [(2, 4), (4, 4), (5, 4), (6, 4)]
        monkeypatch.setattr(position_bias, "_MOST_KEPT_NUMBERS", 2 * 29 * 29)
        part((7, 4))
        assert list(part.biases.kept[1]) == [(7, 4)]
        part((8, 4))  # too large by itself, and kept all the same
        part((8, 4))
    assert built == [(rows, 4) for rows in (1, 2, 4, 5, 6, 7, 8)]


def test_copies_and_pickles_build_their_own() -> None:
    model = build(MODEL)
    with torch.no_grad():
        wanted = model(images(GROWN)).last_hidden_state
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert twin.encoder.relative_position_bias.biases.kept is None
            torch.testing.assert_close(twin(images(GROWN)).last_hidden_state, wanted)
            twin.encoder.relative_position_bias.relative_position_bias_table[3:] *= -2
            assert not torch.allclose(twin(images(GROWN)).last_hidden_state, wanted, atol=1e-3)
        torch.testing.assert_close(model(images(GROWN)).last_hidden_state, wanted)


# --- Flax ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MODEL, MASKED, CLASSES, MAPS])
def test_the_frameworks_agree(kind: str) -> None:
    model, flax_model, params = pair(kind, settings(kind))
    for size in (GROWN, MIXED):
        given = arguments(model, size)
        asked = {"output_attentions": size == MIXED, "output_hidden_states": size == MIXED}
        with torch.no_grad():
            wanted = model(**given, **asked)
        got = flax_model(**{name: x.numpy() for name, x in given.items()}, **asked, params=params)
        assert same_outputs(got, wanted, 1e-5) < 1e-5


def test_flax_tables_are_resized_as_in_pytorch() -> None:
    from beit.models.flax import beit as flax_beit

    model, _, params = pair(MODEL, settings(MODEL))
    part, table = flax_beit.FlaxBeitRelativePosition(model.config), params["encoder"]["relative_position"]
    for grid in ((5, 7), (2, 3), (6, 2), (3, 4)):
        wanted = model.encoder.relative_position_bias(grid).detach()
        scale = float(wanted.abs().max())  # splines through random numbers overshoot
        close(part.apply({"params": table}, grid) / scale, wanted / scale, 1e-6)
    half = jax.tree.map(lambda x: x.astype(jax.numpy.bfloat16), table)
    got = part.apply({"params": half}, (5, 7))
    assert got.dtype == jax.numpy.bfloat16
    close(got.astype(np.float32), model.encoder.relative_position_bias((5, 7)), 0.1)


def test_flax_gradients_of_another_size() -> None:
    """Through recomputed layers, to which the grid is a constant."""
    config = settings(CLASSES)
    model, _, params = pair(CLASSES, config)
    flax_model = beit.FlaxBeitForImageClassification(config, _do_init=False, gradient_checkpointing=True)
    x, labels = images(MIXED), torch.tensor([0, 2])

    @jax.jit
    @jax.value_and_grad
    def loss(params: Any) -> Any:
        return flax_model(x.numpy(), params=params, labels=labels.numpy(), train=True).loss

    got, gradients = loss(params)
    wanted = model.train()(x, labels=labels).loss
    wanted.backward()
    close(got, wanted, 1e-5)
    same_gradients(gradients, model)


# --- padding ---------------------------------------------------------------------------------------------------------

ODD, PADDED = (19, 30), (24, 32)


def padded(x: Any, value: int = 0) -> Any:
    return F.pad(x, (0, PADDED[1] - ODD[1], 0, PADDED[0] - ODD[0]), value=value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image_size", [PADDED, (48, 48)])
def test_padding_is_zeros_below_and_right(kind: str, image_size: tuple[int, int]) -> None:
    model = build(kind, pad_to_patch=True, image_size=image_size)
    plain = build(kind, image_size=image_size)
    x, more = images(ODD), {"bool_masked_pos": some_patches(model.config, ODD)} if kind == MASKED else {}
    assert model.config.grid_of(ODD) == (3, 4)
    torch.testing.assert_close(result(model(x, **more)), result(plain(padded(x), **more)), atol=0, rtol=0)
    torch.testing.assert_close(result(model(padded(x), **more)), result(plain(padded(x), **more)), atol=0, rtol=0)
    tiny = model(images((17, 9)), **({"bool_masked_pos": torch.ones(2, 3, 2)} if more else {}))
    assert torch.isfinite(result(tiny)).all()


@pytest.mark.parametrize("kind", [MASKED, MAPS])
def test_flax_pads_alike(kind: str) -> None:
    model, flax_model, params = pair(kind, settings(kind, pad_to_patch=True))
    given = arguments(model, ODD)
    labels = torch.arange(2 * 19 * 30).view(2, *ODD) % 3
    if kind == MASKED:
        labels = torch.arange(2 * 12).view(2, 12) % 11
    with torch.no_grad():
        wanted = model(**given, labels=labels)
    got = flax_model(**{name: x.numpy() for name, x in given.items()}, labels=labels.numpy(), params=params)
    same_outputs(got, wanted, 1e-5)
    if kind == MAPS:
        words = []
        for call in (
            lambda: model(**given, labels=labels[:, :18]),
            lambda: flax_model(images(ODD).numpy(), labels=labels[:, :18].numpy(), params=params),
        ):
            with pytest.raises(
                InputError, match=r"labels are 18x30 for images of 19x30 pixels.*padded to 24x32"
            ) as caught:
                call()
            words.append(str(caught.value))
        assert words[0] == words[1]


def test_padded_pixels_do_not_count() -> None:
    model, plain = build(MAPS, pad_to_patch=True), build(MAPS)
    x, labels = images(ODD), torch.arange(2 * 19 * 30).view(2, *ODD) % 3
    ignore = model.config.semantic_loss_ignore_index
    output = model(x, labels=labels)
    assert output.logits.shape == (2, 3, 12, 16)
    wanted = plain(padded(x), labels=padded(labels, ignore)).loss
    torch.testing.assert_close(output.loss, wanted, atol=0, rtol=0)
    torch.testing.assert_close(model(x, labels=padded(labels, ignore)).loss, wanted, atol=0, rtol=0)
    scores = F.interpolate(output.logits, size=PADDED, mode="bilinear")[:, :, : ODD[0], : ODD[1]]
    model.config.auxiliary_loss_weight = 0.0
    torch.testing.assert_close(model(x, labels=labels).loss, F.cross_entropy(scores, labels))
    assert torch.isfinite(model(padded(x), labels=labels[:, :7]).loss), "of any size where nothing is padded"


def test_the_setting_is_a_field_like_others(tmp_path: Any) -> None:
    model = build(CLASSES, pad_to_patch=True)
    model.save_pretrained(tmp_path)
    assert beit.load(tmp_path).config.pad_to_patch
    assert beit.BeitForImageClassification.from_pretrained(tmp_path, pad_to_patch=False).config.pad_to_patch is False
    assert BeitConfig().pad_to_patch is False
    torch.testing.assert_close(beit.load(tmp_path)(images(ODD)).logits, model(images(ODD)).logits)


# --- export ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # what the compiler warns of is not ours
@pytest.mark.parametrize("kind", [MASKED, CLASSES, MAPS])
@pytest.mark.parametrize(("gradients", "strict"), [(True, False), (False, False), (False, True)])
def test_export(kind: str, gradients: bool, strict: bool) -> None:
    layers = {} if strict else {"num_hidden_layers": 1, "segmentation_layers": [1, 1, 1, 1]}
    model = build(kind, **layers)
    size = {MASKED: (56, 8), CLASSES: (8, 64), MAPS: (56, 16)}[kind] if gradients else (64, 24)
    given = arguments(model, size)
    with torch.set_grad_enabled(gradients):  # exported first: what is kept afterwards is no tracer's
        program = torch.export.export(model, (), given, strict=strict)
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        buffer.seek(0)
        again = torch.export.load(buffer).module()
        for batch in (given, {name: x.flip(0) for name, x in given.items()}):
            torch.testing.assert_close(again(**batch).logits, model(**batch).logits, atol=2e-5, rtol=1e-5)


@pytest.fixture
def compiler() -> Iterator[Any]:
    """`torch.compile` that remembers nothing of earlier tests. Without PyTorch's own back end, which takes a C++ compiler."""
    torch.compiler.reset()
    yield functools.partial(torch.compile, fullgraph=True, backend="aot_eager")
    torch.compiler.reset()


def same_when_compiled(compiled: Any, model: Any, sizes: Sequence[tuple[int, int]]) -> None:
    for size in sizes:
        given = arguments(model, size)
        torch.testing.assert_close(compiled(**given).logits, model(**given).logits, atol=2e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [MASKED, CLASSES, MAPS])
@pytest.mark.parametrize("gradients", [True, False])
def test_compile_without_graph_breaks_at_one_size_after_the_other(compiler: Any, kind: str, gradients: bool) -> None:
    """From the second size on the compiler leaves height and width open. What it takes seconds for is the number of layers."""
    if kind == MAPS:
        sizes, changes = [(32, 48), (48, 64), (64, 32), (32, 80)], {"segmentation_layers": [1, 1, 1, 1]}
    else:
        sizes, changes = [(32, 16), (48, 48), (64, 16), (16, 80)], {}
    model = build(kind, num_hidden_layers=1 if gradients or kind == MAPS else 2, **changes)
    with torch.set_grad_enabled(gradients):
        same_when_compiled(compiler(model), model, sizes)


@pytest.mark.filterwarnings("ignore")
def test_compile_without_graph_breaks_where_a_pyramid_ends_at_one_patch(compiler: Any) -> None:
    """The coarsest maps are one patch wide, or high: each is a program of its own."""
    model = build(MAPS, num_hidden_layers=1, segmentation_layers=[1, 1, 1, 1])
    with torch.no_grad():
        same_when_compiled(compiler(model, backend="eager"), model, [(64, 16), (16, 80)])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("gradients", [True, False])
def test_trace(gradients: bool) -> None:
    model = build(CLASSES, return_dict=False)
    x = images((16, 56))
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(model, x, check_trace=False)
        torch.testing.assert_close(traced(x.flip(0))[0], model(x.flip(0))[0], atol=1e-5, rtol=0)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, TABLES["own"], {"use_shared_relative_position_bias": False}])
def test_parts_of_patches_are_refused(changes: dict[str, Any]) -> None:
    model = build(MODEL, **changes)
    with pytest.raises(InputError, match=r"Images are 19x32 pixels.*8x8.*16x32 and 24x32.*pad_to_patch=True"):
        model(images((19, 32)))
    with pytest.raises(InputError, match=r"Images are 7x33 pixels.*sizes are 8x40"):
        model(images((7, 33)))


def test_a_pyramid_needs_two_patches_each_way() -> None:
    words = r"Images are 8x32 pixels, 1x4 patches.*at least 16x16 pixels"
    with pytest.raises(InputError, match=words):
        build(MAPS)(images((8, 32)))
    four = build(BACKBONE, num_hidden_layers=4, out_indices=[1, 2, 3, 4], add_fpn=True)
    with pytest.raises(InputError, match=words):
        four(images((8, 32)))
    maps = four(images(MIXED)).feature_maps
    assert [tuple(x.shape[2:]) for x in maps] == [(24, 8), (12, 4), (6, 2), (3, 1)]
    assert build(BACKBONE)(images((8, 32))).feature_maps[0].shape == (2, 16, 1, 4)
    with pytest.raises(InputError, match="1x2 patches"):
        build(MAPS, pad_to_patch=True)(images((5, 9)))


def test_masks_are_of_the_images_grid() -> None:
    model = build(MASKED)
    for mask in (torch.ones(2, 35), torch.ones(2, 5, 7)):
        assert model(images(GROWN), mask).logits.shape == (2, 35, 11)
    for mask in (torch.ones(2, 12), torch.ones(2, 7, 5)):
        with pytest.raises(InputError, match=r"wanted \(2, 35\)"):
            model(images(GROWN), mask)


def test_one_patch_either_way() -> None:
    """A table of a single displacement grows too."""
    for image_size, size in (((8, 8), (16, 24)), ((24, 32), (8, 8)), ((8, 32), (24, 8))):
        model = build(MODEL, image_size=image_size)
        output = model(images(size)).last_hidden_state
        assert torch.isfinite(output).all()
        torch.testing.assert_close(output, built_for(model, size)(images(size)).last_hidden_state, atol=1e-5, rtol=0)
    assert geometry.num_relative_distances((1, 1)) == 4
