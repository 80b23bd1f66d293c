"""Coarse to fine: in wide spaces, numbers of the same model and field first move together.

With hundreds of numbers and few trials the descent of a surrogate follows what it has not learnt.
A number per model and field is learnt soon; what lies beyond it is refined from there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evomerge.interfaces import SearchProblem
from evomerge.space import Array

_TRIALS = 8  # one trial for every so many dimensions is enough to refine

Tie = Callable[[Array], Array]
"""From gradients ``(n, d)`` to their means over numbers that move together, ``(n, d)``."""


def is_coarse(problem: SearchProblem, trials: int, unmeasured: int = 0) -> bool:
    """Whether so many trials are too few for numbers to move one by one.

    Args:
        unmeasured: how many models are not among the references; each asks for a trial more.
    """
    known = all(p.coordinate is not None for p in problem.space.parameters)
    return known and trials < len(problem.space) // _TRIALS + unmeasured


def tie(problem: SearchProblem) -> Tie:
    """Over numbers of the same model and field, whatever their depth and kind."""
    rows: dict[tuple[str | None, str], int] = {}
    places = [p.coordinate for p in problem.space.parameters if p.coordinate is not None]
    label = [rows.setdefault((place.model, place.field), len(rows)) for place in places]
    member = np.eye(len(rows))[label]
    mean = member / member.sum(axis=0)
    return lambda gradients: np.asarray((gradients @ mean) @ member.T)
