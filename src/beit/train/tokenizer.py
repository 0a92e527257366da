"""Train a visual tokenizer on your own images: a dVAE whose codebook stays in use (`beit tokenizer train`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from beit.core.errors import DataError
from beit.data.loader import Loader
from beit.data.order import Order
from beit.data.sources import open_images
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import Images
from beit.data.sources.in_memory import hold_in_memory
from beit.data.sources.stream import Stream, count_of
from beit.data.transforms.crops import view
from beit.data.transforms.tokenizer import TokenizerViews
from beit.data.workers.torch import in_torch_workers
from beit.tokenizers import codebook_usage
from beit.tokenizers.dalle.torch import DalleConfig, DalleLoss, DalleTokenizer
from beit.train.loop import Job, train
from beit.train.run import open_run
from beit.train.settings import TokenizerSettings
from beit.train.torch.distributed import Accelerated
from beit.train.torch.engine import Batch, Metrics, TorchEngine, check
from beit.train.torch.optim import adamw, parameter_groups


def train_tokenizer(settings: TokenizerSettings, images: Images | Stream | None = None) -> list[dict[str, float]]:
    """Train a tokenizer and save it in `settings.output`.

    Args:
        settings: what to do.
        images: used instead of those that the settings name.

    Returns:
        The lines of the log: loss, reconstruction (part of the pixels' variance that is lost), `codes_used` (part of
        the codebook that encodes something in the last lines' images) and `perplexity` (codes in use, weighted).

    Raises:
        BeitError: as `beit.train.loop.train`, and for settings or images that cannot be used.
    """
    torch.manual_seed(settings.seed)
    processes = Accelerated()
    run = open_run(settings, processes, check)
    source = images if images is not None else open_images(settings.images, shuffle_buffer=settings.shuffle_buffer)
    bad = BadImages(count_of(source))
    source = hold_in_memory(source, bad, settings.image_size)
    order = Order.of(source, settings)
    loader = Loader(
        source,
        TokenizerViews(settings.image_size, settings.crop_scale),
        order,
        bad,
        settings.workers,
        run.rank,
        run.world,
        in_torch_workers,
    )
    model = new_tokenizer(settings) if run.checkpoint is None else DalleTokenizer.from_pretrained(run.checkpoint)
    model.grid(settings.image_size)  # says what to do when the factor does not divide it
    steps = settings.total_steps(loader.steps_per_epoch)
    weights = DalleLoss(usage_weight=settings.usage_weight)
    counts = torch.zeros(model.vocab_size, dtype=torch.long, device=processes.device)

    def loss(module: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        # Straight down on a log scale, as in the paper, reaching the end at 4/5 of the run: then codes can settle.
        cooled = min(step / (0.8 * steps), 1.0)
        output = module(batch["images"], math.exp(math.log(settings.min_temperature) * cooled), weights)
        tokens = output.logits.detach().argmax(1)
        counts.add_(torch.bincount(tokens.flatten(), minlength=model.vocab_size))
        return output.loss, {"reconstruction": output.reconstruction_loss.detach()}

    def usage() -> dict[str, float]:
        found = processes.accelerator.reduce(counts, reduction="sum").cpu()  # over all processes
        p = found.double() / found.sum()
        entropy = -(p * p.clamp(min=1e-12).log()).sum()
        line = {"codes_used": float((found > 0).double().mean()), "perplexity": float(entropy.exp())}
        counts.zero_()
        return line

    def optimizer() -> torch.optim.Optimizer:
        return adamw(parameter_groups(model, settings.weight_decay), settings.beta2)

    def save(module: Any, folder: Path) -> None:
        module.save_pretrained(folder)

    return train(run, Job(lambda run: TorchEngine(run, model, optimizer, loss), loader, steps, save, extra=usage))


def new_tokenizer(settings: TokenizerSettings) -> DalleTokenizer:
    """An untrained tokenizer of the size that the settings name."""
    groups = int(math.log2(settings.factor)) + 1
    return DalleTokenizer(
        DalleConfig(
            groups=groups,
            blocks_per_group=settings.blocks,
            n_hid=settings.width,
            n_init=min(128, 4 * settings.width),
            vocab_size=settings.vocab_size,
        )
    )


@torch.no_grad()
def measure(tokenizer: Any, images: Tensor, batch_size: int = 256) -> dict[str, float]:
    """How good a tokenizer is on images it may not have seen.

    Args:
        tokenizer: any tokenizer.
        images: float32 `(n, 3, H, W)` in [0, 1].
        batch_size: images at a time.

    Returns:
        `codes_used` and `perplexity` as in training; `error`: mean squared error of the pictures decoded from tokens;
        `blank`: that of the mean picture, which knows nothing.
    """
    tokens, error = [], 0.0
    mean = images.mean(0)
    for part in images.split(batch_size):
        found = tokenizer.tokens(part)
        grid = tokenizer.grid((part.shape[2], part.shape[3]))
        error += float(((tokenizer.decode(found, grid) - part) ** 2).sum())
        tokens.append(found)
    usage = codebook_usage(torch.cat(tokens), tokenizer.vocab_size)
    return {
        "codes_used": usage.fraction,
        "perplexity": usage.perplexity,
        "error": error / images.numel(),
        "blank": float(((images - mean) ** 2).mean()),
    }


def evaluate_tokenizer(folder: str | Path, images: Images, size: int) -> dict[str, float]:
    """`measure` a saved tokenizer on up to 1,000 images, cropped to the centre square and resized to `size` pixels.

    Raises:
        DataError: more than a tenth of them cannot be read.
        CheckpointError, InputError: there is no such tokenizer, or it does not take this size.
    """
    from beit.tokenizers import load_tokenizer

    chosen = np.linspace(0, len(images) - 1, min(len(images), 1000)).astype(int)
    bad = BadImages(len(chosen))
    views = []
    for index in chosen:
        try:
            image = images.read(int(index))
        except DataError as error:
            bad.add(str(error))
            continue
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        views.append(view(image, (left, top, left + side, top + side), (size, size), Image.Resampling.LANCZOS, False))
    return measure(load_tokenizer(folder), torch.from_numpy(np.stack(views)))
