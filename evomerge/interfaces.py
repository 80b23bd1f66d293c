"""The seams: what a plug-in of each family must offer. Protocols, nothing to inherit.

Merge methods are in `evomerge.merging.method`, for they speak of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from evomerge.space import Array, Space
from evomerge.trial import Scores

Need = Literal["model", "folder", "coefficients"]


@dataclass(frozen=True)
class ItemLosses:
    """One goal of one trial on the search items, item by item.

    Attributes:
        losses: ``(n,)``, lower is better; their mean is the goal's loss. One number where a mean
            was told by hand.
        margins: ``(n,)``, turned like the losses: the lower, the better the item went; None
            where the objective gives none.
    """

    losses: Array
    margins: Array | None


@dataclass(frozen=True)
class Observation:
    """One ended trial as a sampler sees it.

    Attributes:
        number: of the trial.
        point: ``(d,)``.
        losses: ``(m,)``, lower is better; None for a failed trial: no score is invented.
        violation: sum over the goals' limits, 0 is feasible; None for a failed trial.
        standard_errors: ``(m,)`` of the losses over items, NaN where unknown; None for a failed
            trial.
        read_items: gives the items, one record per goal; they are read from the study's database
            when it is called, so a sampler keeps what it needs. None where there are none.
    """

    number: int
    point: Array
    losses: Array | None
    violation: float | None
    standard_errors: Array | None = None
    read_items: Callable[[], tuple[ItemLosses, ...]] | None = field(
        default=None, compare=False, repr=False
    )


@dataclass(frozen=True)
class Asked:
    """One earlier proposal in the log.

    Attributes:
        point: ``(d,)``.
        own: whether this sampler proposed it; the base, parents and warm starts are not its own.
        note: what the sampler returned beside the point, JSON, for its own replay.
    """

    number: int
    point: Array
    own: bool
    note: Mapping[str, Any]


class Log(Protocol):
    """Everything that happened, in the order in which it became visible to the sampler.

    Before the ask numbered n come the observations that were visible to it and not to an earlier
    one, by trial number. The order depends on nothing but the study, so reading it from the start
    rebuilds any state; it only grows, so a sampler may remember how far it has read.
    """

    def __len__(self) -> int: ...

    def events(self, start: int = 0) -> Iterator[Asked | Observation]:
        """Events from a position on; asked-but-untold trials are those without an observation."""
        ...


@dataclass(frozen=True)
class Proposal:
    """What a sampler answers: a point, and a note for its own replay (JSON, small)."""

    point: Array
    note: Mapping[str, Any]


class Sampler(Protocol):
    """Proposes points. A pure function of log, number and seed; remembered state is a cache."""

    @property
    def name(self) -> str:
        """As the campaign file says it."""
        ...

    def ask(self, log: Log, number: int) -> Proposal:
        """The proposal for trial `number`, ``(d,)`` in [0, 1].

        The same log and number give the same proposal, in this process or another.
        """
        ...


@dataclass(frozen=True)
class SearchProblem:
    """What a sampler is made for.

    Attributes:
        space: its parameters' coordinates say which of them act alike.
        goals: how many losses, >= 1.
        trials: how many trials the budget allows in all; None if only time is limited.
        seed: the study's.
        limits: ``(m,)`` losses that a feasible trial does not exceed, inf where there is no
            limit; empty where no goal has one.
    """

    space: Space
    goals: int
    trials: int | None
    seed: int
    limits: tuple[float, ...] = ()


class SamplerFactory(Protocol):
    """How a sampler is made; the registry's entries are these."""

    def __call__(self, problem: SearchProblem, options: Mapping[str, Any]) -> Sampler: ...


class Objective(Protocol):
    """Measures a merge. Made once per worker, then asked again and again."""

    @property
    def needs(self) -> Need:
        """What `evaluate` is given: the live model, a checkpoint folder, or coefficients."""
        ...

    @property
    def count(self) -> int | None:
        """How many items there are; None for an objective whose answer is one number."""
        ...

    def evaluate(self, subject: Any, items: Sequence[int] | None) -> Scores | Mapping[str, Scores]:
        """Scores in the order of the items.

        Args:
            subject: as `needs` says: `evomerge.objectives.subject.LiveModel`, a `pathlib.Path`,
                or the mapping of parameter values.
            items: indices in [0, count); None when there are no items.
        """
        ...
