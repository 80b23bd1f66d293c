"""CMA-ES in stages, as published procedures run it: some numbers move, the others are held.

The numbers are in natural units, as the papers give them, and a penalty on their size is added to
the loss before trials are compared. The state follows from the log: every full generation of ended
trials is one update, whoever was pending meanwhile. So ends may come in any order, and a failed
trial is only one that is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from evomerge.errors import UsageError
from evomerge.interfaces import Log, Observation, Proposal, SearchProblem
from evomerge.merging.method import role_of
from evomerge.randomness import generator
from evomerge.recipe.numbers import parts_of
from evomerge.search.evolution import Evolution, population
from evomerge.search.quasirandom import folded
from evomerge.space import Array

_GENERATIONS = 10  # at least, in a stage of few trials
_FEWEST = 4  # trials per generation


@dataclass(frozen=True)
class Stage:
    """One run of CMA-ES.

    Attributes:
        role: of the numbers that move, ``weight`` or ``density``; the others stay.
        low, high: the box in natural units, cut to each parameter's own range.
        sigma: the first step, in natural units.
        penalty: times the mean of the numbers' absolute values, added to the loss.
        trials: as published; only their proportions count.
        population: trials per generation; None for `most`.
        most: as published; fewer where a stage is too short for ten generations of them. None for
            ``4 + 3 ln d``.
    """

    role: str
    low: float
    high: float
    sigma: float
    penalty: float
    trials: int
    population: int | None = None
    most: int | None = None

    def generation(self, dimensions: int, trials: int) -> int:
        """Trials per generation, in a stage of so many."""
        if self.population is not None:
            return self.population
        if self.most is None:
            return population(dimensions)
        return min(self.most, max(_FEWEST, trials // _GENERATIONS))


@dataclass
class _Played:
    """A log, as these samplers read it; each event once.

    Attributes:
        read: how many events were read.
        others: how many trials were not the sampler's own.
        notes: of its own asks, by number.
        ended: those of them with losses, in the order in which they became visible.
        states: by stage, how many generations made it, and the state.
    """

    read: int = 0
    others: int = 0
    notes: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    ended: list[Observation] = field(default_factory=list)
    states: dict[int, tuple[int, Evolution]] = field(default_factory=dict)

    def follow(self, log: Log) -> None:
        """Reads what is new."""
        for event in log.events(self.read):
            self.read += 1
            if isinstance(event, Observation):
                good = event.losses is not None and bool(np.isfinite(event.losses).all())
                if good and event.number in self.notes:
                    self.ended.append(event)
            elif event.own:
                self.notes[event.number] = event.note
            else:
                self.others += 1

    def first(self, stage: int) -> Mapping[str, Any] | None:
        """The note of a stage's first proposal."""
        return next((note for note in self.notes.values() if note["stage"] == stage), None)

    def of_stage(self, stage: int) -> list[Observation]:
        """Its ended trials."""
        return [trial for trial in self.ended if self.notes[trial.number]["stage"] == stage]


@dataclass
class Staged:
    """Stages one after the other. Implements `evomerge.interfaces.Sampler`.

    A later stage starts at the best trial of the one before, and holds what that one moved. A
    trial is only compared with those of its own stage, under one penalty: the release of
    Evo-Merging carries the best loss into a stage with another penalty. The last stage does not
    end. Notes keep the stage, and with its first proposal its length and the trial it starts at.

    Attributes:
        stages: those without numbers to move are left out.
        start: natural values by role at which the first stage starts, cut to the ranges.

    Raises:
        UsageError: with several goals, or where the space does not fit.
    """

    name: str
    problem: SearchProblem
    stages: tuple[Stage, ...]
    start: Mapping[str, float]
    _played: _Played = field(default_factory=_Played, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.problem.goals != 1:
            text = f"{self.name} is for one goal, the campaign has {self.problem.goals}"
            raise UsageError(f"{text}; take nsga2 or auto")
        for name, role in zip(self.problem.space.names, self._roles, strict=True):
            if role not in self.start:
                raise UsageError(
                    f"{self.name} moves weights and densities; {name} is neither: fix that number"
                )
        if not self._live:
            words = " and no ".join(stage.role for stage in self.stages)
            raise UsageError(f"{self.name}: no {words} is searched here; free one")
        for stage in self._live:
            self._box(stage)

    def ask(self, log: Log, number: int) -> Proposal:
        """The proposal for trial `number`; see `evomerge.interfaces.Sampler`."""
        if len(log) < self._played.read:
            self._played = _Played()
        played = self._played
        played.follow(log)
        index = self._stage_now(played)
        stage, first = self._live[index], played.first(index)
        note = dict(first) if first else self._opening(played, index)
        centre, moving = self._natural(played, note.get("from")), self._moving(stage)
        low, high = self._box(stage)
        if first:
            state = self._evolved(played, index, centre[moving], note["trials"])
        else:
            state = self._begun(stage, centre[moving])
        drawn = state.draw(generator(self.problem.seed, self.name, number), 1)[0]
        natural = centre.copy()
        natural[moving] = low + folded((drawn - low) / (high - low)) * (high - low)
        return Proposal(self._point(natural), {"stage": index} if first else note)

    def _begun(self, stage: Stage, centre: Array) -> Evolution:
        return Evolution.start(np.clip(centre, *self._box(stage)), stage.sigma)

    def _evolved(self, played: _Played, index: int, centre: Array, length: int) -> Evolution:
        """After every full generation of a stage of that length, which began at the centre."""
        stage, trials = self._live[index], played.of_stage(index)
        moving = self._moving(stage)
        size = stage.generation(len(moving), length)
        made, state = played.states.get(index) or (0, self._begun(stage, centre))
        for generation in range(made, len(trials) // size):
            rows = trials[generation * size : (generation + 1) * size]
            values = np.array([self._values(trial.point)[moving] for trial in rows])
            state = state.updated(values, self._ranks(stage, rows))
        played.states[index] = (len(trials) // size, state)
        return state

    @cached_property
    def _live(self) -> tuple[Stage, ...]:
        return tuple(stage for stage in self.stages if stage.role in self._roles)

    @cached_property
    def _roles(self) -> tuple[str, ...]:
        return tuple(role_of(parts_of(name)[2]) for name in self.problem.space.names)

    @cached_property
    def _ranges(self) -> tuple[Array, Array]:
        parameters = self.problem.space.parameters
        return np.array([p.low for p in parameters]), np.array([p.high for p in parameters])

    def _stage_now(self, played: _Played) -> int:
        """The stage of the next proposal: each but the last has a length."""
        notes = list(played.notes.values())
        if not notes:
            return 0
        now = int(notes[-1]["stage"])
        opening = played.first(now) or {}
        full = sum(note["stage"] == now for note in notes) >= opening["trials"]
        return now + (full and now + 1 < len(self._live))

    def _opening(self, played: _Played, index: int) -> dict[str, Any]:
        """The note of a stage's first proposal.

        A budget in trials is shared out as the published ones are; without one they stay.
        """
        published = self._live[index].trials
        left, rest = self.problem.trials, self._live[index:]
        if left is None:
            trials = published
        else:
            left -= played.others + len(played.notes)
            trials = max(1, left * published // sum(stage.trials for stage in rest))
        note: dict[str, Any] = {"stage": index, "trials": trials}
        before = played.of_stage(index - 1)
        if before:
            ranks = self._ranks(self._live[index - 1], before)
            note["from"] = before[int(np.argmin(ranks))].number
        return note

    def _natural(self, played: _Played, source: int | None) -> Array:
        """The natural values that a stage starts at, ``(d,)``."""
        if source is None:
            return np.clip([self.start[role] for role in self._roles], *self._ranges)
        return next(self._values(t.point) for t in played.ended if t.number == source)

    def _moving(self, stage: Stage) -> list[int]:
        return [i for i, role in enumerate(self._roles) if role == stage.role]

    def _box(self, stage: Stage) -> tuple[Array, Array]:
        moving = self._moving(stage)
        lows, highs = self._ranges
        low, high = np.maximum(lows[moving], stage.low), np.minimum(highs[moving], stage.high)
        for i, a, b in zip(moving, low, high, strict=True):
            if not a < b:
                raise UsageError(
                    f"{self.name} moves {self.problem.space.names[i]} between {stage.low:g} and "
                    f"{stage.high:g}, its range is [{lows[i]:g}, {highs[i]:g}]; widen that"
                )
        return low, high

    def _ranks(self, stage: Stage, trials: Sequence[Observation]) -> Array:
        """``(n,)``, feasible trials first (Deb 2000, section 3), then by loss and penalty."""
        moving = self._moving(stage)
        keys = [
            (float(trial.violation or 0.0), self._penalised(stage, moving, trial))
            for trial in trials
        ]
        ranks = np.empty(len(keys))
        ranks[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
        return ranks

    def _penalised(self, stage: Stage, moving: list[int], trial: Observation) -> float:
        size = float(np.abs(self._values(trial.point)[moving]).mean())
        loss = np.inf if trial.losses is None else float(trial.losses[0])
        return loss + stage.penalty * size

    def _values(self, point: Array) -> Array:
        return np.array(list(self.problem.space.values(point).values()))

    def _point(self, natural: Array) -> Array:
        inside = np.clip(natural, *self._ranges).tolist()
        return self.problem.space.point(dict(zip(self.problem.space.names, inside, strict=True)))
