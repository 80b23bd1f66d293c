"""Items where there are any, goals' losses beside them, each as far as it has been right.

A goal's prediction is ``w * by margins + (1 - w) * by losses``; the weight is the one that leaves
the least squared error on trials left out of both fits, drawn a little to the margins.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from evomerge.interfaces import Fit, Prediction, Pull
from evomerge.space import Array
from evomerge.surrogates.calibration import fit_of
from evomerge.surrogates.evidence import Fitted
from evomerge.surrogates.history import FitError, History, filled_variances
from evomerge.surrogates.losses import LossSurrogate, fit_losses
from evomerge.surrogates.margins import MarginSurrogate, fit_margins
from evomerge.surrogates.structure import Structure

_DRAWN = 0.1  # to the margins, as a share of the losses' variance per trial left out
_SURE = 0.05  # a weight nearer to 0 or 1 than this is that


@dataclass(frozen=True)
class Kernels:
    """Kernels with their numbers, learnt from the beginning of a history; None could not be."""

    margins: Fitted | None = None
    losses: Fitted | None = None


@dataclass(frozen=True)
class Blend:
    """See the module's docstring; made by `fit_blend`. Implements `evomerge.interfaces.Surrogate`.

    Attributes:
        weights: ``(m,)`` of the margins, in [0, 1].
        modelled: the goals that `margins` predicts, ascending.
    """

    losses: LossSurrogate | None
    margins: MarginSurrogate | None
    modelled: tuple[int, ...]
    weights: Array
    fits: tuple[Fit, ...]

    def predict(self, points: Array) -> Prediction:
        """See `evomerge.interfaces.Surrogate`."""
        return self.linearise(points)[0]

    def believing(self, points: Array) -> Blend:
        """See `evomerge.interfaces.Surrogate`."""
        losses = None if self.losses is None else self.losses.believing(points)
        margins = None if self.margins is None else self.margins.believing(points)
        return replace(self, losses=losses, margins=margins)

    def linearise(self, points: Array) -> tuple[Prediction, Pull]:
        """See `evomerge.interfaces.Surrogate`."""
        parts: list[tuple[Array, tuple[int, ...], Pull]] = []
        mean = np.zeros((len(points), len(self.weights)))
        std, noise = np.zeros_like(mean), np.zeros_like(mean)
        for surrogate, goals, weights in self._parts():
            found, pull = surrogate.linearise(points)
            mean[:, goals] += weights * found.mean
            std[:, goals] += weights * found.std
            noise[:, goals] += weights * found.noise
            parts.append((weights, goals, pull))

        def pull_all(mean_weights: Array, std_weights: Array) -> Array:
            total = np.zeros_like(points)
            for weights, goals, pull in parts:
                total += pull(mean_weights[:, goals] * weights, std_weights[:, goals] * weights)
            return total

        return Prediction(mean, std, noise), pull_all

    def _parts(self) -> list[tuple[LossSurrogate | MarginSurrogate, tuple[int, ...], Array]]:
        parts: list[tuple[LossSurrogate | MarginSurrogate, tuple[int, ...], Array]] = []
        if self.margins is not None:
            parts.append((self.margins, self.modelled, self.weights[list(self.modelled)]))
        if self.losses is not None and (self.weights < 1).any():
            parts.append((self.losses, tuple(range(len(self.weights))), 1 - self.weights))
        return parts


def learn_kernels(structure: Structure, centre: Array, history: History) -> Kernels:
    """The numbers of both kernels, as far as the history gives any."""
    margins, losses = _both(structure, centre, history, Kernels())
    return Kernels(
        None if margins is None else Fitted(margins.process.kernel, margins.noise),
        None if losses is None else Fitted(losses.processes[0].kernel, losses.noise),
    )


def fit_blend(structure: Structure, centre: Array, history: History, kernels: Kernels) -> Blend:
    """The blend of a history.

    Args:
        centre: ``(d,)``, the origin of the kernels.
        kernels: learnt before; those that are missing are learnt now.

    Raises:
        FitError: if there are too few trials, or all are equal.
    """
    margins, losses = _both(structure, centre, history, kernels)
    if margins is None and losses is None:
        raise FitError(f"{len(history)} trials, too few or all equal; nothing can be learnt yet")
    modelled = _modelled(history) if margins is not None else ()
    weights = np.zeros(history.goals)
    fits: list[Fit] = list(losses.fits) if losses is not None else []
    if margins is not None and losses is None:  # the losses are all equal, the margins are not
        weights[list(modelled)] = 1.0
        fits = [_blind(history.losses[:, i]) for i in range(history.goals)]
    elif margins is not None and losses is not None:
        for column, goal in enumerate(modelled):
            weights[goal], fits[goal] = _weighted(history, goal, column, margins, losses)
    return Blend(losses, margins, modelled, weights, tuple(fits))


def _both(
    structure: Structure, centre: Array, history: History, kernels: Kernels
) -> tuple[MarginSurrogate | None, LossSurrogate | None]:
    modelled = _modelled(history)
    items = [one for one in history.items if one is not None]
    margins, losses = None, None
    with suppress(FitError):  # too few trials with margins so far; the losses are left
        if items:
            margins = fit_margins(
                structure,
                centre,
                history.points,
                history.losses[:, modelled],
                items,
                kernel=kernels.margins,
            )
    with suppress(FitError):
        losses = fit_losses(
            structure,
            centre,
            history.points,
            history.losses,
            filled_variances(history),
            stated=bool((history.variances > 0).any()),
            kernel=kernels.losses,
        )
    return margins, losses


def _modelled(history: History) -> tuple[int, ...]:
    return tuple(i for i, one in enumerate(history.items) if one is not None)


def _weighted(
    history: History, goal: int, column: int, margins: MarginSurrogate, losses: LossSurrogate
) -> tuple[float, Fit]:
    rows = margins.rows
    measured = history.losses[rows, goal]
    ours, plain = margins.left_out.mean[:, column], losses.left_out.mean[rows, goal]
    drawn = _DRAWN * len(rows) * float(measured.var()) + 1e-18
    apart = ours - plain
    weight = (float((measured - plain) @ apart) + drawn) / (float(apart @ apart) + drawn)
    weight = 0.0 if weight < _SURE else 1.0 if weight > 1 - _SURE else weight
    spread = weight * margins.left_out.spread[:, column]
    spread = spread + (1 - weight) * losses.left_out.spread[rows, goal]
    return weight, fit_of(measured, weight * ours + (1 - weight) * plain, spread)


def _blind(losses: Array) -> Fit:
    return fit_of(losses, losses, np.zeros_like(losses))
