"""What training on one image costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Work:
    """What one image costs, in floating-point operations; a multiplication and an addition are two.

    Attributes:
        parameters: how many numbers are trained.
        forward: operations of the model, forward.
        backward: the same, backward. Includes what gradient checkpointing computes a second time.
        tokenizer: operations to compute an image's visual tokens.
    """

    parameters: int
    forward: int
    backward: int
    tokenizer: int = 0

    @property
    def total(self) -> int:
        """Operations per image."""
        return self.forward + self.backward + self.tokenizer
