"""SCE: select entries that the models disagree about, calculate weights, erase minorities.

Wan et al. 2024 (arXiv:2408.07990), section 3.3 (FuseChat). For one tensor and the terms
``v_i = weight_i * task vector_i``:

1. Select: of the entries whose variance over the models is not 0, the fraction ``density`` with the
   largest variance is kept, at least one; equal variances in the order of their places. Density 1
   keeps everything.
2. Calculate: a model's coefficient is its share of the sum of squares of what was kept.
3. Erase: each entry gets the sign of ``sum v_i``; where that is 0, nothing is added. The result is
   ``base + sum c_i v_i / sum c_i`` over the models whose entry has the sign.

With weights 1 this is the paper's form. Models of weight 0 take no part in the variance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.merging.method import Chunk, Field, Settings, Traits, counting, per_group, per_model
from evomerge.merging.sparsified import weight

if TYPE_CHECKING:
    from torch import Tensor

    Terms = Callable[[], Iterator[Tensor]]

_FIELDS = (
    weight(0.0, "1 in the paper"),
    Field(
        name="density",
        per="group",
        low=0.05,
        high=1.0,
        default=1.0,
        scale="log",
        meaning="fraction of the entries kept, those that vary most over the models",
        source="1 in mergekit",
        limits=(0.0, 1.0),
    ),
)


_TRAITS = Traits(whole=True)


@dataclass(frozen=True)
class Sce:
    """See `evomerge.merging.method.MergeMethod`."""

    name: str = "sce"
    paper: str = "Wan et al. 2024 (arXiv:2408.07990)"
    fields: tuple[Field, ...] = _FIELDS
    traits: Traits = _TRAITS

    def used(self, settings: Settings) -> tuple[int, ...]:
        """Models with a weight; none at density 0."""
        kept = per_group(settings, "density") > 0
        return counting(per_model(settings, "weight")) if kept else ()

    def densities(self, settings: Settings) -> None:
        """None: the selection is over models, not within one."""

    def combine(self, chunk: Chunk, settings: Settings) -> None:
        """Select, calculate, erase."""
        from evomerge.merging.reductions import dot  # needs torch; recipes read this module

        weights, used = per_model(settings, "weight"), self.used(settings)

        def terms() -> Iterator[Tensor]:
            """One after another, made anew: memory does not grow with the models."""
            return (chunk.vector(i).mul_(weights[i]) for i in used)

        density = per_group(settings, "density")
        mask = _selected(chunk, terms, len(used), density) if density < 1 else None

        def kept() -> Iterator[Tensor]:
            return terms() if mask is None else (term.mul_(mask) for term in terms())

        squares = [dot(term, term) for term in kept()]
        if sum(squares) != 0:  # NaN too
            _add(chunk, kept, [square / sum(squares) for square in squares])


def _selected(chunk: Chunk, terms: Terms, models: int, density: float) -> Tensor:
    """1 for the entries that vary most, else 0."""
    mean = chunk.spare("mean").zero_()
    for term in terms():
        mean.add_(term)
    mean.div_(models)
    variance = chunk.spare("variance").zero_()
    for term in terms():
        variance.add_(term.sub_(mean).square_())
    varied = int(variance.count_nonzero())
    kept = max(1, int(density * varied)) if varied else 0
    order = variance.argsort(descending=True, stable=True)
    return mean.zero_().index_fill_(0, order[:kept], 1.0)


def _add(chunk: Chunk, terms: Terms, shares: list[float]) -> None:
    """The elected mean with these shares; factors of 0 and 1 choose, which keep NaN visible."""
    elected = chunk.spare("elected").zero_()
    for term in terms():
        elected.add_(term)
    elected.sign_()
    above, below = chunk.spare("above").zero_(), chunk.spare("below").zero_()
    agrees = chunk.spare("part")
    for term, share in zip(terms(), shares, strict=True):
        agrees.copy_(term).sign_().mul_(elected).clamp_(min=0)
        below.add_(agrees, alpha=share)
        above.add_(agrees.mul_(term).mul_(share))
    # Where nothing agrees nothing was added up, and any other divisor will do.
    chunk.total.add_(above.div_(below.masked_fill_(below == 0, 1.0)))


SCE = Sce()
