"""PCB-Merging with ranks over the whole model, as its authors rank.

The formula of `evomerge.merging.pcb`; its quantiles, least and largest numbers are those of all
merged tensors together. Magnitudes and scores are counted by the top 21 bits of their float32, so a
quantile is the entry at its place, or larger by at most one part in 4096.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evomerge.merging.method import Chunk, Field, Settings, Traits, per_model
from evomerge.merging.pcb import OUTLIERS, PCB

if TYPE_CHECKING:
    from torch import Tensor

DROPPED_BITS = 11
_BINS = 2 ** (32 - DROPPED_BITS)


@dataclass(frozen=True)
class Ranks:
    """How often each number occurs among the entries of one model.

    Attributes:
        reached: entries up to the end of each bin, ``(2**21,)``, from the least number upwards.
        largest: of them, exactly.
    """

    reached: NDArray[np.int64]
    largest: float

    def at(self, fraction: float) -> float:
        """The entry at this fraction of the sorted entries, rounded up to its bin's end.

        Up, so that an entry at the cut of the scores has no share: next to others without one, the
        smallest share would be all of it.
        """
        count = int(self.reached[-1])
        place = round(fraction * (count - 1)) + 1 if count else 0
        code = int(np.searchsorted(self.reached, place)) - _BINS // 2
        bits = ((code + 1) << DROPPED_BITS) - 1
        # Negative numbers are ordered by their complement, as when they were counted.
        word = np.int32(bits if bits >= 0 else bits ^ 0x7FFFFFFF)
        return min(float(word.view(np.float32)), self.largest)


@dataclass(frozen=True)
class Figures:
    """One model's numbers over the whole model: outer magnitudes, and its scores."""

    low: float
    high: float
    scores: Ranks


_TRAITS = Traits(parents=False)


@dataclass(frozen=True)
class PcbModel:
    """See `evomerge.merging.method.MergeMethod`."""

    name: str = "pcb_model"
    paper: str = f"{PCB.paper}, ranked over the whole model as in the authors' code"
    fields: tuple[Field, ...] = PCB.fields
    traits: Traits = _TRAITS

    def used(self, settings: Settings) -> tuple[int, ...]:
        """Models with a weight of which something is kept."""
        return PCB.used(settings)

    def densities(self, settings: Settings) -> None:
        """None: scores decide, not magnitudes."""

    def survey(
        self, chunks: Callable[[], Iterator[Chunk]], used: tuple[int, ...]
    ) -> Mapping[int, Figures]:
        """Magnitudes in one pass, scores in another."""
        sizes = _Counting(used)
        for chunk in chunks():
            for i in used:
                sizes.add(i, chunk.vector(i).abs_())
        ends = {
            i: (ranks.at(OUTLIERS), ranks.at(1 - OUTLIERS)) for i, ranks in sizes.ranks().items()
        }
        scores = _Counting(used)
        for chunk in chunks():
            units = _units(chunk, used, ends)
            for i in used:
                scores.add(i, _score(chunk, i, units))
        return {i: Figures(*ends[i], ranks) for i, ranks in scores.ranks().items()}

    def combine(self, chunk: Chunk, settings: Settings) -> None:
        """Scores first, then the mean that they weigh."""
        used, figures = self.used(settings), chunk.found
        weights, kept = per_model(settings, "weight"), per_model(settings, "density")
        units = _units(chunk, used, {i: (figures[i].low, figures[i].high) for i in used})
        above, below = chunk.spare("above").zero_(), chunk.spare("below").zero_()
        for i in used:
            score = _score(chunk, i, units)
            floor = figures[i].scores.at(1 - kept[i])
            if figures[i].scores.largest > floor:
                score.clamp_(min=floor).sub_(floor).div_(figures[i].scores.largest - floor)
            else:
                score.fill_(1.0)
            below.add_(score)
            above.add_(score.mul_(_cut(chunk.vector(i), figures[i])).mul_(weights[i]))
        chunk.total.add_(above.div_(below.masked_fill_(below == 0, 1.0)))


class _Counting:
    """Counts the entries of some models by the top bits of their float32."""

    def __init__(self, models: Sequence[int]) -> None:
        self._counts = {i: np.zeros(_BINS, np.int64) for i in models}
        self._largest = dict.fromkeys(models, -np.inf)

    def add(self, model: int, entries: Tensor) -> None:
        """Counts ``(n,)``; negative numbers come before positive ones."""
        if not len(entries):
            return
        words = entries.float().numpy().view(np.int32)
        ordered = np.where(words >= 0, words, words ^ 0x7FFFFFFF) >> DROPPED_BITS
        codes, counts = np.unique(ordered, return_counts=True)
        self._counts[model][codes + _BINS // 2] += counts
        self._largest[model] = max(self._largest[model], float(entries.max()))

    def ranks(self) -> dict[int, Ranks]:
        """By model."""
        return {i: Ranks(np.cumsum(n), self._largest[i]) for i, n in self._counts.items()}


def _units(
    chunk: Chunk, used: Sequence[int], ends: Mapping[int, tuple[float, float]]
) -> dict[int, Tensor]:
    """Magnitudes between their outer quantiles mapped to [0, 1], signs as they were."""
    found = {}
    for i in used:
        low, high = ends[i]
        vector = chunk.vector(i)
        sizes = chunk.spare(f"unit {i}").copy_(vector).abs_()
        if high > low:
            sizes.clamp_(low, high).sub_(low).div_(high - low)
        else:
            sizes.fill_(1.0)
        found[i] = sizes.mul_(vector.sign_())
    return found


def _score(chunk: Chunk, model: int, units: Mapping[int, Tensor]) -> Tensor:
    """``exp(N u_i**2) * sum_j tanh(u_i u_j)``."""
    score, part = chunk.spare("score").zero_(), chunk.spare("part")
    for unit in units.values():
        score.add_(part.copy_(units[model]).mul_(unit).tanh_())
    return score.mul_(part.copy_(units[model]).square_().mul_(len(units)).exp_())


def _cut(vector: Tensor, figures: Figures) -> Tensor:
    """Magnitudes between their outer quantiles, signs as they were; in place."""
    sizes = vector.abs().clamp_(figures.low, figures.high)
    return vector.sign_().mul_(sizes)


PCB_MODEL = PcbModel()
