"""ComPEFT: task vectors compressed to signs and one scale, and the bits that a file of them takes.

Yadav et al. 2023 (arXiv:2311.13171), section 2: of a task vector the ``density`` largest entries
are kept, over the whole model, by the rule of `evomerge.merging.magnitudes`; each becomes
``alpha * sigma * sign``, where sigma is the standard deviation of the whole task vector before
anything was dropped. Here alpha is the model's ``weight``. Entries at the boundary, which the
density rule weakens, keep its fraction of the scale.

The authors' "STC" switch takes the mean of signed entries, which is near 0; it is not repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.merging.method import Chunk, Field, Settings, Traits, counting, per_model
from evomerge.merging.sparsified import density

if TYPE_CHECKING:
    from torch import Tensor

SCALE_BITS = 16
_GOLDEN = (math.sqrt(5) + 1) / 2
_LEAST = 2.0**-126

_FIELDS = (
    Field(
        name="weight",
        per="model",
        low=0.0,
        high=4.0,
        default=1.0,
        scale="linear",
        meaning="scale of the model's kept signs, in standard deviations of its task vector",
        source="paper's alpha, 1 for large models, 0.5 to 10 in the authors' grid",
    ),
    density(
        0.05,
        0.2,
        "fraction of the task vector's entries kept over the whole model, the largest ones",
        "paper's k, 0.05 to 0.5 in the authors' grid",
    ),
)

_TRAITS = Traits(parents=False, pooled=True)


@dataclass(frozen=True)
class Compeft:
    """See `evomerge.merging.method.MergeMethod`."""

    name: str = "compeft"
    paper: str = "Yadav et al. 2023 (arXiv:2311.13171)"
    fields: tuple[Field, ...] = _FIELDS
    traits: Traits = _TRAITS

    def used(self, settings: Settings) -> tuple[int, ...]:
        """Models with a weight of which something is kept."""
        return counting(per_model(settings, "weight"), self.densities(settings))

    def densities(self, settings: Settings) -> tuple[float, ...]:
        """The field ``density``."""
        return per_model(settings, "density")

    def survey(
        self, chunks: Callable[[], Iterator[Chunk]], used: tuple[int, ...]
    ) -> Mapping[int, float]:
        """The standard deviation of each task vector."""
        from evomerge.merging.reductions import dot, total  # needs torch; recipes read this module

        count, sums, squares = 0, dict.fromkeys(used, 0.0), dict.fromkeys(used, 0.0)
        for chunk in chunks():
            count += len(chunk.total)
            for i in used:
                vector = chunk.vector(i)
                sums[i] += total(vector)
                squares[i] += dot(vector, vector)
        return {i: _deviation(count, sums[i], squares[i]) for i in used}

    def combine(self, chunk: Chunk, settings: Settings) -> None:
        """``base + sum weight * sigma * sign(kept)``."""
        base = chunk.spare("base").copy_(chunk.total)
        for i in self.used(settings):
            signs = _signs(chunk, i, base)
            chunk.total.add_(signs.mul_(per_model(settings, "weight")[i] * chunk.found[i]))


def file_bits(entries: int, kept: float) -> float:
    """The bits of a compressed task vector: gaps in Golomb's code, a sign each, and one scale.

    The mean length of a gap's code, for entries that are kept independently of each other and the
    best power of two as the divisor, is that of Sattler et al. 2019 (arXiv:1903.02891).

    Args:
        entries: of the task vector.
        kept: how many of them.
    """
    if not kept:
        return SCALE_BITS
    share = kept / entries
    if share >= 1:
        return entries + SCALE_BITS
    power = max(0, 1 + math.floor(math.log2(math.log(_GOLDEN - 1) / math.log1p(-share))))
    position = power + 1 / -math.expm1(2**power * math.log1p(-share))
    return kept * (position + 1) + SCALE_BITS


def _signs(chunk: Chunk, model: int, base: Tensor) -> Tensor:
    """1 and -1 where an entry is kept, the rule's fraction of that at the boundary, else 0."""
    kept = chunk.spare("kept").copy_(chunk.vector(model))
    sizes = chunk.model(model).sub_(base).abs_().clamp_(min=_LEAST)
    return kept.div_(sizes)


def _deviation(count: int, total: float, squares: float) -> float:
    mean = total / max(count, 1)
    return math.sqrt(max(0.0, squares / max(count, 1) - mean * mean))


COMPEFT = Compeft()
