"""What is read off a log: how the forecasts of proposals have come out."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.interfaces import Asked, ItemLosses, Observation
from evomerge.search.reading import Reader
from evomerge.surrogates.calibration import track_record
from tests.search.memory_log import MemoryLog

POINT = np.full(2, 0.5)


def deviations(
    forecast: list[float], loss: float, *, by_auto: bool = False, items: tuple[float, ...] = ()
) -> list[list[float]]:
    """Of a trial of one goal of which mean, std and noise were foretold."""
    note = {"foretold": [forecast]}
    asked = Asked(0, POINT, True, {"auto": {}, "inner": note} if by_auto else note)
    told = (ItemLosses(np.array(items), None),)
    reader = Reader(1)
    reader.follow(
        MemoryLog([asked, Observation(0, POINT, np.array([loss]), 0.0, read_items=lambda: told)])
    )
    return [row.tolist() for row in reader.deviations]


@pytest.mark.parametrize("by_auto", [False, True])
def test_deviations_are_in_stds_of_the_forecast(by_auto: bool) -> None:
    """By hand: 1.5 above the mean, of a std of 0.3 and a noise of 0.4, is 3 stds of 0.5."""
    assert deviations([1.0, 0.3, 0.4], 2.5, by_auto=by_auto) == [[pytest.approx(3)]]


@pytest.mark.parametrize(
    ("forecast", "loss", "deviation"),
    [
        ([1.0, 0.0, 0.0], 1.0, 0),  # a goal whose losses were all equal, as they stayed
        ([1.0, 0.0, 0.0], 1.5, 4),  # and one whose did not
        ([1.0, 0.3, 0.4], -1e4, -4),
    ],
)
def test_no_outlier_is_the_whole_record(
    forecast: list[float], loss: float, deviation: float
) -> None:
    found = np.array(deviations(forecast, loss))
    assert found.tolist() == [[deviation]]
    record = track_record(found)
    assert np.abs(record.offsets) <= 4 and record.factors <= 4


def test_what_is_not_finite_is_no_deviation() -> None:
    assert deviations([float("nan"), 0.3, 0.4], 1.0) == []


def test_estimates_of_stopped_trials_are_no_deviations() -> None:
    assert deviations([1.0, 0.3, 0.4], 1.0, items=(0.0, 1.0)) == [[0]]
    assert deviations([1.0, 0.3, 0.4], 1.0, items=(0.0, np.nan)) == []
