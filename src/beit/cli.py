"""`beit <command>`: a table of functions. `beit --help` loads no framework; each command loads what it needs."""

from __future__ import annotations

import json
import logging
import os
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from beit.errors import BeitError, ConfigError, DataError, Interrupted, require

INTERRUPTED = 130


def _settings(kind: Any, name: str, arguments: list[str]) -> Any:
    """Parse the arguments of a command into its dataclass; `--help` and mistakes end here."""
    import tyro

    description = textwrap.dedent(kind.__doc__ or "").strip()
    if "--settings" not in arguments:
        return tyro.cli(kind, prog=f"beit {name}", description=description, args=arguments)
    # The settings.json of an earlier run; flags override it.
    position = arguments.index("--settings")
    if position + 1 == len(arguments):
        raise ConfigError("--settings needs the settings.json of an earlier run.")
    from beit import hub
    from beit.train.settings import RunSettings, from_dict

    if not issubclass(kind, RunSettings):
        raise ConfigError(f"beit {name} does not take --settings; training commands do.")
    values = hub.read_json(arguments[position + 1])
    if not isinstance(values, dict):
        raise ConfigError(f"{arguments[position + 1]} holds no settings (a JSON object).")
    rest = arguments[:position] + arguments[position + 2 :]
    return tyro.cli(kind, prog=f"beit {name}", description=description, args=rest, default=from_dict(kind, values))


def _say(text: str) -> None:
    """Print once, by the first of several data-parallel processes."""
    if os.environ.get("RANK", "0") == "0":
        print(text)


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}; it must be at least 1.")


def _last(settings: Any, history: list[dict[str, float]]) -> dict[str, float]:
    """The last line of a run's log; only the first of several processes has it."""
    if os.environ.get("RANK", "0") != "0":
        return defaultdict(float)
    if not history:
        raise DataError(f"{settings.output} was finished already, and its log.jsonl is gone.")
    return history[-1]


def _tokenizer(arguments: list[str]) -> None:
    actions = "usage: beit tokenizer {train,evaluate} …\n\n  train     train a tokenizer on a folder of images\n"
    actions += "  evaluate  codes in use, and the error of decoded pictures\n"
    if not arguments or arguments[0] in ("-h", "--help"):
        print(actions)
        return
    action, *rest = arguments
    if action == "train":
        from beit.train.settings import TokenizerSettings

        settings = _settings(TokenizerSettings, "tokenizer train", rest)
        require("torch", "train", "beit tokenizer")
        from beit.train.tokenizer import train_tokenizer

        last = _last(settings, train_tokenizer(settings))
        _say(
            f"Saved {settings.output}: {last['codes_used']:.0%} of {settings.vocab_size} codes in use, perplexity "
            f"{last['perplexity']:.0f}, {last['reconstruction']:.1%} of the pixels' variance lost."
        )
    elif action == "evaluate":
        from beit.cli_settings import EvaluateTokenizer

        chosen = _settings(EvaluateTokenizer, "tokenizer evaluate", rest)
        _at_least_one("image_size", chosen.image_size)
        require("torch", "train", "beit tokenizer")
        from beit.data.images import FolderImages
        from beit.train.tokenizer import evaluate_tokenizer

        found = evaluate_tokenizer(chosen.tokenizer, FolderImages(chosen.images), chosen.image_size)
        print(
            f"{found['codes_used']:.0%} of the codes in use, perplexity {found['perplexity']:.0f}; mean squared error of "
            f"decoded pictures {found['error']:.4f} (of the mean picture: {found['blank']:.4f})"
        )
    else:
        raise ConfigError(f"beit tokenizer has no action {action!r}. Choose train or evaluate.")


def _pretrain(arguments: list[str]) -> None:
    from beit.train.settings import PretrainSettings

    settings = _settings(PretrainSettings, "pretrain", arguments)
    require("torch", "train", "beit pretrain")
    from beit.train.pretrain import pretrain

    last = _last(settings, pretrain(settings))
    if last["masked_accuracy"] <= last["commonest_token"]:
        _say(
            "Nothing was learned yet: guessing the commonest token is as good. Train for more steps, or see the tokenizer."
        )
    _say(
        f"Saved {settings.output}: masked tokens guessed {last['masked_accuracy']:.1%} (the commonest token alone: "
        f"{last['commonest_token']:.1%}), loss {last['loss']:.3f}."
    )


def _finetune(arguments: list[str]) -> None:
    from beit.train.settings import FinetuneSettings

    settings = _settings(FinetuneSettings, "finetune", arguments)
    require("torch", "train", "beit finetune")
    from beit.train.finetune import finetune

    history, result = finetune(settings)
    _say(f"Saved {settings.output}: training accuracy {_last(settings, history)['accuracy']:.1%}.")
    if result is not None:
        _say(f"Validation: {result}")


def _evaluate(arguments: list[str]) -> None:
    from beit.cli_settings import Evaluate

    settings = _settings(Evaluate, "evaluate", arguments)
    _at_least_one("batch_size", settings.batch_size)
    require("torch", "train", "beit evaluate")
    from beit.data.images import FolderImages
    from beit.evaluate import evaluate
    from beit.models.pytorch_beit import BeitForImageClassification
    from beit.processing import BeitImageProcessor

    model = _classifier(BeitForImageClassification, settings.model)
    classes = [model.config.id2label[i] for i in range(model.config.num_labels)]
    images = FolderImages(settings.images, labelled=True, classes=classes)
    result = evaluate(model, BeitImageProcessor.from_pretrained(settings.model), images, settings.batch_size, _device())
    print(result)
    if result.skipped:
        print(f"{len(result.skipped)} images were skipped:\n  " + "\n  ".join(result.skipped[:10]), file=sys.stderr)
    if settings.output is not None:
        result.save(settings.output)


def _classifier(kind: Any, folder: str) -> Any:
    """A fine-tuned model; one without a trained classifier would only guess."""
    model = kind.from_pretrained(folder)
    if model.load_report is not None and model.load_report.needs_training:
        raise ConfigError(f"{folder} has no trained classifier. Fine-tune it first: beit finetune --model {folder} …")
    if model.config.num_labels < 2:
        raise ConfigError(f"{folder} has {model.config.num_labels} classes; a classifier has at least two.")
    return model


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _predict(arguments: list[str]) -> None:
    from beit.cli_settings import Predict

    settings = _settings(Predict, "predict", arguments)
    require("torch", "torch", "beit predict")
    from beit.data.images import FolderImages
    from beit.evaluate import predict
    from beit.models.pytorch_beit import BeitForImageClassification
    from beit.processing import BeitImageProcessor

    if not settings.images:
        raise DataError("No image was given: beit predict IMAGE… --model FOLDER")
    _at_least_one("top", settings.top)
    paths: list[Any] = []
    for path in settings.images:
        paths += FolderImages(path).paths if path.is_dir() else [path]
    model = _classifier(BeitForImageClassification, settings.model)
    model.to(_device())
    results = predict(model, BeitImageProcessor.from_pretrained(settings.model), paths, settings.top)
    if settings.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        for result in results:
            print(result["image"])
            for found in result.get("labels", []):
                print(f"  {found['probability']:7.1%}  {found['label']}")
            if "error" in result:
                print(f"  {result['error']}")
    failed = sum("error" in result for result in results)
    if failed:
        raise DataError(f"{failed} of {len(results)} images could not be read.")


def _embed(arguments: list[str]) -> None:
    from beit.cli_settings import Embed

    settings = _settings(Embed, "embed", arguments)
    _at_least_one("batch_size", settings.batch_size)
    if settings.output.suffix not in (".npy", ".parquet"):
        raise ConfigError(f"output is {settings.output}; its name must end in .npy or .parquet.")
    require("torch", "train", "beit embed")
    if settings.output.suffix == ".parquet":
        require("pyarrow", "train", "parquet files")
    if settings.output.is_dir():
        raise DataError(f"{settings.output} is a folder; name a file.")
    import numpy as np

    from beit import hub
    from beit.data.images import FolderImages
    from beit.evaluate import embed
    from beit.models.pytorch_beit import BeitModel
    from beit.processing import BeitImageProcessor

    images = FolderImages(settings.images)
    processor = BeitImageProcessor.from_pretrained(settings.model)
    model = BeitModel.from_pretrained(settings.model)
    if model.pooler is not None and any(name.startswith("pooler") for name, _ in getattr(model.load_report, "new", [])):
        model.pooler = None  # its norm was never trained; the plain mean says the same
    kept, features, skipped = embed(model, processor, images, settings.layer, settings.batch_size, _device())
    names = [images.name(index) for index in kept]
    with hub.atomic_path(settings.output) as temporary:
        if settings.output.suffix == ".npy":
            with open(temporary, "wb") as file:
                np.save(file, features)
        else:
            arrow = require("pyarrow", "train", "parquet files")
            parquet = require("pyarrow.parquet", "train", "parquet files")
            width = features.shape[1]
            column = arrow.FixedSizeListArray.from_arrays(arrow.array(features.reshape(-1)), width)
            parquet.write_table(arrow.table({"image": names, "features": column}), temporary)
    if settings.output.suffix == ".npy":
        with hub.atomic_path(settings.output.with_suffix(".txt")) as temporary:
            temporary.write_text("".join(name + "\n" for name in names), encoding="utf-8", errors="surrogateescape")
    print(f"Wrote {settings.output}: {features.shape[0]} images, {features.shape[1]} numbers each.")
    if skipped:
        print(f"{len(skipped)} images were skipped:\n  " + "\n  ".join(skipped[:10]), file=sys.stderr)


def _demo(arguments: list[str]) -> None:
    from beit.cli_settings import DemoSettings

    settings = _settings(DemoSettings, "demo", arguments)
    require("torch", "train", "beit demo")
    from beit.demo import run_demo

    report = run_demo(settings)
    print(f"Open {report}")


def _segment(arguments: list[str]) -> None:
    actions = {
        "train": (_segment_train, "train segmentation on images with label maps"),
        "evaluate": (_segment_evaluate, "mIoU and accuracies, with a report of the worst cases"),
        "predict": (_segment_predict, "label maps and overlays of images"),
        "demo": (
            _segment_demo,
            "train and evaluate on embedded images, with a report (about three minutes on two CPU cores)",
        ),
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: beit segment {{{','.join(actions)}}} …\n")
        print("\n".join(f"  {name:9} {text}" for name, (_, text) in actions.items()))
        return
    action, *rest = arguments
    if action not in actions:
        raise ConfigError(f"beit segment has no action {action!r}. Choose {', '.join(actions)}.")
    actions[action][0](rest)


def _segment_train(arguments: list[str]) -> None:
    from beit.train.settings import SegmentSettings

    settings = _settings(SegmentSettings, "segment train", arguments)
    require("torch", "train", "beit segment")
    from beit.train.segment import segment

    history, result = segment(settings)
    _say(f"Saved {settings.output}: {_last(settings, history)['accuracy']:.1%} of the training pixels right.")
    if result is not None:
        _say(f"Validation: {result}\nOpen {settings.output / 'report.html'}")


def _segment_evaluate(arguments: list[str]) -> None:
    from beit.cli_settings import EvaluateSegmentation

    settings = _settings(EvaluateSegmentation, "segment evaluate", arguments)
    _at_least_one("examples", settings.examples)
    if settings.output is not None and settings.output.is_file():
        raise DataError(f"{settings.output} is a file; give a folder for the result.")
    require("torch", "train", "beit segment")
    if settings.output is not None:
        require("matplotlib", "train", "the pictures of a report")
    from beit.data.label_maps import LabelRules, open_segmented, read_classes
    from beit.evaluate_segmentation import evaluate_segmentation

    model, processor, way = _segmenter(settings)
    ignore = settings.ignore_index if settings.ignore_index is not None else model.config.semantic_loss_ignore_index
    reduce = settings.reduce_labels or processor.do_reduce_labels
    model.config.semantic_loss_ignore_index = ignore
    if settings.classes is not None:
        names = read_classes(settings.classes)
        if len(names) != model.config.num_labels:
            raise ConfigError(
                f"{settings.classes} names {len(names)} classes; {settings.model} has {model.config.num_labels}."
            )
        model.config.id2label = dict(enumerate(names))
    classes = [model.config.id2label[i] for i in range(model.config.num_labels)]
    images = open_segmented(settings.images, settings.maps, classes, LabelRules(ignore, reduce), test=True)
    if len(images.classes) != len(classes):
        raise ConfigError(f"{settings.model} has {len(classes)} classes, {settings.images} has {len(images.classes)}.")
    result = evaluate_segmentation(model, processor, images, way, _device(), settings.examples)
    if settings.output is not None:
        result.save(settings.output)
    print(result)
    width = max(map(len, classes))
    for row in result.class_rows():
        print(f"  {row['name']:{width}}  {'absent' if row['iou'] is None else format(row['iou'], '6.1%')}")
    if result.skipped:
        print(f"{len(result.skipped)} images were skipped:\n  " + "\n  ".join(result.skipped[:10]), file=sys.stderr)
    if settings.output is not None:
        print(f"Open {settings.output / 'report.html'}")


def _segment_predict(arguments: list[str]) -> None:
    from beit.cli_settings import PredictSegmentation

    settings = _settings(PredictSegmentation, "segment predict", arguments)
    if settings.output.is_file():
        raise DataError(f"{settings.output} is a file; give a folder for the result.")
    require("torch", "torch", "beit segment predict")
    from beit.predict_segmentation import predict_maps

    model, processor, way = _segmenter(settings)
    written, failed = predict_maps(model, processor, settings.images, settings.output, way, _device())
    if written:
        print(f"Wrote {len(written)} label maps to {written[0].parent}, overlays and legend.png beside it.")
    if failed:
        total = len(written) + len(failed)
        raise DataError(f"{len(failed)} of {total} images could not be read:\n  " + "\n  ".join(failed))


def _segmenter(settings: Any) -> tuple[Any, Any, Any]:
    """(model, processor, way) of a command that uses a trained model; one without trained heads would only guess."""
    from beit.models.pytorch_segmentation import BeitForSemanticSegmentation
    from beit.processing import BeitImageProcessor
    from beit.segmentation import Way

    way = Way(settings.mode, settings.short_side, settings.scales, settings.flip, settings.batch_size)
    model = BeitForSemanticSegmentation.from_pretrained(settings.model)
    if model.load_report is not None and model.load_report.needs_training:
        raise ConfigError(
            f"{settings.model} was not trained for segmentation. Train it first: beit segment train --model {settings.model} …"
        )
    return model, BeitImageProcessor.from_pretrained(settings.model), way


def _segment_demo(arguments: list[str]) -> None:
    from beit.cli_settings import SegmentDemo

    settings = _settings(SegmentDemo, "segment demo", arguments)
    require("torch", "train", "beit segment demo")
    from beit.demo_segmentation import run_segment_demo

    print(f"Open {run_segment_demo(settings)}")


COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "demo": (_demo, "the whole idea on embedded images, with a report (about ten minutes on two CPU cores)"),
    "tokenizer": (_tokenizer, "train a visual tokenizer on your own images, or measure one"),
    "pretrain": (_pretrain, "pre-train BEiT on a folder of images without labels"),
    "finetune": (_finetune, "fine-tune a classifier on labelled images"),
    "segment": (_segment, "semantic segmentation: train, evaluate, predict, and a demonstration"),
    "evaluate": (_evaluate, "top-1 and top-5 of a classifier"),
    "predict": (_predict, "classify images"),
    "embed": (_embed, "features of images, to .npy or .parquet"),
}


def usage() -> str:
    """The text of `beit --help`."""
    lines = [
        "usage: beit [--debug] COMMAND …",
        "",
        "The home of BEiT: from a folder of images to a model that classifies or segments.",
        "",
    ]
    lines += [f"  {name:10} {text}" for name, (_, text) in COMMANDS.items()]
    lines += [
        "",
        "beit COMMAND --help shows the settings of a command. --debug shows tracebacks; --version, the version.",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit status: 0 done, 1 an error that was explained, 2 wrong usage, 128+n signal n."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from beit import __version__

        print(f"beit {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"beit: there is no command {name!r}\n\n{usage()}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="%(message)s")
    try:
        COMMANDS[name][0](rest)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signum
    except BeitError as error:
        if debug:
            raise
        print(f"beit {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as if SIGPIPE had ended it: what was printed is not complete
    except SystemExit as stop:  # tyro's: 0 after --help, 2 after a mistake
        return stop.code if isinstance(stop.code, int) else 2
    except Exception as error:
        if debug:
            raise
        print(
            f"beit {name}: unexpected {type(error).__name__}: {error}\nRun it again with --debug for a traceback, and please "
            "report it.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
