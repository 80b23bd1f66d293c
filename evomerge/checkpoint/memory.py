"""Entries of a tensor in the CPU's memory, in any dtype that files hold, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evomerge.checkpoint.dtypes import DTYPES, dtype_word, torch_dtype

if TYPE_CHECKING:
    from torch import Tensor

ALIGNED = 64
"""Bytes of a cache line."""


@dataclass(frozen=True)
class Entries:
    """Entries in a row.

    Attributes:
        word: their safetensors dtype.
        data: their bytes.
    """

    word: str
    data: NDArray[np.uint8]

    @classmethod
    def of(cls, piece: Tensor) -> Entries:
        """A tensor's, flattened: in the same memory where it is contiguous and on the CPU."""
        import torch

        flat = piece.detach().cpu().contiguous().view(-1)
        data = flat.as_strided((flat.numel(),), (1,))  # a single entry may have any stride
        return cls(dtype_word(piece.dtype), data.view(torch.uint8).numpy())

    def __len__(self) -> int:
        return len(self.data) // DTYPES[self.word].size

    @property
    def address(self) -> int:
        """Of the first one."""
        return int(self.data.ctypes.data)

    def part(self, start: int, stop: int) -> Entries:
        """Those from start up to stop, in the same memory."""
        size = DTYPES[self.word].size
        return Entries(self.word, self.data[start * size : stop * size])

    def tensor(self) -> Tensor:
        """The same memory, ``(n,)``."""
        import torch

        return torch.from_numpy(self.data).view(torch_dtype(self.word))


class Arena:
    """Memory that is used again; it grows to the largest request and stays."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def cut(self, sizes: list[tuple[str, int]]) -> list[Entries]:
        """Room for entries of these dtypes, ``(word, count)``, holding anything.

        What was cut before is overwritten.
        """
        lengths = [DTYPES[word].size * count for word, count in sizes]
        wanted = sum(-(-length // ALIGNED) * ALIGNED for length in lengths)
        if len(self._memory) < wanted + ALIGNED:
            self._memory = np.empty(wanted + ALIGNED, np.uint8)
        at, found = -self._memory.ctypes.data % ALIGNED, []
        for (word, _), length in zip(sizes, lengths, strict=True):
            found.append(Entries(word, self._memory[at : at + length]))
            at += -(-length // ALIGNED) * ALIGNED
        return found
