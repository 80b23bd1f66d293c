"""Where to measure next to mend a fit: along the mixtures of models that it explains worst.

The design of Bayesian MAP (Li et al. 2024, arXiv:2406.07529). A merge is seen as its models'
weights: their direction from the base says in which proportions models are mixed, their length how
strongly. Directions fall into bins; one is drawn, the likelier the worse the fit is in it, and in
it a direction and a length.

What the published code lacks: bins see every trial, the newest and those at their edges too; a
negative weight has bins of its own; bins without a trial are drawn, too, together as often as one
of a high score; lengths go up to the edge of the region; and scores count in units of their mean,
so that a goal's unit does not matter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.errors import UsageError
from evomerge.merging.method import role_of
from evomerge.recipe.numbers import parts_of
from evomerge.space import Array, Space

_FEW = 4  # models, from which on an angle has two bins instead of four
_UNSURE = 0.25  # times the standard error of a bin's mean; see `scores`
_EMPTY = 2.0  # standard deviations above the mean of the scores: the score of bins without a trial
_TRIES = 64  # at a bin without a trial
_SHORTEST = 0.2  # of the way to the region's edge
_BASE = 1e-9  # a length below this has no direction

Bin = tuple[int, ...]
"""The bin of each of the k - 1 angles, then 1 for each of the k models with a negative weight."""


@dataclass(frozen=True)
class Misfits:
    """The directions of a space.

    Attributes:
        owned: ``(k, d)``, 1 where a parameter is a weight of a model.
    """

    space: Space
    owned: Array

    @classmethod
    def of(cls, sampler: str, space: Space) -> Misfits:
        """Those of a space.

        Raises:
            UsageError: if no model's weight is searched in it.
        """
        parts = [parts_of(name) for name in space.names]
        owners = [model if role_of(field) == "weight" else None for model, _, field in parts]
        models = [model for model in dict.fromkeys(owners) if model is not None]
        if not models:
            raise UsageError(f"{sampler} mixes models, but no weight is searched; free one")
        return cls(space, np.array([[o == m for o in owners] for m in models], dtype=float))

    def weights(self, points: Array) -> Array:
        """The mean weight of each model over all groups, ``(n, d)`` to ``(n, k)``."""
        natural = np.array([list(self.space.values(point).values()) for point in points])
        return np.asarray(natural @ self.owned.T / self.owned.sum(axis=1))

    def point(
        self, measured: Array, errors: Array, low: Array, high: Array, rng: np.random.Generator
    ) -> Array:
        """The next point, ``(d,)``.

        Args:
            measured: ``(n, d)``, n >= 1.
            errors: ``(n,)``, of one goal's fit.
            low, high: ``(d,)``, corners of the region. Models' mean weights are drawn between the
                base and its edge; all else is uniform in it.
        """
        found: dict[Bin, list[float]] = defaultdict(list)
        for weights, error in zip(self.weights(measured), errors, strict=True):
            if np.linalg.norm(weights) > _BASE:
                found[bin_of(weights)].append(float(error))
        lowest, highest = self.weights(np.array([low, high]))
        edges = np.minimum(lowest, 0.0), np.maximum(highest, 0.0)
        direction = _direction(_drawn(found, edges, rng), len(lowest), rng)
        edge = np.where(direction < 0, *edges) / np.where(direction == 0, np.nan, direction)
        wanted = direction * np.nanmin(edge) * rng.uniform(_SHORTEST, 1.0)
        start = low + rng.random(len(low)) * (high - low)
        shift = (wanted - self.weights(start[None])[0]) @ self.owned
        values = self.space.values(start)
        moved = {
            p.name: min(max(values[p.name] + by, p.low), p.high)
            for p, by in zip(self.space.parameters, shift.tolist(), strict=True)
        }
        return self.space.point(moved)


def bin_of(weights: Array) -> Bin:
    """The bin of a direction: quarter turns of the angles of ``|weights|`` in equal parts.

    Args:
        weights: ``(k,)``, not all 0.
    """
    sizes = np.abs(weights)
    tails = np.sqrt(np.cumsum(sizes[::-1] ** 2)[::-1])
    angles = np.arctan2(tails[1:], sizes[:-1])
    parts = _parts(len(weights))
    places = np.minimum((angles / (np.pi / 2) * parts).astype(int), parts - 1)
    return (*places.tolist(), *(weights < 0).astype(int).tolist())


def scores(found: Mapping[Bin, Sequence[float]]) -> Array:
    """How badly each bin is explained: mean squared error and its uncertainty, as published.

    The published code takes half the standard deviation of that mean over samples of four fifths
    of the bin's trials. That deviation is half of the standard error.
    """
    squares = [np.square(errors) for errors in found.values()]
    unsure = [s.std(ddof=1) / np.sqrt(len(s)) if len(s) > 1 else 0.0 for s in squares]
    return np.array([s.mean() for s in squares]) + _UNSURE * np.array(unsure)


def _drawn(
    found: Mapping[Bin, Sequence[float]], edges: tuple[Array, Array], rng: np.random.Generator
) -> Bin:
    """A bin that has trials by its score, or any that has none."""
    known = scores(found)
    unit = float(known.mean()) if found else 0.0
    spread = _EMPTY * float(known.std()) if found else 0.0
    level = np.append(known, unit + spread) / (unit or 1.0)
    chances = np.exp(level - level.max())
    drawn = int(rng.choice(len(level), p=chances / chances.sum()))
    if drawn < len(found):
        return list(found)[drawn]
    k = len(edges[0])
    for _ in range(_TRIES):
        negative = np.where(rng.random(k) < 0.5, edges[0] < 0, edges[1] <= 0)
        places = rng.integers(_parts(k), size=k - 1).tolist()
        empty = (*places, *negative.astype(int).tolist())
        if empty not in found:
            break
    return empty


def _direction(one: Bin, models: int, rng: np.random.Generator) -> Array:
    """A direction ``(k,)`` of length 1 in a bin, uniform in its angles."""
    places = np.array(one[: models - 1], dtype=float)
    angles = (places + rng.random(models - 1)) / _parts(models) * (np.pi / 2)
    sizes = np.append(np.cos(angles), 1.0) * np.append(1.0, np.cumprod(np.sin(angles)))
    return np.asarray(sizes * (1 - 2 * np.array(one[models - 1 :])))


def _parts(models: int) -> int:
    """Bins per angle."""
    return 4 if models < _FEW else 2
