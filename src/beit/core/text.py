"""Names that strangers chose, as text that can be printed: a terminal obeys control characters, and a line feed makes a line."""

from __future__ import annotations

# Of letters that do not print, those that whole scripts and families of emoji are written with.
_JOINERS = "\u200c\u200d"
_LONGEST = 300


def printable(name: object, most: int = _LONGEST) -> str:
    """A name for one line of a message: what does not print is escaped, and the middle of a long name is left out.

    Control characters, line feeds and marks that turn the direction of writing become `\\x1b`, `\\n`, `\\u202e`; a byte that is
    no UTF-8, which Python keeps as a surrogate, becomes `\\xff`. Any other text stays as it is.
    """
    text = str(name)
    if len(text) > most:
        text = f"{text[: most // 2]}…{text[-(most // 2) :]}"
    return text if text.isprintable() else "".join(map(_escaped, text))


def harmless(text: str) -> str:
    """A message of several lines without what a terminal would obey: as `printable`, but line feeds and tabs stay."""
    if text.isprintable():
        return text
    return "".join(letter if letter in "\n\t" else _escaped(letter) for letter in text)


def as_utf8(name: str) -> str:
    """A file name as text that UTF-8 can hold: a byte that is none becomes `\\xff`. Nothing else changes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") if not name.isascii() else name


def _escaped(letter: str) -> str:
    if letter.isprintable() or letter in _JOINERS:
        return letter
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.4 hours`, `2.1 days`."""
    for unit, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "min")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"
