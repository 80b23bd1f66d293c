"""Random numbers belong to entries: how they are fetched does not change them."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.merging.draws import BLOCK, fill_uniform


def numbers(start: int, count: int, *, seed: int = 0, key: str = "a") -> torch.Tensor:
    return fill_uniform(torch.empty(count), start, seed, key, "tensor")


@given(start=st.integers(0, 2 * BLOCK), count=st.integers(0, BLOCK + 3))
def test_a_stretch_is_part_of_the_whole(start: int, count: int) -> None:
    whole = numbers(0, 4 * BLOCK)
    assert torch.equal(numbers(start, count), whole[start : start + count])


def test_they_are_uniform_and_differ_by_seed_and_key() -> None:
    first = numbers(0, 100_000)
    assert 0 <= float(first.min()) < 1e-3
    assert 0.999 < float(first.max()) < 1
    assert abs(float(first.mean()) - 0.5) < 0.005  # five standard errors are 0.0046
    others = [numbers(0, 100_000, seed=1), numbers(0, 100_000, key="b"), first[BLOCK:]]
    for other in others:
        paired = torch.stack([first[: len(other)], other])
        assert abs(float(torch.corrcoef(paired)[0, 1])) < 0.02


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    numbers(5, 100)
    assert torch.equal(torch.get_rng_state(), before)
