"""Train a visual tokenizer on your own images: a dVAE whose codebook stays in use (`beit tokenizer train`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beit.core.errors import DataError
from beit.data.loader import Loader
from beit.data.order import Order
from beit.data.sources import open_images
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import Images
from beit.data.sources.in_memory import hold_in_memory
from beit.data.sources.stream import Stream, count_in_words, count_of
from beit.data.transforms.crops import view
from beit.data.transforms.tokenizer import TokenizerViews
from beit.evaluation.reports import report_on_run
from beit.tokenizers import load_tokenizer
from beit.train.card import Card
from beit.train.framework import tokenizer_training
from beit.train.loop import Job, train
from beit.train.run import from_last_good, open_run
from beit.train.settings import TokenizerSettings

_MOST_EVALUATED = 1000  # images


@from_last_good
def train_tokenizer(settings: TokenizerSettings, images: Images | Stream | None = None) -> list[dict[str, float]]:
    """Train a tokenizer and save it in `settings.output`.

    Args:
        settings: what to do.
        images: used instead of those that the settings name.

    Returns:
        The lines of the log: loss, `reconstruction` (fraction of the pixels' variance that is lost), `codes_used` (fraction
        of the codebook that encodes something in the images of this line) and `perplexity` (e to the entropy of the codes:
        how many equally frequent codes would say as much).

    Raises:
        BeitError: as `beit.train.loop.train`, and for settings or images that cannot be used.
    """
    framework = tokenizer_training()
    run = open_run(settings, framework.processes(settings), framework.check, framework.load)
    settings = run.settings
    source = open_images(settings.images, shuffle_buffer=settings.shuffle_buffer) if images is None else images
    bad = BadImages(count_of(source))
    source = hold_in_memory(source, bad, settings.image_size)
    views = TokenizerViews(settings.image_size, settings.crop_scale)
    order = Order.of(source, settings)
    loader = Loader(source, views, order, bad, settings.workers, run.rank, run.world, framework.pool)

    model = framework.new(settings) if run.checkpoint is None else run.opened
    model.grid(settings.image_size)  # raises InputError when a token's side does not divide the image's
    counts = framework.code_counts(run, model)
    steps = settings.total_steps(loader.steps_per_epoch)

    def save(trained: Any, folder: Path) -> None:
        trained.save_pretrained(folder)

    job = Job(
        engine=lambda: framework.engine(run, model, counts, steps),
        loader=loader,
        steps=steps,
        save=save,
        log_metrics=counts.log_metrics,
    )
    history = train(run, job)
    if run.main:
        report_on_run(settings.output, None, history, "Tokenizer")
        Card(settings=settings, data=count_in_words(source), history=history).save()
    return history


def measure(tokenizer: Any, images: Any, batch_size: int = 256) -> dict[str, float]:
    """How good a tokenizer of PyTorch is on images that it may not have seen.

    Args:
        tokenizer: any tokenizer that takes tensors.
        images: tensor float32 `(n, 3, H, W)` in [0, 1].
        batch_size: images at a time.

    Returns:
        `codes_used` and `perplexity` as in training; `error`: mean squared error of the pictures decoded from tokens;
        `blank`: that of the images' mean, the baseline.
    """
    return tokenizer_training().measure(tokenizer, images, batch_size)


def evaluate_tokenizer(folder: str | Path, images: Images, size: int) -> dict[str, float]:
    """`measure` a saved tokenizer on up to 1,000 images, cropped to the centre square and resized to `size` pixels.

    Raises:
        DataError: more than a tenth of them cannot be read.
        CheckpointError, InputError: there is no such tokenizer, or it does not take this size.
    """
    # Evenly over the folder, whose order may be by class or by date.
    chosen = np.linspace(0, len(images) - 1, min(len(images), _MOST_EVALUATED)).astype(int)
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
    framework = tokenizer_training()
    return framework.measure(load_tokenizer(folder), framework.tensor(np.stack(views)))
