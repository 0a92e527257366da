"""`beit probe`, `beit knn`: measure frozen features."""

from __future__ import annotations

from typing import Any

from beit.cli.parsing import at_least_one, device_of, parse, say_next, say_skipped, show
from beit.core.errors import ConfigError, DataError, require
from beit.core.files import check_folder


def probe_command(arguments: list[str]) -> None:
    from beit.evaluation.settings import Probe

    settings = parse(Probe, "probe", arguments)
    for name in ("epochs", "linear_batch_size"):
        at_least_one(name, getattr(settings, name))
    if settings.views < 0:
        raise ConfigError(f"views is {settings.views}; it must not be negative.")
    if settings.learning_rate is not None and not 0 < settings.learning_rate < float("inf"):
        raise ConfigError(f"learning_rate is {settings.learning_rate}; it must be above 0.")
    if not 0 < settings.crop_scale[0] <= settings.crop_scale[1] <= 1:
        raise ConfigError(f"crop_scale is {settings.crop_scale}; wanted two fractions of the area, 0 < from ≤ to ≤ 1.")
    names = ("epochs", "linear_batch_size", "learning_rate", "standardise", "views", "crop_scale")
    if settings.save is not None:
        check_folder(settings.save)
        if (settings.save / "config.json").exists():
            raise DataError(
                f"{settings.save} holds a model, which would be overwritten. Choose another folder for --save."
            )
    _measure(settings, "beit probe", **{name: getattr(settings, name) for name in names})


def knn_command(arguments: list[str]) -> None:
    from beit.evaluation.settings import Knn

    settings = parse(Knn, "knn", arguments)
    _measure(settings, "beit knn", epochs=0, layers=None if settings.layer is None else [settings.layer])


def _measure(settings: Any, command: str, **keywords: Any) -> None:
    """Run the probe with the settings that both commands share, and `keywords` on top."""
    for name in ("batch_size", "k", "labels_per_class"):
        if getattr(settings, name) is not None:
            at_least_one(name, getattr(settings, name))
    if settings.seed < 0:
        raise ConfigError(f"seed is {settings.seed}; it must not be negative.")
    require("torch", "train", command)
    if settings.output is not None:
        check_folder(settings.output)
        require("matplotlib", "train", "the curve over the layers")
    from beit.data.sources.images import FolderImages, Images
    from beit.evaluation.hold_out import hold_out
    from beit.evaluation.probe import probe
    from beit.evaluation.report_probe import write_plot
    from beit.inference.trained import open_trained_layers

    device = device_of("torch", settings.device)
    images: Images = FolderImages(settings.images, labelled=True)
    validation: Images
    if settings.validation is not None:
        validation = FolderImages(settings.validation, labelled=True)
    else:
        images, validation = hold_out(images, settings.seed)
    if settings.labels_per_class is not None:
        from beit.train.parts import first_of_each_class

        images = first_of_each_class(images, settings.labels_per_class)
    model, processor = open_trained_layers(settings.model)
    result = probe(
        model,
        processor,
        images,
        validation,
        k=settings.k,
        temperature=settings.temperature,
        batch_size=settings.batch_size,
        seed=settings.seed,
        device=device,
        **keywords,
    )
    show(result)
    say_skipped(result.skipped)
    if settings.output is not None:
        result.save(settings.output)
        write_plot(settings.output, result)
        show(f"Wrote probe.json and probe.png to {settings.output}.")
    if getattr(settings, "save", None) is not None:
        from beit.evaluation.torch.frozen_classifier import frozen_classifier

        made = frozen_classifier(model, processor, images, validation, batch_size=settings.batch_size, device=device)
        made.model.save_pretrained(settings.save)
        processor.save_pretrained(settings.save)
        show(f"Saved {settings.save}: {made}.")
        say_next(["predict", "IMAGES", "--model", settings.save])
