"""The options that a campaign file gives to a sampler, checked at the door."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from evomerge.errors import UsageError
from evomerge.registry import unknown


def no_options(sampler: str, options: Mapping[str, Any]) -> None:
    """Raises a UsageError if there are any options."""
    if options:
        raise UsageError(f"the sampler {sampler!r} takes no options, got: {', '.join(options)}")


def known_options(sampler: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raises a UsageError, with the nearest name, if an option is not among the known ones."""
    for name in options:
        if name not in known:
            raise UsageError(unknown(f"option of the sampler {sampler}", name, known))


def whole(sampler: str, options: Mapping[str, Any], name: str, *, low: int) -> int | None:
    """A whole number >= low, or None where it is not given.

    Raises:
        UsageError: on anything else.
    """
    value = options.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UsageError(
            f"{name} of the sampler {sampler} is {value!r}; it is a whole number from {low}"
        )
    return value


def positive(sampler: str, options: Mapping[str, Any], name: str, default: float) -> float:
    """A number in (0, 1], the default where it is not given.

    Raises:
        UsageError: on anything else.
    """
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise UsageError(f"{name} of the sampler {sampler} is {value!r}; it lies in (0, 1]")
    return float(value)


def not_negative(sampler: str, options: Mapping[str, Any], name: str, default: float) -> float:
    """A finite number >= 0, the default where it is not given.

    Raises:
        UsageError: on anything else.
    """
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise UsageError(f"{name} of the sampler {sampler} is {value!r}; it is a number from 0")
    return float(value)
