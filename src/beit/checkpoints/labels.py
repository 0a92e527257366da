"""The classes of a config: number → name and back, as the reference keeps them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from beit.core.errors import ConfigError

logger = logging.getLogger("beit")


def as_labels(id2label: Any) -> dict[int, str]:
    """Class number → name with whole numbers for keys, as JSON does not have them. Raises ConfigError."""
    try:
        found = {int(number): str(name) for number, name in id2label.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"id2label is {id2label!r:.80}; wanted class number → name, such as {{0: 'cat', 1: 'dog'}}."
        ) from error
    if len(found) < len(id2label) or any(number < 0 for number in found):
        raise ConfigError(f"id2label has the numbers {list(id2label)[:6]}; wanted each once, from 0 on.")
    return found


def inverse_of(label2id: Mapping[Any, Any]) -> dict[int, str] | None:
    """Names by class number, where each number from 0 on has one name; else None."""
    numbers = sorted(number for number in label2id.values() if type(number) is int)
    if numbers != list(range(len(label2id))):
        return None
    return {number: str(name) for name, number in sorted(label2id.items(), key=lambda item: item[1])}


def without_gaps_of_imagenet_22k(id2label: Any) -> Any:
    """Number the names of the Hub's ImageNet-22k models from 0 on, in the order of their numbers; others stay as they are.

    Those number 21,843 classes but name 21,841, and their classifiers have 21,841 outputs: the two numbers without a name have
    no output (timm has the same names in this order). With the file's numbers, all names after the first gap would be wrong.
    """
    if not isinstance(id2label, Mapping) or len(id2label) != 21_841 or "21842" not in {str(key) for key in id2label}:
        return id2label
    logger.info("The 21,841 names of ImageNet-22k are numbered without the two gaps of the file, as the outputs are.")
    return {place: id2label[number] for place, number in enumerate(sorted(id2label, key=int))}


def warn_of_gaps(id2label: Mapping[int, str]) -> None:
    """Log a warning where numbers have gaps, because a model has as many outputs as there are names."""
    count = len(id2label)
    if id2label and max(id2label) >= count:
        logger.warning(
            "id2label names %d classes with numbers up to %d. The model has %d outputs, so names from %d on belong to none.",
            *(count, max(id2label), count, count),
        )


class Labels:
    """The part of a config that is about classes. What is stored is `id2label`; the rest follows from it."""

    id2label: dict[int, str]

    @property
    def num_labels(self) -> int:
        """Number of classes. Setting another number names them LABEL_0, LABEL_1, …"""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, number: int) -> None:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ConfigError(f"num_labels is {number!r}; it must be a whole number, 0 for no classifier.")
        if number != len(self.id2label):
            self.__dict__["id2label"] = {i: f"LABEL_{i}" for i in range(number)}
            self.__dict__.pop("_label2id", None)

    @property
    def label2id(self) -> dict[str, int]:
        """Name → class number. It is the inverse of `id2label` until it is changed or set to something else, which is kept."""
        inverse = {name: number for number, name in self.id2label.items()}
        stored, derived = self.__dict__.get("_label2id", (None, None))
        if stored == derived and stored != inverse:  # nobody has changed it since it was derived
            stored = inverse
            self.__dict__["_label2id"] = (stored, dict(inverse))
        return stored

    @label2id.setter
    def label2id(self, label2id: Mapping[str, int]) -> None:
        if not isinstance(label2id, Mapping):
            raise ConfigError(
                f"label2id is {label2id!r:.80}; wanted name → class number, such as {{'cat': 0, 'dog': 1}}."
            )
        own = {str(name): number for name, number in label2id.items()}
        inverse = {name: number for number, name in self.id2label.items()}
        self.__dict__["_label2id"] = (own, dict(inverse) if own == inverse else None)

    @property
    def class_names(self) -> list[str]:
        """The name of each output, in order; LABEL_i for a number that `id2label` leaves out."""
        return [self.id2label.get(number, f"LABEL_{number}") for number in range(self.num_labels)]
