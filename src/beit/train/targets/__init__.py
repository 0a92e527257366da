"""Targets: what a model predicts at the masked patches in pre-training.

To add one, write a class for each framework, beside those of `tokens` or `pixels` in `targets/torch/` and `targets/flax/`,
and add an entry to `TARGETS`. `--target` offers its name from then on. Loads no framework.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from beit.core.errors import ConfigError
from beit.train.targets.base import Target, TargetSettings

if TYPE_CHECKING:
    from beit.config import BeitConfig

__all__ = ["TARGETS", "Target", "TargetSettings", "make_target", "target_class"]


def _tokens(framework: str) -> type[Target]:
    if framework == "flax":
        from beit.train.targets.flax.tokens import TokenTarget as FlaxTokenTarget

        return FlaxTokenTarget
    from beit.train.targets.torch.tokens import TokenTarget

    return TokenTarget


def _pixels(framework: str) -> type[Target]:
    if framework == "flax":
        from beit.train.targets.flax.pixels import PixelTarget as FlaxPixelTarget

        return FlaxPixelTarget
    from beit.train.targets.torch.pixels import PixelTarget

    return PixelTarget


# The name that `--target` takes → the class, by the framework. Only the class that is asked for is imported.
TARGETS: dict[str, Callable[[str], type[Target]]] = {
    "tokens": _tokens,
    "pixels": _pixels,
}


def target_class(name: str, framework: str) -> type[Target]:
    """The class of a target.

    Args:
        name: a key of `TARGETS`.
        framework: `torch` or `flax`.
    """
    return TARGETS[name](framework)


def make_target(settings: TargetSettings, config: BeitConfig, framework: str | None = None) -> Target:
    """The target that the settings describe.

    Args:
        settings: of the run.
        config: of the model. Its patches count; the head will get the target's width.
        framework: `torch` or `flax`; that of the settings if None.

    Raises:
        ConfigError: the settings name a tokenizer or a token cache for a target that needs none, or none for one that does.
        CheckpointError: there is no such tokenizer.
        DataError: there is no such token cache.
    """
    kind = target_class(settings.target, framework or settings.framework)
    given = [name for name in ("tokenizer", "token_cache") if getattr(settings, name) is not None]
    if given and not kind.takes_tokenizer:
        raise ConfigError(
            f"target is {settings.target}, which needs no {given[0]}. Leave it out, or choose --target tokens."
        )
    return kind.of(settings, config)
