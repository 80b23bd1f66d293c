"""Which items a race measures, and the chance that it gives a candidate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.interfaces import ItemLosses
from evomerge.search.racing import (
    ItemsTable,
    estimate,
    must_be_whole,
    stage_sizes,
    stages,
    standing,
)


def trials(count: int, items: int = 60, *, margins: bool = True) -> list[ItemLosses]:
    """Of growing skill: item i goes wrong where it is harder than the trial is good."""
    made = []
    for trial in range(count):
        margin = np.arange(items) - items * (0.3 + 0.4 * trial / max(count - 1, 1))
        made.append(ItemLosses((margin > 0).astype(float), margin if margins else None))
    return made


def part(trial: ItemLosses, places: np.ndarray) -> ItemLosses:
    margins = None if trial.margins is None else trial.margins[places]
    return ItemLosses(trial.losses[places], margins)


def test_stages_double_and_end_with_all() -> None:
    assert stage_sizes(0.125, [80]) == [(10, 20, 40, 80)]
    assert stage_sizes(0.1, [100, 200]) == [(10, 20, 40, 100), (20, 40, 80, 200)]
    assert stage_sizes(0.05, [40]) == [(4, 8, 16, 40)]  # 2 items are too few to begin with
    assert stage_sizes(0.5, [5]) == [(5,)]  # nothing can be spared


@given(st.floats(0.01, 0.99), st.lists(st.integers(1, 400), min_size=1, max_size=3))
def test_every_stage_adds_items(first: float, counts: list[int]) -> None:
    found = stage_sizes(first, counts)
    assert len({len(sizes) for sizes in found}) == 1
    for sizes, count in zip(found, counts, strict=True):
        assert sizes[-1] == count
        assert all(np.diff((0, *sizes)) > 0)


@given(st.integers(0, 100), st.integers(1, 6))
def test_the_stages_share_out_all_items(seed: int, count: int) -> None:
    table = ItemsTable.of(trials(count))
    found = stages([table], (8, 16, 60), np.random.default_rng(seed))
    assert [len(places) for places in found] == [8, 8, 44]
    assert sorted(np.concatenate(found)) == list(range(60))
    assert all((np.diff(places) > 0).all() for places in found)


def test_items_on_which_trials_disagree_come_first() -> None:
    table = ItemsTable.of(trials(9, margins=False))  # items 18 to 42 tell the trials apart
    found = [stages([table], (12, 60), np.random.default_rng(seed))[0] for seed in range(20)]
    assert np.mean([(places >= 18) & (places < 43) for places in found]) > 0.75


@pytest.mark.parametrize("margins", [True, False])
def test_an_estimate_finds_a_trial_among_the_others(margins: bool) -> None:
    known = trials(9, margins=margins)
    table = ItemsTable.of(known[:4] + known[5:])
    places = np.arange(2, 60, 5)
    mean, error = estimate(table, places, part(known[4], places))
    assert abs(mean - known[4].losses.mean()) < 0.06
    assert 0 < error < 0.15
    assert estimate(table, np.arange(60), known[4]) == (known[4].losses.mean(), 0.0)


def chance(
    candidate: ItemLosses, *, tolerance: float = 0.0, limits: tuple[float, ...] = ()
) -> float:
    known, places = trials(9), np.arange(1, 60, 5)
    return standing(
        [ItemsTable.of(known)],
        [places],
        [part(candidate, places)],
        limits,
        np.random.default_rng(0),
        tolerance=tolerance,
    ).chance


def test_the_better_candidate_has_the_greater_chance() -> None:
    worst, *_, best = trials(9)
    ahead = np.arange(60) - 50.0
    assert chance(worst) < 0.01
    assert chance(worst) <= chance(best) < 0.9
    better = ItemLosses((ahead > 0).astype(float), ahead)
    assert chance(better) > 0.9
    assert chance(best, tolerance=5.0) < 0.01  # as good as a rival is not ahead of it


def test_what_misses_a_limit_that_others_meet_has_no_chance() -> None:
    best = trials(9)[-1]
    assert chance(best, limits=(0.32,)) > 0.1
    assert chance(trials(9)[4], limits=(0.32,)) < 0.01


def test_after_eight_stops_in_a_row_a_trial_is_measured_whole() -> None:
    streak = [False, *[True] * 8]
    assert [place for place in range(16, 33) if must_be_whole(place, streak)] == [16, 24, 32]
    assert not must_be_whole(16, [True] * 7)
    assert not must_be_whole(16, [*[True] * 8, False])
