"""Methods that mix tensors as directions: SLERP, Karcher mean, multi-SLERP, Model Stock.

Each takes a tensor of a model as one long vector. All that these methods need is how the vectors
lie to each other, their inner products; from those come one factor per vector, and the result is
the sum of the vectors times their factors. So the geometry is done on a handful of numbers, in
float64; one pass over the tensor finds the inner products, another adds the vectors up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evomerge.merging.method import Chunk, Field, Settings, Traits, counting, per_group, per_model

if TYPE_CHECKING:
    from torch import Tensor

Gram = Sequence[Sequence[float]]
Factors = Callable[[Gram, Sequence[float]], Sequence[float]]
"""From the inner products of the vectors and their shares, which add up to 1, to their factors."""

PARALLEL = 0.9995
"""Beyond this cosine the arc is taken for a line, as is customary: its sine divides by nearly 0."""
FLAT = 1e-8
"""A mean of unit vectors that is shorter has no direction."""


@dataclass(frozen=True)
class Directions:
    """One of the family; see `evomerge.merging.method.MergeMethod`.

    One model alone is itself.

    Attributes:
        shares: one per model, adding up to 1 or all 0.
        of: what is mixed: the models' own tensors, or their task vectors on top of the base.
    """

    name: str
    paper: str
    fields: tuple[Field, ...]
    shares: Callable[[Settings], tuple[float, ...]]
    factors: Factors
    of: Literal["models", "task vectors"]
    traits: Traits

    def used(self, settings: Settings) -> tuple[int, ...]:
        """Models that have a share."""
        return counting(self.shares(settings))

    def densities(self, settings: Settings) -> None:
        """None: nothing is dropped."""

    def survey(self, chunks: Callable[[], Iterator[Chunk]], used: tuple[int, ...]) -> Gram:
        """The inner products of a tensor's vectors; nothing of one alone."""
        from evomerge.merging.reductions import add_products  # needs torch; recipes read this

        products = [[0.0] * len(used) for _ in used]
        for chunk in chunks() if len(used) > 1 else ():
            vectors = [chunk.spare(f"model {i}").copy_(self._vector(chunk, i)) for i in used]
            add_products(products, vectors)
        return products

    def combine(self, chunk: Chunk, settings: Settings) -> None:
        """The sum of factor times vector."""
        used, shares = self.used(settings), self.shares(settings)
        if len(used) == 1:
            chunk.total.copy_(chunk.model(used[0]))
            return
        factors = self.factors(chunk.found, [shares[i] for i in used])
        if self.of == "models":
            chunk.total.zero_()
        for i, factor in zip(used, factors, strict=True):
            chunk.total.add_(self._vector(chunk, i).mul_(factor))

    def _vector(self, chunk: Chunk, model: int) -> Tensor:
        return chunk.model(model) if self.of == "models" else chunk.vector(model)


def slerp(products: Gram, shares: Sequence[float]) -> Sequence[float]:
    """``sin((1 - t) a) / sin(a)`` and ``sin(t a) / sin(a)`` at the angle a; Shoemake 1985.

    The line between them where they are parallel, opposed, or one is 0.
    """
    length = math.sqrt(products[0][0] * products[1][1])
    cosine = products[0][1] / length if length else 1.0
    if abs(cosine) > PARALLEL:
        return shares
    angle = math.acos(cosine)
    return [math.sin(share * angle) / math.sin(angle) for share in shares]


def multislerp(products: Gram, shares: Sequence[float]) -> Sequence[float]:
    """The normalised mean of the unit vectors, times the mean length.

    Goddard's tangent step about that mean adds nothing: what is projected is the mean itself, whose
    part across its own direction is 0. Where the unit vectors cancel, the plain mean.
    """
    lengths = _lengths(products)
    mean = [
        share / length if length else 0.0 for share, length in zip(shares, lengths, strict=True)
    ]
    size = _norm(products, mean)
    if size < FLAT:
        return shares
    scale = _mean_length(lengths, shares)
    return [scale * part / size for part in mean]


def karcher(products: Gram, shares: Sequence[float]) -> Sequence[float]:
    """The point on the sphere with the least weighted sum of squared angles to the unit vectors,
    times the mean length; Karcher 1977, by the fixed-point iteration of its gradient.

    Starts at the normalised mean, or at the first vector if there is none, and ends when a step is
    below 1e-9, or after 100 steps.
    """
    lengths = _lengths(products)
    units = [i for i, length in enumerate(lengths) if length]
    if not units:
        return shares
    whole = sum(shares[i] for i in units)
    cosines = [[products[i][j] / (lengths[i] * lengths[j]) for j in units] for i in units]
    place = _karcher_mean(cosines, [shares[i] / whole for i in units])
    scale = _mean_length(lengths, shares)
    found = [0.0] * len(shares)
    for i, part in zip(units, place, strict=True):
        found[i] = scale * part / lengths[i]
    return found


def model_stock(products: Gram, shares: Sequence[float]) -> Sequence[float]:
    """``t * share`` with ``t = N cos / (1 + (N - 1) cos)``; Jang et al. 2024.

    cos is the mean cosine between two task vectors. For shares a that differ, N is the number that
    1 / N = sum a**2 makes it, and the mean over pairs is weighted by their shares; with equal
    shares this is the paper's formula. Where the divisor is 0, the base.
    """
    lengths = _lengths(products)
    pairs = [(i, j) for i in range(len(shares)) for j in range(i)]
    total = sum(shares[i] * shares[j] for i, j in pairs)
    cosine = sum(
        shares[i] * shares[j] * products[i][j] / (lengths[i] * lengths[j])
        for i, j in pairs
        if lengths[i] and lengths[j]
    )
    cosine /= total
    spread = sum(share * share for share in shares)
    divisor = spread + (1 - spread) * cosine
    ratio = cosine / divisor if abs(divisor) > 1e-6 * spread else 0.0
    return [ratio * share for share in shares]


def _karcher_mean(cosines: Gram, shares: Sequence[float]) -> list[float]:
    """Coefficients of unit vectors whose sum is the mean, of length 1."""
    place = list(shares)
    size = _norm(cosines, place)
    if size < FLAT:
        place, size = [1.0, *[0.0] * (len(shares) - 1)], 1.0
    place = [part / size for part in place]
    for _ in range(100):
        tangent = _toward(cosines, shares, place)
        step = _norm(cosines, tangent)
        if step < 1e-9:
            break
        ahead = math.sin(step) / step
        place = [math.cos(step) * p + ahead * t for p, t in zip(place, tangent, strict=True)]
        size = _norm(cosines, place)
        place = [part / size for part in place]
    return place


def _toward(cosines: Gram, shares: Sequence[float], place: Sequence[float]) -> list[float]:
    """The mean of the logarithms of the unit vectors at a place, as coefficients."""
    found = [0.0] * len(shares)
    for i, share in enumerate(shares):
        cosine = sum(c * p for c, p in zip(cosines[i], place, strict=True))
        angle = math.acos(max(-1.0, min(1.0, cosine)))
        stretch = share * (angle / math.sin(angle) if math.sin(angle) > 0 else 1.0)
        found[i] += stretch
        found = [f - stretch * cosine * p for f, p in zip(found, place, strict=True)]
    return found


def _lengths(products: Gram) -> list[float]:
    return [math.sqrt(row[i]) for i, row in enumerate(products)]


def _mean_length(lengths: Sequence[float], shares: Sequence[float]) -> float:
    return sum(length * share for length, share in zip(lengths, shares, strict=True))


def _norm(products: Gram, parts: Sequence[float]) -> float:
    """The length of the sum of vectors times these numbers."""
    square = sum(
        parts[i] * parts[j] * products[i][j] for i in range(len(parts)) for j in range(len(parts))
    )
    return math.sqrt(max(square, 0.0))


def _by_weight(settings: Settings) -> tuple[float, ...]:
    weights = per_model(settings, "weight")
    whole = sum(weights)
    return tuple(weight / whole for weight in weights) if whole else weights


def _by_fraction(settings: Settings) -> tuple[float, ...]:
    fraction = per_group(settings, "t")
    return 1 - fraction, fraction


FRACTION = Field(
    name="t",
    per="group",
    low=0.0,
    high=1.0,
    default=0.5,
    scale="linear",
    meaning="how far from the first model to the second",
    source="all of the way",
    limits=(0.0, 1.0),
)
_SHARE = Field(
    name="weight",
    per="model",
    low=0.0,
    high=1.0,
    default=1.0,
    scale="linear",
    meaning="share of the model before division by the sum of all",
    source="equal shares where the method was published",
    limits=(0.0, math.inf),
)
_ANY = Traits(local=True)

SLERP = Directions(
    "slerp",
    "Shoemake 1985 (doi:10.1145/325165.325242), between two models",
    (FRACTION,),
    _by_fraction,
    slerp,
    "models",
    Traits(local=True, fewest=2, most=2, parents=False),
)
NUSLERP = Directions(
    "nuslerp",
    "Shoemake 1985 (doi:10.1145/325165.325242), between two task vectors; mergekit's nuslerp",
    (_SHARE,),
    _by_weight,
    slerp,
    "task vectors",
    Traits(local=True, fewest=2, most=2),
)
KARCHER = Directions(
    "karcher",
    "Karcher 1977 (doi:10.1002/cpa.3160300502), of the models",
    (_SHARE,),
    _by_weight,
    karcher,
    "models",
    _ANY,
)
MULTISLERP = Directions(
    "multislerp",
    "Goddard 2024 (goddard.blog/posts/multislerp-wow-what-a-cool-idea), of task vectors",
    (_SHARE,),
    _by_weight,
    multislerp,
    "task vectors",
    _ANY,
)
MODEL_STOCK = Directions(
    "model_stock",
    "Jang et al. 2024 (arXiv:2403.19522)",
    (_SHARE,),
    _by_weight,
    model_stock,
    "task vectors",
    _ANY,
)
