"""The sampler ``margin``: asks where a Gaussian process on the items' margins finds it best.

The initial design of `evomerge.search.centred`; then, for every ask, the surrogate of all trials
that have ended, a preference drawn for this ask, and a descent of the surrogate near the measured
points. Pending trials are believed to come out as predicted. Where the objective gives no margins,
or where they have predicted worse, the surrogate falls back on the goals' losses by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evomerge.interfaces import Fit, Log, Proposal, SearchProblem
from evomerge.randomness import generator
from evomerge.search.ascent import descend
from evomerge.search.centred import (
    STEP,
    Steps,
    centre_of,
    centred_point,
    design_size,
    free_steps,
    smooth_steps,
)
from evomerge.search.options import no_options
from evomerge.search.preferences import draw, ranges
from evomerge.search.quasirandom import folded
from evomerge.search.reading import Reader
from evomerge.space import Array
from evomerge.surrogates.blend import Blend, Kernels, fit_blend, learn_kernels
from evomerge.surrogates.history import FitError, History
from evomerge.surrogates.structure import Structure, structure_of

MOST_TRIALS = 600  # that a surrogate is fitted to; of more, the latest
OPTIMISM = 0.5
_GREEDY = 4  # one ask in so many has no optimism
_SAME = 1e-3  # in every coordinate: a point that was asked already
_GROWTH = 1.25  # of the history, after which the kernel's numbers are learnt anew


def make(problem: SearchProblem, options: Mapping[str, Any]) -> MarginSampler:
    """The sampler ``margin``; takes no options."""
    no_options("margin", options)
    return MarginSampler(problem)


@dataclass
class MarginSampler:
    """See the module's docstring. Implements `evomerge.interfaces.Sampler`."""

    problem: SearchProblem
    name: str = field(default="margin", init=False)
    _reader: Reader | None = field(default=None, init=False, repr=False)
    _kernels: tuple[int, Kernels] | None = field(default=None, init=False, repr=False)
    _structure: Structure | None = field(default=None, init=False, repr=False)

    def ask(self, log: Log, number: int) -> Proposal:
        """The proposal for trial `number`; see `evomerge.interfaces.Sampler`."""
        reader = self._follow(log)
        size = (reader.first_note or {}).get("design", design_size(self.problem.trials))
        note = {"design": size} if reader.own == 0 else {}
        if reader.own < size or not reader.ended:
            return Proposal(self._design(reader, reader.own, size), note)
        try:
            surrogate, history = self._fitted(reader)
        except FitError:
            return Proposal(self._design(reader, number + size, size), note)
        return Proposal(
            self._best(surrogate, history, reader, number),
            {**note, "explained": [round(fit.explained, 3) for fit in surrogate.fits]},
        )

    def surrogate(self, log: Log) -> Blend:
        """What the sampler believes after a log.

        Raises:
            FitError: if it is too short.
        """
        return self._fitted(self._follow(log))[0]

    def fits(self, log: Log) -> tuple[Fit, ...]:
        """How well it would have predicted the trials of a log; empty where it is too short."""
        try:
            return self.surrogate(log).fits
        except FitError:
            return ()

    def _follow(self, log: Log) -> Reader:
        if self._reader is None or len(log) < self._reader.read:
            self._reader, self._kernels = Reader(self.problem.goals), None
        self._reader.follow(log)
        return self._reader

    def _centre(self, reader: Reader) -> Array:
        references = [reader.references[number] for number in sorted(reader.references)]
        return centre_of(self.problem, np.array(references))

    def _design(self, reader: Reader, index: int, size: int) -> Array:
        return centred_point(self.problem, self._centre(reader), index, size)

    def _fitted(self, reader: Reader) -> tuple[Blend, History]:
        if not reader.ended:
            raise FitError("no trial has ended yet")
        if self._structure is None:
            coordinates = [p.coordinate for p in self.problem.space.parameters]
            self._structure = structure_of(coordinates)
        centre, history = self._centre(reader), reader.history(len(reader.ended), MOST_TRIALS)
        learnt = _learning_size(len(reader.ended))
        if self._kernels is None or self._kernels[0] != learnt:
            known = reader.history(learnt, MOST_TRIALS)
            self._kernels = (learnt, learn_kernels(self._structure, centre, known))
        return fit_blend(self._structure, centre, history, self._kernels[1]), history

    def _best(self, surrogate: Blend, history: History, reader: Reader, number: int) -> Array:
        rng = generator(self.problem.seed, "margin", number)
        optimism = 0.0 if number % _GREEDY == 0 else OPTIMISM * abs(float(rng.normal()))
        ended = reader.ended[-MOST_TRIALS:]
        rows = [i for i, trial in enumerate(ended) if trial.number in reader.references]
        best, worst = ranges(history.losses, rows)
        wish = draw(rng, best, worst, optimism=optimism, limits=self.problem.limits)
        pending = np.array(list(reader.pending.values())).reshape(-1, len(self.problem.space))
        points, _ = descend(surrogate.believing(pending), wish, history.points, self._steps(), rng)
        known = np.concatenate([history.points, pending])
        for point in points:
            if np.abs(known - point).max(axis=1).min() > _SAME:
                return np.asarray(point)
        return folded(points[0] + STEP * rng.normal(size=points.shape[1]))

    def _steps(self) -> tuple[Steps, ...]:
        if any(p.coordinate is None for p in self.problem.space.parameters):
            return (free_steps(self.problem),)
        return free_steps(self.problem), smooth_steps(self.problem)


def _learning_size(ended: int) -> int:
    """How many of the first trials the kernel's numbers are learnt from: 4, 5, 6, 8, 10, ..."""
    size = 4
    while (larger := int(size * _GROWTH)) <= ended and larger > size:
        size = larger
    return min(size, ended)
