"""How far from measured points one goal may be searched: a trust region that follows its record.

A surrogate of few trials is right about directions long before it is right about distances. So the
radius starts small, grows when a proposal beats everything before it, and shrinks when several in
a row do not (TuRBO: Eriksson et al. 2019, arXiv:1910.01739, section 2.1).

Failed trials give the surrogate no loss, so it would ask beside them again and again; `drawn_back`
keeps proposals nearer to what could be measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.space import Array

FIRST = 0.1  # per coordinate of the unit cube, as the others
LEAST = 0.05
MOST = 0.35
_GROWN, _SHRUNK = 1.5, 0.7
_PATIENCE = 4  # proposals in a row that beat nothing, before the radius shrinks
_CLEAR = 0.25  # of the way from a measured point to a failed one


def radius(losses: Sequence[float], proposed: Sequence[bool]) -> float:
    """The radius after a record, per coordinate of the unit cube.

    Args:
        losses: of the ended trials, in the order in which they became visible.
        proposed: which of them a surrogate proposed.
    """
    found, best, failures = FIRST, float("inf"), 0
    for loss, by_surrogate in zip(losses, proposed, strict=True):
        better = loss < best
        best = min(best, loss)
        if not by_surrogate:
            continue
        failures = 0 if better else failures + 1
        if better:
            found = min(found * _GROWN, MOST)
        elif failures == _PATIENCE:
            found, failures = max(found * _SHRUNK, LEAST), 0
    return found


def drawn_back(point: Array, measured: Array, failed: Array, pending: Array) -> Array:
    """A point towards a failed trial, halfway and again halfway to the nearest measured one.

    Until it has gone, from there, no more than a quarter of the way towards any failed trial; on
    the way back also towards any pending one, which may fail as well. So several asked ahead try
    several distances. Where it goes sideways or away from failures it is free.

    Args:
        point: ``(d,)``; it stays as it is if it is that clear of failures.
        measured, failed, pending: ``(n, d)``; n >= 1 of the measured.
    """
    nearest = measured[int(np.argmin(np.abs(measured - point).max(axis=1)))]
    step, walls = point - nearest, failed - nearest
    if _is_free(step, walls):
        return point
    walls = np.concatenate([walls, pending - nearest])
    while not _is_free(step, walls):
        step = step / 2
    return np.asarray(nearest + step)


def _is_free(step: Array, walls: Array) -> bool:
    return bool((walls @ step <= _CLEAR * (walls**2).sum(axis=1)).all())


def apart(points: Array, point: Array) -> float:
    """The distance to the nearest of some points ``(n, d)``, in the widest coordinate."""
    return float(np.abs(points - point).max(axis=1).min(initial=np.inf))
