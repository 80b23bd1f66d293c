"""Muon: momentum steps whose matrices are made orthogonal. Half as many steps as Adam here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_STEPS = 5


def orthogonalized(matrix: Tensor) -> Tensor:
    """The matrix with its singular values moved to between 0.7 and 1.2, roughly.

    Jordan et al. (2024), https://kellerjordan.github.io/posts/muon: five steps of a quintic
    Newton-Schulz iteration, here in the matrix's own precision.

    Args:
        matrix: ``(rows, columns)``; one of all zeros stays so.
    """
    a, b, c = _NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T) / (matrix.norm() + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x if wide else x.T
    return result


class Muon:
    """Updates matrices in place.

    Steps are scaled by ``0.2 sqrt(longer side)``, which makes them as large as Adam's at the same
    learning rate (Liu et al. 2025, arXiv:2502.16982, section 2.2).

    Args:
        matrices: two-dimensional parameters with gradients.
    """

    def __init__(self, matrices: Sequence[Tensor], *, momentum: float = 0.95) -> None:
        self._matrices = tuple(matrices)
        self._averages = tuple(torch.zeros_like(matrix) for matrix in matrices)
        self._momentum = momentum

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update from the gradients, with Nesterov's momentum."""
        for matrix, average in zip(self._matrices, self._averages, strict=True):
            gradient = matrix.grad
            if gradient is None:
                continue
            average.mul_(self._momentum).add_(gradient)
            update = orthogonalized(gradient + self._momentum * average)
            matrix.add_(update, alpha=-rate * 0.2 * max(matrix.shape) ** 0.5)
