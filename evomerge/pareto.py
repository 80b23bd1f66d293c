"""Fronts and hypervolume, of losses: lower is better everywhere in this module."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evomerge.space import Array


def non_dominated(losses: Array, violations: Array | None = None) -> NDArray[np.bool_]:
    """Which rows nothing else dominates.

    Args:
        losses: ``(n, m)``; a row with NaN is never on the front and dominates nothing.
        violations: ``(n,)`` >= 0; where given, a row with less violation dominates one with more
            (Deb's constrained domination, Deb et al. (2002), IEEE TEC 6(2), definition 1).

    Returns:
        ``(n,)``; equal rows are all kept.
    """
    count = len(losses)
    broken = np.zeros(count) if violations is None else np.asarray(violations, dtype=float)
    valid: NDArray[np.bool_] = ~(np.isnan(losses).any(axis=1) | np.isnan(broken))
    keep = valid.copy()
    for i in np.lexsort((*losses.T[::-1], broken)):  # what dominates a row stands before it
        if keep[i]:
            no_better = (losses[i] <= losses).all(axis=1)
            worse = (losses[i] < losses).any(axis=1)
            same = broken == broken[i]
            keep &= ~((same & no_better & worse) | (broken[i] < broken))
    return keep


def hypervolume(losses: Array, reference: Array) -> float:
    """The volume that the rows dominate, up to the reference point.

    Exact, by slicing along the last loss (the dimension-sweep of Fonseca et al. (2006), CEC, in
    its plain recursive form): fine for the fronts of campaigns, some hundred rows and up to five
    or six losses.

    Args:
        losses: ``(n, m)``; rows with NaN and rows that do not beat the reference count nothing.
        reference: ``(m,)``, finite.

    Returns:
        A number >= 0; 0 for an empty front.
    """
    if len(losses) == 0:
        return 0.0
    inside = losses[(losses < reference).all(axis=1)]
    return _sweep(inside[non_dominated(inside)], reference)


def _sweep(front: Array, reference: Array) -> float:
    if len(front) == 0:
        return 0.0
    if front.shape[1] == 1:
        return float(reference[0] - front.min())
    order = np.argsort(front[:, -1], kind="stable")
    front = front[order]
    if front.shape[1] == 2:
        best = np.minimum.accumulate(front[:, 0])
        heights = np.diff(front[:, 1], append=reference[1])
        return float(((reference[0] - best) * heights).sum())
    volume = 0.0
    for i in range(len(front)):
        upper = front[i + 1, -1] if i + 1 < len(front) else reference[-1]
        depth = upper - front[i, -1]
        if depth > 0:
            slab = front[: i + 1, :-1]
            volume += depth * _sweep(slab[non_dominated(slab)], reference[:-1])
    return float(volume)


def contributions(losses: Array, reference: Array) -> Array:
    """What the hypervolume loses without each row, ``(n,)``; 0 for dominated rows."""
    whole = hypervolume(losses, reference)
    rows = np.arange(len(losses))
    return np.array([whole - hypervolume(losses[rows != i], reference) for i in rows])
