"""What all targets have in common, in both frameworks. Loads no framework."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from beit.core import geometry

if TYPE_CHECKING:
    import numpy as np

    from beit.config import BeitConfig
    from beit.data.sources.images import Images
    from beit.data.sources.stream import Stream
    from beit.data.token_cache import TokenCache
    from beit.train.distributed import Processes


class TargetSettings(Protocol):
    """The settings of a run that a target may read (`beit.train.settings.PretrainSettings` has them all)."""

    @property
    def target(self) -> str: ...

    @property
    def framework(self) -> str: ...

    @property
    def tokenizer(self) -> str | None: ...

    @property
    def token_cache(self) -> Path | None: ...

    @property
    def crops(self) -> int | None: ...

    @property
    def crop_scale(self) -> tuple[float, float]: ...

    @property
    def jitter(self) -> float: ...

    @property
    def flip(self) -> float: ...


class Target(ABC):
    """What a model predicts at the masked patches of an image.

    The loss is defined by a subclass in each framework: see `beit.train.targets.torch` and `beit.train.targets.flax`.

    Attributes:
        width: how many numbers the model predicts per patch; the model's head gets this size (`vocab_size`).
        cache: tokens that were computed before the run; None where nothing is read from a cache.
        takes_tokenizer: whether the settings may name a tokenizer or a token cache.
        predicts_normalised: whether `predicted_pixels` are normalised with the settings' mean and deviation.
    """

    width: int
    cache: TokenCache | None = None
    takes_tokenizer: ClassVar[bool] = False
    predicts_normalised: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def of(cls, settings: TargetSettings, config: BeitConfig) -> Self:
        """The target that the settings describe, for a model with the patches of `config`."""

    def view_size(self, grid: tuple[int, int]) -> tuple[int, int] | None:
        """Height and width in pixels of the second view that the target needs of each image; None for no such view.

        A batch then has `token_pixels (B, 3, height, width)` in [0, 1], the same crop as `pixel_values`.

        Args:
            grid: the model's patches, (h, w).

        Raises:
            ConfigError: the target does not fit such a grid.
        """
        return None

    def check(self, settings: TargetSettings, images: Images | Stream) -> None:
        """Raises ConfigError when the target cannot be had of these images."""
        return

    def log_metrics(self, processes: Processes) -> dict[str, float]:
        """Metrics that are counted over all processes since the last line of the log, beside the means of the steps'.

        All processes must call it together.
        """
        return {}

    def predicted_pixels(self, model: Any, batch: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Pictures of what a model predicts, for people; None where there are none.

        Args:
            model: with all its weights; it comes into evaluation mode.
            batch: a few images, in memory, as of the loss.

        Returns:
            float32 `(B, 3, h, w)`; normalised as `pixel_values` if `predicts_normalised`, else in [0, 1].
        """
        return None

    @staticmethod
    def summary(output: Path, last: dict[str, float]) -> str:
        """What `beit pretrain` says at its end.

        Args:
            output: the run's folder.
            last: the last line of its log.
        """
        return f"Saved {output}: loss {last['loss']:.3f}."


def patch_width(config: BeitConfig) -> int:
    """How many numbers a patch has: channels · height · width."""
    height, width = geometry.pair(config.patch_size)
    return config.num_channels * height * width
