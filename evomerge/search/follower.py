"""A nevergrad optimizer that follows a log by replaying it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.interfaces import Asked, Observation, Proposal
from evomerge.randomness import derived_seed, generator
from evomerge.search.quasirandom import folded
from evomerge.space import Array

_logger = logging.getLogger("evomerge")

_PRELUDES = 16  # at most, lest a trial that nobody tells keeps the optimizer waiting
_INFEASIBLE = 1e15  # beyond any measured loss, yet fine enough to tell violations apart


@dataclass(frozen=True)
class _Guess:
    """A proposal that the optimizer has made, but that the log has not shown yet."""

    number: int
    proposal: Proposal
    candidate: Any | None


class Follower:
    """Follows one log, reading each event once.

    Notes: ``start`` marks the ask at which an optimizer was made, from everything before it;
    ``prelude`` a step around the mean of what others asked for, while a local optimizer waits
    for their ends; ``stuck`` a point of the caller's.

    Args:
        dimensions: of a point.
        optimizer: from a nevergrad parametrization to an optimizer.
        seed: the study's.
        sigma: size of the first steps in the unit cube.
        local: whether the optimizer starts at the best point so far and learns from its own
            points only (CMA-ES); others are told every point.

    Attributes:
        read: how many events were read.
        stuck: how many of them were asks without an answer.
    """

    def __init__(
        self,
        *,
        dimensions: int,
        optimizer: Callable[[Any], Any],
        seed: int,
        sigma: float,
        local: bool,
    ) -> None:
        self.read = 0
        self.stuck = 0
        self._dimensions = dimensions
        self._make = optimizer
        self._seed = seed
        self._sigma = sigma
        self._local = local
        self._optimizer: Any = None
        self._candidates: dict[int, Any] = {}
        self._others: list[Array] = []
        self._pending: set[int] = set()
        self._ended: list[Observation] = []
        self._preludes = 0
        self._guess: _Guess | None = None

    def ask(self, events: Sequence[Asked | Observation], number: int) -> Proposal | None:
        """Takes new events in and proposes; None where they contradict the last proposal."""
        starts = [e.number for e in events if isinstance(e, Asked) and e.own and "start" in e.note]
        last_start = max(starts, default=-1)
        for event in events:
            if isinstance(event, Observation):
                self._take_end(event)
            elif not self._take_ask(event, replayed=event.number >= last_start):
                return None
            self.read += 1
        if self._guess is None:
            self._guess = self._propose(number)
        return self._guess.proposal if self._guess.number == number else None

    def _take_ask(self, event: Asked, *, replayed: bool) -> bool:
        guess, self._guess = self._guess, None
        self.stuck += "stuck" in event.note
        self._preludes += "prelude" in event.note
        if not event.own:
            self._others.append(event.point)
            self._pending.add(event.number)
        if guess is not None:
            if guess.candidate is not None:
                self._candidates[event.number] = guess.candidate
            same = event.own and np.array_equal(event.point, guess.proposal.point)
            return same and event.number == guess.number
        if event.own and replayed and not {"stuck", "prelude"} & set(event.note):
            self._replay(event)
        return True

    def _replay(self, event: Asked) -> None:
        if "start" in event.note:
            self._begin(event.number)
        if self._optimizer is None:
            return
        candidate = self._optimizer.ask()
        if np.array_equal(self._point(candidate), event.point):
            self._candidates[event.number] = candidate
            return
        self._optimizer, self._candidates = None, {}
        _logger.warning(
            "trial %d cannot be replayed, nevergrad proposes another point than the log holds; "
            "a new optimizer starts from the data",
            event.number,
        )

    def _take_end(self, event: Observation) -> None:
        self._pending.discard(event.number)
        candidate = self._candidates.pop(event.number, None)
        if event.losses is None or not np.isfinite(event.losses).all():
            return
        self._ended.append(event)
        if candidate is not None:
            self._optimizer.tell(candidate, _loss(event))
        elif self._optimizer is not None and not self._local:
            self._tell_unasked(event)

    def _propose(self, number: int) -> _Guess:
        note = {}
        if self._optimizer is None:
            if self._local and self._pending and self._preludes < _PRELUDES:
                return _Guess(number, self._prelude(number), None)
            self._begin(number)
            note = {"start": True}
        candidate = self._optimizer.ask()
        return _Guess(number, Proposal(self._point(candidate), note), candidate)

    def _prelude(self, number: int) -> Proposal:
        steps = generator(self._seed, "prelude", number).normal(size=self._dimensions)
        return Proposal(folded(self._mean() + self._sigma * steps), {"prelude": True})

    def _begin(self, number: int) -> None:
        import nevergrad

        best = min(self._ended, key=_loss, default=None) if self._local else None
        start = self._mean() if best is None else best.point
        # pycma needs two coordinates.
        init = np.append(start, [0.5] * (2 - self._dimensions))
        parametrization = nevergrad.p.Array(init=init).set_mutation(sigma=self._sigma)
        if not self._local:
            _bound(parametrization)
        seed = derived_seed(self._seed, "nevergrad", number, bits=32)
        parametrization.random_state = np.random.RandomState(seed)
        self._optimizer = self._make(parametrization)
        self._candidates = {}
        if not self._local:
            for event in self._ended:
                self._tell_unasked(event)

    def _tell_unasked(self, event: Observation) -> None:
        value = np.append(event.point, [0.5] * (2 - self._dimensions))
        child = self._optimizer.parametrization.spawn_child(new_value=value)
        self._optimizer.tell(child, _loss(event))

    def _mean(self) -> Array:
        if not self._others:
            return np.full(self._dimensions, 0.5)
        return np.asarray(np.mean(self._others, axis=0))

    def _point(self, candidate: Any) -> Array:
        return folded(np.asarray(candidate.value, dtype=float)[: self._dimensions])


def _bound(parametrization: Any) -> None:
    """Keeps the values in the unit cube; nevergrad draws from numpy's global state for that."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        parametrization.set_bounds(0, 1)
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _loss(event: Observation) -> float:
    """One number that puts feasible points first and orders the others by violation.

    Deb (2000), Computer Methods in Applied Mechanics and Engineering 186(2-4), section 3, for
    optimizers that only compare losses.
    """
    if event.violation:
        return _INFEASIBLE * (1.0 + event.violation / (1.0 + event.violation))
    return float(event.losses[0]) if event.losses is not None else _INFEASIBLE
