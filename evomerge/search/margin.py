"""The sampler ``margin``: asks where a Gaussian process on the items' margins finds it best.

The initial design of `evomerge.search.centred`; then, for every ask, the surrogate of all trials
that have ended, and a descent of it near the measured points. With one goal the descent is of the
prediction, made hopeful at random, within `evomerge.search.region`. With several it is of what a
point adds to the hypervolume of the measured and pending ones (`evomerge.search.improvement`),
all by their predicted means and down to the worst of the references: with four goals most of the
front is worse than that in some goal, and preferences drawn at random ask for it. Pending trials
are believed to come out as predicted. Where the objective gives no margins, or where they have
predicted worse, the surrogate falls back on the goals' losses by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evomerge.interfaces import Log, Proposal, SearchProblem
from evomerge.randomness import generator
from evomerge.search.ascent import descend
from evomerge.search.knowledge import Knowledge
from evomerge.search.options import no_options
from evomerge.search.preferences import Criterion
from evomerge.surrogates.blend import Blend

_OPTIMISM = 0.75  # of one goal, times |N(0, 1)|, in stds; the front of several spreads by itself
_GREEDY = 4  # one ask in so many has no optimism


def make(problem: SearchProblem, options: Mapping[str, Any]) -> MarginSampler:
    """The sampler ``margin``; takes no options."""
    no_options("margin", options)
    return MarginSampler(problem)


@dataclass
class MarginSampler:
    """See the module's docstring. Implements `evomerge.interfaces.Sampler`."""

    problem: SearchProblem
    name: str = field(default="margin", init=False)
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
        criterion = self._criterion(surrogate, number, rng)
        measured, believing = known.history().points, surrogate.believing(known.pending)
        points, _ = descend(
            believing, criterion, measured, known.steps, rng, known.radius, known.tie
        )
        point = known.unasked(points, rng)
        return Proposal(point, known.told(surrogate, point))

    def _criterion(self, surrogate: Blend, number: int, rng: np.random.Generator) -> Criterion:
        known = self._known
        if self.problem.goals > 1:
            return known.wished_volume(surrogate, rng, sure=True)
        hope = _OPTIMISM * abs(float(rng.normal()))
        return known.wish(rng, 0.0 if number % _GREEDY == 0 else hope)

    def surrogate(self, log: Log) -> Blend:
        """What the sampler believes after a log.

        Raises:
            FitError: if it is too short.
        """
        self._known.follow(log)
        return self._known.fitted()
