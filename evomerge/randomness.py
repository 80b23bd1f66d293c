"""Generators by seed and address: nothing in evomerge reads or writes global random state.

A stream is named by the study's seed and a key, a sequence of words and numbers such as
``("ask", 17)`` or ``("drop", trial, tensor name)``. The same address gives the same stream
whatever ran before or beside it, so order, workers and restarts cannot change a result.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Key = str | int


def derived_seed(seed: int, *key: Key, bits: int = 64) -> int:
    """An integer in [0, 2**bits) that depends on the seed and the whole key, and on nothing else.

    Args:
        seed: the study's seed.
        key: the address; words and numbers, ``("a", 1)`` differs from ``("a1",)``.
        bits: 1 to 64; 32 for libraries that take no more.
    """
    address = json.dumps([seed, *key], separators=(",", ":")).encode()
    digest = hashlib.blake2b(address, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> (64 - bits)


def generator(seed: int, *key: Key) -> np.random.Generator:
    """A numpy generator of its own for every address."""
    return np.random.Generator(np.random.PCG64(derived_seed(seed, *key)))


def torch_generator(seed: int, *key: Key) -> torch.Generator:
    """A torch generator, on the CPU, of its own for every address."""
    import torch

    return torch.Generator().manual_seed(derived_seed(seed, *key, bits=63))
