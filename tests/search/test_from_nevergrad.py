"""Replay, restarts and stalls of nevergrad's optimizers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evomerge.errors import PluginError
from evomerge.interfaces import Asked, Observation, SearchProblem
from evomerge.search import from_nevergrad
from evomerge.search.follower import Follower
from evomerge.search.from_nevergrad import NevergradSampler
from evomerge.space import Array, Parameter, Space

PROBLEM = SearchProblem(Space((Parameter("x", 0.0, 1.0), Parameter("y", 0.0, 1.0))), 1, 30, seed=2)
BEST = np.array([0.9, 0.2])


class ListLog(list[Asked | Observation]):
    def events(self, start: int = 0) -> Iterator[Asked | Observation]:
        yield from self[start:]

    def ask(self, sampler: NevergradSampler, number: int) -> Asked:
        proposal = sampler.ask(self, number)
        asked = Asked(number, proposal.point, True, proposal.note)
        self.append(asked)
        return asked

    def tell(self, number: int, point: Array, violation: float = 0.0) -> None:
        loss = np.array([np.sum((point - BEST) ** 2)])
        self.append(Observation(number, point, loss, violation))


def with_references() -> ListLog:
    log = ListLog()
    for number, point in enumerate([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]):
        log.append(Asked(number, np.array(point), False, {}))
    return log


def test_cma_waits_for_the_references_and_starts_at_the_best_of_them() -> None:
    log, sampler = with_references(), from_nevergrad.cma(PROBLEM, {"sigma": 0.01})
    first = log.ask(sampler, 3)
    assert dict(first.note) == {"prelude": True}
    assert np.allclose(first.point, 0.5, atol=0.06)  # the mean of the three
    for number in range(3):
        log.tell(number, log[number].point)
    second = log.ask(sampler, 4)
    assert dict(second.note) == {"start": True}
    assert np.allclose(second.point, [1.0, 0.0], atol=0.06)
    assert dict(log.ask(sampler, 5).note) == {}


def test_a_reference_that_misses_the_limits_is_no_start() -> None:
    log, sampler = with_references(), from_nevergrad.cma(PROBLEM, {"sigma": 0.01})
    for number, violation in enumerate([0.1, 0.2, 0.0]):
        log.tell(number, log[number].point, violation)
    assert np.allclose(log.ask(sampler, 3).point, [0.0, 1.0], atol=0.06)


def test_references_that_nobody_tells_keep_cma_waiting_for_sixteen_asks_only() -> None:
    log, sampler = with_references(), from_nevergrad.cma(PROBLEM, {})
    notes = [dict(log.ask(sampler, number).note) for number in range(3, 21)]
    assert notes == [{"prelude": True}] * 16 + [{"start": True}, {}]


def altered(log: ListLog, number: int) -> ListLog:
    """The log of another version: its proposal for one trial was another point."""
    return ListLog(
        replace(event, point=np.clip(event.point + 0.01, 0, 1))
        if isinstance(event, Asked) and event.number == number
        else event
        for event in log
    )


@pytest.mark.parametrize("name", ["CMA", "DE", "OnePlusOne", "PSO", "TwoPointsDE"])
def test_a_log_that_cannot_be_replayed_is_continued_from_its_data(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    log, sampler = ListLog(), from_nevergrad.make(name, PROBLEM, {})
    for number in range(12):
        log.ask(sampler, number)
        log.tell(number, log[-1].point)
    foreign = altered(log, 7)
    sampler = from_nevergrad.make(name, PROBLEM, {})
    with caplog.at_level(logging.WARNING, "evomerge"):
        restarted = foreign.ask(sampler, 12)
    assert "trial 7 cannot be replayed" in caplog.text
    assert dict(restarted.note) == {"start": True}
    foreign.tell(12, restarted.point)
    caplog.clear()
    lived = sampler.ask(foreign, 13)
    fresh = from_nevergrad.make(name, PROBLEM, {}).ask(foreign, 13)
    assert fresh.point.tobytes() == lived.point.tobytes()
    assert caplog.text == ""  # said once, when it happened


class Stalling:
    """An optimizer that never answers."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate

    def ask(self) -> Any:
        self.gate.wait()


def test_an_optimizer_that_never_answers_gives_way_to_sobol_points(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = threading.Event()
    made: list[Stalling] = []

    def optimizer(_: Any) -> Stalling:
        made.append(Stalling(gate))
        return made[-1]

    def follower() -> Follower:
        return Follower(dimensions=2, optimizer=optimizer, seed=2, sigma=0.1, local=True)

    log = ListLog()
    sampler = NevergradSampler("cma", PROBLEM, follower, patience=0.01)
    for number in range(4):
        assert dict(log.ask(sampler, number).note) == {"stuck": True}
    gate.set()
    assert len(made) == 2  # given up after the second
    assert caplog.text.count("no answer within") == 2
    assert len({tuple(asked.point) for asked in log if isinstance(asked, Asked)}) == 4


def test_an_optimizer_that_raises_is_named() -> None:
    def optimizer(_: Any) -> Any:
        raise TypeError("unsupported operand")

    def follower() -> Follower:
        return Follower(dimensions=2, optimizer=optimizer, seed=2, sigma=0.1, local=True)

    with pytest.raises(PluginError, match="the sampler cma of nevergrad failed: unsupported"):
        NevergradSampler("cma", PROBLEM, follower).ask(ListLog(), 0)
