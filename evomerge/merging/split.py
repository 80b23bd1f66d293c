"""Sparse signed merging with the two signs of each task vector apart.

``base + sum over models of (a_i * kept positive entries + b_i * kept negative entries)``: what a
model pushed up and what it pushed down each have a weight and a density of their own. A density is
the fraction of the entries of that sign that is kept, the largest ones, by the rule of
`evomerge.merging.magnitudes`; with equal weights and densities 1 this is sparse_signed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evomerge.merging.method import Chunk, Field, Settings, Traits, counting, per_model
from evomerge.merging.sums import SPARSE_SIGNED

if TYPE_CHECKING:
    from torch import Tensor

SIGNS = ("positive", "negative")
_TRAITS = Traits(whole=True, average=True)


def _fields() -> tuple[Field, ...]:
    """Those of sparse_signed, once for each sign."""
    return tuple(
        replace(
            field,
            name=f"{sign}_{field.name}",
            meaning=f"of the task vector's {sign} entries: {field.meaning}",
        )
        for field in SPARSE_SIGNED.fields
        for sign in SIGNS
    )


@dataclass(frozen=True)
class SparseSplit:
    """See `evomerge.merging.method.MergeMethod`."""

    name: str = "sparse_split"
    paper: str = "sparse_signed with weights and densities for each sign of a task vector's entries"
    fields: tuple[Field, ...] = _fields()
    traits: Traits = _TRAITS

    def used(self, settings: Settings) -> tuple[int, ...]:
        """Models of which something is added for one sign at least."""
        found = {i for sign in SIGNS for i in _counting(settings, sign)}
        return tuple(sorted(found))

    def densities(self, settings: Settings) -> None:
        """None: the ranks are within each sign."""

    def combine(self, chunk: Chunk, settings: Settings) -> None:
        """Sign by sign of model by model."""
        for i in self.used(settings):
            for sign in SIGNS:
                if i in _counting(settings, sign):
                    part = _part(chunk.vector(i), sign)
                    kept = _thinned(part, per_model(settings, f"{sign}_density")[i])
                    chunk.total.add_(kept.mul_(per_model(settings, f"{sign}_weight")[i]))


def _counting(settings: Settings, sign: str) -> tuple[int, ...]:
    return counting(per_model(settings, f"{sign}_weight"), per_model(settings, f"{sign}_density"))


def _part(vector: Tensor, sign: str) -> Tensor:
    """The entries of one sign, 0 elsewhere; in place. NaN is in both."""
    return vector.clamp_(min=0) if sign == "positive" else vector.clamp_(max=0)


def _thinned(part: Tensor, density: float) -> Tensor:
    """The largest entries of one sign, by the density rule."""
    import torch  # recipes read this module without it

    from evomerge.merging.magnitudes import CODES, MagnitudeTable, add_counts, sparsify
    from evomerge.merging.scratch import Scratch

    if density == 1:
        return part
    scratch, counts = Scratch(), torch.zeros(CODES, dtype=torch.int64)
    add_counts(counts, part, scratch)
    threshold = MagnitudeTable.of(counts, int(counts[1:].sum())).threshold(density)
    if threshold is not None:
        sparsify(part, threshold, scratch)
    return part


SPARSE_SPLIT = SparseSplit()
