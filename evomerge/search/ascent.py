"""The best points of a surrogate for one criterion, near points that were measured."""

from __future__ import annotations

import numpy as np

from evomerge.interfaces import Surrogate
from evomerge.search.centred import Steps
from evomerge.search.coarse import Tie
from evomerge.search.preferences import Criterion
from evomerge.space import Array

RADIUS = 0.35
"""How far, in any coordinate, a surrogate's proposal lies from what was measured, at most."""

_ORIGINS = 4  # measured points, the best by prediction
_STARTS = 6  # from each: itself, and steps away from it
_SPREADS = (0.0, 0.05, 0.05, 0.1, 0.1, 0.2)
_STEPS = 60
_RATE = 0.02  # of Adam, in the unit cube, falling to a tenth
_DECAYS = (0.9, 0.98)


def descend(
    surrogate: Surrogate,
    criterion: Criterion,
    measured: Array,
    steps: tuple[Steps, ...],
    rng: np.random.Generator,
    radius: float = RADIUS,
    tie: Tie | None = None,
) -> tuple[Array, Array]:
    """Points that the surrogate thinks good, best first, ``(q, d)``, with their values ``(q,)``.

    Adam (Kingma and Ba 2015, arXiv:1412.6980) from the measured points that the surrogate finds
    best and from steps around them, each inside a box around its own and inside the cube.

    Args:
        measured: ``(n, d)``, n >= 1.
        steps: what draws steps, one after the other in turn.
        radius: how far, per coordinate, a point may lie from the one that it starts from.
        tie: of numbers that move together, if any do.
    """
    predicted = criterion.value(surrogate.predict(measured))
    origins = measured[np.argsort(predicted, kind="stable")[:_ORIGINS]]
    box = np.repeat(origins, _STARTS, axis=0)
    low, high = np.maximum(box - radius, 0.0), np.minimum(box + radius, 1.0)
    draws = [steps[i % len(steps)](rng, 1)[0] for i in range(len(box))]
    spreads = np.tile(_SPREADS, len(origins))
    points = np.clip(box + spreads[:, None] * np.array(draws), low, high)
    points = np.concatenate([_adam(surrogate, criterion, points, low, high, tie), points])
    values = criterion.value(surrogate.predict(points))
    order = np.argsort(values, kind="stable")
    return points[order], values[order]


def _adam(
    surrogate: Surrogate,
    criterion: Criterion,
    points: Array,
    low: Array,
    high: Array,
    tie: Tie | None,
) -> Array:
    mean, square = np.zeros_like(points), np.zeros_like(points)
    slow, fast = _DECAYS
    for step in range(1, _STEPS + 1):
        prediction, pull = surrogate.linearise(points)
        gradient = pull(*criterion.slopes(prediction))
        gradient = gradient if tie is None else tie(gradient)
        mean = slow * mean + (1 - slow) * gradient
        square = fast * square + (1 - fast) * gradient**2
        direction = mean / (1 - slow**step) / (np.sqrt(square / (1 - fast**step)) + 1e-12)
        rate = _RATE * (1 - 0.9 * step / _STEPS)
        points = np.clip(points - rate * direction, low, high)
    return points
