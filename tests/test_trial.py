"""What an objective may answer, and what becomes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evomerge.errors import UsageError
from evomerge.trial import Candidate, Evaluation, InvalidScoresError, Scores


def test_mean_and_standard_error_by_hand() -> None:
    scores = Scores([1, 0, 1, 0])
    assert scores.mean == 0.5
    assert scores.standard_error == pytest.approx(math.sqrt((4 * 0.25 / 3) / 4))


def test_one_number_has_no_standard_error() -> None:
    assert Scores([0.25]).standard_error is None


@pytest.mark.parametrize(
    "answer",
    [[1, 0, True], (1.0, 0.0, 1.0), np.array([1, 0, 1]), Scores([1, 0, 1]), {"items": [1, 0, 1]}],
)
def test_any_flat_sequence_of_numbers_is_scores(answer: object) -> None:
    assert Scores.of(answer, 3, metric="m") == Scores((1.0, 0.0, 1.0))


def test_margins_ride_along() -> None:
    scores = Scores.of({"items": [1, 0], "margins": np.float32([2.5, -0.5])}, 2, metric="m")
    assert scores.margins == (2.5, -0.5)


@pytest.mark.parametrize("answer", [0.5, np.float64(0.5), [0.5], 1, True])
def test_an_objective_without_items_answers_one_number(answer: object) -> None:
    assert len(Scores.of(answer, None, metric="m").items) == 1


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "0.5",
        b"1",
        [1, 0],
        [1, 0, 1, 1],
        [[1, 0, 1]],
        [1, 0, math.nan],
        [1, math.inf, 0],
        [1, None, 0],
        [1, "0", 1],
        [1 + 2j, 0, 1],
        [[1], [2, 3], 1],
        {},
        {"scores": [1, 0, 1]},
        {"items": [1, 0, 1], "extra": 1},
        {"items": [1, 0, 1], "margins": [1, 0]},
        {"items": [1, 0, 1], "margins": [1, 0, math.nan]},
        10**400,
        object(),
    ],
)
def test_anything_else_is_invalid_and_says_which_metric(answer: object) -> None:
    with pytest.raises(InvalidScoresError, match="gsm8k"):
        Scores.of(answer, 3, metric="gsm8k")


def test_the_point_of_a_candidate_is_a_copy_that_nobody_can_change() -> None:
    point = np.array([0.25, 0.75])
    candidate = Candidate(0, "sobol", "sparse_signed", {}, point)
    point[0] = 9
    assert candidate.point is not None and candidate.point.tolist() == [0.25, 0.75]
    with pytest.raises(ValueError, match="read-only"):
        candidate.point[0] = 1


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_an_evaluation_lasts_a_finite_time(seconds: float) -> None:
    with pytest.raises(UsageError):
        Evaluation({}, seconds)
