"""STAR by matrices whose singular values are seen at once, and against a full decomposition."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.merger import Merger
from evomerge.merging.star import truncated

Store = Callable[..., Checkpoint]


def merge(store: Store, energy: float, weights: tuple[float, ...], *vectors: Tensor) -> Tensor:
    """What task vectors become, over a base of 0."""
    stored = {f"m{i}": store({"t": vector}) for i, vector in enumerate(vectors)}
    merger = Merger(store({"t": torch.zeros_like(vectors[0])}), stored)
    return merger.tensor("t", {"weight": weights, "energy": energy}, "star")


def test_large_singular_values_grow_by_what_the_small_ones_had(store: Store) -> None:
    """Values 6, 3, 1: for 0.5 of their sum 6 is enough, and becomes 10; for 0.7, 6 and 3 become
    20/3 and 10/3."""
    matrix = torch.tensor([[0.0, 6.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, -1.0]])
    half = torch.zeros(3, 4)
    half[0, 1] = 10
    torch.testing.assert_close(merge(store, 0.5, (1.0,), matrix), half)
    most = torch.zeros(3, 4)
    most[0, 1], most[1, 0] = 20 / 3, 10 / 3
    torch.testing.assert_close(merge(store, 0.7, (1.0,), matrix), most)


def test_shares_are_weights_over_their_sum(store: Store) -> None:
    """Each of one value: (3 * 2 + 1 * 4) / 4."""
    found = merge(store, 0.4, (3.0, 1.0), torch.full((1, 1), 2.0), torch.full((1, 1), 4.0))
    assert found.item() == pytest.approx(2.5)


def test_what_is_no_matrix_stays_the_base(store: Store) -> None:
    for shape in ((5,), (), (2, 2, 2)):
        assert not merge(store, 0.4, (1.0,), torch.ones(shape)).any()


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 1), (1, 6), (12, 12)])
@pytest.mark.parametrize("energy", [0.0, 0.4, 0.9, 1.0])
def test_a_full_decomposition_agrees(shape: tuple[int, int], energy: float) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(5)).double()
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    kept = min(int(torch.searchsorted(s.cumsum(0), energy * s.sum())) + 1, len(s))
    s[:kept] *= s.sum() / s[:kept].sum()
    expected = (u[:, :kept] * s[:kept]) @ v[:kept]
    torch.testing.assert_close(truncated(matrix, energy), expected)


def test_low_rank_stays_low_rank() -> None:
    generator = torch.Generator().manual_seed(2)
    factors = torch.randn(60, 3, generator=generator), torch.randn(3, 40, generator=generator)
    found = truncated(factors[0] @ factors[1], 1.0)
    torch.testing.assert_close(found, factors[0] @ factors[1], rtol=1e-4, atol=1e-4)
