"""The radius of one goal's proposals, worked by hand."""

from __future__ import annotations

import pytest

from evomerge.search.region import FIRST, LEAST, MOST, radius


def test_the_design_and_others_points_change_nothing() -> None:
    assert radius([], []) == FIRST
    assert radius([0.5, 0.4, 0.3], [False] * 3) == FIRST


def test_the_best_so_far_widens_it_and_four_in_vain_narrow_it() -> None:
    begun, before = [0.5], [False]
    assert radius([*begun, 0.4], [*before, True]) == pytest.approx(1.5 * FIRST)
    assert radius([*begun, 0.6, 0.6, 0.5], [*before, *[True] * 3]) == FIRST
    assert radius([*begun, 0.6, 0.6, 0.5, 0.7], [*before, *[True] * 4]) == pytest.approx(
        0.7 * FIRST
    )
    # A success in between begins the count anew.
    mixed = [*begun, 0.6, 0.6, 0.6, 0.4, 0.6, 0.6, 0.6]
    assert radius(mixed, [*before, *[True] * 7]) == pytest.approx(1.5 * FIRST)


def test_it_stays_within_its_bounds() -> None:
    falling = [1.0 - 0.01 * i for i in range(60)]
    assert radius(falling, [True] * 60) == MOST
    assert radius([0.0, *[1.0] * 60], [True] * 61) == LEAST
