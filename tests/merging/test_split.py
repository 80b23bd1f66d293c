"""The two signs of a task vector apart, by numbers worked by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.merger import Merger

Store = Callable[..., Checkpoint]


def merge(
    store: Store,
    weights: tuple[float, float],
    densities: tuple[float, float],
    vector: list[float],
) -> list[float]:
    """What a task vector becomes, over a base of 0; numbers for positive and negative entries."""
    merger = Merger(
        store({"t": torch.zeros(len(vector))}), {"m": store({"t": torch.tensor(vector)})}
    )
    settings = {
        "positive_weight": (weights[0],),
        "negative_weight": (weights[1],),
        "positive_density": (densities[0],),
        "negative_density": (densities[1],),
    }
    found: list[float] = merger.tensor("t", settings, "sparse_split").tolist()
    return found


@pytest.mark.parametrize(
    ("weights", "densities", "expected"),
    [
        ((2.0, 3.0), (1.0, 1.0), [8.0, -3.0, 2.0, -24.0, 4.0, 0.0]),
        ((1.0, 0.0), (1.0, 1.0), [4.0, 0.0, 1.0, 0.0, 2.0, 0.0]),
        ((0.0, -1.0), (0.5, 1.0), [0.0, 1.0, 0.0, 8.0, 0.0, 0.0]),
        # One of three positive entries, one of two negative ones.
        ((1.0, 1.0), (1 / 3, 0.5), [4.0, 0.0, 0.0, -8.0, 0.0, 0.0]),
        # Half of three: the largest, and half of the next.
        ((1.0, 1.0), (0.5, 1.0), [4.0, -1.0, 0.0, -8.0, 1.0, 0.0]),
    ],
)
def test_each_sign_has_its_weight_and_its_density(
    store: Store,
    weights: tuple[float, float],
    densities: tuple[float, float],
    expected: list[float],
) -> None:
    found = merge(store, weights, densities, [4.0, -1.0, 1.0, -8.0, 2.0, 0.0])
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_nan_shows(store: Store) -> None:
    found = merge(store, (1.0, 0.0), (0.5, 0.5), [1.0, float("nan"), -2.0])
    assert found[1] != found[1]
