"""Random numbers for the entries of a tensor, each at its own address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.randomness import Key, torch_generator

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 2**14
"""Entries that one stream serves, always drawn together: part of what decides every mask."""


def fill_uniform(out: Tensor, start: int, seed: int, *key: Key) -> Tensor:
    """Fill with the numbers in [0, 1) of the entries from ``start`` on, and return it.

    Args:
        out: ``(n,)`` float32.
        start: the place in the flattened tensor of the first entry.
        seed: of the merge.
        key: names the tensor's stream.
    """
    import torch

    filled = 0
    while filled < len(out):
        block, first = divmod(start + filled, BLOCK)
        stream = torch_generator(seed, *key, block)
        numbers = torch.rand(BLOCK, generator=stream)[first : first + len(out) - filled]
        out[filled : filled + len(numbers)] = numbers
        filled += len(numbers)
    return out
