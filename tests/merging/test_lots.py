"""Masks other than the smooth one: ties kept whole by lot, or all of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evomerge.merging.lots import Lot, limit
from evomerge.merging.magnitudes import CODES, MagnitudeTable, add_counts, sparsify
from evomerge.merging.plan import Mask
from evomerge.merging.scratch import Scratch

Whose = tuple[int, str, str]
WHOSE = (0, "layer.weight", "math")
LOT = Lot.of(*WHOSE)


def kept(vector: Tensor, density: float, mask: Mask, whose: Whose = WHOSE) -> Tensor:
    counts = torch.zeros(CODES, dtype=torch.int64)
    add_counts(counts, vector, Scratch())
    threshold = MagnitudeTable.of(counts, len(vector)).threshold(density)
    found = vector.clone()
    if threshold is not None:
        sparsify(found, threshold.masked(mask, whose), Scratch())
    return found


def hashed(place: int, lot: Lot) -> int:
    """MurmurHash3's finalizer in whole numbers; its last product is the model's factor."""
    bits = place ^ lot.key
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, lot.factor)):
        bits = (bits ^ bits >> shift) * factor % 2**32
    return bits


def test_a_lot_is_a_hash_of_its_place() -> None:
    assert LOT.drawn(7, 3).tolist() == [hashed(7, LOT), hashed(8, LOT), hashed(9, LOT)]
    assert Lot(0, 0xFFFFFFFF).drawn(0, 1).tolist() == [0]  # 0 is the hash of 0


def test_plain_keeps_all_ties() -> None:
    vector = torch.tensor([2.0, -8.0, 2.0, -2.0, 0.25, 2.0])
    assert kept(vector, 0.5, "plain").tolist() == [2.0, -8.0, 2.0, -2.0, 0.0, 2.0]


def test_exact_keeps_ties_whole_by_lot() -> None:
    vector = torch.tensor([2.0, -8.0, 2.0, -2.0, 0.25, 2.0])  # half of the four ties are wanted
    chosen = [hashed(place, LOT) < 2**31 for place in (0, 2, 3, 5)]
    ties = [value if whole else 0.0 for value, whole in zip((2.0, 2, -2, 2), chosen, strict=True)]
    assert kept(vector, 0.5, "exact").tolist() == [ties[0], -8.0, *ties[1:3], 0.0, ties[3]]


@pytest.mark.parametrize("density", [0.1, 0.37, 0.9])
def test_exact_reaches_the_density_evenly_over_the_tensor(density: float) -> None:
    """Where every entry ties; five standard deviations of as many fair draws."""
    found = kept(torch.ones(2**16), density, "exact").reshape(16, -1)
    error = 5 * (density * (1 - density) / 2**16) ** 0.5
    assert found.mean().item() == pytest.approx(density, abs=error)
    assert found.mean(1).tolist() == pytest.approx([density] * 16, abs=4 * error)


def test_a_larger_density_keeps_what_a_smaller_one_kept() -> None:
    few, more = (kept(torch.ones(1000), density, "exact") for density in (0.2, 0.3))
    assert bool((few <= more).all())


def test_models_and_tensors_have_lots_of_their_own() -> None:
    others = [(0, "layer.weight", "code"), (0, "norm.weight", "math"), (1, *WHOSE[1:])]
    own = kept(torch.ones(10000), 0.5, "exact")
    for whose in others:
        both = (own * kept(torch.ones(10000), 0.5, "exact", whose)).mean().item()
        assert both == pytest.approx(0.25, abs=0.025)


def test_where_all_ties_are_wanted_no_lot_is_drawn() -> None:
    vector = torch.tensor([1.0, 3.0, 3.0, 0.5])
    assert kept(vector, 0.5, "exact").tolist() == [0.0, 3.0, 3.0, 0.0]
    assert limit(1.0) == 2**32 - 1
