"""The samplers ``map`` and ``bayesian_map``: quadratics of the goals, and the front they predict.

MAP, Li et al. (2024), arXiv:2406.07529, with what its published code lacks: a design at as many
levels as it has points, inside the region that is searched; a warm-started, regularised fit; a
search that stays where trials were; and the predicted front measured, learnt from and predicted
again. Bayesian MAP draws the second half of its design where the quadratics of the trials so far
are off; see `evomerge.search.misfits`.
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
from evomerge.search.misfits import Misfits
from evomerge.search.options import no_options
from evomerge.search.quasirandom import sobol_point
from evomerge.space import Array
from evomerge.surrogates.history import FitError, filled_variances
from evomerge.surrogates.quadratic import QuadraticSurrogate, fit_quadratic

REGION = 0.3
"""Half the width, per coordinate, of the box around the centre in which the design lies."""

_FEWEST = 8  # points of the design, where the budget has them


def make(problem: SearchProblem, options: Mapping[str, Any]) -> MapSampler:
    """The sampler ``map``; takes no options."""
    no_options("map", options)
    return MapSampler(problem, "map")


def bayesian(problem: SearchProblem, options: Mapping[str, Any]) -> MapSampler:
    """The sampler ``bayesian_map``; takes no options.

    Raises:
        UsageError: where no model's weight is searched.
    """
    no_options("bayesian_map", options)
    return MapSampler(problem, "bayesian_map", Misfits.of("bayesian_map", problem.space))


@dataclass
class MapSampler:
    """See the module's docstring. Implements `evomerge.interfaces.Sampler`.

    Attributes:
        misfits: what draws the second half of the design; None where it is like the first.
    """

    problem: SearchProblem
    name: str
    misfits: Misfits | None = None
    _known: Knowledge = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._known = Knowledge(self.problem, items=False)

    def ask(self, log: Log, number: int) -> Proposal:
        """The proposal for trial `number`; see `evomerge.interfaces.Sampler`."""
        known = self._known
        known.follow(log)
        size = known.design or design_size(len(self.problem.space), self.problem.trials)
        first: dict[str, Any] = {"design": size} if known.own == 0 else {}
        asked = known.own + known.others
        blind = size if self.misfits is None else (size + 1) // 2
        if asked < blind or not known.ended:
            return Proposal(self._designed(known.own), first)
        try:
            surrogate = self.surrogate(log)
        except FitError:
            return Proposal(self._designed(known.own), first)
        history = known.history()
        rng = generator(self.problem.seed, self.name, number)
        if self.misfits is not None and asked < size:
            goal = number % self.problem.goals
            errors = (history.losses - surrogate.predict(history.points).mean)[:, goal]
            point = self.misfits.point(history.points, errors, *self._region(), rng)
            return Proposal(point, first)
        wish = known.wish(rng, 0.0)
        points = bred(surrogate, wish, history.points, history.losses, rng)
        order = np.argsort(wish.value(surrogate.predict(points)), kind="stable")
        note = {
            **first,
            "explained": [round(fit.explained, 3) for fit in surrogate.fits],
            "basis": surrogate.basis.name,
            "links": [surface.response.shape for surface in surrogate.surfaces],
        }
        return Proposal(known.unasked(points[order], rng), note)

    def surrogate(self, log: Log) -> QuadraticSurrogate:
        """What the sampler believes after a log.

        Raises:
            FitError: if it is too short.
        """
        known = self._known
        known.follow(log)
        if not known.ended:
            raise FitError("no trial has ended yet")
        history = known.history()
        coordinates = [p.coordinate for p in self.problem.space.parameters]
        noise = filled_variances(history)
        return fit_quadratic(known.centre, history.points, history.losses, noise, coordinates)

    def _region(self) -> tuple[Array, Array]:
        """The corners of the box in which the design lies."""
        centre = self._known.centre
        return np.maximum(centre - REGION, 0.0), np.minimum(centre + REGION, 1.0)

    def _designed(self, index: int) -> Array:
        low, high = self._region()
        spot = sobol_point(self.problem.seed, len(low), index, stream="map")
        return np.asarray(low + spot * (high - low))


def design_size(dimensions: int, trials: int | None) -> int:
    """MAP's ``(d + 1)(d + 2)`` points, at most half of the budget, or 16 per parameter.

    What others asked for, references and warm starts, counts.
    """
    wanted = min((dimensions + 1) * (dimensions + 2), 16 * dimensions)
    return wanted if trials is None else max(1, min(wanted, max(_FEWEST, trials // 2)))
