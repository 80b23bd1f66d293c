"""Batches that fit: rows in chunks of one size, halved where the GPU's memory ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

Row = TypeVar("Row")
_SIZES = {"cpu": 8, "cuda": 64}


@dataclass
class Batches:
    """How many rows go through the model at a time.

    Attributes:
        size: 1 or more; halved for good when the GPU runs out of memory. On a CPU it never
            changes, for there the bits of a result depend on it.
    """

    size: int

    @classmethod
    def on(cls, device: torch.device, size: int | None) -> Batches:
        """Of the size that is given, else 8 rows on a CPU and 64 on a GPU."""
        return cls(size or _SIZES.get(device.type, _SIZES["cpu"]))

    def run(
        self,
        rows: Sequence[Row],
        work: Callable[[Sequence[Row], int], None],
        *,
        most: int | None = None,
    ) -> None:
        """Hand all rows to `work`, chunk by chunk.

        Args:
            work: given a chunk and the size of a full one, to which it fills up; called again
                with half of the rows if it runs out of the GPU's memory.
            most: an upper limit for these rows alone.

        Raises:
            torch.OutOfMemoryError: if a single row does not fit.
        """
        at = 0
        while at < len(rows):
            size = self.size if most is None else max(1, min(self.size, most))
            try:
                work(rows[at : at + size], size)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                self.size = min(self.size, size // 2)
            else:
                at += size
                continue
            torch.cuda.empty_cache()  # outside the handler, whose traceback holds tensors
