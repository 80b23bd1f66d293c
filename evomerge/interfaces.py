"""The seams: what a plug-in of each family must offer. Protocols, nothing to inherit.

Merge methods are in `evomerge.merging.method`, for they speak of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from evomerge.space import Array, Space
from evomerge.trial import Scores

Need = Literal["model", "folder", "adapter", "coefficients", "candidate"]


@dataclass(frozen=True)
class ItemLosses:
    """One goal of one trial on the search items, item by item.

    Attributes:
        losses: ``(n,)``, lower is better; their mean is the goal's loss. One number where a mean
            was told by hand; NaN where an item was not measured.
        margins: ``(n,)``, turned like the losses: the lower, the better the item went; None
            where the objective gives none, NaN where an item was not measured.
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


@dataclass(frozen=True)
class Prediction:
    """What a surrogate says of some points.

    Attributes:
        mean: ``(q, m)``, of the losses without noise.
        std: ``(q, m)``, >= 0, of what is not known about these means.
        noise: ``(q, m)``, >= 0, the std that a measurement has around them.
    """

    mean: Array
    std: Array
    noise: Array

    @property
    def spread(self) -> Array:
        """``(q, m)``, the std of a measurement that is not made yet."""
        return np.hypot(self.std, self.noise)


Pull = Callable[[Array, Array], Array]
"""From weights of means and of stds, ``(q, m)`` each, to the gradient of the weighted sum of each
point's prediction in that point, ``(q, d)``."""


@dataclass(frozen=True)
class Fit:
    """How well a surrogate predicts one goal of trials that it has not seen, by leaving one out.

    Attributes:
        error: root mean square, in the loss's units.
        spread: the same of the mean of the other trials, the prediction of one who knows nothing.
        coverage_50, coverage_90: shares of the measured losses inside the predicted intervals.
    """

    error: float
    spread: float
    coverage_50: float
    coverage_90: float

    @property
    def explained(self) -> float:
        """The share of the variance that is explained; below 0 it misleads, 1 is perfect."""
        return 1.0 - (self.error / self.spread) ** 2 if self.spread > 0 else 0.0


class Surrogate(Protocol):
    """A cheap prediction of the losses, fitted to a history; never changed after that."""

    @property
    def fits(self) -> tuple[Fit, ...]:
        """One record per goal."""
        ...

    def predict(self, points: Array) -> Prediction:
        """Of points ``(q, d)``."""
        ...

    def linearise(self, points: Array) -> tuple[Prediction, Pull]:
        """The prediction, and what gradients of it follow from; stds are smoothed for these."""
        ...

    def believing(self, points: Array) -> Surrogate:
        """This surrogate if points ``(k, d)`` came out as predicted: the same means, less std."""
        ...


class SamplerFactory(Protocol):
    """How a sampler is made; the registry's entries are these."""

    def __call__(self, problem: SearchProblem, options: Mapping[str, Any]) -> Sampler: ...


class Objective(Protocol):
    """Measures a merge. Made once per worker, then asked again and again."""

    @property
    def needs(self) -> Need:
        """What `evaluate` is given: the live model, a checkpoint folder, coefficients, or both."""
        ...

    @property
    def count(self) -> int | None:
        """How many items there are; None for an objective whose answer is one number."""
        ...

    def evaluate(self, subject: Any, items: Sequence[int] | None) -> Scores | Mapping[str, Scores]:
        """Scores in the order of the items.

        Args:
            subject: as `needs` says: `evomerge.objectives.subject.LiveModel`, a `pathlib.Path`,
                the mapping of parameter values, or `evomerge.objectives.subject.Written`.
            items: indices in [0, count); None when there are no items.
        """
        ...
