"""Pre-training: predict the visual tokens, or another target, of masked patches (BEiT, section 2.3; `beit pretrain`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from beit.config import BeitConfig
from beit.core import geometry
from beit.data.loader import Loader
from beit.data.order import Order
from beit.data.sources import open_images
from beit.data.sources.bad_images import BadImages
from beit.data.sources.images import FolderImages, Images
from beit.data.sources.in_memory import hold_in_memory
from beit.data.sources.stream import Stream, count_in_words, count_of
from beit.data.transforms.pretrain import PretrainViews
from beit.evaluation.reports import report_on_run
from beit.train.card import Card
from beit.train.framework import pretraining
from beit.train.loop import Job, train
from beit.train.pictures import of_pretraining
from beit.train.run import from_last_good, open_run
from beit.train.settings import PretrainSettings
from beit.train.start import Start, make_processor, open_start, smallest_view, with_normalisation
from beit.train.targets import make_target


@from_last_good
def pretrain(settings: PretrainSettings, images: Images | Stream | None = None) -> list[dict[str, float]]:
    """Pre-train a model and save it in `settings.output`.

    Args:
        settings: what to do.
        images: used instead of those that the settings name.

    Returns:
        The lines of the log. With tokens as target: loss, `masked_accuracy` (fraction of the masked patches whose token is
        guessed), `commonest_token` (the accuracy of always guessing the commonest token, the baseline), `token_entropy` and
        `prediction_entropy` in nats (of the tokens to guess and of the guesses) and `codes_used` (fraction of the codebook).
        With pixels: loss and `explained` (fraction of the variance within patches that is predicted). With a labelled folder
        to probe, also the k-NN and linear accuracy of each layer, every `probe_every` steps.

    Raises:
        BeitError: as `beit.train.loop.train`, and for settings or images that cannot be used.
    """
    framework = pretraining(settings.framework)
    run = open_run(settings, framework.processes(settings), framework.check)
    with run.going_on():
        start = open_start(settings, run.opened)
    settings = run.settings = with_normalisation(run.settings, start)
    # The target needs the model's patches, and the model's head the target's width: hence target before config.
    target = make_target(settings, start.config)
    config = model_config(settings, start, target.width)
    processor = make_processor(config, settings.mean, settings.std)

    smallest = max(geometry.pair(config.patch_size))
    source = (
        open_images(settings.images, smallest_side=smallest, shuffle_buffer=settings.shuffle_buffer)
        if images is None
        else images
    )
    labelled = None if settings.probe is None else FolderImages(settings.probe, labelled=True)
    second_view = target.view_size(config.grid)
    target.check(settings, source)
    bad = BadImages(count_of(source))
    # Tokens in a cache are of the images as `beit tokenize` held them, so these must be held alike.
    held_for = second_view if target.cache is None else target.cache.view_size
    source = hold_in_memory(source, bad, smallest_view(config, held_for))
    views = PretrainViews(settings, config, second_view, target.cache)
    order = Order.of(source, settings)
    loader = Loader(source, views, order, bad, settings.workers, run.rank, run.world, framework.pool)

    with run.going_on():
        model = framework.model(run, start, config)

    def save(trained: Any, folder: Path) -> None:
        trained.save_pretrained(folder)
        processor.save_pretrained(folder)

    job = Job(
        engine=lambda: framework.engine(run, model, target),
        loader=loader,
        steps=settings.total_steps(loader.steps_per_epoch),
        save=save,
        log_metrics=lambda: target.log_metrics(run.processes),
        probe=None if labelled is None else framework.probe(run, processor, labelled),
        probe_every=settings.probe_every,
        pictures=of_pretraining(target, config, settings.mean, settings.std),
    )
    history = train(run, job)
    if run.main:
        report_on_run(settings.output, None, history, "Pre-training")
        Card(settings=settings, data=count_in_words(source), history=history).save()
    return history


def model_config(settings: PretrainSettings, start: Start, width: int) -> BeitConfig:
    """The config of the model to train.

    Args:
        settings: of the run.
        start: what it begins from.
        width: numbers that the model predicts per patch.
    """
    if start.resumed:
        return start.config
    changes: dict[str, Any] = {"use_mask_token": True, "vocab_size": width}
    if settings.drop_path is not None:
        changes["drop_path_rate"] = settings.drop_path
    if settings.layer_scale is not None:
        changes["layer_scale_init_value"] = settings.layer_scale
    if start.checkpoint is None:  # as in the paper: one table for all layers, and masked patches keep their position
        changes |= {"use_shared_relative_position_bias": True, "mask_keeps_position": True}
    elif (
        start.config.mask_keeps_position is None
    ):  # a result that does not say it would mean two things in two frameworks
        changes["mask_keeps_position"] = settings.framework == "flax"
    return start.config.replace(**changes)
