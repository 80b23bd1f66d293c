"""Methods of two models by numbers worked by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.merger import Merger

Store = Callable[..., Checkpoint]


def merge(
    store: Store, method: str, number: float, *tensors: list[float], field: str = "t"
) -> list[float]:
    base, first, second = (store({"t": torch.tensor(tensor)}) for tensor in tensors)
    merger = Merger(base, {"first": first, "second": second})
    found: list[float] = merger.tensor("t", {field: number}, method).tolist()
    return found


@pytest.mark.parametrize(
    ("t", "expected"), [(0.0, [0.1, 5.0]), (0.25, [0.825, 4.0]), (1.0, [3.0, 1.0])]
)
def test_interpolation_goes_from_the_first_to_the_second(
    store: Store, t: float, expected: list[float]
) -> None:
    found = merge(store, "interpolation", t, [9.0, 9.0], [0.1, 5.0], [3.0, 1.0])
    assert found == pytest.approx(expected, rel=1e-7)


def test_the_ends_of_interpolation_are_the_models_bit_for_bit(store: Store) -> None:
    first, second = [0.1, 3e-8], [1e9, -7.3]
    for t, end in ((0.0, first), (1.0, second)):
        found = merge(store, "interpolation", t, [0.0, 0.0], first, second)
        assert found == torch.tensor(end).tolist()


def test_nearswap_moves_no_entry_further_than_the_step(store: Store) -> None:
    """Differences of 2, -0.0625 and -4, a step of 0.125."""
    tensors = [0.0, 0.0, 0.0], [1.0, 5.0, 2.0], [3.0, 4.9375, -2.0]
    assert merge(store, "nearswap", 0.125, *tensors, field="step") == [1.125, 4.9375, 1.875]
    assert merge(store, "nearswap", 0.0, *tensors, field="step") == [1.0, 5.0, 2.0]


def test_transfer_adds_what_was_tuned_to_another_base(store: Store) -> None:
    tensors = [10.0, 20.0], [1.0, 2.0], [2.0, 1.0]
    assert merge(store, "transfer", 2.0, *tensors, field="scaling") == [12.0, 18.0]
    assert merge(store, "transfer", 0.0, *tensors, field="scaling") == [10.0, 20.0]
