"""The sampler ``map``: quadratics of the goals, and the front that they predict (MAP).

Li et al. (2024), arXiv:2406.07529, with what its published code lacks: a design at as many levels
as it has points, inside the region that is searched; a warm-started, regularised fit; a search that
stays where trials were; and the predicted front measured, learnt from and predicted again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evomerge.interfaces import Log, Proposal, SearchProblem
from evomerge.randomness import generator
from evomerge.search.breeding import bred
from evomerge.search.knowledge import Knowledge
from evomerge.search.options import no_options
from evomerge.search.quasirandom import sobol_point
from evomerge.space import Array
from evomerge.surrogates.history import FitError, History, filled_variances
from evomerge.surrogates.quadratic import QuadraticSurrogate, fit_quadratic

REGION = 0.3
"""Half the width, per coordinate, of the box around the centre in which the design lies."""

_FEWEST = 8  # points of the design, where the budget has them


def make(problem: SearchProblem, options: Mapping[str, Any]) -> MapSampler:
    """The sampler ``map``; takes no options."""
    no_options("map", options)
    return MapSampler(problem)


@dataclass
class MapSampler:
    """See the module's docstring. Implements `evomerge.interfaces.Sampler`."""

    problem: SearchProblem
    name: str = field(default="map", init=False)
    _known: Knowledge = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._known = Knowledge(self.problem, items=False)

    def ask(self, log: Log, number: int) -> Proposal:
        """The proposal for trial `number`; see `evomerge.interfaces.Sampler`."""
        known = self._known
        known.follow(log)
        size = known.design or design_size(len(self.problem.space), self.problem.trials)
        first: dict[str, Any] = {"design": size} if known.own == 0 else {}
        if known.own + known.others < size or not known.ended:
            return Proposal(self._designed(known.own), first)
        history = known.history()
        rng = generator(self.problem.seed, self.name, number)
        try:
            surrogate = self.surrogate(history, known.centre)
        except FitError:
            return known.stepped(rng)
        wish = known.wish(rng, 0.0)
        points = bred(surrogate, wish, history.points, history.losses, rng)
        order = np.argsort(wish.value(surrogate.predict(points)), kind="stable")
        note = {
            **first,
            "explained": [round(fit.explained, 3) for fit in surrogate.fits],
            "basis": surrogate.basis.name,
        }
        return Proposal(known.unasked(points[order], rng), note)

    def surrogate(self, history: History, centre: Array) -> QuadraticSurrogate:
        """The quadratics of a history.

        Raises:
            FitError: if it is too short.
        """
        coordinates = [p.coordinate for p in self.problem.space.parameters]
        variances = filled_variances(history)
        return fit_quadratic(centre, history.points, history.losses, variances, coordinates)

    def _designed(self, index: int) -> Array:
        centre = self._known.centre
        low, high = np.maximum(centre - REGION, 0.0), np.minimum(centre + REGION, 1.0)
        spot = sobol_point(self.problem.seed, len(centre), index, stream="map")
        return np.asarray(low + spot * (high - low))


def design_size(dimensions: int, trials: int | None) -> int:
    """MAP's ``(d + 1)(d + 2)`` points, at most half of the budget, or 16 per parameter.

    What others asked for, references and warm starts, counts.
    """
    wanted = min((dimensions + 1) * (dimensions + 2), 16 * dimensions)
    return wanted if trials is None else max(1, min(wanted, max(_FEWEST, trials // 2)))
