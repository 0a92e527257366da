"""The log of a run in memory: a list of lines that shows itself in short."""

from __future__ import annotations

from beit.core.notebook import html_table, one_line

_MOST_LINES = 12
_HIDDEN = ("data_wait", "gradient_norm", "images_per_second")


class History(list[dict[str, float]]):
    """Lines of a log: name → number. A list like any other, which a prompt or a notebook shows in short."""

    def __repr__(self) -> str:
        if not self:
            return "<History: no lines>"
        first, last = self[0], self[-1]
        names = [name for name in last if name not in ("step", "epoch", "learning_rate", *_HIDDEN)]
        rows = [
            (name, f"{first[name]:.4g} → {last[name]:.4g}" if name in first else f"{last[name]:.4g}") for name in names
        ]
        return one_line(f"History of {len(self)} lines to step {last.get('step', 0):.0f}", rows)

    def _repr_html_(self) -> str:
        chosen = (
            sorted({round(number * (len(self) - 1) / (_MOST_LINES - 1)) for number in range(_MOST_LINES)})
            if self
            else []
        )
        lines = [self[number] for number in chosen]
        names = [name for name in dict.fromkeys(name for line in lines for name in line) if name not in _HIDDEN]
        names = [name for name in names if "_layer_" not in name]
        rows = [[f"{line[name]:.6g}" if name in line else "" for name in names] for line in lines]
        more = f", {len(lines)} of them" if len(lines) < len(self) else ""
        return html_table(f"Log of {len(self)} lines{more}", rows, names)
