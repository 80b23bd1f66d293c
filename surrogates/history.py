"""What a surrogate is fitted to: points, losses with their noise, and items where there are any."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evomerge.errors import EvomergeError
from evomerge.space import Array


class FitError(EvomergeError):
    """A surrogate cannot be fitted to this history; another one may be."""

    exit_code = 1


@dataclass(frozen=True)
class GoalItems:
    """One goal's items over all trials.

    Attributes:
        losses: ``(n, p)``, lower is better; NaN where an item was not measured.
        margins: ``(n, p)``, lower is better; NaN where there is none.
    """

    losses: Array
    margins: Array


@dataclass(frozen=True)
class History:
    """The ended trials that succeeded, in the order in which they became visible.

    Attributes:
        points: ``(n, d)`` in the unit cube.
        losses: ``(n, m)``, finite.
        variances: ``(n, m)``, squared standard errors of the losses, NaN where unknown.
        items: one record per goal; None where the objective gives no margins.
    """

    points: Array
    losses: Array
    variances: Array
    items: tuple[GoalItems | None, ...]

    def __len__(self) -> int:
        return len(self.points)

    @property
    def goals(self) -> int:
        """How many losses there are."""
        return int(self.losses.shape[1])


def filled_variances(history: History) -> Array:
    """The losses' noise variances without holes or zeros, ``(n, m)``.

    An unknown one is the goal's median, and none is less than a quarter of it: a trial that got
    every item right has a standard error of 0, and yet is not known exactly. A goal of which
    nothing is known gets a hundredth of its losses' variance.
    """
    columns = []
    for losses, variances in zip(history.losses.T, history.variances.T, strict=True):
        known = variances[np.isfinite(variances) & (variances > 0)]
        median = float(np.median(known)) if len(known) else 0.01 * float(np.var(losses))
        filled = np.where(np.isfinite(variances), variances, median)
        columns.append(np.maximum(filled, max(0.25 * median, 1e-12)))
    return np.array(columns).T.reshape(history.losses.shape)
