"""When failures stop a run, and how their reasons are grouped."""

from __future__ import annotations

import pytest

from evomerge.errors import ObjectiveError
from evomerge.study.failures import FailureBudget, grouped


def test_the_first_five_of_five_stop_a_run() -> None:
    budget = FailureBudget()
    for trial in range(4):
        budget.count(trial, "ValueError: no")
    with pytest.raises(ObjectiveError, match=r"first 5 trials .* 5 × ValueError: no") as caught:
        budget.count(4, "ValueError: no")
    assert caught.value.exit_code == 5


def test_one_success_among_the_first_five_lets_it_go_on() -> None:
    budget = FailureBudget()
    for trial in range(5):
        budget.count(trial, None if trial == 2 else "x")


def test_more_than_half_of_the_last_twenty_stop_a_run() -> None:
    budget = FailureBudget()
    for trial in range(20):
        budget.count(trial, None if trial % 2 == 0 else "x")  # 10 of 20: not more than half
    with pytest.raises(ObjectiveError, match="11 of the last 20"):
        budget.count(20, "x")  # pushes out a success


def test_old_failures_are_forgotten() -> None:
    budget = FailureBudget()
    budget.count(0, None)
    for _ in range(10):
        for trial in range(10):
            budget.count(trial, "x")
        for trial in range(20):
            budget.count(trial, None)


def test_reasons_that_differ_in_numbers_are_one_group() -> None:
    reasons = [
        (1, "took longer than 3 s"),
        (4, "KeyError: 'a'"),
        (5, "took longer than 4.5 s"),
        (9, "bad pointer 0x7f00"),
        (11, "took longer than -1e-3 s"),
    ]
    groups = grouped(reasons)
    assert [group.trials for group in groups] == [(1, 5, 11), (4,), (9,)]
    assert str(groups[0]) == "3 × took longer than 3 s (trials 1, 5, 11)"
