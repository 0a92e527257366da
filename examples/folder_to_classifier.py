"""From a folder of images to a classifier, from Python.

    python examples/folder_to_classifier.py LABELLED_FOLDER OUTPUT_FOLDER [STEPS]

LABELLED_FOLDER has one subfolder per class; pre-training does not look at the classes. Images of 28 pixels and more.
"""

import sys
from pathlib import Path

from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import FolderImages
from beit.inference.classification import predict
from beit.inference.files import ImageFiles
from beit.models.torch.beit import BeitForImageClassification
from beit.train.finetune import finetune
from beit.train.pretrain import pretrain
from beit.train.settings import FinetuneSettings, PretrainSettings, TokenizerSettings
from beit.train.tokenizer import train_tokenizer


def main(folder: Path, output: Path, steps: int = 1000) -> None:
    # Codes for 4x4 pixels, since the tiny model's patches have 4 pixels.
    train_tokenizer(
        TokenizerSettings(
            images=folder, output=output / "tokenizer", image_size=28, factor=4, vocab_size=128, width=16, steps=steps
        )
    )
    pretrain(
        PretrainSettings(
            images=folder,
            output=output / "pretrained",
            tokenizer=str(output / "tokenizer"),
            model="tiny",
            learning_rate=3e-3,
            crop_scale=(0.6, 1.0),
            steps=2 * steps,
        )
    )
    finetune(
        FinetuneSettings(
            images=folder,
            output=output / "classifier",
            model=str(output / "pretrained"),
            learning_rate=2e-3,
            crop_scale=(0.85, 1.0),
            steps=steps,
        )
    )
    model = BeitForImageClassification.from_pretrained(output / "classifier")
    processor = BeitImageProcessor.from_pretrained(output / "classifier")
    for result in predict(model, processor, ImageFiles(FolderImages(folder).paths[:3]), top=1):
        print(result["image"], result["labels"][0])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:4]))
