"""How sparsified task vectors become one: their weighted sum, or that of those that agree.

Every function adds to ``chunk.total``, which holds the base's entries, model after model in their
order. ``vector`` gives a model's task vector, in memory that may be written to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from evomerge.merging.method import Chunk

if TYPE_CHECKING:
    from torch import Tensor

Vectors = Callable[[int], "Tensor"]


def add_sum(chunk: Chunk, vector: Vectors, used: Sequence[int], factors: Sequence[float]) -> None:
    """``base + sum factor * vector``."""
    for i in used:
        chunk.total.add_(vector(i).mul_(factors[i]))


def add_elected(
    chunk: Chunk,
    vector: Vectors,
    used: Sequence[int],
    weights: Sequence[float],
    *,
    scaling: float,
    mean: bool,
) -> None:
    """``base + scaling * (disjoint mean or sum)``, Yadav et al. 2023 (arXiv:2306.01708), section 4.

    Each entry gets the sign of the sum of its terms ``weight * vector``, that of the larger total
    mass; where the sum is 0, nothing is added (sgn(0) = 0). The terms with the elected sign are
    added up, and for the mean divided by the sum of their ``|weight|``: absolute, since a sum
    with both signs can cancel and explode.

    In one pass over the models: the sum, both signs' masses and divisors, then the election.
    Factors of 0 and 1 choose, not masks: they are ten times faster, and keep NaN visible.
    """
    part, elected = chunk.spare("part"), chunk.spare("elected").zero_()
    up, up_weight = chunk.spare("up").zero_(), chunk.spare("up weight").zero_()
    down, down_weight = chunk.spare("down").zero_(), chunk.spare("down weight").zero_()
    for i in used:
        term, size = vector(i).mul_(weights[i]), abs(weights[i])
        if mean:
            up_weight.add_(part.copy_(term).sign_().clamp_(min=0).mul_(size))
            down_weight.add_(part.copy_(term).sign_().clamp_(max=0).mul_(-size))
        elected.add_(term)
        up.add_(part.copy_(term).clamp_(min=0))
        down.add_(term.clamp_(max=0))
    elected.sign_()
    if mean:
        least = min(abs(weights[i]) for i in used)  # no divisor is smaller, but 0 under a mass of 0
        up.div_(up_weight.clamp_(min=least))
        down.div_(down_weight.clamp_(min=least))
    up.mul_(up_weight.copy_(elected).clamp_(min=0))
    down.mul_(elected.clamp_(max=0).neg_())
    chunk.total.add_(up.add_(down).mul_(scaling))
