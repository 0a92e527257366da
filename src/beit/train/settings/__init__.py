"""What a run does: one dataclass per command. A field's text is its `--help`; the values are saved beside the result.

`BeitConfig` says what the weights are; these settings say how they are made. Making settings opens no file, and nothing here
loads a framework.
"""

from beit.train.settings.base import SETTINGS_FILE, PaperRate, RunSettings
from beit.train.settings.finetune import FinetuneSettings
from beit.train.settings.pretrain import PretrainSettings
from beit.train.settings.saved import FREE, RUNS, differences, from_dict, from_file
from beit.train.settings.segmentation import SegmentSettings
from beit.train.settings.tokenizer import TokenizerSettings, TokenizeSettings
from beit.train.settings.validated import ValidatedSettings

__all__ = [
    "FREE",
    "RUNS",
    "SETTINGS_FILE",
    "FinetuneSettings",
    "PaperRate",
    "PretrainSettings",
    "RunSettings",
    "SegmentSettings",
    "TokenizeSettings",
    "TokenizerSettings",
    "ValidatedSettings",
    "differences",
    "from_dict",
    "from_file",
]
