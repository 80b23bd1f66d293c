"""Points of a space whose merges are mixtures of models: a weight for each, whole task vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evomerge.errors import UsageError
from evomerge.interfaces import Asked, Log, Observation, SearchProblem
from evomerge.merging.method import role_of
from evomerge.recipe.numbers import parts_of
from evomerge.space import Array, Space

Key = tuple[float, float]
"""Violation, then loss: lower is better (Deb 2000, section 3)."""

FAILED: Key = (np.inf, np.inf)


@dataclass(frozen=True)
class Mixtures:
    """The mixtures that a space holds.

    Args:
        sampler: for errors.
    """

    sampler: str
    space: Space

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Models whose weights are searched, in order."""
        owners = [parts_of(name)[0] for name in self.space.names if _role(name) == "weight"]
        return tuple(dict.fromkeys(owner for owner in owners if owner is not None))

    def check(self, problem: SearchProblem) -> None:
        """Says whether mixtures can be searched here.

        Raises:
            UsageError: with several goals, fewer than two free models, other numbers than weights,
                densities and scalings, or ranges without whole models or averages.
        """
        if problem.goals != 1:
            text = f"{self.sampler} is for one goal, the campaign has {problem.goals}"
            raise UsageError(f"{text}; take nsga2 or auto")
        if len(self.models) < 2:
            raise UsageError(f"{self.sampler} needs two models or more whose weights are searched")
        for model in self.models:
            self.point({model: 1.0})

    def point(self, weights: Mapping[str, float]) -> Array:
        """The point of these weights; 0 for the other models, 1 for densities and scalings.

        Raises:
            UsageError: if the space does not hold it.
        """
        values = {name: self._value(name, weights) for name in self.space.names}
        for p in self.space.parameters:
            if not p.low <= values[p.name] <= p.high:
                raise UsageError(
                    f"{self.sampler} mixes whole models: {p.name} would be {values[p.name]:g}, but "
                    f"its range is [{p.low:g}, {p.high:g}]"
                )
        return self.space.point(values)

    def average(self, models: Sequence[str]) -> Array:
        """The point of the plain average of some models."""
        return self.point(dict.fromkeys(models, 1 / len(models)))

    def weights(self, point: Array) -> dict[str, float]:
        """The mean weight of each model over all groups."""
        values = self.space.values(point)
        found: dict[str, list[float]] = {model: [] for model in self.models}
        for name, value in values.items():
            owner = parts_of(name)[0]
            if owner in found and _role(name) == "weight":
                found[owner].append(value)
        return {model: float(np.mean(numbers)) for model, numbers in found.items()}

    def _value(self, name: str, weights: Mapping[str, float]) -> float:
        role = _role(name)
        if role == "weight":
            return weights.get(parts_of(name)[0] or "", 0.0)
        if role in ("density", "scaling"):
            return 1.0
        raise UsageError(
            f"{self.sampler} mixes whole models by their weights; {name} is none: take a method "
            "such as linear, or fix that number"
        )


@dataclass(frozen=True)
class Results:
    """What a log says about points, by their bytes.

    Attributes:
        asked: points, in order.
        keys: of the points that have ended.
        own: how many asks were the sampler's own.
    """

    asked: Mapping[bytes, Array]
    keys: Mapping[bytes, Key]
    own: int

    @classmethod
    def of(cls, log: Log) -> Results:
        """Reads a log."""
        asked: dict[bytes, Array] = {}
        keys: dict[bytes, Key] = {}
        own = 0
        for event in log.events():
            if isinstance(event, Asked):
                asked[event.point.tobytes()] = event.point
                own += event.own
            else:
                keys[event.point.tobytes()] = _key(event)
        return cls(asked, keys, own)

    def key(self, point: Array) -> Key | None:
        """How good a point is; None if it was not asked, or has not ended."""
        return self.keys.get(point.tobytes())

    def has(self, point: Array) -> bool:
        """Whether a point was asked."""
        return point.tobytes() in self.asked


def _key(event: Observation) -> Key:
    if event.losses is None or not np.isfinite(event.losses).all():
        return FAILED
    return float(event.violation or 0.0), float(event.losses[0])


def _role(name: str) -> str:
    return role_of(parts_of(name)[2])
