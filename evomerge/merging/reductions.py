"""Sums over whole tensors, in float64, whose bits depend on nothing but the entries.

torch splits large sums among its threads; blocks as small as these it never does.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

BLOCK = 2**14


def l1(vector: Tensor) -> float:
    """The sum of magnitudes of ``(n,)``."""
    return sum(part.abs().double().sum().item() for part in _blocks(vector))


def total(vector: Tensor) -> float:
    """The sum of ``(n,)``."""
    return sum(part.double().sum().item() for part in _blocks(vector))


def scaled_to(wanted: float, vector: Tensor) -> Tensor:
    """Give a vector this sum of magnitudes, in place; one of nothing but 0 stays."""
    found = l1(vector)
    return vector.mul_(wanted / found) if found else vector


def dot(first: Tensor, second: Tensor, before: float = 0.0) -> float:
    """The inner product of two ``(n,)``; added to that of the entries before, if there are any."""
    pairs = zip(_blocks(first), _blocks(second), strict=True)
    return sum(((a.double() * b.double()).sum().item() for a, b in pairs), start=before)


def add_products(products: list[list[float]], vectors: Sequence[Tensor]) -> None:
    """Add the inner products of all pairs of a stretch of vectors to those before, ``(k, k)``."""
    for i, first in enumerate(vectors):
        for j in range(i + 1):
            products[i][j] = products[j][i] = dot(first, vectors[j], products[i][j])


def _blocks(vector: Tensor) -> list[Tensor]:
    return [vector[start : start + BLOCK] for start in range(0, len(vector), BLOCK)]
