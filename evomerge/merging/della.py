"""DELLA: drop entries at random, small ones more often than large ones, and rescale.

Deep et al. 2024 (arXiv:2406.11617), MagPrune. The chance that an entry is kept rises evenly with
the rank of its magnitude in its row, from ``density - epsilon`` to ``density + epsilon``; a kept
entry is divided by its chance. A row of one entry has no ranks: its chance is the density. An
epsilon that would leave [0, 1] is cut to what fits, so that density 1 keeps everything. Masks come
from `Chunk.uniform`: the same numbers for every candidate.

The forms with ``_l1`` are mergekit's: instead of being divided by their chances, all kept entries
are multiplied by the factor that gives the tensor the sum of magnitudes that it had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.merging.method import Chunk, Field, Settings, Traits, per_group, per_model
from evomerge.merging.sparsified import SCALING, Sparsified, density, weight

if TYPE_CHECKING:
    from torch import Tensor


def prune(chunk: Chunk, model: int, settings: Settings) -> Tensor:
    """``v * [u < p] / p`` with a chance p per entry."""
    vector = chunk.vector(model)
    if per_model(settings, "density")[model] == 1:
        return vector
    chances = _chances(vector, chunk.shape, model, settings)
    vector.mul_(chunk.uniform(model) < chances)
    # Where the chance is 0 nothing was kept; any other divisor will do.
    return vector.div_(chances.masked_fill_(chances == 0, 1.0))


def prune_keeping_l1(chunk: Chunk, model: int, settings: Settings) -> Tensor:
    """``c * v * [u < p]`` with the c that keeps the sum of magnitudes."""
    from evomerge.merging.reductions import l1, scaled_to  # needs torch; recipes read this module

    vector = chunk.vector(model)
    if per_model(settings, "density")[model] == 1:
        return vector
    before = l1(vector)
    chances = _chances(vector, chunk.shape, model, settings)
    return scaled_to(before, vector.mul_(chunk.uniform(model) < chances))


def _chances(vector: Tensor, shape: tuple[int, ...], model: int, settings: Settings) -> Tensor:
    from evomerge.merging.ranks import by_rows, rank_chances  # needs torch; recipes read this

    kept = per_model(settings, "density")[model]
    epsilon = min(per_group(settings, "epsilon"), kept, 1 - kept)
    return rank_chances(by_rows(vector, shape), kept, epsilon).view(-1)


_PAPER = "Deep et al. 2024 (arXiv:2406.11617)"
_EPSILON = Field(
    name="epsilon",
    per="group",
    low=0.01,
    high=0.2,
    default=0.05,
    scale="linear",
    meaning="how far the chance to be kept lies from the density, at the ends of a row",
    source="0.05 in the authors' code, 0.07 in their example, 0.15 in mergekit",
    limits=(0.0, 0.5),
)
_DENSITY = density(
    0.1,
    0.7,
    "fraction of the task vector's entries kept, at random, large ones more often",
    "0.7 in the authors' example",
)
_SIGNED = weight(-0.5, "1 in the authors' example")
_POSITIVE = weight(0.0, "1 in the authors' example")
_LINEAR = (_SIGNED, _DENSITY, _EPSILON)
_ELECTED = (_POSITIVE, _DENSITY, _EPSILON, SCALING)
_WHOLE = Traits(whole=True)
_SUM = Traits(whole=True, average=True)

DELLA = Sparsified("della", _PAPER, _ELECTED, prune, "elected mean", _WHOLE)
DELLA_LINEAR = Sparsified(
    "della_linear", f"{_PAPER}, without the election", _LINEAR, prune, "sum", _SUM
)
DELLA_L1 = Sparsified(
    "della_l1",
    f"{_PAPER}, rescaled as mergekit's della",
    _ELECTED,
    prune_keeping_l1,
    "elected mean",
    _WHOLE,
)
DELLA_LINEAR_L1 = Sparsified(
    "della_linear_l1",
    f"{_PAPER}, rescaled as mergekit's della_linear",
    _LINEAR,
    prune_keeping_l1,
    "sum",
    _SUM,
)
