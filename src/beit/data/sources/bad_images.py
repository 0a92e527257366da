"""The policy for images that cannot be read: skip and count them, stop when they are more than a tenth."""

from __future__ import annotations

from beit.core.errors import DataError

# More than this fraction means that the folder is not what its user takes it for.
_MOST_BAD = 0.1
# A stream is judged while it is read. Among fewer images, a few bad ones say little about the rest.
_FEWEST_TO_JUDGE = 100
_SHOWN = 10  # reasons in a message


class BadImages:
    """Counts the images that cannot be read, and ends the run when there are too many.

    Args:
        total: number of images. None for a stream: then the images seen in its first pass count, but never fewer than a
            hundred before that pass ends.

    Attributes:
        reasons: one text per bad image, as keys in the order in which they came.
        good: of a stream: number of usable images in its first pass.
    """

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.good = 0
        self.reasons: dict[str, None] = {}  # an ordered set: an image that comes again is counted once

    def add(self, reason: str) -> None:
        """Count one bad image.

        Args:
            reason: which image, and what is wrong with it. The same text counts once.

        Raises:
            DataError: more than a tenth of the images are bad.
        """
        self.reasons[reason] = None
        self._check()

    def add_good(self, count: int) -> None:
        """Count usable images of a stream, in its first pass only."""
        self.good += count

    def end_first_pass(self) -> None:
        """Note that the stream's first pass is over. Raises DataError when more than a tenth of its images were bad."""
        if self.total is None:
            self.total = self.good + len(self)
            self._check()

    def _check(self) -> None:
        seen = self.good + len(self)
        total = max(seen, _FEWEST_TO_JUDGE) if self.total is None else self.total
        if len(self) > _MOST_BAD * total:
            of = f"the first {seen}" if self.total is None else str(total)
            raise DataError(
                f"{len(self)} of {of} images cannot be used, more than a tenth:\n{self}\nRepair or remove them."
            )

    def __len__(self) -> int:
        return len(self.reasons)

    def __str__(self) -> str:
        lines = [f"  {reason}" for reason in self.reasons]
        more = [f"  … and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        return "\n".join(lines[:_SHOWN] + more)
