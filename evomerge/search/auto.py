"""The default sampler: an initial design around the references, then the fitting library sampler.

The references of a campaign (base, parents, uniform average, warm starts) are the non-own points of
the log. Their mean is a shrunken uniform average, which on real merges is a good place to start
from, and mixtures of them keep what the parents can do; uniform points in the cube mostly do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evomerge.interfaces import Asked, Log, Observation, Proposal, Sampler, SearchProblem
from evomerge.randomness import generator
from evomerge.search.options import no_options
from evomerge.search.quasirandom import folded, sobol_point
from evomerge.space import Array

DESIGN = 8  # points, or a fifth of the budget if that is smaller
STEP = 0.1  # standard deviation of the design's steps in the unit cube
# Beyond it evolution is level with TPE (within seeds' noise at 600 trials) and asks in less time.
MANY_TRIALS = 500


def choose(problem: SearchProblem) -> tuple[str, str]:
    """The sampler that ``auto`` is on a problem, by goals and budget, and why, for the user.

    Measured by ``experiments/search/compare.py``.
    """
    goals, trials = problem.goals, problem.trials
    what = f"{goals} goal{'s' if goals > 1 else ''}, {len(problem.space)} parameters"
    if goals == 1:
        return "cma", f"{what}: CMA-ES from the best reference"
    if trials is None or trials <= MANY_TRIALS:
        return "tpe", f"{what}, few trials: mixtures of the references, then TPE"
    evolution = "nsga2" if goals == 2 else "nsga3"
    return evolution, f"{what}, many trials: mixtures of the references, then evolution"


def make(problem: SearchProblem, options: Mapping[str, Any]) -> Auto:
    """The sampler ``auto``; takes no options."""
    no_options("auto", options)
    sampler, _ = choose(problem)
    # CMA-ES waits for the references by itself.
    return Auto(problem, {"sampler": sampler, "design": 0 if sampler == "cma" else _size(problem)})


def _size(problem: SearchProblem) -> int:
    return DESIGN if problem.trials is None else min(DESIGN, problem.trials // 5)


@dataclass
class _Seen:
    """What `Auto` needs of a log: the references, how many own asks, and the first one's choice."""

    read: int = 0
    own: int = 0
    references: list[Array] = field(default_factory=list)
    chosen: dict[str, Any] | None = None

    def take(self, log: Log) -> None:
        """Reads what is new."""
        for event in log.events(self.read):
            self.read += 1
            if isinstance(event, Asked) and not event.own:
                self.references.append(event.point)
            elif isinstance(event, Asked):
                self.own += 1
                self.chosen = self.chosen or event.note.get("auto")


@dataclass(frozen=True)
class _InnerLog:
    """The log as the inner sampler sees it: the design's points are others'."""

    log: Log

    def __len__(self) -> int:
        return len(self.log)

    def events(self, start: int = 0) -> Iterator[Asked | Observation]:
        for event in self.log.events(start):
            if isinstance(event, Asked) and event.own:
                inner = event.note.get("inner")
                yield replace(event, own=inner is not None, note=inner or {})
            else:
                yield event


@dataclass
class Auto:
    """The initial design, then another sampler that sees the design as others' points.

    The choice, ``{"sampler": name, "design": points}``, goes into every note, and the first one
    counts: a longer budget does not change the sampler of a study that has begun.
    """

    problem: SearchProblem
    choice: Mapping[str, Any]
    name: str = field(default="auto", init=False)
    _seen: _Seen = field(default_factory=_Seen, init=False, repr=False)
    _inner: Sampler | None = field(default=None, init=False, repr=False)

    def ask(self, log: Log, number: int) -> Proposal:
        """The proposal for trial `number`; see `evomerge.interfaces.Sampler`."""
        if len(log) < self._seen.read:
            self._seen, self._inner = _Seen(), None
        self._seen.take(log)
        seen = self._seen
        chosen = seen.chosen or dict(self.choice)
        if seen.own < chosen["design"]:
            point = design_point(np.array(seen.references), self.problem, seen.own)
            return Proposal(point, {"auto": chosen})
        if self._inner is None:
            from evomerge.search.registry import make_sampler

            self._inner = make_sampler(chosen["sampler"], self.problem, {})
        proposal = self._inner.ask(_InnerLog(log), number)
        return Proposal(proposal.point, {"auto": chosen, "inner": proposal.note})


def design_point(references: Array, problem: SearchProblem, index: int) -> Array:
    """Point `index` of the initial design, ``(d,)`` in [0, 1].

    The first is the references' mean; the others are random mixtures of them with a Gaussian step
    in every coordinate. Without references they are Sobol points.

    Args:
        references: ``(k, d)``, k >= 0.
    """
    if len(references) == 0:
        return sobol_point(problem.seed, len(problem.space), index)
    if index == 0:
        return np.asarray(references.mean(axis=0))
    rng = generator(problem.seed, "design", index)
    mixture = rng.dirichlet(np.ones(len(references))) @ references
    return folded(mixture + STEP * rng.normal(size=mixture.shape))
