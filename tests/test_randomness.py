"""Streams by address."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.randomness import derived_seed, generator, torch_generator


def test_an_address_gives_the_same_stream_whatever_ran_before() -> None:
    first = generator(7, "ask", 3).random(4)
    generator(7, "ask", 4).random(1000)
    assert generator(7, "ask", 3).random(4).tolist() == first.tolist()


@pytest.mark.parametrize("key", [("ask", 4), ("ask4",), ("ask", "4"), ("as", "k4"), ()])
def test_neighbouring_addresses_are_different_streams(key: tuple[str | int, ...]) -> None:
    assert derived_seed(7, *key) != derived_seed(7, "ask", 40)
    assert derived_seed(7, *key) != derived_seed(8, *key)


def test_words_and_numbers_differ() -> None:
    assert derived_seed(0, "4") != derived_seed(0, 4)


@given(st.integers(0, 2**63), st.integers(1, 64))
def test_seeds_fit_their_bits(seed: int, bits: int) -> None:
    assert 0 <= derived_seed(seed, "x", bits=bits) < 2**bits


def test_nothing_global_is_touched() -> None:
    import torch

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    generator(1, "a").random(3)
    torch.rand(3, generator=torch_generator(1, "a"))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert before == after
