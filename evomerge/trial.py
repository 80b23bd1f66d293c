"""What is asked and what is told: candidates, scores, evaluations, trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np

from evomerge.errors import EvomergeError, UsageError
from evomerge.space import Array

Split = Literal["search", "selection", "test"]
SPLITS: tuple[Split, ...] = ("search", "selection", "test")


class InvalidScoresError(EvomergeError):
    """An objective answered something that is not a list of finite scores; fails one attempt."""

    exit_code = 5


class TrialState(StrEnum):
    """Where a trial stands; ``failed`` keeps its reason."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Outcome(StrEnum):
    """How an attempt at a trial ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the objective raised
    INVALID = "invalid"  # it answered, but not with finite scores of the right length
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    CRASHED = "crashed"  # the worker died
    LOST = "lost"  # the coordinator died, or handed it back


@dataclass(frozen=True)
class Candidate:
    """Parameters proposed, not yet judged.

    Attributes:
        number: of the trial, from 0, in order of asking.
        origin: who proposed it: ``base``, ``parent math``, ``uniform``, ``warm start 0``, or the
            sampler's name.
        method: the merge method; a reference candidate may use another than the campaign's.
        parameters: natural values by parameter name; of the method's own names.
        point: ``(d,)`` in the unit cube, read-only; None where the candidate lies outside the
            space (the base when weights cannot be 0, say): measured, but no sampler sees it.
    """

    number: int
    origin: str
    method: str
    parameters: Mapping[str, float]
    point: Array | None = field(default=None, compare=False)  # arrays do not compare to a bool

    def __post_init__(self) -> None:
        if self.point is not None:
            point = np.array(self.point, dtype=float)
            point.flags.writeable = False
            object.__setattr__(self, "point", point)


@dataclass(frozen=True)
class Scores:
    """One objective's answer: a score per item, and the margins where it has them.

    Attributes:
        items: ``(n,)`` finite scores in the order of the items asked, the user's units; or a
            single number for an objective without items.
        margins: ``(n,)`` finite, how far each answer was from flipping; None where unknown.
        rates: shares of the items, in [0, 1], of what puts the value in doubt, by its name:
            ``truncated``, ``invalid``. For the user; nothing is computed from them.
    """

    items: Sequence[float]
    margins: Sequence[float] | None = None
    rates: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, answer: object, count: int | None, *, metric: str) -> Scores:
        """A checked copy of whatever an objective returned.

        Args:
            answer: `Scores`, a mapping with ``items`` and perhaps ``margins`` and ``rates``, a
                sequence of numbers, or one number.
            count: how many items were asked; None for an objective without items, whose answer
                is one number.
            metric: for the message.

        Raises:
            InvalidScoresError: on anything but the right number of finite numbers.
        """
        scores, margins, rates = _parts(answer, metric)
        return cls(
            items=_numbers(scores, count, f"{metric}: scores"),
            margins=None if margins is None else _numbers(margins, count, f"{metric}: margins"),
            rates=_rates(rates, metric),
        )

    @property
    def mean(self) -> float:
        """The value: the mean over items."""
        return math.fsum(self.items) / len(self.items)

    @property
    def standard_error(self) -> float | None:
        """sqrt(sample variance / items), in the value's unit; None for fewer than two items."""
        n = len(self.items)
        if n < 2:
            return None
        mean = self.mean
        return math.sqrt(math.fsum((x - mean) ** 2 for x in self.items) / (n - 1) / n)


def _parts(answer: object, metric: str) -> tuple[object, object, object]:
    if isinstance(answer, Scores):
        return answer.items, answer.margins, answer.rates
    if not isinstance(answer, Mapping):
        return answer, None, {}
    if "items" not in answer or set(answer) - {"items", "margins", "rates"}:
        raise InvalidScoresError(
            f"{metric}: a mapping with {sorted(map(str, answer))} was returned; "
            "it holds 'items' and perhaps 'margins' and 'rates'"
        )
    return answer["items"], answer.get("margins"), answer.get("rates", {})


def _rates(rates: object, metric: str) -> dict[str, float]:
    if not isinstance(rates, Mapping) or not all(
        isinstance(name, str) and isinstance(rate, int | float) and 0 <= rate <= 1
        for name, rate in rates.items()
    ):
        raise InvalidScoresError(f"{metric}: rates are {rates!r:.80}; shares in [0, 1] by name")
    return {name: float(rate) for name, rate in rates.items()}


def _numbers(answer: object, count: int | None, what: str) -> tuple[float, ...]:
    if isinstance(answer, (str, bytes)) or answer is None:
        raise InvalidScoresError(f"{what}: {answer!r:.80} was returned; numbers are wanted")
    try:
        array = np.asarray(answer)
    except (ValueError, TypeError) as error:
        raise InvalidScoresError(f"{what}: not a flat list of numbers ({error})") from error
    if array.dtype.kind not in "biuf":
        raise InvalidScoresError(f"{what}: {answer!r:.80} was returned; real numbers are wanted")
    flat = array.astype(float)
    if count is None and flat.ndim == 0:
        flat = flat.reshape(1)
    wanted = 1 if count is None else count
    if flat.shape != (wanted,):
        raise InvalidScoresError(
            f"{what}: {flat.shape} returned; {wanted} wanted, one per item"
            if count is not None
            else f"{what}: {flat.shape} returned; one number is wanted, for there are no items"
        )
    bad = np.flatnonzero(~np.isfinite(flat))
    if len(bad):
        raise InvalidScoresError(f"{what}: {flat[bad[0]]} at item {bad[0]}; scores must be finite")
    return tuple(flat.tolist())


@dataclass(frozen=True)
class Evaluation:
    """What one attempt measured: scores by metric, and what it cost.

    Attributes:
        scores: by metric; every goal of the study, nothing else.
        seconds: wall time of merging and measuring.
    """

    scores: Mapping[str, Scores]
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise UsageError(
                f"an evaluation of {self.seconds} seconds was told; 0 or more is wanted"
            )


@dataclass(frozen=True)
class Measured:
    """A stored value: mean, standard error and item count of one goal on one split.

    Where a race measured a part of the items, mean and error are estimates over all of them.
    """

    mean: float
    standard_error: float | None
    items: int


@dataclass(frozen=True)
class Trial:
    """A candidate and what became of it; append-only.

    Attributes:
        visible_from: number of the first ask that saw this trial's end; None before that.
        reason: why it failed.
        results: by split, then by metric.
        chance: of a trial that a race stopped: that it would have entered the front, in [0, 1];
            its search results are estimates. None where it was measured whole, or not yet.
    """

    candidate: Candidate
    state: TrialState
    visible_from: int | None = None
    reason: str | None = None
    results: Mapping[Split, Mapping[str, Measured]] = field(default_factory=dict)
    chance: float | None = None

    @property
    def number(self) -> int:
        """The candidate's number."""
        return self.candidate.number

    def values(self, split: Split = "search") -> dict[str, float] | None:
        """Means by metric on one split; None unless it was measured there."""
        measured = self.results.get(split)
        return {metric: value.mean for metric, value in measured.items()} if measured else None
