"""DELLA against a plain formula and numbers worked by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.draws import fill_uniform
from evomerge.merging.merger import Merger
from evomerge.merging.ranks import rank_chances

Store = Callable[..., Checkpoint]


def merge(store: Store, method: str, vector: Tensor, density: float, epsilon: float) -> Tensor:
    """What the task vector becomes, over a base of 0."""
    merger = Merger(store({"t": torch.zeros_like(vector)}), {"m": store({"t": vector})})
    settings = {"weight": (1.0,), "density": (density,), "epsilon": epsilon}
    return merger.tensor("t", settings, method)


def plain(vector: Tensor, density: float, epsilon: float) -> Tensor:
    """The formula, entry by entry."""
    out = vector.clone().view(-1)
    draws = fill_uniform(torch.empty(vector.numel()), 0, 0, "merge", "m", "t")
    rows = vector.tolist() if vector.ndim > 1 else [vector.tolist()]
    for r, row in enumerate(rows):
        for c, entry in enumerate(row):
            rank = sum(abs(other) < abs(entry) for other in row)
            chance = density - epsilon + 2 * epsilon * rank / (len(row) - 1)
            place = r * len(row) + c
            out[place] = entry / chance if draws[place] < chance else 0.0
    return out.view(vector.shape)


def test_chances_rise_with_the_rank() -> None:
    rows = torch.tensor([[-3.0, 1.0, 2.0], [0.0, 5.0, -4.0]])
    expected = torch.tensor([[0.75, 0.25, 0.5], [0.25, 0.75, 0.5]])
    assert torch.equal(rank_chances(rows, 0.5, 0.25), expected)


@pytest.mark.parametrize("shape", [(40, 30), (1000,)])
def test_kept_entries_are_divided_by_their_chances(store: Store, shape: tuple[int, ...]) -> None:
    count = torch.Size(shape).numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    vector = ((order + 1.0) * torch.where(order % 3 == 0, -1, 1)).reshape(shape)
    found = merge(store, "della_linear", vector, 0.4, 0.3)
    torch.testing.assert_close(found, plain(vector, 0.4, 0.3), rtol=1e-6, atol=0)


def test_columns_have_no_ranks_and_are_dropped_by_density(store: Store) -> None:
    found = merge(store, "della_linear", torch.ones(4000, 1), 0.25, 0.1)
    assert set(found.view(-1).tolist()) == {0.0, 4.0}
    assert abs(float(found.mean()) - 1) < 5 * 3**0.5 / 4000**0.5  # the variance is 1/p - 1 = 3


def test_an_epsilon_that_is_too_large_is_cut(store: Store) -> None:
    vector = torch.arange(1.0, 101.0)
    wide, cut = (merge(store, "della_linear", vector, 0.1, e) for e in (0.5, 0.1))
    assert torch.equal(wide, cut)
    assert bool(wide.isfinite().all())
    assert torch.equal(merge(store, "della_linear", vector, 1.0, 0.5), vector)


def test_l1_keeps_the_sum_of_magnitudes(store: Store) -> None:
    vector = torch.arange(-50.0, 51.0)
    found = merge(store, "della_linear_l1", vector, 0.5, 0.2)
    torch.testing.assert_close(found.abs().sum(), vector.abs().sum())
    kept = found != 0
    ratio = found[kept] / vector[kept]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
