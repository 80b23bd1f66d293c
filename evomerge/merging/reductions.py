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


def dot(first: Tensor, second: Tensor) -> float:
    """The inner product of two ``(n,)``."""
    pairs = zip(_blocks(first), _blocks(second), strict=True)
    return sum((a.double() * b.double()).sum().item() for a, b in pairs)


def gram(vectors: Sequence[Tensor]) -> list[list[float]]:
    """All inner products, ``(k, k)``."""
    found = [[0.0] * len(vectors) for _ in vectors]
    for i, first in enumerate(vectors):
        for j in range(i + 1):
            found[i][j] = found[j][i] = dot(first, vectors[j])
    return found


def _blocks(vector: Tensor) -> list[Tensor]:
    return [vector[start : start + BLOCK] for start in range(0, len(vector), BLOCK)]
