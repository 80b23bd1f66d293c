"""The variation and selection of NSGA-II, on measured losses and on predicted ones."""

from __future__ import annotations

import numpy as np

from evomerge.interfaces import Surrogate
from evomerge.pareto import non_dominated
from evomerge.search.ascent import RADIUS
from evomerge.search.preferences import Preference
from evomerge.search.quasirandom import folded
from evomerge.space import Array

_PARENTS = 40
_CHILDREN = 60  # per generation
_GENERATIONS = 8
_ETA = 15.0  # of the simulated binary crossover
_STEP = 0.1  # standard deviation of a mutation in the unit cube


def bred(
    surrogate: Surrogate,
    preference: Preference,
    measured: Array,
    losses: Array,
    rng: np.random.Generator,
) -> Array:
    """Points of the front that a surrogate predicts, bred from the fittest measured ones.

    None is further than `evomerge.search.ascent.RADIUS`, in any coordinate, from all of these.

    Args:
        preference: for its optimism.
        measured: ``(n, d)``, n >= 1, with losses ``(n, m)``.
    """
    known = measured[fittest(losses, _PARENTS)]
    points = known
    for _ in range(_GENERATIONS):
        children = offspring(points, rng, _CHILDREN)
        away = np.abs(children[:, None, :] - known[None, :, :]).max(axis=2).min(axis=1)
        points = np.concatenate([points, children[away <= RADIUS]])
        predicted = surrogate.predict(points)
        points = points[fittest(predicted.mean - preference.optimism * predicted.std, _PARENTS)]
    return points


def fittest(losses: Array, count: int) -> list[int]:
    """The first `count` rows or all, front by front; within the last front those far apart.

    Deb et al. (2002), IEEE TEC 6(2), section III.

    Args:
        losses: ``(n, m)``, finite.
    """
    left, chosen = np.arange(len(losses)), list[int]()
    while len(left) and len(chosen) < count:
        front = non_dominated(losses[left])
        rows = left[front]
        if len(chosen) + len(rows) > count:
            apart = crowding_distance(losses[rows])
            rows = rows[np.argsort(-apart, kind="stable")[: count - len(chosen)]]
        chosen.extend(rows.tolist())
        left = left[~front]
    return chosen


def crowding_distance(losses: Array) -> Array:
    """Distance of each point to its neighbours along one front.

    Deb et al. (2002), IEEE TEC 6(2), section III-B.

    Args:
        losses: ``(n, m)``, one front, finite.

    Returns:
        ``(n,)`` in [0, inf]; inf at the ends of every loss.
    """
    total = np.zeros(len(losses))
    for column in losses.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        total[order[[0, -1]]] = np.inf
        if span > 0:
            total[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return total


def offspring(parents: Array, rng: np.random.Generator, count: int) -> Array:
    """Children ``(count, d)`` in [0, 1] of pairs of parents ``(k, d)``, k >= 1.

    Simulated binary crossover (Deb and Agrawal 1995, Complex Systems 9(2)) of every second
    coordinate, then a Gaussian step in a few.
    """
    d = parents.shape[1]
    mothers, fathers = parents[rng.integers(len(parents), size=(2, count))]
    u = rng.random((count, d))
    spread = np.where(u < 0.5, 2 * u, 1 / (2 * (1 - u))) ** (1 / (_ETA + 1))
    crossed = 0.5 * ((1 + spread) * mothers + (1 - spread) * fathers)
    children = np.where(rng.random((count, d)) < 0.5, crossed, mothers)
    mutated = rng.random((count, d)) < max(1 / d, 0.05)
    return folded(children + mutated * _STEP * rng.normal(size=(count, d)))
