"""SCE by numbers worked by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.merger import Merger

Store = Callable[..., Checkpoint]


def merge(
    store: Store, density: float, weights: tuple[float, ...], *vectors: list[float]
) -> list[float]:
    """What task vectors become, over a base of 1."""
    stored = {f"m{i}": store({"t": torch.tensor(v) + 1}) for i, v in enumerate(vectors)}
    merger = Merger(store({"t": torch.ones(len(vectors[0]))}), stored)
    settings = {"weight": weights, "density": density}
    found: list[float] = (merger.tensor("t", settings, "sce") - 1).tolist()
    return found


def test_squares_weigh_and_minorities_are_erased(store: Store) -> None:
    """Squares 4 + 4 = 8 and 1 + 1 = 2, shares 0.8 and 0.2. First entry: both say +,
    0.8 * 2 + 0.2 * 1 = 1.8. Second: -2 against 1 elects -, the first alone."""
    assert merge(store, 1.0, (1.0, 1.0), [2.0, -2.0], [1.0, 1.0]) == pytest.approx([1.8, -2.0])


def test_entries_that_vary_most_are_selected(store: Store) -> None:
    """Variances 0, 1, 4, 0.25: of the three that vary two are kept, the middle ones. Squares of
    what is kept: 4 + 0 and 0 + 16; each entry is one model's alone."""
    found = merge(store, 0.67, (1.0, 1.0), [3.0, 2.0, 0.0, 1.0], [3.0, 0.0, 4.0, 2.0])
    assert found == [0.0, 2.0, 4.0, 0.0]


def test_weights_come_first(store: Store) -> None:
    """Terms 2 and 4, squares 4 and 16: 0.2 * 2 + 0.8 * 4."""
    assert merge(store, 1.0, (2.0, 1.0), [1.0], [4.0]) == pytest.approx([3.6])


def test_entries_that_cancel_add_nothing(store: Store) -> None:
    assert merge(store, 1.0, (1.0, 1.0), [1.0, 2.0], [-1.0, 2.0]) == [0.0, 2.0]
