"""`beit probe`, `beit knn`: what features are worth without fine-tuning."""

from __future__ import annotations

from typing import Any

from beit.cli.parsing import at_least_one, default_device, parse, say_skipped
from beit.core.errors import ConfigError, DataError, require


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
        raise ConfigError(f"crop_scale is {settings.crop_scale}; wanted two parts of the area, 0 < from ≤ to ≤ 1.")
    names = ("epochs", "linear_batch_size", "learning_rate", "standardise", "views", "crop_scale")
    _measure(settings, "beit probe", **{name: getattr(settings, name) for name in names})


def knn_command(arguments: list[str]) -> None:
    from beit.evaluation.settings import Knn

    settings = parse(Knn, "knn", arguments)
    _measure(settings, "beit knn", epochs=0, layers=None if settings.layer is None else [settings.layer])


def _measure(settings: Any, command: str, **how: Any) -> None:
    """What both commands do."""
    for name in ("batch_size", "k", "labels_per_class"):
        if getattr(settings, name) is not None:
            at_least_one(name, getattr(settings, name))
    if settings.seed < 0:
        raise ConfigError(f"seed is {settings.seed}; it must not be negative.")
    require("torch", "train", command)
    if settings.output is not None:
        if settings.output.is_file():
            raise DataError(f"{settings.output} is a file; give a folder for the result.")
        require("matplotlib", "train", "the curve over the layers")
    from beit.data.processor import BeitImageProcessor
    from beit.data.sources.images import FolderImages, Images
    from beit.evaluation.probe import hold_out, probe

    images: Images = FolderImages(settings.images, labelled=True)
    validation: Images
    if settings.validation is not None:
        validation = FolderImages(settings.validation, labelled=True)
    else:
        images, validation = hold_out(images, settings.seed)
    if settings.labels_per_class is not None:
        from beit.train.finetune import first_of_each_class

        images = first_of_each_class(images, settings.labels_per_class)
    result = probe(
        _trained_body(settings.model),
        BeitImageProcessor.from_pretrained(settings.model),
        images,
        validation,
        k=settings.k,
        temperature=settings.temperature,
        batch_size=settings.batch_size,
        seed=settings.seed,
        device=default_device(),
        **how,
    )
    print(result)
    say_skipped(result.skipped)
    if settings.output is not None:
        result.save(settings.output)
        print(f"Wrote probe.json and probe.png to {settings.output}.")


def _trained_body(folder: str) -> Any:
    """The model without its head; one whose layers start anew has no features to measure."""
    from beit.models.torch.beit import BeitModel

    model = BeitModel.from_pretrained(folder, add_pooling_layer=False)
    new = [name for name, _ in getattr(model.load_report, "new", [])]
    untrained = [name for name in new if name.startswith(("embeddings", "encoder")) and "mask_token" not in name]
    if untrained:
        raise ConfigError(
            f"{folder} lacks weights of its layers ({', '.join(untrained[:3])}): its features mean nothing. Pre-train it "
            f"first: beit pretrain --model {folder} …"
        )
    return model
