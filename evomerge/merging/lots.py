"""Lots: which of the entries that tie at a threshold are kept, where a merge wants a true mask.

The lot of an entry is 32 bits: its place in the tensor, hashed with a key of the tensor, times an
odd factor of the model. So lots are the same for every candidate, chunk and thread, spread evenly
over a tensor, and differ between tensors and models. An entry is kept if its lot is smaller than
the fraction to be kept: a larger density keeps what a smaller one kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from evomerge.randomness import derived_seed

if TYPE_CHECKING:
    from torch import Tensor

_BITS = 0xFFFFFFFF


class Lot(NamedTuple):
    """Whose lots: the key of a tensor, the factor of a model; of 32 bits each."""

    key: int
    factor: int

    @classmethod
    def of(cls, seed: int, tensor: str, model: str) -> Lot:
        """Of one tensor of one model, in merges with this seed."""
        key = derived_seed(seed, "lots of a tensor", tensor, bits=32)
        return cls(key, derived_seed(seed, "lots of a model", model, bits=32) | 1)

    def drawn(self, start: int, count: int) -> Tensor:
        """The lots of the entries from ``start`` on, ``(count,)`` int64 in [0, 2**32).

        The hash is the finalizer of MurmurHash3 (A. Appleby, public domain); of places beyond
        2**32 the last 32 bits count.
        """
        import torch

        hashed = torch.arange(start, start + count) & _BITS ^ self.key
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, self.factor)):
            hashed = (hashed ^ hashed >> shift) * factor & _BITS
        return hashed


def limit(fraction: float) -> int:
    """The lots below this are the fraction of all, in [0, 1), to one part in 2**32."""
    return min(int(fraction * 2**32), _BITS)
