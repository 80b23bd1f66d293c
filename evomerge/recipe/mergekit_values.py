"""Numbers of a mergekit file: plain ones, gradients over the layers, cases by tensor name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.recipe.reader import error, got, nearest, text
from evomerge.recipe.strict_yaml import Node, Place

EVERYTHING = "*"


@dataclass(frozen=True)
class Case:
    """What holds for the tensors whose names contain a word.

    Attributes:
        word: the filter; None for every tensor.
        numbers: one, or a gradient; true is 1 and false is 0.
    """

    word: str | None
    numbers: tuple[float, ...]

    def holds(self, name: str) -> bool:
        """Whether it is about the tensor."""
        return self.word is None or self.word == EVERYTHING or self.word in name


@dataclass(frozen=True)
class Value:
    """One parameter where it is written, as cases of which the first that holds counts."""

    cases: tuple[Case, ...]
    place: Place

    def at(self, name: str, depth: float) -> float | None:
        """The number for a tensor; None where no case is about it.

        Args:
            name: of the tensor.
            depth: of its layer, 0 at the first to 1 at the last.
        """
        for case in self.cases:
            if case.holds(name):
                return interpolated(case.numbers, depth)
        return None

    @property
    def numbers(self) -> frozenset[float]:
        """All that are written."""
        return frozenset(number for case in self.cases for number in case.numbers)


def interpolated(numbers: Sequence[float], depth: float) -> float:
    """A gradient at a depth in [0, 1]: its numbers, evenly spread, and straight lines between."""
    place = depth * (len(numbers) - 1)
    low = min(math.floor(place), len(numbers) - 1)
    high = min(low + 1, len(numbers) - 1)
    part = place - low
    return numbers[low] if part == 0 else (1 - part) * numbers[low] + part * numbers[high]


def value(node: Node) -> Value:
    """A number, true or false, a gradient, or a list of ``{filter, value}``."""
    if isinstance(node.value, Mapping):
        return Value((_case(node),), node.place)
    cased = isinstance(node.value, tuple) and any(
        isinstance(child.value, Mapping) for child in node.value
    )
    if isinstance(node.value, tuple) and cased:
        return Value(tuple(_case(child) for child in node.value), node.place)
    return Value((Case(None, _numbers(node)),), node.place)


def _case(node: Node) -> Case:
    if not isinstance(node.value, Mapping):
        raise error(f"{got(node)} stands among filters; {{filter, value}} is wanted", node)
    for key in node.value:
        if key not in ("filter", "value"):
            cause = f"unknown key {key!r}{nearest(key, ('filter', 'value'))}"
            raise error(cause, node.keys[key])
    if "value" not in node.value:
        raise error("a filter without its value", node)
    word = node.value.get("filter")
    plain = word is None or word.value is None
    return Case(None if plain or word is None else text(word), _numbers(node.value["value"]))


def _numbers(node: Node) -> tuple[float, ...]:
    items = node.value if isinstance(node.value, tuple) else (node,)
    if not items:
        raise error("an empty gradient; at least one number is wanted", node)
    return tuple(_number(item) for item in items)


def _number(node: Node) -> float:
    if not isinstance(node.value, (bool, int, float)):
        raise error(f"{got(node)} stands here; a number, or a list of numbers, is wanted", node)
    if not math.isfinite(node.value):
        raise error(f"{got(node)} stands here; a finite number is wanted", node)
    return float(node.value)
