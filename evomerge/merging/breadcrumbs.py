"""Model Breadcrumbs: drop the largest and the smallest entries of each task vector.

Davari and Belilovsky 2024 (arXiv:2312.06795). Of n entries, the ``int(gamma * n)`` largest in
magnitude are outliers and become 0; of the others the ``int(density * n)`` largest are kept, at
least one. Where gamma and density leave no room for each other, density counts: density 1 keeps
everything. The merge is ``base + sum weight * kept``.

The authors' code takes n entries to be a row, the last dimension; a vector is one row. mergekit's
forms take the whole tensor, and ``breadcrumbs_ties`` adds up only the entries that agree with an
elected sign.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.merging.method import Chunk, Field, Settings, Traits, per_group, per_model
from evomerge.merging.sparsified import SCALING, Sparsified, density, weight

if TYPE_CHECKING:
    from torch import Tensor


def crumbs_by_row(chunk: Chunk, model: int, settings: Settings) -> Tensor:
    """What is left of the task vector, row by row."""
    return _crumbs(chunk, chunk.shape, model, settings)


def crumbs_of_tensor(chunk: Chunk, model: int, settings: Settings) -> Tensor:
    """What is left of the task vector, over the whole tensor."""
    return _crumbs(chunk, (len(chunk.total),), model, settings)


def _crumbs(chunk: Chunk, shape: tuple[int, ...], model: int, settings: Settings) -> Tensor:
    from evomerge.merging.ranks import by_rows, keep_band  # needs torch; recipes read this module

    vector = chunk.vector(model)
    rows = by_rows(vector, shape)
    width = rows.shape[1]
    kept = max(1, int(per_model(settings, "density")[model] * width))
    if kept < width:
        keep_band(rows, kept, min(int(per_group(settings, "gamma") * width), width - kept))
    return vector


_PAPER = "Davari and Belilovsky 2024 (arXiv:2312.06795)"
_GAMMA = Field(
    name="gamma",
    per="group",
    low=0.001,
    high=0.1,
    default=0.01,
    scale="log",
    meaning="fraction of the task vector's entries dropped as outliers, the largest ones",
    source="0.001 to 0.01 in the authors' search, 0.1 in their example; 0.01 in mergekit",
    limits=(0.0, 1.0),
)
_DENSITY = density(
    0.05,
    0.2,
    "fraction of the task vector's entries kept, the largest ones below the outliers",
    "0.2 in the authors' example, 0.05 to 0.2 in their search",
)
_SIGNED = weight(-0.5, "0.01 to 1 in the authors' search, 0.4 in their example")
_POSITIVE = weight(0.0, "no default in mergekit")
_SUM = Traits(whole=True, average=True)

BREADCRUMBS = Sparsified(
    "breadcrumbs", _PAPER, (_SIGNED, _DENSITY, _GAMMA), crumbs_by_row, "sum", _SUM
)
BREADCRUMBS_TENSOR = Sparsified(
    "breadcrumbs_tensor",
    f"{_PAPER}, over whole tensors as mergekit's breadcrumbs",
    (_SIGNED, _DENSITY, _GAMMA),
    crumbs_of_tensor,
    "sum",
    _SUM,
)
BREADCRUMBS_TIES = Sparsified(
    "breadcrumbs_ties",
    f"{_PAPER}, over whole tensors, with the election of Yadav et al. 2023 (arXiv:2306.01708)",
    (_POSITIVE, _DENSITY, _GAMMA, SCALING),
    crumbs_of_tensor,
    "elected sum",
    Traits(whole=True),
)
