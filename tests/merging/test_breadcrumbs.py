"""Model Breadcrumbs by numbers worked by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.merger import Merger
from evomerge.merging.method import Settings

Store = Callable[..., Checkpoint]
FORMS = ["breadcrumbs", "breadcrumbs_tensor", "breadcrumbs_ties"]


def merge(store: Store, method: str, settings: Settings, *vectors: list[float]) -> list[float]:
    """What the task vectors become, over a base of 1."""
    stored = {f"m{i}": store({"t": 1 + torch.tensor(v)}) for i, v in enumerate(vectors)}
    merger = Merger(store({"t": torch.ones_like(torch.tensor(vectors[0]))}), stored)
    found: list[float] = (merger.tensor("t", settings, method) - 1).tolist()
    return found


def test_outliers_go_first_then_the_largest_stay(store: Store) -> None:
    """Of 5 entries one is an outlier (9), two are kept (-6, 5), two are small."""
    settings = {"weight": (2.0,), "density": (0.4,), "gamma": 0.2}
    found = merge(store, "breadcrumbs", settings, [9.0, 0.5, -6.0, 5.0, 1.0])
    assert found == [0.0, 0.0, -12.0, 10.0, 0.0]


def test_rows_or_the_whole_tensor(store: Store) -> None:
    """In each row of 4 one outlier goes and one entry stays; in all 8, two go and two stay."""
    rows = [[8.0, 7.0, 6.0, 5.0], [4.0, -3.0, 2.0, 1.0]]
    settings = {"weight": (1.0,), "density": (0.25,), "gamma": 0.25}
    assert merge(store, "breadcrumbs", settings, rows) == [[0, 7, 0, 0], [0, -3, 0, 0]]
    assert merge(store, "breadcrumbs_tensor", settings, rows) == [[0, 0, 6, 5], [0, 0, 0, 0]]


def test_ties_adds_up_what_agrees(store: Store) -> None:
    """Kept are (3, 2, 0) and (-1, 4, 0): the first entry is 3 alone, the second 2 + 4."""
    settings = {"weight": (1.0, 1.0), "density": (0.67, 0.67), "gamma": 0.0, "scaling": 0.5}
    vectors = [3.0, 2.0, 1.0], [-1.0, 4.0, 0.5]
    assert merge(store, "breadcrumbs_ties", settings, *vectors) == [1.5, 3.0, 0.0]


@pytest.mark.parametrize("form", FORMS)
def test_tensors_too_small_to_have_outliers_keep_their_largest_entry(
    store: Store, form: str
) -> None:
    settings = {"weight": (1.0,), "density": (0.05,), "gamma": 0.01}
    if form == "breadcrumbs_ties":
        settings["scaling"] = 1.0
    assert merge(store, form, settings, [0.5, -4.0, 2.0]) == [0.0, -4.0, 0.0]


def test_equal_magnitudes_are_counted_exactly(store: Store) -> None:
    settings = {"weight": (1.0,), "density": (0.5,), "gamma": 0.25}
    found = merge(store, "breadcrumbs", settings, [1.0, -1.0] * 8)
    assert sum(entry != 0 for entry in found) == 8
