"""Which entries of a task vector are kept: the density rule, exact, ties included.

The *code* of an entry is the top 16 bits of ``|model - base|`` as float32: the exponent and seven
bits of the mantissa, 2**15 codes in the order of magnitudes. One pass counts a tensor's entries by
code, and any density then becomes a threshold by a look-up in the running sum; nothing is sorted.

For density d and n entries, ``d * n`` entries are wanted, a real number. Codes are taken from the
largest down while they fit whole. The entries of the code at which that ends are all multiplied by
the one fraction that makes the count exact, instead of choosing among them by their position: in
fine-tuned models stored as bfloat16 a quarter of all entries can share that code, and keeping all
or none of them would turn the density axis into a staircase. A density of at least the fraction
of entries that are not zero keeps everything.

That is the *smooth* mask. Two others are offered: *exact* keeps that fraction of the tied entries
whole and drops the rest, by lot (`evomerge.merging.lots`), so that every entry is kept or dropped;
*plain* keeps all of them, more than was asked for.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evomerge.merging.lots import Lot, limit
from evomerge.merging.plan import Mask
from evomerge.merging.scratch import Scratch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CODES = 2**15


@dataclass(frozen=True)
class Threshold:
    """What is kept of a task vector v.

    Attributes:
        low: entries with ``|v| < low`` become 0.
        high: entries with ``low <= |v| < high`` are multiplied by the fraction, larger ones stay.
        fraction: in [0, 1].
        lot: chooses that fraction of them instead, which stays whole; the others become 0.
    """

    low: float
    high: float
    fraction: float
    lot: Lot | None = None

    def masked(self, mask: Mask, whose: tuple[int, str, str]) -> Threshold:
        """The same threshold for a mask of this kind; ``whose`` as `Lot.of` takes it."""
        if mask == "plain" or (mask == "exact" and self.fraction == 1):
            return replace(self, high=self.low, fraction=1.0)
        return replace(self, lot=Lot.of(*whose)) if mask == "exact" else self


@dataclass(frozen=True)
class MagnitudeTable:
    """How many entries of one task vector have which code.

    Attributes:
        codes: those that occur, without 0, descending, uint16.
        reached: how many entries have that code or a larger one.
        count: entries of the tensor.
    """

    codes: NDArray[np.uint16]
    reached: NDArray[np.integer]
    count: int

    @classmethod
    def of(cls, counts: ArrayLike, count: int) -> MagnitudeTable:
        """From the number of entries by code, ``(2**15,)``."""
        found = np.asarray(counts)
        codes = np.flatnonzero(found[1:])[::-1] + 1
        # Four bytes instead of eight: tables of all tensors stay in memory.
        kind = np.uint32 if count < 2**32 else np.int64
        return cls(codes.astype(np.uint16), np.cumsum(found[codes]).astype(kind), count)

    def add_to(self, counts: NDArray[np.int64]) -> None:
        """Add how many entries have which code, but for 0, to ``(2**15,)`` int64."""
        reached: NDArray[np.int64] = self.reached.astype(np.int64)
        counts[self.codes] += np.diff(reached, prepend=np.int64(0))

    @property
    def size(self) -> int:
        """In bytes."""
        return self.codes.nbytes + self.reached.nbytes

    def threshold(self, density: float) -> Threshold | None:
        """The threshold that keeps this fraction of all entries; None keeps everything."""
        wanted = density * self.count
        if not len(self.codes) or wanted >= int(self.reached[-1]):
            return None
        # Of its own dtype, or numpy would turn the whole table into float64.
        place = int(self.reached.searchsorted(self.reached.dtype.type(math.ceil(wanted))))
        larger = int(self.reached[place - 1]) if place else 0
        equal = int(self.reached[place]) - larger
        code = int(self.codes[place])
        return Threshold(_magnitude(code), _magnitude(code + 1), (wanted - larger) / equal)


def add_counts(counts: Tensor, vector: Tensor, scratch: Scratch) -> None:
    """Count the entries of a stretch of a task vector by code.

    Args:
        counts: ``(2**15,)`` int64, added to.
        vector: ``(n,)`` float32 or float64.
        scratch: for the magnitudes.
    """
    import torch

    magnitudes = scratch.buffer("magnitudes", torch.float32, len(vector)).copy_(vector).abs_()
    codes = magnitudes.view(torch.int32).bitwise_right_shift_(16)
    counts.add_(torch.bincount(codes, minlength=CODES))


def sparsify(vector: Tensor, threshold: Threshold, scratch: Scratch, start: int = 0) -> None:
    """Keep what the threshold says, in place; NaN stays NaN.

    By `torch.hardshrink`, which zeroes what is not above its limit: masks cost thirty times more.

    Args:
        vector: ``(n,)`` float32 or float64.
        threshold: of the tensor that the vector is a part of.
        scratch: for the entries that are kept whole.
        start: the place in the tensor of the first entry.
    """
    import torch

    whole = scratch.buffer("whole", vector.dtype, len(vector))
    torch.hardshrink(vector, _largest_below(threshold.high, vector.dtype), out=whole)
    torch.hardshrink(vector, _largest_below(threshold.low, vector.dtype), out=vector)
    # The entries at the boundary remain, weakened or chosen; then those kept whole come back.
    vector.sub_(whole)
    if threshold.lot is None:
        vector.mul_(threshold.fraction)
    else:
        lots = threshold.lot.drawn(start, len(vector))
        vector.masked_fill_(lots >= limit(threshold.fraction), 0.0)
    vector.add_(whole)


def _largest_below(limit: float, kind: torch.dtype) -> float:
    """The largest number of this dtype whose float32 is less than a limit with an even mantissa."""
    import torch

    below = float(np.nextafter(np.float32(limit), np.float32(0)))
    if kind == torch.float32:
        return below
    # What lies half-way rounds up to the limit, which is even.
    return float(np.nextafter((below + limit) / 2, 0))


def _magnitude(code: int) -> float:
    """The least float32 with this code; infinity beyond the largest finite ones."""
    magnitude: float = struct.unpack("<f", struct.pack("<I", code << 16))[0]
    return magnitude
