"""How results show themselves in a notebook and a prompt: short, and without what a browser or a terminal would obey."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from beit.core.text import printable

_LONGEST = 120  # letters of a value
_MOST = 200  # letters of a repr


class Shown(ABC):
    """Base of results that people look at: a title and rows, as one line of text and as a table of HTML.

    A dataclass that derives from it is made with `repr=False`, or it would have a repr of its own.
    """

    @abstractmethod
    def shown(self) -> tuple[str, list[tuple[str, ...]]]:
        """(title, rows of one name and one or more values). Names of files and classes may stand in them as they are."""

    def __repr__(self) -> str:
        title, rows = self.shown()
        return one_line(title, rows)

    def _repr_html_(self) -> str:
        title, rows = self.shown()
        return html_table(title, rows)


def one_line(title: str, rows: Iterable[Sequence[object]]) -> str:
    """`<Evaluation: top-1 91.0%, images 200, …>`: the first rows, as many as fit."""
    text = ""
    for name, value, *_ in rows:
        longer = f"{text}{', ' if text else ''}{printable(name, _LONGEST)} {printable(value, _LONGEST)}"
        if len(longer) > _MOST:
            text += ", …"
            break
        text = longer
    return f"<{printable(title)}{': ' if text else ''}{text}>"


def html_table(title: str, rows: Iterable[Sequence[object]], head: Sequence[object] = ()) -> str:
    """A table of HTML with a caption; all texts are escaped.

    Args:
        title: the caption.
        rows: each with a name and one or more values.
        head: names of the columns; none if not given.
    """

    def cells(values: Sequence[object], kind: str) -> str:
        return "".join(f"<{kind}>{html.escape(printable(value, _LONGEST))}</{kind}>" for value in values)

    lines = [f"<tr>{cells(head, 'th')}</tr>"] if head else []
    lines += [f"<tr>{cells(row[:1], 'th')}{cells(row[1:], 'td')}</tr>" for row in rows]
    return f"<table><caption>{html.escape(printable(title))}</caption>{''.join(lines)}</table>"
