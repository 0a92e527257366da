"""Modules that are also found under the names which they had in version 0.1."""

from __future__ import annotations

import operator
from typing import Any, ClassVar

from torch import nn


class Renamed(nn.Module):
    """A module whose parts can be read under older names.

    Attributes:
        renamed: older name → today's path below this module.
    """

    renamed: ClassVar[dict[str, str]] = {}

    def __getattr__(self, name: str) -> Any:
        if name in self.renamed:
            return operator.attrgetter(self.renamed[name])(self)
        return super().__getattr__(name)
