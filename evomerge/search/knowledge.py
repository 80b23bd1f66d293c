"""What the surrogates' samplers share: the log as they read it, their design, and the fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from evomerge.interfaces import Log, Prediction, Proposal, SearchProblem
from evomerge.search.ascent import RADIUS
from evomerge.search.centred import (
    STEP,
    Steps,
    centre_of,
    centred_point,
    constant_steps,
    design_size,
    free_steps,
    models_of,
    smooth_steps,
)
from evomerge.search.coarse import Tie, is_coarse, tie
from evomerge.search.improvement import HypervolumeImprovement, hypervolume_improvement
from evomerge.search.preferences import Preference, draw, ranges
from evomerge.search.quasirandom import folded
from evomerge.search.reading import Reader
from evomerge.search.region import apart, drawn_back, radius
from evomerge.space import Array
from evomerge.surrogates.blend import Blend, Kernels, fit_blend, learn_kernels
from evomerge.surrogates.calibration import TrackRecord, track_record
from evomerge.surrogates.history import FitError, History
from evomerge.surrogates.structure import Structure, structure_of

MOST_TRIALS = 600
"""That a surrogate is fitted to; of more, the latest."""

_SAME = 1e-3  # in every coordinate: a point that was asked already
_GROWTH = 1.25  # of the history, after which the kernel's numbers are learnt anew


@dataclass
class Knowledge:
    """Follows one log. All of it follows from the log; what it remembers is a cache.

    Attributes:
        items: whether the surrogate looks at items, or at the goals alone.
    """

    problem: SearchProblem
    items: bool = True
    _reader: Reader = field(init=False, repr=False)
    _structure: Structure = field(init=False, repr=False)
    _kernels: tuple[int, Kernels] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._reader = Reader(self.problem.goals, items=self.items)
        self._structure = structure_of([p.coordinate for p in self.problem.space.parameters])

    def follow(self, log: Log) -> None:
        """Reads what is new; everything, if the log is another one."""
        if len(log) < self._reader.read:
            self._reader, self._kernels = Reader(self.problem.goals, items=self.items), None
        self._reader.follow(log)

    def begun(self, log: Log, rng: np.random.Generator) -> Proposal | Blend:
        """What to propose while nothing is to be learnt from a log; after that, the surrogate."""
        self.follow(log)
        designed = self.designed()
        if designed is not None:
            return designed
        try:
            return self.fitted()
        except FitError:
            return self.stepped(rng)

    def designed(self) -> Proposal | None:
        """The next point of the initial design; None once it is through and a trial has ended.

        The first proposal's note keeps the design's size, which a longer budget does not change.
        """
        size = self.design or design_size(self.problem.trials, self.unmeasured)
        if self.own >= size and self.ended:
            return None
        note = {"design": size} if self.own == 0 else {}
        point = centred_point(self.problem, self.centre, self.own, coarse=self.is_coarse)
        return Proposal(point, note)

    @property
    def design(self) -> int | None:
        """The design's size, as the first proposal's note has it."""
        return (self._reader.first_note or {}).get("design")

    @property
    def own(self) -> int:
        """How many proposals there were."""
        return self._reader.own

    @property
    def others(self) -> int:
        """How many points others asked for."""
        return len(self._reader.references)

    @property
    def unmeasured(self) -> int:
        """How many more models there are than points that others asked for."""
        return max(0, models_of(self.problem) - self.others)

    @property
    def ended(self) -> int:
        """How many trials have ended with losses."""
        return len(self._reader.ended)

    def stepped(self, rng: np.random.Generator) -> Proposal:
        """A step around the design's centre, where nothing can be fitted."""
        return Proposal(folded(self.centre + STEP * rng.normal(size=len(self.problem.space))), {})

    @property
    def centre(self) -> Array:
        """The origin of design and kernels, ``(d,)``."""
        references = [self._reader.references[n] for n in sorted(self._reader.references)]
        return centre_of(self.problem, np.array(references))

    @property
    def pending(self) -> Array:
        """Points that were asked and have not ended, ``(k, d)``."""
        points = list(self._reader.pending.values())
        return np.array(points).reshape(-1, len(self.problem.space))

    def history(self, most: int = MOST_TRIALS) -> History:
        """The ended trials; of more than `most` the latest."""
        return self._reader.history(self.ended, most)

    def fitted(self) -> Blend:
        """The surrogate of the history.

        Raises:
            FitError: if it cannot be fitted yet.
        """
        ended = self.ended
        if not ended:
            raise FitError("no trial has ended yet")
        learnt = _learning_size(ended)
        if self._kernels is None or self._kernels[0] != learnt:
            known = self._reader.history(learnt, MOST_TRIALS)
            self._kernels = (learnt, learn_kernels(self._structure, self.centre, known))
        return fit_blend(self._structure, self.centre, self.history(), self._kernels[1])

    def wish(self, rng: np.random.Generator, optimism: float) -> Preference:
        """A preference for one ask, in the range of what the references reach."""
        best, worst = self.ranges()
        return draw(rng, best, worst, optimism=optimism, limits=self.problem.limits)

    def wished_volume(
        self, surrogate: Blend, rng: np.random.Generator, *, sure: bool = False
    ) -> HypervolumeImprovement:
        """What a point adds to the front of the measured and pending ones, for one ask.

        Args:
            sure: see `hypervolume_improvement`.
        """
        asked = surrogate.predict(np.concatenate([self.history().points, self.pending]))
        return hypervolume_improvement(rng, asked, self.ranges(), self.limits, sure=sure)

    @property
    def limits(self) -> Array:
        """``(m,)``, inf where there is none."""
        return np.array(self.problem.limits or [np.inf] * self.problem.goals)

    def ranges(self) -> tuple[Array, Array]:
        """The best and the worst losses of the references, ``(m,)`` each."""
        ended = self._reader.ended[-MOST_TRIALS:]
        rows = [i for i, trial in enumerate(ended) if trial.number in self._reader.references]
        return ranges(np.array([trial.losses for trial in ended], dtype=float), rows)

    def unasked(self, points: Array, rng: np.random.Generator) -> Array:
        """The first of some points that was not asked before; else a step away, in the radius.

        Each as `drawn_back` from failures.
        """
        measured = np.array([trial.point for trial in self._reader.ended])
        known = np.concatenate([measured.reshape(-1, points.shape[1]), self.pending])
        failed = np.array(self._reader.failed).reshape(-1, points.shape[1])
        for wanted in points:
            point = drawn_back(wanted, measured, failed, self.pending)
            if apart(known, point) > _SAME:
                return np.asarray(point)
        step = np.clip(STEP * rng.normal(size=points.shape[1]), -self.radius, self.radius)
        return drawn_back(folded(points[0] + step), measured, failed, self.pending)

    @property
    def radius(self) -> float:
        """How far, per coordinate, a proposal may lie from a measured point."""
        if self.problem.goals > 1:
            return RADIUS
        ended = self._reader.ended
        losses = [float(trial.losses[0]) for trial in ended if trial.losses is not None]
        return radius(losses, [trial.number in self._reader.foretold for trial in ended])

    @property
    def track_record(self) -> TrackRecord:
        """How the forecasts of what was asked have come out."""
        return track_record(np.array(self._reader.deviations).reshape(-1, self.problem.goals))

    def told(self, surrogate: Blend, point: Array) -> dict[str, Any]:
        """What a proposal's note says of the surrogate behind it, by goal.

        The share of the variance that it explains on trials left out; the margins' weight in it;
        what it foretells of the point: mean, std, and the std of the measurement's noise.
        """
        return {
            "explained": [round(fit.explained, 3) for fit in surrogate.fits],
            "margins": [round(float(weight), 3) for weight in surrogate.weights],
            "foretold": _rows(surrogate.predict(point[None])),
        }

    @property
    def is_coarse(self) -> bool:
        """Whether numbers move together still; see `evomerge.search.coarse`."""
        return is_coarse(self.problem, self.own + self.others, self.unmeasured)

    @property
    def tie(self) -> Tie | None:
        """Of numbers that move together, if any do."""
        return self._tie if self.is_coarse else None

    @property
    def steps(self) -> tuple[Steps, ...]:
        """What draws steps away from points: free ones, and smooth ones where there is depth.

        Where numbers move together, only steps that are the same at every depth.
        """
        return (self._constant_steps,) if self.is_coarse else self._fine_steps

    @cached_property
    def _tie(self) -> Tie:
        return tie(self.problem)

    @cached_property
    def _constant_steps(self) -> Steps:
        return constant_steps(self.problem)

    @cached_property
    def _fine_steps(self) -> tuple[Steps, ...]:
        if any(p.coordinate is None for p in self.problem.space.parameters):
            return (free_steps(self.problem),)
        return free_steps(self.problem), smooth_steps(self.problem)


def _rows(prediction: Prediction) -> list[list[float]]:
    columns = [prediction.mean[0], prediction.std[0], prediction.noise[0]]
    return [[float(number) for number in row] for row in zip(*columns, strict=True)]


def _learning_size(ended: int) -> int:
    """How many of the first trials the kernel's numbers are learnt from: 4, 5, 6, 8, 10, ..."""
    size = 4
    while (larger := int(size * _GROWTH)) <= ended and larger > size:
        size = larger
    return min(size, ended)
