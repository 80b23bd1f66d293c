"""The parts of the items: disjoint, whole, the same for equal counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import UsageError
from evomerge.recipe.specs import ItemSplits
from evomerge.study.items import partition


@given(count=st.integers(3, 200), seed=st.integers(0, 2**32))
def test_parts_are_disjoint_and_hold_everything(count: int, seed: int) -> None:
    parts = partition(count, ItemSplits(seed=seed))
    together = sorted(i for part in parts.values() for i in part)
    assert together == list(range(count))
    assert all(part == tuple(sorted(part)) for part in parts.values())
    assert min(map(len, parts.values())) >= 1


def test_another_seed_deals_otherwise() -> None:
    one, two = (partition(100, ItemSplits(seed=seed)) for seed in (0, 1))
    assert one != two
    assert partition(100, ItemSplits(seed=0)) == one


def test_a_part_without_a_share_is_empty() -> None:
    parts = partition(7, ItemSplits(search=1.0, selection=0.0, test=0.0))
    assert parts == {"search": tuple(range(7)), "selection": (), "test": ()}


def test_counts_leave_the_rest_unused() -> None:
    parts = partition(10, ItemSplits(search=2, selection=1, test=1, counted=True))
    assert [len(part) for part in parts.values()] == [2, 1, 1]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_items_are_refused(count: int) -> None:
    with pytest.raises(UsageError, match="items cannot be split"):
        partition(count, ItemSplits())
