"""What task vectors are like: sizes, kinship, conflicts of sign, and what sparsity costs.

All of it is counted in one pass over base and models. Kinship of two models is the likeness of
their task vectors (Hu et al. 2024, arXiv:2410.12613): Pearson's correlation, the cosine with its
sign (the published code loses it), and the Euclidean distance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evomerge.merging.magnitudes import CODES
from evomerge.merging.merger import Merger
from evomerge.merging.method import Chunk

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kinship:
    """Of two models; numbers that do not exist are NaN, as for a model that is the base.

    Attributes:
        pearson, cosine: in [-1, 1].
        distance: Euclidean.
        conflicts: of the entries that both changed, the share that they moved apart.
    """

    pearson: float
    cosine: float
    distance: float
    conflicts: float


class Tally:
    """Sums over entries of the task vectors of N models.

    Attributes:
        tensors, entries: how many were added.
        base: sum of the base's squares.
        changed, torn: entries that a model changed; and those that two models moved apart.
    """

    def __init__(self, models: int) -> None:
        self.tensors, self.entries = 0, 0
        self.base = 0.0
        self.changed, self.torn = 0, 0
        self.sums: Floats = np.zeros(models)
        self.products: Floats = np.zeros((models, models))
        self.both: Floats = np.zeros((models, models))
        self.agree: Floats = np.zeros((models, models))

    def add(self, base: torch.Tensor, vectors: torch.Tensor) -> None:
        """Adds a stretch: the base ``(n,)`` and the task vectors ``(N, n)``."""
        self.entries += vectors.shape[1]
        self.base += float(base.double().square().sum())
        wide, signs = vectors.double(), vectors.sign().float()
        moved = signs.abs()
        self.sums += wide.sum(dim=1).numpy()
        self.products += (wide @ wide.T).numpy()
        self.both += (moved @ moved.T).numpy()
        self.agree += (signs @ signs.T).numpy()
        up, down = signs.amax(dim=0) > 0, signs.amin(dim=0) < 0
        self.changed += int((up | down).sum())
        self.torn += int((up & down).sum())

    def include(self, other: Tally) -> None:
        """Adds all that another one holds."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def conflicts(self) -> float:
        """Of the entries that a model changed, the share that two models moved apart."""
        return _ratio(self.torn, self.changed)

    def norm(self, model: int) -> float:
        """Euclidean, of a task vector."""
        return math.sqrt(self.products[model, model])

    def zeros(self, model: int) -> float:
        """The share of entries that a model left as they were."""
        return 1 - _ratio(self.both[model, model], self.entries)

    def kinship(self, one: int, other: int) -> Kinship:
        """Of two models."""
        products, sums, n = self.products, self.sums, max(self.entries, 1)
        squares = products[one, one], products[other, other]
        spread = [max(0.0, products[i, i] - sums[i] ** 2 / n) for i in (one, other)]
        both = self.both[one, other]
        return Kinship(
            pearson=_ratio(
                products[one, other] - sums[one] * sums[other] / n, math.sqrt(math.prod(spread))
            ),
            cosine=_ratio(products[one, other], math.sqrt(math.prod(squares))),
            distance=math.sqrt(max(0.0, sum(squares) - 2 * products[one, other])),
            conflicts=_ratio((both - self.agree[one, other]) / 2, both),
        )


class Magnitudes:
    """Sums over the entries of one task vector by their code, see `evomerge.merging.magnitudes`."""

    def __init__(self) -> None:
        self.counts: Floats = np.zeros(CODES)
        self.sums: Floats = np.zeros(CODES)
        self.squares: Floats = np.zeros(CODES)

    def add(self, vector: torch.Tensor) -> None:
        """Adds a stretch ``(n,)``."""
        sizes = vector.float().abs()
        codes = sizes.view(torch.int32).bitwise_right_shift(16).numpy()
        wide = sizes.double().numpy()
        self.counts += np.bincount(codes, minlength=CODES)
        self.sums += np.bincount(codes, wide, minlength=CODES)
        self.squares += np.bincount(codes, wide * wide, minlength=CODES)

    @property
    def largest_tie(self) -> float:
        """Of the entries that are not 0, the share that the most frequent code has."""
        return _ratio(float(self.counts[1:].max()), float(self.counts[1:].sum()))

    def kept(self, density: float) -> tuple[float, float, float]:
        """What sparsifying to a density leaves: entries; shares of the L1 and of the L2 norm."""
        counts, sums, squares = (part[:0:-1] for part in (self.counts, self.sums, self.squares))
        reached = np.cumsum(counts)
        wanted = min(density * float(self.counts.sum()), float(reached[-1]))
        place = int(np.searchsorted(reached, wanted))
        above = float(reached[place - 1]) if place else 0.0
        part = (wanted - above) / counts[place] if counts[place] else 0.0
        first = sums[:place].sum() + part * sums[place]
        second = squares[:place].sum() + part**2 * squares[place]
        return wanted, _ratio(first, sums.sum()), math.sqrt(_ratio(second, squares.sum()))


@dataclass(frozen=True)
class Measures:
    """Of the models of a `Merger`, in its order.

    Attributes:
        parts: by name of the part, in the order of the tensors given.
        whole: of all parts.
        magnitudes: one per model.
    """

    parts: Mapping[str, Tally]
    whole: Tally
    magnitudes: tuple[Magnitudes, ...]


def measure(merger: Merger, tensors: Iterable[tuple[str, str]]) -> Measures:
    """Looks at tensors.

    Args:
        tensors: name of each tensor, and of the part that it belongs to.
    """
    count = len(merger.models)
    parts: dict[str, Tally] = {}
    magnitudes = tuple(Magnitudes() for _ in range(count))
    for name, part in tensors:
        tally = parts.setdefault(part, Tally(count))
        tally.tensors += 1
        for chunk in merger.chunks(name):
            vectors = _vectors(chunk, count)
            tally.add(chunk.total, vectors)
            for i in range(count):
                magnitudes[i].add(vectors[i])
    whole = Tally(count)
    for tally in parts.values():
        whole.include(tally)
    return Measures(parts, whole, magnitudes)


def _vectors(chunk: Chunk, models: int) -> torch.Tensor:
    """``(N, n)``, a copy."""
    return torch.stack([chunk.vector(i).clone() for i in range(models)])


def _ratio(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else math.nan
