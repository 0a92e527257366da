"""A report: one HTML page with text, tables and figures, which opens without a connection."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from beit.core.files import atomic_path
from beit.evaluation.figures import load_pyplot

_INTERVAL = re.compile(r"\(?[\d.]+% – [\d.]+%\)?")  # of two percentages
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --good: #009E73; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h1, h2, p { overflow-wrap: anywhere; } h2 { margin-top: 2.6rem; border-bottom: 1px solid var(--line); }
p.lead { font-size: 1.15rem; } figure { margin: 1.2rem 0; } figcaption { color: #777; font-size: .9rem; }
img { max-width: 100%; background: #fff; border-radius: 6px; } img.pixels { image-rendering: pixelated; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .35rem .6rem; text-align: left; border-bottom: 1px solid var(--line); }
.whole { white-space: nowrap; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } tr.best { background: var(--soft); font-weight: 600; }
code, pre { font: .86rem ui-monospace, monospace; } pre { background: var(--soft); padding: .8rem; overflow-x: auto; border-radius: 6px; }
.row { display: flex; flex-wrap: wrap; gap: 0 1rem; align-items: flex-start; } .row > * { flex: 1 1 17rem; min-width: 0; } .row > figure { max-width: 34rem; } .row > .scroll { flex: 1 1 29rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1rem; }
.cards figure { margin: 0; } .cards figcaption { overflow-wrap: anywhere; line-height: 1.35; } .cards img { width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--soft); }
.cards.pairs { grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); } .cards.pairs img { aspect-ratio: 2; }
.cards b { color: CanvasText; font-weight: 600; } h3 { margin: 1.6rem 0 .6rem; }
.lines { display: grid; gap: .25rem .5rem; } .lines img { width: 100%; border: 1px solid var(--line); border-radius: 0; display: block; box-sizing: border-box; }
.lines span { grid-column: 1 / -1; color: #777; font-size: .85rem; overflow-wrap: anywhere; margin-top: .4rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .88rem; } .legend i { display: inline-block; width: .9rem; height: .9rem; border: 1px solid var(--line); margin-right: .35rem; vertical-align: -.12rem; }
@media (max-width: 34rem) { th, td { padding: .3rem .25rem; font-size: .88rem; } }
details { margin: .5rem 0; } summary { cursor: pointer; } .warn { border-left: 4px solid #D55E00; padding-left: .8rem; }
"""


class Report:
    """Collects the parts of a page and writes it.

    Args:
        title: of the page.
        lead: one or two sentences that state the result.
    """

    def __init__(self, title: str, lead: str) -> None:
        self.title = title
        self.parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="lead">{html.escape(lead)}</p>']

    def heading(self, text: str) -> None:
        """Add the heading of a section."""
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str, warn: bool = False) -> None:
        """Add a paragraph, marked as a warning if `warn`."""
        self.parts.append(f"<p{' class=warn' * warn}>{html.escape(text)}</p>")

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[Any]], best: int | None = None, summary: str = ""
    ) -> None:
        """Add a table. All columns but the first are aligned as numbers; row `best` is highlighted.

        With a `summary`, the reader sees that line, and unfolds the table.
        """

        def cell(tag: str, column: int, value: Any) -> str:
            kind = ' class="n"' if column > 0 else ""
            # An interval is not broken: in a narrow column it has a line of its own.
            text = _INTERVAL.sub(r'<span class="whole">\g<0></span>', html.escape(str(value)))
            return f"<{tag}{kind}>{text}</{tag}>"

        head = "".join(cell("th", i, name) for i, name in enumerate(header))
        body = ""
        for number, row in enumerate(rows):
            mark = ' class="best"' if number == best else ""
            body += f"<tr{mark}>" + "".join(cell("td", i, value) for i, value in enumerate(row)) + "</tr>\n"
        table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        self.parts.append(f"<details><summary>{html.escape(summary)}</summary>{table}</details>" if summary else table)

    def figure(self, figure: Any, caption: str, least_width: int = 0) -> None:
        """Add a matplotlib figure, as a PNG inside the page, and close it.

        On a page narrower than `least_width` pixels it is scrolled sideways and not made smaller.
        """
        self.parts.append(_figure(figure, caption, least_width))

    def figures(self, figures: Sequence[tuple[Any, str]]) -> None:
        """Add matplotlib figures with their captions beside each other, or below each other on a narrow page."""
        self.parts.append('<div class="row">' + "".join(_figure(*pair) for pair in figures) + "</div>")

    @contextlib.contextmanager
    def row(self) -> Iterator[None]:
        """What is added in the `with` block stands side by side, or below each other on a narrow page."""
        with self._within("row"):
            yield

    @contextlib.contextmanager
    def column(self) -> Iterator[None]:
        """In a row: what is added in the `with` block stands below each other."""
        with self._within("column"):
            yield

    @contextlib.contextmanager
    def _within(self, kind: str) -> Iterator[None]:
        before, self.parts = self.parts, []
        try:
            yield
        finally:
            inner, self.parts = self.parts, before
            self.parts.append(f'<div class="{kind}">' + "\n".join(inner) + "</div>")

    def pictures(self, cards: Sequence[tuple[Image.Image, str, str]], pairs: bool = False, jpeg: bool = False) -> None:
        """Add small pictures, as many side by side as the page has room for.

        Args:
            cards: (picture, what stands out below it, further text).
            pairs: pictures are twice as wide as they are high.
            jpeg: of many photographs: a fifth of the size, and not exact.
        """
        shown = []
        for picture, first, rest in cards:
            kind = ' class="pixels"' if max(picture.size) < 100 else ""  # enlarged without blur
            shown.append(
                f'<figure><img{kind} alt="{html.escape(rest)}" src="{_inside(picture, "jpeg" if jpeg else "png")}">'
                f"<figcaption><b>{html.escape(first)}</b><br>{html.escape(rest)}</figcaption></figure>"
            )
        self.parts.append(f'<div class="cards{" pairs" * pairs}">{"".join(shown)}</div>')

    def picture_lines(self, header: Sequence[str], lines: Sequence[tuple[str, Sequence[Image.Image]]]) -> None:
        """Add pictures in columns with headings, a line per (what stands above it, one picture per column)."""
        cells = [f"<b>{html.escape(name)}</b>" for name in header]
        for text, pictures in lines:
            cells.append(f"<span>{html.escape(text)}</span>")
            for name, picture in zip(header, pictures, strict=True):
                kind = ' class="pixels"' if max(picture.size) < 100 else ""
                cells.append(f'<img{kind} alt="{html.escape(name)}" src="{_inside(picture, "png")}">')
        self.parts.append(
            f'<div class="lines" style="grid-template-columns: repeat({len(header)}, minmax(0, 1fr))">{"".join(cells)}</div>'
        )

    def legend(self, entries: Sequence[tuple[str, Sequence[int]]]) -> None:
        """Add names with their colours, (red, green, blue) in 0..255, in as many lines as it takes."""
        shown = "".join(
            f'<span><i style="background: rgb({red}, {green}, {blue})"></i>{html.escape(name)}</span>'
            for name, (red, green, blue) in entries
        )
        self.parts.append(f'<div class="legend">{shown}</div>')

    def details(self, summary: str, text: str) -> None:
        """Add text that the reader can unfold."""
        self.parts.append(f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>")

    def write(self, path: Path) -> None:
        """Write the page atomically."""
        page = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>\n'
        )
        with atomic_path(path) as temporary:
            text = page + "\n".join(self.parts) + "\n</body></html>\n"
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no UTF-8


def _figure(figure: Any, caption: str, least_width: int = 0) -> str:
    pyplot = load_pyplot()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names in scripts that the font does not have
        figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight", facecolor="white")
    pyplot.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    caption = html.escape(caption)
    width = f' style="min-width: {least_width}px"' if least_width else ""
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}"{width}>'
    if least_width:
        image = f'<div class="scroll">{image}</div>'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _inside(picture: Image.Image, kind: str) -> str:
    """A picture as an address that holds it."""
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **({"quality": 85} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
