"""The density rule: exact, ties included, and strictly increasing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.merging.magnitudes import CODES, MagnitudeTable, add_counts, sparsify
from evomerge.merging.scratch import Scratch


def table(vector: Tensor) -> MagnitudeTable:
    counts = torch.zeros(CODES, dtype=torch.int64)
    add_counts(counts, vector, Scratch())
    return MagnitudeTable.of(counts, vector.numel())


def kept(vector: Tensor, density: float) -> Tensor:
    threshold = table(vector).threshold(density)
    found = vector.clone()
    if threshold is not None:
        sparsify(found, threshold, Scratch())
    return found


def codes(vector: Tensor) -> Tensor:
    return vector.float().abs().view(torch.int32) >> 16


def vectors() -> st.SearchStrategy[Tensor]:
    """Differences of bfloat16 numbers, as fine-tuned models have: many ties, many zeros."""

    def make(seed: int, count: int, step: float) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        base = (torch.randn(count, generator=generator) * 0.02).bfloat16()
        model = (base + torch.randn(count, generator=generator) * step).bfloat16()
        return model.float() - base.float()

    return st.builds(
        make, st.integers(0, 2**32), st.integers(1, 400), st.sampled_from([1e-5, 1e-4, 1e-2])
    )


def test_entries_at_the_boundary_share_one_fraction() -> None:
    """Six entries, density 1/2: three are wanted, one is larger than 2, so 2 of 4 ties are kept."""
    vector = torch.tensor([2.0, -8.0, 2.0, -2.0, 0.25, 2.0])
    assert kept(vector, 0.5).tolist() == [1.0, -8.0, 1.0, -1.0, 0.0, 1.0]


def test_numbers_with_the_same_top_16_bits_are_ties() -> None:
    vector = torch.tensor([1.0, 1.0 + 2**-8, 1.0 + 2**-7])  # the first two share a code
    assert kept(vector, 2 / 3).tolist() == [0.5, 0.5 + 2**-9, 1.0 + 2**-7]


def test_a_density_of_the_non_zero_fraction_or_more_keeps_everything() -> None:
    vector = torch.tensor([0.0, 1.0, 0.0, -3.0])
    assert table(vector).threshold(0.5) is None
    assert table(vector).threshold(0.75) is None
    assert kept(vector, 0.375).tolist() == [0.0, 0.5, 0.0, -3.0]


def test_nothing_is_kept_at_density_zero() -> None:
    assert kept(torch.tensor([1.0, -3.0]), 0.0).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("vector", [torch.zeros(0), torch.zeros(5)])
def test_vectors_without_entries_or_differences_stay(vector: Tensor) -> None:
    assert torch.equal(kept(vector, 0.3), vector)


def test_infinity_and_nan_are_the_largest_of_all() -> None:
    vector = torch.tensor([1.0, torch.nan, -torch.inf, 2.0])
    found = kept(vector, 0.5)
    assert found.isnan().tolist()[1]
    assert not found.isfinite().tolist()[2]
    assert found[[0, 3]].tolist() == [0.0, 0.0]


@settings(max_examples=150)
@given(vector=vectors(), density=st.floats(0.0, 1.0))
def test_the_density_achieved_is_the_density_asked(vector: Tensor, density: float) -> None:
    """Counting an entry at the boundary as the fraction that is left of it."""
    count, found = vector.numel(), table(vector)
    nonzero = int((vector != 0).sum())
    threshold = found.threshold(density)
    if threshold is None:
        assert density * count >= nonzero
        return
    size = vector.abs()
    whole = int((size >= threshold.high).sum())
    boundary = int(((size >= threshold.low) & (size < threshold.high)).sum())
    assert (whole + threshold.fraction * boundary) / count == pytest.approx(density, abs=1e-12)
    assert len(set(codes(vector)[(size >= threshold.low) & (size < threshold.high)].tolist())) == 1


@settings(max_examples=100)
@given(
    vector=vectors(),
    densities=st.lists(st.floats(0.02, 1.0), min_size=2, max_size=6, unique=True),
)
def test_more_density_keeps_strictly_more_mass(vector: Tensor, densities: list[float]) -> None:
    """Until everything is kept; so that a search sees no plateaus."""
    nonzero = int((vector != 0).sum()) / vector.numel()
    ends = [density for density in sorted(densities) if density < nonzero - 1e-6]
    masses = [kept(vector.double(), d).abs().sum().item() for d in ends]
    for (low, mass), (high, more) in zip(
        zip(ends, masses, strict=True), zip(ends[1:], masses[1:], strict=True), strict=False
    ):
        if high - low > 1e-6:
            assert mass < more
    if masses:
        assert masses[-1] < vector.double().abs().sum().item()


def test_half_of_a_tied_vector_is_half_of_it() -> None:
    """Where `|v| >= t` would keep all or nothing: one code holds every entry."""
    vector = torch.full((1000,), 2.0**-12)
    assert kept(vector, 0.2).sum().item() == pytest.approx(0.2 * vector.sum().item(), rel=1e-6)


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    density=st.floats(0.0, 1.0),
    exponent=st.integers(-160, 130),
)
def test_float64_is_ranked_by_its_rounding_to_float32(
    seed: int, density: float, exponent: int
) -> None:
    """Next to every code's lower end, where rounding decides."""
    generator = torch.Generator().manual_seed(seed)
    edge = torch.randint(1, 2**15, (40,), generator=generator, dtype=torch.int32) << 16
    offsets = torch.tensor([-1.0, -0.5, -0.25, 0.0, 0.25]).repeat(8).double()
    below = edge.view(torch.float32).double() - (edge - 1).view(torch.float32).double()
    vector = edge.view(torch.float32).double() + offsets * below
    vector = torch.where(vector.isfinite(), vector, torch.zeros(()))
    vector = torch.ldexp(vector, torch.tensor(exponent)) if exponent > 0 else vector
    vector = torch.where(vector.abs() < 3e38, vector, torch.ones(()))
    threshold = table(vector).threshold(density)
    if threshold is None:
        return
    found, size = vector.clone(), vector.float().abs()
    sparsify(found, threshold, Scratch())
    expected = torch.where(size < threshold.high, vector * threshold.fraction, vector)
    expected = torch.where(size < threshold.low, torch.zeros(()), expected)
    assert torch.equal(found, expected)
