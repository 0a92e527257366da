"""The policy for images that cannot be read: skip a few of them, stop at more than a tenth."""

from __future__ import annotations

from beit.core.errors import DataError

_FEWEST_TO_JUDGE = 100  # images of a stream
_MOST_BAD = 0.1  # of the images; more means that the folder is not what it is taken for


class BadImages:
    """Keeps the images that could not be read, and says when there are too many.

    Args:
        total: number of images; None for a stream, of which those count that `saw` was told of, but not less than a hundred
            until it `ended`.
    """

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.seen = 0  # images of a stream that can be used
        self.reasons: dict[str, None] = {}  # a set that keeps the order

    def add(self, reason: str) -> None:
        """Note one image.

        Raises:
            DataError: more than a tenth of all images are bad.
        """
        self.reasons[reason] = None
        self._check()

    def saw(self, count: int) -> None:
        """So many images of a stream could be used, in the first pass over it."""
        self.seen += count

    def ended(self) -> None:
        """The first pass over a stream is over. Raises DataError when more than a tenth of its images were bad."""
        if self.total is None:
            self.total = self.seen + len(self.reasons)
            self._check()

    def _check(self) -> None:
        count = len(self.reasons)
        total = max(self.seen + count, _FEWEST_TO_JUDGE) if self.total is None else self.total
        if count > _MOST_BAD * total:
            known = f"the first {self.seen + count}" if self.total is None else str(total)
            raise DataError(
                f"{count} of {known} images cannot be used, more than a tenth:\n{self}\nMend or remove them."
            )

    def __len__(self) -> int:
        return len(self.reasons)

    def __str__(self) -> str:
        lines = list(self.reasons)
        return "\n".join("  " + line for line in lines[:10]) + (f"\n  … and {len(lines) - 10} more" * (len(lines) > 10))
