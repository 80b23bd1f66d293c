"""The default sampler: `margin` while a surrogate can keep up, evolution for long campaigns.

`margin` says with every proposal how well it foretells trials that were left out of its fit. Where
it explains next to nothing of any goal, TPE proposes in its place, until it explains something
again: the optimum of a surrogate that has not understood the landscape would lead astray.

Long campaigns, and studies that began with an earlier version, have an initial design around the
references instead. These (base, parents, uniform average, warm starts) are the non-own points of
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
MANY_TRIALS = 500
"""Beyond it a fit for every ask takes seconds, and evolution has the trials that it needs."""

FALLBACK = "tpe"
POOR = 0.1
"""Share of the variance that the surrogate must explain of some goal, on trials left out."""

_JUDGED = 24  # own asks, before which a poor fit only says that there are few trials


def choose(problem: SearchProblem) -> tuple[str, str]:
    """The sampler that ``auto`` is on a problem, by goals and budget, and why, for the user.

    Measured by ``experiments/search/margins.py`` and ``experiments/search/compare.py``.
    """
    goals, trials = problem.goals, problem.trials
    what = f"{goals} goal{'s' if goals > 1 else ''}, {len(problem.space)} parameters"
    if trials is None or trials <= MANY_TRIALS:
        why = "a Gaussian process on items' margins, on the goals where there are none; "
        return "margin", f"{what}: {why}TPE where neither foretells left-out trials"
    if goals == 1:
        return "cma", f"{what}, many trials: CMA-ES from the best reference"
    evolution = "nsga2" if goals == 2 else "nsga3"
    return evolution, f"{what}, many trials: mixtures of the references, then evolution"


def make(problem: SearchProblem, options: Mapping[str, Any]) -> Auto:
    """The sampler ``auto``; takes no options."""
    no_options("auto", options)
    sampler, _ = choose(problem)
    # CMA-ES waits for the references by itself, and margin has a design of its own.
    design = 0 if sampler in ("cma", "margin") else _size(problem)
    return Auto(problem, {"sampler": sampler, "design": design})


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
    """The log as an inner sampler sees it: what another one proposed is others'.

    To `margin` all are its own, for what is not counts as a reference to it.
    """

    log: Log
    sampler: str

    def __len__(self) -> int:
        return len(self.log)

    def events(self, start: int = 0) -> Iterator[Asked | Observation]:
        for event in self.log.events(start):
            if isinstance(event, Asked) and event.own:
                by = event.note.get("by", event.note["auto"]["sampler"])
                inner = event.note.get("inner") if by == self.sampler else None
                own = inner is not None or self.sampler == "margin"
                yield replace(event, own=own, note=inner or {})
            else:
                yield event


@dataclass
class Auto:
    """The initial design, then another sampler that sees the design as others' points.

    The choice, ``{"sampler": name, "design": points}``, goes into every note, and the first one
    counts: a longer budget does not change the sampler of a study that has begun. ``by`` names
    the sampler of a proposal where it is another one, and ``inner`` is that sampler's own note.
    """

    problem: SearchProblem
    choice: Mapping[str, Any]
    name: str = field(default="auto", init=False)
    _seen: _Seen = field(default_factory=_Seen, init=False, repr=False)
    _inner: dict[str, Sampler] = field(default_factory=dict, init=False, repr=False)

    def ask(self, log: Log, number: int) -> Proposal:
        """The proposal for trial `number`; see `evomerge.interfaces.Sampler`."""
        if len(log) < self._seen.read:
            self._seen, self._inner = _Seen(), {}
        self._seen.take(log)
        seen = self._seen
        chosen = seen.chosen or dict(self.choice)
        if seen.own < chosen["design"]:
            point = design_point(np.array(seen.references), self.problem, seen.own)
            return Proposal(point, {"auto": chosen})
        proposal = self._ask(chosen["sampler"], log, number)
        explained = proposal.note.get("explained")
        if explained and seen.own >= _JUDGED and max(explained) < POOR:
            instead = self._ask(FALLBACK, log, number)
            note = {"auto": chosen, "by": FALLBACK, "explained": explained}
            return Proposal(instead.point, {**note, "inner": instead.note})
        return Proposal(proposal.point, {"auto": chosen, "inner": proposal.note})

    def _ask(self, sampler: str, log: Log, number: int) -> Proposal:
        if sampler not in self._inner:
            from evomerge.search.registry import make_sampler

            self._inner[sampler] = make_sampler(sampler, self.problem, {})
        return self._inner[sampler].ask(_InnerLog(log, sampler), number)


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
