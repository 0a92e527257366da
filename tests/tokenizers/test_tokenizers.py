"""The tokenizer protocol, the DALL-E dVAE and the usage meter. Loading OpenAI's files: test_safe_pickle.py."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F

from beit import tokenizers
from beit.core.errors import CheckpointError, ConfigError, InputError
from beit.tokenizers import (
    CodebookUsage,
    DalleConfig,
    DalleLoss,
    DalleTokenizer,
    Tokenizer,
    codebook_usage,
    load_tokenizer,
)

TINY = DalleConfig(groups=3, blocks_per_group=1, n_hid=8, n_init=12, vocab_size=32)


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    return DalleTokenizer(TINY).eval()


def test_importing_the_package_does_not_load_torch():
    code = "import sys, beit.tokenizers as t; t.codebook_usage([0], 2), t.read_module_tensors, t.load_tokenizer"
    assert subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"]).returncode == 0


def test_public_names_exist():
    for name in tokenizers.__all__:
        assert getattr(tokenizers, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tokenizers.nothing  # noqa: B018


# --- the model ---------------------------------------------------------------------------------------------------


def test_default_is_openais_published_model():
    with torch.device("meta"):
        model = DalleTokenizer()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["encoder.blocks.input.weight"] == (256, 3, 7, 7)
    assert shapes["encoder.blocks.group_4.block_1.id_path.weight"] == (2048, 1024, 1, 1)
    assert shapes["encoder.blocks.group_4.block_2.res_path.conv_3.weight"] == (512, 512, 3, 3)
    assert shapes["encoder.blocks.group_4.block_2.res_path.conv_4.weight"] == (2048, 512, 1, 1)
    assert shapes["encoder.blocks.output.conv.weight"] == (8192, 2048, 1, 1)
    assert shapes["decoder.blocks.input.weight"] == (128, 8192, 1, 1)
    assert shapes["decoder.blocks.group_1.block_1.id_path.weight"] == (2048, 128, 1, 1)
    assert shapes["decoder.blocks.group_4.block_1.res_path.conv_1.weight"] == (64, 512, 1, 1)
    assert shapes["decoder.blocks.group_4.block_2.res_path.conv_4.weight"] == (256, 64, 3, 3)
    assert shapes["decoder.blocks.output.conv.weight"] == (6, 256, 1, 1)
    assert model.grid(112) == (14, 14)
    counts = {part: sum(p.numel() for p in getattr(model, part).parameters()) for part in ("encoder", "decoder")}
    assert counts == {"encoder": 53_786_240, "decoder": 43_829_766}


def test_the_first_layer_starts_centred(tokenizer):
    images = torch.rand(2, 3, 16, 16)
    first = tokenizer.encoder.blocks[0]
    plain = F.conv2d(2 * images - 1, first.weight * 0.4)  # no padding: the border differs
    torch.testing.assert_close(first(0.8 * images + 0.1)[:, :, 3:-3, 3:-3], plain, rtol=0, atol=1e-5)
    assert first.weight.std().item() * 0.4 == pytest.approx((3 * 49) ** -0.5, rel=0.1)


def test_shapes_types_and_protocol(tokenizer):
    assert isinstance(tokenizer, Tokenizer)
    images = torch.rand(2, 3, 16, 24)
    tokens = tokenizer.tokens(images)
    assert (tokens.shape, tokens.dtype) == ((2, 24), torch.int64)
    assert torch.equal(tokens, tokenizer.logits(images).argmax(1).flatten(1))
    assert tokenizer.grid((16, 24)) == (4, 6)
    for given, grid in ((tokens, (4, 6)), (tokens.view(2, 4, 6), None)):
        pictures = tokenizer.decode(given, grid)
        assert pictures.shape == images.shape
        assert pictures.min() >= 0
        assert pictures.max() <= 1
    assert tokenizer.decode(torch.zeros(1, 9, dtype=torch.int32)).shape == (1, 3, 12, 12)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_number_of_groups_and_channels(groups, channels):
    model = DalleTokenizer(DalleConfig(groups, 2, n_hid=4, n_init=4, vocab_size=8, channels=channels))
    images = torch.rand(1, channels, 16, 16)
    side = 16 // 2 ** (groups - 1)
    assert model.tokens(images).shape == (1, side**2)
    assert model.decode(model.tokens(images)).shape == images.shape
    assert model(images).reconstruction.shape == images.shape


def test_decode_by_look_up_equals_the_one_hot_convolution(tokenizer):
    with torch.no_grad():
        tokenizer.decoder.blocks[0].bias.normal_()
        tokens = torch.randint(0, 32, (2, 4, 6))
        one_hot = F.one_hot(tokens, 32).permute(0, 3, 1, 2).float()
        torch.testing.assert_close(
            tokenizer.decoder.from_tokens(tokens), tokenizer.decoder(one_hot), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("size", [(17, 16), (16, 30), (3, 4), (0, 16)])
def test_sizes_that_the_factor_does_not_divide(tokenizer, size):
    with pytest.raises(InputError, match=rf"Got images of {size[0]}×{size[1]} pixels; .* multiples of 4"):
        tokenizer.tokens(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(3, 16, 16),
        torch.zeros(1, 1, 16, 16),
        torch.zeros(1, 16, 16, 3),
        torch.zeros(1, 3, 16, 16, dtype=torch.uint8),
        torch.full((1, 3, 16, 16), -1.0),
        torch.full((1, 3, 16, 16), 255.0),
        torch.full((1, 3, 16, 16), float("nan")),
    ],
)
def test_wrong_images(tokenizer, images):
    with pytest.raises(InputError, match="wanted"):
        tokenizer.tokens(images)


@pytest.mark.parametrize(
    ("tokens", "grid"),
    [
        (torch.zeros(1, 6, dtype=torch.int64), None),
        (torch.zeros(1, 6, dtype=torch.int64), (2, 2)),
        (torch.zeros(6, dtype=torch.int64), (2, 3)),
        (torch.zeros(1, 0, dtype=torch.int64), None),
        (torch.zeros(1, 4), None),
        (torch.full((1, 4), 32), None),
        (torch.full((1, 4), -1), None),
    ],
)
def test_wrong_tokens(tokenizer, tokens, grid):
    with pytest.raises(InputError, match="Got tokens"):
        tokenizer.decode(tokens, grid)


@pytest.mark.parametrize(
    "wrong", [{"n_hid": 6}, {"groups": 0}, {"groups": 40}, {"vocab_size": 2.0}, {"channels": True}]
)
def test_wrong_settings(wrong):
    with pytest.raises(ConfigError, match=f"Got {next(iter(wrong))}="):
        DalleConfig(**wrong)


# --- training ----------------------------------------------------------------------------------------------------


def test_loss_terms_equal_their_formulas(tokenizer, monkeypatch):
    images = torch.rand(2, 3, 8, 8)
    weights = DalleLoss("logit_laplace", reconstruction_weight=2.0, usage_weight=0.3, position_weight=0.05)
    noise = torch.randn(2, 32, 2, 2)
    monkeypatch.setattr(F, "gumbel_softmax", lambda logits, tau, hard, dim: ((logits + noise) / tau).softmax(dim))
    out = tokenizer(images, temperature=0.5, loss=weights)

    logits = tokenizer.logits(images)
    mean, log_scale = tokenizer.decoder(((logits + noise) / 0.5).softmax(1)).chunk(2, 1)
    x = images * 0.8 + 0.1
    density = torch.distributions.Laplace(mean, log_scale.exp()).log_prob(torch.logit(x)) - torch.log(x * (1 - x))
    torch.testing.assert_close(out.reconstruction_loss, -density.mean())

    p = logits.softmax(1)
    entropy = torch.distributions.Categorical(p.movedim(1, -1)).entropy().mean()
    usage = torch.distributions.Categorical(p.mean((0, 2, 3))).entropy()
    torch.testing.assert_close(out.position_kl, math.log(32) - entropy)
    torch.testing.assert_close(out.usage_kl, math.log(32) - usage)
    total = 2 * out.reconstruction_loss + 0.3 * out.usage_kl + 0.05 * out.position_kl
    torch.testing.assert_close(out.loss, total)
    with pytest.raises(ConfigError, match="reconstruction='l1'"):
        tokenizer(images, loss=DalleLoss("l1"))


@pytest.mark.parametrize("kind", ["mse", "logit_laplace"])
@pytest.mark.parametrize("straight_through", [False, True])
def test_every_parameter_gets_a_gradient(tokenizer, kind, straight_through):
    loss = DalleLoss(kind, position_weight=0.01, straight_through=straight_through)
    tokenizer.train()(torch.rand(2, 3, 16, 16), temperature=1.0, loss=loss).loss.backward()
    for name, parameter in tokenizer.named_parameters():
        if kind == "mse" and name.startswith("decoder.blocks.output"):
            continue  # the log-scales have no part in the squared error
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_flat_images_do_not_divide_by_zero(tokenizer):
    out = tokenizer(torch.full((1, 3, 8, 8), 0.5))
    assert out.loss.isfinite()


def test_a_short_training_beats_a_blank_picture_and_uses_the_codes():
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    image = torch.stack([((x // 8 + y // 8) % 2).float(), x / 31, y / 31])[None]
    model = DalleTokenizer(DalleConfig(groups=3, blocks_per_group=1, n_hid=16, n_init=32, vocab_size=32))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    batch = torch.cat([image, image.flip(3)])
    steps = 60
    for step in range(steps):
        optimizer.zero_grad()
        model(batch, temperature=(1 / 16) ** (step / steps)).loss.backward()
        optimizer.step()
    tokens = model.eval().tokens(image)
    blank = image.mean((2, 3), keepdim=True)  # the best picture of one colour
    assert F.mse_loss(model.decode(tokens), image) < 0.5 * F.mse_loss(blank.expand_as(image), image)
    assert codebook_usage(tokens, 32).codes_used >= 8


# --- files -------------------------------------------------------------------------------------------------------


def test_round_trip_through_a_folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "t")
    assert json.loads((tmp_path / "t" / "config.json").read_text())["model_type"] == "dalle_dvae"
    images = torch.rand(2, 3, 8, 8)
    for again in (DalleTokenizer.from_pretrained(tmp_path / "t"), load_tokenizer(str(tmp_path / "t"))):
        assert type(again) is DalleTokenizer
        assert again.config == TINY
        assert not again.training
        assert all(parameter.requires_grad for parameter in again.parameters())
        assert torch.equal(again.logits(images), tokenizer.logits(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "beit"}, "dalle_dvae"),
        ({"n_hid": 16}, r"encoder\.blocks\.input\.weight is \(8, 3, 7, 7\), wanted \(16, 3, 7, 7\)"),
        ({"groups": 2}, "left over"),
        ({"groups": 4}, "missing"),
        ({"n_hid": "8"}, "n_hid='8'"),
        ({"new_field": 1}, r"unknown fields \['new_field'\]"),
    ],
)
def test_folders_that_do_not_fit(tokenizer, tmp_path, change, message):
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        DalleTokenizer.from_pretrained(tmp_path)


def test_load_tokenizer_takes_a_folder_of_pickles(tmp_path):
    (tmp_path / "encoder.pkl").write_text("<html>")
    with pytest.raises(CheckpointError, match=r"encoder\.pkl is a web page"):
        load_tokenizer(tmp_path)
    with pytest.raises(CheckpointError):
        load_tokenizer(tmp_path / "nothing" / "here" / "at" / "all")


# --- usage -------------------------------------------------------------------------------------------------------


def test_codebook_usage_by_hand():
    # Shares 1/2, 1/4, 1/4: entropy 1.5 bits.
    usage = codebook_usage(torch.tensor([[5, 5, 5, 5], [0, 0, 7, 7]]), vocab_size=8)
    assert (usage.codes_used, usage.fraction) == (3, 3 / 8)
    assert usage.perplexity == pytest.approx(2**1.5)
    assert codebook_usage(np.zeros(9, np.int32), 4) == CodebookUsage(1, 0.25, 1.0)
    assert codebook_usage(np.arange(16), 16).perplexity == pytest.approx(16)


@pytest.mark.parametrize("tokens", [[], [0.5], [-1, 0], [0, 8]])
def test_codebook_usage_refuses(tokens):
    with pytest.raises(InputError, match="Got tokens"):
        codebook_usage(tokens, 8)
