"""Products of factors, entry by entry."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.merging.low_rank import Factors, fill_product
from evomerge.merging.scratch import Scratch


def factors(rows: int, rank: int, columns: int, kind: torch.dtype = torch.float32) -> Factors:
    generator = torch.Generator().manual_seed(rows * 100 + columns)
    left = torch.randn(rows, rank, generator=generator, dtype=kind)
    return Factors(left, torch.randn(rank, columns, generator=generator, dtype=kind))


def product(given: Factors, start: int = 0, stop: int | None = None) -> torch.Tensor:
    count = len(given.left) * given.right.shape[1]
    out = torch.full(((count if stop is None else stop) - start,), 7.0, dtype=given.left.dtype)
    fill_product(given, start, out, Scratch())
    return out


def test_a_product_by_hand() -> None:
    given = Factors(torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[1.0, 3.0], [4.0, 5.0]]))
    assert product(given).tolist() == [9.0, 13.0, -4.0, -5.0]
    assert product(given, 1, 3).tolist() == [13.0, -4.0]


def test_products_are_rounded_one_by_one_and_added_in_the_order_of_the_ranks() -> None:
    given = factors(3, 5, 4)
    expected = given.left[:, 0, None] * given.right[0]
    for k in range(1, 5):
        expected = expected + given.left[:, k, None] * given.right[k]
    assert torch.equal(product(given).view(3, 4), expected)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_it_is_the_matrix_product(kind: torch.dtype) -> None:
    given = factors(9, 16, 11, kind)
    torch.testing.assert_close(product(given).view(9, 11), given.left @ given.right)


@given(
    rows=st.integers(0, 5),
    columns=st.integers(0, 5),
    rank=st.integers(1, 3),
    data=st.data(),
)
def test_any_stretch_has_the_bits_of_the_whole(
    rows: int, columns: int, rank: int, data: st.DataObject
) -> None:
    given = factors(rows, rank, columns)
    start = data.draw(st.integers(0, rows * columns))
    stop = data.draw(st.integers(start, rows * columns))
    assert torch.equal(product(given, start, stop), product(given)[start:stop])
