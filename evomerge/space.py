"""Named parameters with ranges, and their image in the unit cube, where samplers live."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import UsageError

Array = NDArray[np.float64]
Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class Coordinate:
    """Where in the models a parameter acts, for samplers that know that neighbours act alike.

    Attributes:
        model: whose task vector; None for a number of no model.
        depth: 0 at the first layer, 1 at the last; None where it acts at every depth.
        kind: of module, ``attention`` say; None for all kinds.
        field: what it is, ``weight`` or ``density`` say.
    """

    model: str | None
    depth: float | None
    kind: str | None
    field: str


@dataclass(frozen=True)
class Parameter:
    """One searchable number.

    Attributes:
        name: ``model/group/field``, e.g. ``math/0-1.mlp/density``.
        low, high: the range, both ends included, ``low < high``.
        scale: ``log`` spaces the range evenly in the logarithm; needs ``low > 0``.
        coordinate: where it acts; None where nothing is known of it.
    """

    name: str
    low: float
    high: float
    scale: Scale = "linear"
    coordinate: Coordinate | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UsageError(
                f"the range of {self.name} is [{self.low}, {self.high}]; "
                "it needs two finite numbers, the lower first"
            )
        if self.scale == "log" and not self.low > 0:
            raise UsageError(
                f"the range of {self.name} starts at {self.low}; log needs more than 0"
            )


@dataclass(frozen=True)
class Space:
    """All parameters of a recipe, in order. A point ``x`` is ``(d,)`` in [0, 1]."""

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        names = [parameter.name for parameter in self.parameters]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise UsageError(f"parameters named twice: {', '.join(twice)}")

    def __len__(self) -> int:
        return len(self.parameters)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Parameter names in the order of a point's coordinates."""
        return tuple(parameter.name for parameter in self.parameters)

    @cached_property
    def _bounds(self) -> tuple[Array, Array, NDArray[np.bool_]]:
        log = np.array([p.scale == "log" for p in self.parameters], dtype=bool)
        low = np.array([p.low for p in self.parameters], dtype=float)
        high = np.array([p.high for p in self.parameters], dtype=float)
        return np.where(log, _log(low, log), low), np.where(log, _log(high, log), high), log

    def values(self, point: Sequence[float] | Array) -> dict[str, float]:
        """The natural values of a point, clipped into the ranges.

        Args:
            point: ``(d,)``, finite; coordinates outside [0, 1] are clipped.

        Raises:
            UsageError: on a wrong length or a value that is not finite.
        """
        x = np.array(point, dtype=float)
        if x.shape != (len(self),):
            raise UsageError(f"a point of shape {x.shape} was given; the space has ({len(self)},)")
        if not np.isfinite(x).all():
            raise UsageError("a point holds NaN or infinity; coordinates lie in [0, 1]")
        low, high, log = self._bounds
        inside = low + np.clip(x, 0.0, 1.0) * (high - low)
        natural = np.where(log, np.exp(np.where(log, inside, 0.0)), inside)
        return {
            p.name: _natural(p, unit, value)
            for p, unit, value in zip(self.parameters, x.tolist(), natural.tolist(), strict=True)
        }

    def point(self, values: Mapping[str, float]) -> Array:
        """The point of natural values, ``(d,)``: the inverse of `values` to within rounding.

        Raises:
            UsageError: on missing or unknown names, or values outside their ranges.
        """
        missing = [name for name in self.names if name not in values]
        own = set(self.names)
        extra = [name for name in values if name not in own]
        if missing or extra:
            raise UsageError(
                f"values do not fit the space: missing {missing[:3]}, unknown {extra[:3]}"
            )
        for p in self.parameters:
            if not p.low <= values[p.name] <= p.high:
                raise UsageError(f"{p.name} is {values[p.name]}; its range is [{p.low}, {p.high}]")
        low, high, log = self._bounds
        natural = np.array([values[name] for name in self.names], dtype=float)
        inside = np.where(log, _log(natural, log), natural)
        return np.clip((inside - low) / (high - low), 0.0, 1.0)

    def contains(self, values: Mapping[str, float]) -> bool:
        """Whether `point` would accept these values."""
        return set(values) == set(self.names) and all(
            p.low <= values[p.name] <= p.high for p in self.parameters
        )


def _natural(parameter: Parameter, unit: float, value: float) -> float:
    """The value, with the ends of the cube exactly at the ends of the range."""
    if unit <= 0:
        return parameter.low
    if unit >= 1:
        return parameter.high
    return min(max(value, parameter.low), parameter.high)


def _log(values: Array, where: NDArray[np.bool_]) -> Array:
    return np.log(np.where(where, values, 1.0))
