"""What somebody who mistyped a name may have meant: one helper for commands, checkpoints, sizes, recipes and folders."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from beit.core.text import printable

_SIMILAR = 0.7  # from 0 to 1; a letter left out, doubled or exchanged in a short word is above it
_MOST = 3


def similar(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of the `known` names that are like `name`, the most similar first; upper case does not matter.

    A name of which somebody typed the beginning only is similar too: `beit-bas`, or `resiz`.
    """
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(name.lower())
    found: dict[str, float] = {}
    for other in known:
        beginning = other.lower()[: len(name) + 1] if len(name) > 2 else ""
        for text, worth in ((other.lower(), 1.0), (beginning, 0.95)):
            matcher.set_seq1(text)
            if text and matcher.real_quick_ratio() >= _SIMILAR and matcher.quick_ratio() >= _SIMILAR:
                found[other] = max(found.get(other, 0.0), worth * matcher.ratio())
    return sorted((other for other, score in found.items() if score >= _SIMILAR), key=lambda other: -found[other])[
        :_MOST
    ]


def did_you_mean(names: Iterable[str]) -> str:
    """The question after a message, with a space before it; "" without names."""
    found = [printable(name) for name in names]
    return f" Did you mean {' or '.join(found)}?" if found else ""
