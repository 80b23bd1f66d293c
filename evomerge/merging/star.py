"""STAR: truncate the spectrum of each task vector, and restore its size.

Lee et al. 2025 (arXiv:2502.10339). Of a matrix ``v = U S V^T`` the fewest largest singular values
are kept whose sum reaches the fraction ``energy`` of all of them, and multiplied by the factor that
gives back the whole sum (nuclear norm). The merge is ``base + sum share_i * truncated_i``, the
shares being weights divided by their sum: equal ones in the paper.

Only matrices have a spectrum: tensors of any other number of dimensions stay the base's. The
spectrum is computed in float64 from the smaller of ``v v^T`` and ``v^T v``; as LAPACK may round
differently for other numbers of threads, bits may too, below one part in 10^6 of the task vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.merging.method import Chunk, Field, Settings, Traits, counting, per_group, per_model

if TYPE_CHECKING:
    from torch import Tensor

_FIELDS = (
    Field(
        name="weight",
        per="model",
        low=0.0,
        high=1.0,
        default=1.0,
        scale="linear",
        meaning="share of the model's task vector before division by the sum of all",
        source="equal shares in the paper",
        limits=(0.0, math.inf),
    ),
    Field(
        name="energy",
        per="group",
        low=0.1,
        high=1.0,
        default=0.4,
        scale="linear",
        meaning="fraction of the sum of singular values that is kept",
        source="0.4 in the paper",
        limits=(0.0, 1.0),
    ),
)


_TRAITS = Traits(whole=True, parents=False)


@dataclass(frozen=True)
class Star:
    """See `evomerge.merging.method.MergeMethod`."""

    name: str = "star"
    paper: str = "Lee et al. 2025 (arXiv:2502.10339)"
    fields: tuple[Field, ...] = _FIELDS
    traits: Traits = _TRAITS

    def used(self, settings: Settings) -> tuple[int, ...]:
        """Models with a share."""
        return counting(per_model(settings, "weight"))

    def densities(self, settings: Settings) -> None:
        """None: singular values are dropped, not entries."""

    def combine(self, chunk: Chunk, settings: Settings) -> None:
        """The truncated task vectors of a matrix; nothing for other shapes."""
        if len(chunk.shape) != 2:
            return
        weights = per_model(settings, "weight")
        for i in self.used(settings):
            part = truncated(chunk.vector(i).view(chunk.shape), per_group(settings, "energy"))
            chunk.total.add_(part.reshape(-1).mul_(weights[i] / sum(weights)))


def truncated(matrix: Tensor, energy: float) -> Tensor:
    """The matrix with the largest singular values only, its nuclear norm restored.

    Args:
        matrix: ``(m, n)``.
        energy: in [0, 1].

    Returns:
        ``(m, n)`` in the matrix's dtype.
    """
    if len(matrix) > matrix.shape[1]:
        return truncated(matrix.T, energy).T
    import torch  # recipes read this module without it

    wide = matrix.double()
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    noise = squares[-1] * len(squares) * torch.finfo(torch.float64).eps
    values = squares.masked_fill_(squares < noise, 0).sqrt_().flip(0)
    reached = values.cumsum(0)
    whole = reached[-1].item()
    if whole == 0:
        return matrix
    kept = min(int((reached < energy * whole).sum()) + 1, len(values))
    largest = vectors[:, len(values) - kept :]
    found: Tensor = largest @ (largest.T @ wide)
    return found.mul_(whole / reached[kept - 1].item()).to(matrix.dtype)


STAR = Star()
