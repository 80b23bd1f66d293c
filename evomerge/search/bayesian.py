"""The sampler ``bayesian``: a Gaussian process on the goals, and noisy expected improvement.

It looks at no items: the yardstick for what margins add, and what is left for objectives that give
a number and nothing else. One goal: expected improvement on the best prediction; several: that of
the hypervolume. Limits and pending trials are taken into account.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evomerge.interfaces import Log, Proposal, SearchProblem
from evomerge.randomness import generator
from evomerge.search.ascent import descend
from evomerge.search.improvement import ExpectedImprovement
from evomerge.search.knowledge import Knowledge
from evomerge.search.options import no_options
from evomerge.search.preferences import Criterion
from evomerge.surrogates.blend import Blend


def make(problem: SearchProblem, options: Mapping[str, Any]) -> BayesianSampler:
    """The sampler ``bayesian``; takes no options."""
    no_options("bayesian", options)
    return BayesianSampler(problem)


@dataclass
class BayesianSampler:
    """See the module's docstring. Implements `evomerge.interfaces.Sampler`."""

    problem: SearchProblem
    name: str = field(default="bayesian", init=False)
    _known: Knowledge = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._known = Knowledge(self.problem, items=False)

    def ask(self, log: Log, number: int) -> Proposal:
        """The proposal for trial `number`; see `evomerge.interfaces.Sampler`."""
        known = self._known
        rng = generator(self.problem.seed, self.name, number)
        surrogate = known.begun(log, rng)
        if isinstance(surrogate, Proposal):
            return surrogate
        measured = known.history().points
        criterion = self._criterion(surrogate, rng)
        believing = surrogate.believing(known.pending)
        points, _ = descend(believing, criterion, measured, known.steps, rng)
        point = known.unasked(points, rng)
        return Proposal(point, known.told(surrogate, point))

    def _criterion(self, surrogate: Blend, rng: np.random.Generator) -> Criterion:
        if self.problem.goals > 1:
            return self._known.wished_volume(surrogate, rng)
        losses = surrogate.predict(self._known.history().points).mean[:, 0]
        limit = self._known.limits[0]
        return ExpectedImprovement(float(losses[losses <= limit].min(initial=np.inf)), float(limit))
