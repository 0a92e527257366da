"""What scripts and libraries do with a model from outside: hooks, adapters, offloading, quantising, compiling, exporting, freezing."""

from __future__ import annotations

import copy
import pickle
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.export import Dim

import beit
from beit import BeitConfig, ConfigError
from beit.models.torch.qkv import QKV

KINDS = (
    "BeitModel",
    "BeitForMaskedImageModeling",
    "BeitForImageClassification",
    "BeitForSemanticSegmentation",
    "BeitBackbone",
)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def build(kind: str, **changes: Any) -> Any:
    """A small model of which every parameter shows in the output."""
    config = BeitConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24, image_size=32, patch_size=8,
        vocab_size=11, use_mask_token=True, use_absolute_position_embeddings=True, use_relative_position_bias=True,
        use_shared_relative_position_bias=True, out_indices=[1, 2, 3, 4], segmentation_layers=[1, 2, 3, 4],
        auxiliary_channels=8, **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(beit, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def outputs_of(model: Any, images: torch.Tensor = IMAGES) -> list[torch.Tensor]:
    """All tensors that a call returns, without gradients."""
    with torch.no_grad():
        found = model(images)
    values = found.values() if hasattr(found, "values") else found
    return [tensor for value in values for tensor in (value if isinstance(value, tuple) else [value])]


def same(found: list[torch.Tensor], wanted: list[torch.Tensor], most: float = 1e-6) -> None:
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        scale = max(float(other.abs().max()), 1.0)
        torch.testing.assert_close(one, other, atol=most * scale, rtol=0)


def holds_tensors(module: nn.Module) -> bool:
    return bool([*module.parameters(recurse=False), *module.buffers(recurse=False)])


# --- every module that holds weights is called -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradients", [True, False])
def test_hooks_fire_on_every_module_with_weights(kind: str, gradients: bool) -> None:
    model, fired = build(kind), set()
    wanted = outputs_of(model)
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: fired.add(name))
    given: dict[str, Any] = {}
    if kind == "BeitForSemanticSegmentation":  # the auxiliary head only adds to the loss
        given["labels"] = torch.zeros(2, 32, 32, dtype=torch.long)
    if kind == "BeitForMaskedImageModeling":
        given["bool_masked_pos"] = torch.ones(2, 16)
    with torch.set_grad_enabled(gradients):
        model(IMAGES, **given)
    assert [name for name, module in model.named_modules() if holds_tensors(module) and name not in fired] == []
    assert [name for name, module in model.named_modules() if isinstance(module, QKV) and name not in fired] == []
    same(outputs_of(model), wanted, 2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_weights_are_those_that_compute(kind: str, where: str, tmp_path: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = build(kind)
    wanted = outputs_of(model)
    if where == "cpu":
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(model, str(tmp_path / "offload"), execution_device=torch.device("cpu"))
    assert next(model.parameters()).is_meta
    same(outputs_of(model), wanted)
    for given in (None, model.state_dict()):
        model.save_pretrained(tmp_path / "saved", state_dict=given)
        same(outputs_of(getattr(beit, kind).from_pretrained(tmp_path / "saved")), wanted)


def test_dynamic_quantisation_reaches_every_linear_layer() -> None:
    model = build("BeitForImageClassification")
    wanted = outputs_of(model)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own deprecation
        quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear})
        found = outputs_of(quantised)[0]
    assert not any(type(module) is nn.Linear for module in quantised.modules())
    assert 0 < float((found - wanted).abs().max()) < 0.1 * float(wanted.abs().max())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_model_gives_the_same(kind: str) -> None:
    torch.compiler.reset()
    model = build(kind)
    same(outputs_of(torch.compile(model, backend="eager", fullgraph=True)), outputs_of(model), 2e-6)
    torch.compiler.reset()


# --- adapters ----------------------------------------------------------------------------------------------------------


class LowRank(nn.Module):
    """What PEFT puts in place of a linear layer."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.down = nn.Linear(base_layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, base_layer.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.up(self.down(x))


def adapted(model: nn.Module, *names: str) -> list[LowRank]:
    """Put an adapter on each linear layer of these names, as PEFT's `target_modules` does; on all where there are none."""
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (not names or name.rpartition(".")[2] in names)
    ]
    for name in targets:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, LowRank(model.get_submodule(name)))
    return [module for module in model.modules() if isinstance(module, LowRank)]


@pytest.mark.parametrize("names", [("query", "value"), ("key",), ("qkv",), ("dense",), ("query", "qkv"), ()])
def test_every_adapter_has_a_gradient_and_an_effect(names: tuple[str, ...]) -> None:
    model = build("BeitForImageClassification").requires_grad_(False)
    before = outputs_of(model)[0]
    adapters = adapted(model, *names)
    assert len(adapters) == 4 * {"dense": 3}.get(names[-1] if names else "", len(names)) if names else 7 * 4 + 1
    for adapter in adapters:
        adapter.requires_grad_(True)
        adapter.base_layer.requires_grad_(False)
    model(IMAGES, labels=torch.tensor([0, 1])).loss.backward()
    for adapter in adapters:
        assert adapter.up.weight.grad is not None
        assert adapter.up.weight.grad.abs().sum() > 0
    with torch.no_grad():
        for adapter in adapters:
            adapter.up.weight.zero_()
    torch.testing.assert_close(outputs_of(model)[0], before)
    for adapter in adapters:
        with torch.no_grad():
            adapter.up.weight.normal_()
            assert not torch.allclose(outputs_of(model)[0], before)
            adapter.up.weight.zero_()


def test_an_adapter_on_qkv_can_be_merged() -> None:
    """As PEFT does it."""
    model = build("BeitModel")
    for adapter in adapted(model, "qkv"):
        nn.init.normal_(adapter.up.weight)
    wanted = outputs_of(model)
    for layer in model.encoder.layer:
        adapter = layer.attention.attention.qkv
        delta = (adapter.up.weight @ adapter.down.weight).detach()
        adapter.base_layer.weight.data += delta
        layer.attention.attention.qkv = adapter.base_layer
    same(outputs_of(model), wanted, 1e-5)
    attention = model.encoder.layer[0].attention.attention
    attention.qkv.weight.data = torch.zeros(48, 16)
    assert not attention.key.weight.any()
    attention.qkv.weight, attention.qkv.bias = torch.ones(48, 16), torch.arange(48.0)
    assert attention.value.weight.eq(1).all()
    assert torch.equal(attention.value.bias, torch.arange(32.0, 48.0))
    assert torch.equal(attention.query.bias, torch.arange(16.0))
    assert attention.key.bias is None


def test_an_adapter_on_qkv_is_one_on_its_three_parts() -> None:
    model, other = build("BeitModel"), build("BeitModel")
    whole, parts = adapted(model, "qkv"), adapted(other, "query", "key", "value")
    with torch.no_grad():
        for i, adapter in enumerate(whole):
            for part, up in zip(parts[3 * i : 3 * i + 3], adapter.up.weight.chunk(3), strict=True):
                part.down.weight.copy_(adapter.down.weight)
                part.up.weight.copy_(up)
    same(outputs_of(model), outputs_of(other))


def test_qkv_stands_for_its_three_layers() -> None:
    attention = build("BeitModel").encoder.layer[1].attention.attention
    x = torch.randn(2, 5, 16)
    q, k, v = attention.query(x), attention.key(x), attention.value(x)
    assert attention.key.bias is None
    torch.testing.assert_close(attention.qkv(x), torch.cat((q, k, v), -1))
    torch.testing.assert_close(
        x @ attention.qkv.weight.T + attention.qkv.bias, torch.cat((q, k, v), -1), atol=1e-5, rtol=0
    )
    assert list(attention.qkv.parameters()) == list(attention.qkv.children()) == []
    assert "of query, key and value" in repr(attention.qkv)
    for twin in (copy.deepcopy(attention), pickle.loads(pickle.dumps(attention))):
        with torch.no_grad():
            twin.value.weight.zero_()
            assert twin.qkv(x)[..., 32:].eq(twin.value.bias).all(), "a copy has layers of its own"
        torch.testing.assert_close(attention.value(x), v)


# --- names -------------------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_reference() -> None:
    model = build("BeitForImageClassification")
    assert list(model.state_dict()) == list(model.disk_tensors())
    for name in (
        "beit.embeddings.patch_embeddings.projection",
        "beit.encoder.layer.3.attention.attention.query",
        "beit.encoder.layer.3.attention.output.dense",
        "beit.encoder.layer.3.intermediate.dense",
        "beit.encoder.layer.3.output.dense",
        "beit.encoder.layer.3.layernorm_before",
    ):
        assert holds_tensors(model.get_submodule(name))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("encoder.layer." not in name)
    assert model.num_parameters(only_trainable=True) < 0.3 * model.num_parameters()


def test_older_names_lead_to_the_same_modules() -> None:
    encoder = build("BeitModel").encoder
    assert encoder.layers is encoder.layer
    assert encoder.relative_position is encoder.relative_position_bias
    layer = encoder.layer[0]
    assert layer.attn is layer.attention.attention
    assert layer.norm1 is layer.layernorm_before
    assert layer.gamma2 is layer.lambda_2
    with pytest.raises(AttributeError, match="'BeitLayer' object has no attribute 'norm3'"):
        _ = layer.norm3


# --- traced and exported -----------------------------------------------------------------------------------------------


class Plain(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> Any:
        return self.model(images, return_dict=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradients", [True, False])
def test_traced_with_tuples(kind: str, gradients: bool, tmp_path: Any) -> None:
    model = build(kind)
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(Plain(model), IMAGES, check_trace=False)
    traced.save(tmp_path / "traced.pt")
    other = IMAGES.flip(0) + 0.5
    same(outputs_of(torch.jit.load(tmp_path / "traced.pt"), other), outputs_of(model, other), 2e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_exported_with_dynamic_batch_height_and_width(kind: str) -> None:
    model = build(kind)
    if kind == "BeitForSemanticSegmentation":
        model.fast = False  # a program has the plain formulas
    size = {0: Dim("batch", max=64), 2: 8 * Dim("rows", min=4, max=32), 3: 8 * Dim("columns", min=4, max=32)}
    program = torch.export.export(model, (IMAGES,), dynamic_shapes=(size,)).module()
    for shape in ((1, 3, 32, 32), (3, 3, 48, 40)):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        same(outputs_of(program, images), outputs_of(model, images), 2e-6)


# --- conventions ---------------------------------------------------------------------------------------------------------


def test_what_libraries_ask_of_a_model() -> None:
    model = build("BeitForImageClassification")
    body = model.beit
    assert model.base_model is body
    assert body.base_model is body
    assert model.get_input_embeddings() is body.get_input_embeddings() is body.embeddings.patch_embeddings
    assert model.get_output_embeddings() is None
    assert (model.main_input_name, model.framework, model.base_model_prefix) == ("pixel_values", "pt", "beit")
    assert not model.can_generate()
    assert outputs_of(model, images=model.dummy_inputs["pixel_values"])[0].shape == (1, 2)
    every = sum(parameter.numel() for parameter in model.parameters())
    patches = sum(parameter.numel() for parameter in body.embeddings.patch_embeddings.parameters())
    assert model.num_parameters() == every
    assert model.num_parameters(exclude_embeddings=True) == every - patches
    assert model.get_memory_footprint(return_buffers=False) == 4 * every
    assert model.get_memory_footprint() > 4 * every
    assert model.floating_point_ops({"pixel_values": IMAGES}, exclude_embeddings=False) == 6 * 2 * 17 * every
    assert model.floating_point_ops({}) == 0
    replaced = copy.deepcopy(body.embeddings.patch_embeddings)
    model.set_input_embeddings(replaced)
    assert body.get_input_embeddings() is replaced
    model.post_init()
    model.tie_weights()
    assert model.name_or_path == ""
    model.name_or_path = "somewhere"
    assert model.name_or_path == "somewhere"
    half = beit.BeitModel._from_config(model.config, torch_dtype="bfloat16", attn_implementation="eager")
    assert half.dtype == torch.bfloat16
    for call in (lambda: model.prune_heads({0: [1]}), lambda: model.resize_token_embeddings(5)):
        with pytest.raises(ConfigError):
            call()


def test_gradient_checkpointing_takes_the_arguments_of_trainer() -> None:
    model = build("BeitForImageClassification").train()
    model.config.drop_path_rate = 0.0
    labels = torch.tensor([0, 1])
    gradients = []
    for options in (None, {"use_reentrant": False}, {"use_reentrant": True}):
        model.zero_grad()
        if options and options["use_reentrant"]:
            with pytest.warns(UserWarning, match="use_reentrant=True is not followed"):
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        else:
            model.gradient_checkpointing_enable(options)
        assert model.is_gradient_checkpointing
        torch.manual_seed(1)
        model(IMAGES, labels=labels).loss.backward()
        gradients.append(model.beit.encoder.relative_position_bias.relative_position_bias_table.grad.clone())
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    with pytest.warns(UserWarning, match="offload=True is not followed"):
        model.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=2, offload=True)
    assert model.is_activation_checkpointing
    model.zero_grad()
    torch.manual_seed(1)
    model(IMAGES, labels=labels).loss.backward()
    gradients.append(model.beit.encoder.relative_position_bias.relative_position_bias_table.grad.clone())
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0])


def test_embedded_patches_can_require_gradients() -> None:
    model = build("BeitForImageClassification").requires_grad_(False)
    model.enable_input_require_grads()
    assert model(IMAGES).logits.requires_grad
    model.disable_input_require_grads()
    model.disable_input_require_grads()
    assert not model(IMAGES).logits.requires_grad


def test_the_folders_of_trainer_get_a_config(tmp_path: Any) -> None:
    model, callback = build("BeitForImageClassification"), beit.SaveConfigCallback()
    arguments = SimpleNamespace(output_dir=str(tmp_path), should_save=True)
    (tmp_path / "checkpoint-3").mkdir()
    callback.on_step_end(arguments, None, None)
    with pytest.raises(AttributeError):
        _ = callback.state
    wrapped = nn.DataParallel(torch.compile(model, backend="eager"))
    for folder, call in ((tmp_path / "checkpoint-3", callback.on_save), (tmp_path, callback.on_train_end)):
        call(
            SimpleNamespace(output_dir=str(tmp_path), should_save=False),
            SimpleNamespace(global_step=3),
            None,
            model=model,
        )
        assert not (folder / "config.json").exists()
        call(arguments, SimpleNamespace(global_step=3), None, model=wrapped)
        config = BeitConfig.from_pretrained(folder)
        assert config.architectures == ["BeitForImageClassification"]
        (tmp_path / "config.json").unlink()


def test_adapters_without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    model = build("BeitModel")
    for call in (lambda: model.add_adapter(None), lambda: model.load_adapter("x")):
        with pytest.raises(beit.MissingExtraError, match=r"beit\[peft\]"):
            call()
    for call in (lambda: model.set_adapter("x"), model.disable_adapters, model.enable_adapters):
        with pytest.raises(ConfigError, match="has no adapter"):
            call()
