"""Progress bars that keep to a clock which nobody sets."""

from __future__ import annotations

import sys
import time
from typing import Any

from beit.core.errors import require


def progress_bar(*iterable: Any, purpose: str, shown: bool = True, **keywords: Any) -> Any:
    """tqdm's bar on stderr; hidden where that is no terminal.

    Args:
        iterable: what to count, or nothing.
        purpose: what needs tqdm, for the message where it is not installed.
        shown: False hides the bar.
        keywords: of tqdm.

    Raises:
        MissingExtraError: tqdm is not installed.
    """
    # disable=None: tqdm looks whether there is a terminal.
    bar = require("tqdm", "train", purpose).tqdm(
        *iterable, disable=None if shown else True, file=sys.stderr, **keywords
    )
    if not bar.disable:
        # tqdm reads the time of day. When that is set, by a person or over the network, the bar would show negative times.
        bar._time = time.monotonic
        bar.start_t = bar.last_print_t = time.monotonic()
    return bar
