"""The output folder of a demonstration: an earlier demonstration is replaced, anything else is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beit.core.errors import DataError
from beit.core.files import check_folder, read_json
from beit.train.settings import SETTINGS_FILE


def clear(output: Path, is_demo: Callable[[dict[str, Any]], bool]) -> None:
    """Remove an earlier demonstration from `output`.

    Args:
        output: the folder; it need not exist.
        is_demo: tells by the content of settings.json whether a demonstration wrote it.

    Raises:
        DataError: `output` cannot be a folder, or holds something other than an earlier demonstration.
    """
    check_folder(output)
    if not output.exists() or not any(output.iterdir()):
        return
    settings = read_json(output / SETTINGS_FILE) if (output / SETTINGS_FILE).is_file() else None
    if not isinstance(settings, dict) or not is_demo(settings):
        raise DataError(f"{output} holds something other than an earlier demo; choose another --output.")
    shutil.rmtree(output)
