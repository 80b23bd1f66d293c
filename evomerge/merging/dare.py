"""DARE: drop entries of each task vector at random, and rescale what is left.

Yu et al. 2024 (arXiv:2311.03099). With u from `Chunk.uniform` and density p, the thinned task
vector is ``v * [u < p] / p``, whose expectation is v. The same u serves every candidate of a
study: at a smaller density a subset of the same entries is kept, and a campaign's objective is a
function of its parameters, not a lottery.

The forms with ``_l1`` are mergekit's: instead of being divided by p, the kept entries are
multiplied by the factor that gives the tensor the sum of magnitudes that it had; and the entries
that agree with an elected sign are added up, not averaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.merging.method import Chunk, Settings, Traits, per_model
from evomerge.merging.sparsified import SCALING, Sparsified, density, weight

if TYPE_CHECKING:
    from torch import Tensor


def drop(chunk: Chunk, model: int, settings: Settings) -> Tensor:
    """``v * [u < p] / p``."""
    vector, kept = chunk.vector(model), per_model(settings, "density")[model]
    return vector if kept == 1 else _masked(chunk, vector, model, kept).div_(kept)


def drop_keeping_l1(chunk: Chunk, model: int, settings: Settings) -> Tensor:
    """``c * v * [u < p]`` with the c that keeps the sum of magnitudes."""
    from evomerge.merging.reductions import l1, scaled_to  # needs torch; recipes read this module

    vector, kept = chunk.vector(model), per_model(settings, "density")[model]
    if kept == 1:
        return vector
    before = l1(vector)
    return scaled_to(before, _masked(chunk, vector, model, kept))


def _masked(chunk: Chunk, vector: Tensor, model: int, kept: float) -> Tensor:
    return vector.mul_(chunk.uniform(model).lt_(kept))


_PAPER = "Yu et al. 2024 (arXiv:2311.03099)"
_KEPT = "fraction of the task vector's entries kept, at random"
_DENSITY = density(0.1, 0.5, _KEPT, "0.1 to 0.9 dropped in the authors' grid")
_SIGNED = weight(-0.5, "1 in the paper")
_POSITIVE = weight(0.0, "1 in the paper")
_WHOLE = Traits(whole=True)
_SUM = Traits(average=True)
_WHOLE_SUM = Traits(whole=True, average=True)

DARE_LINEAR = Sparsified("dare_linear", _PAPER, (_SIGNED, _DENSITY), drop, "sum", _SUM)
DARE_TIES = Sparsified(
    "dare_ties",
    f"{_PAPER} before the election and the mean of Yadav et al. 2023 (arXiv:2306.01708)",
    (_POSITIVE, _DENSITY, SCALING),
    drop,
    "elected mean",
)
DARE_LINEAR_L1 = Sparsified(
    "dare_linear_l1",
    f"{_PAPER}, rescaled as mergekit's dare_linear",
    (_SIGNED, _DENSITY),
    drop_keeping_l1,
    "sum",
    _WHOLE_SUM,
)
DARE_TIES_L1 = Sparsified(
    "dare_ties_l1",
    f"{_PAPER}, rescaled and fused as mergekit's dare_ties",
    (_POSITIVE, _DENSITY, SCALING),
    drop_keeping_l1,
    "elected sum",
    _WHOLE,
)
