"""The sampler ``margin_evolution``: evolution whose offspring the margins' surrogate screens.

One goal: CMA-ES, which is told what was measured, the items' margins softened into a loss where
there are any; of many points that it draws, the surrogate's favourite is asked. Several goals: the
offspring of the fittest trials, bred on for some generations on the surrogate alone, and of these
the favourite for a preference drawn anew. Evolution keeps its step where the surrogate would jump,
so it stays useful over long campaigns and in hundreds of dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import ndtr

from evomerge.interfaces import Log, Proposal, SearchProblem
from evomerge.randomness import generator
from evomerge.search.breeding import bred
from evomerge.search.centred import STEP
from evomerge.search.evolution import Evolution, population
from evomerge.search.knowledge import Knowledge
from evomerge.search.options import no_options
from evomerge.search.quasirandom import folded
from evomerge.space import Array
from evomerge.surrogates.history import History

_DRAWN = 24  # points that CMA-ES offers the surrogate for every ask
_OPTIMISM = 0.5
_ALL = 10**9  # trials
_BLUR = 0.5  # standard deviations of the margins


def make(problem: SearchProblem, options: Mapping[str, Any]) -> MarginEvolution:
    """The sampler ``margin_evolution``; takes no options."""
    no_options("margin_evolution", options)
    return MarginEvolution(problem)


@dataclass
class MarginEvolution:
    """See the module's docstring. Implements `evomerge.interfaces.Sampler`.

    The design and the surrogate are those of `margin`.
    """

    problem: SearchProblem
    name: str = field(default="margin_evolution", init=False)
    _known: Knowledge = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._known = Knowledge(self.problem)

    def ask(self, log: Log, number: int) -> Proposal:
        """The proposal for trial `number`; see `evomerge.interfaces.Sampler`."""
        known = self._known
        rng = generator(self.problem.seed, self.name, number)
        surrogate = known.begun(log, rng)
        if isinstance(surrogate, Proposal):
            return surrogate
        wish = known.wish(rng, _OPTIMISM * abs(float(rng.normal())))
        believing = surrogate.believing(known.pending)
        if self.problem.goals == 1:
            points = folded(self._evolved(known.history(_ALL)).draw(rng, _DRAWN))
        else:
            history = known.history()
            points = bred(believing, wish, history.points, softened(history), rng)
        order = np.argsort(wish.value(believing.predict(points)), kind="stable")
        point = known.unasked(points[order], rng)
        return Proposal(point, known.told(surrogate, point))

    def _evolved(self, history: History) -> Evolution:
        """CMA-ES after everything that was measured, in generations of the order of seeing."""
        losses = softened(history)[:, 0]
        size = population(history.points.shape[1])
        first = min(len(losses), max(size, 8))
        start = history.points[int(np.argmin(losses[:first]))]
        state = Evolution.start(start, STEP)
        for begin in range(first, len(losses) - size + 1, size):
            rows = slice(begin, begin + size)
            state = state.updated(history.points[rows], losses[rows])
        return state


def softened(history: History) -> Array:
    """Losses with less noise, ``(n, m)``: means of ``Phi(margin / blur)`` where margins decide.

    A goal keeps its measured losses where a trial has no margins, or where these do not follow its
    losses closely. The blur is half of the standard deviation of the first trials' margins, so it
    does not change as the history grows.
    """
    columns = []
    for losses, items in zip(history.losses.T, history.items, strict=True):
        column = losses
        if items is not None and np.isfinite(items.margins).all():
            blur = _BLUR * float(np.std(items.margins[:8])) or 1.0
            soft = ndtr(items.margins / blur).mean(axis=1)
            if np.ptp(soft) > 0 and np.ptp(losses) > 0 and np.corrcoef(soft, losses)[0, 1] > 0.9:
                column = soft
        columns.append(column)
    return np.array(columns).T.reshape(history.losses.shape)
