"""How far from measured points one goal may be searched: a trust region that follows its record.

A surrogate of few trials is right about directions long before it is right about distances. So the
radius starts small, grows when a proposal beats everything before it, and shrinks when several in
a row do not (TuRBO: Eriksson et al. 2019, arXiv:1910.01739, section 2.1).
"""

from __future__ import annotations

from collections.abc import Sequence

FIRST = 0.1  # per coordinate of the unit cube, as the others
LEAST = 0.05
MOST = 0.35
_GROWN, _SHRUNK = 1.5, 0.7
_PATIENCE = 4  # proposals in a row that beat nothing, before the radius shrinks


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
