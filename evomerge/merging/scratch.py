"""Memory that is used again: one thread's buffers, by role."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, device, dtype


class Scratch:
    """Flat buffers for one thread. Each role's memory grows to the largest request and stays.

    Args:
        where: the device they are on; None for the CPU.
        pinned: whether devices can copy from them without the CPU's help.
    """

    def __init__(self, where: device | None = None, *, pinned: bool = False) -> None:
        self._where, self._pinned = where, pinned
        self._memory: dict[str, Tensor] = {}

    def buffer(self, role: str, kind: dtype, count: int) -> Tensor:
        """``(count,)`` of this dtype, holding anything; the role's next buffer overwrites it."""
        from torch import empty, inference_mode, uint8

        size = count * kind.itemsize
        memory = self._memory.get(role)
        if memory is None or len(memory) < size:
            with inference_mode(False):  # else it could not be written to outside that mode
                memory = self._memory[role] = empty(
                    size, dtype=uint8, device=self._where, pin_memory=self._pinned
                )
        return memory[:size].view(kind)


class Scratches:
    """Scratch for threads to borrow: as many as were ever in use at once."""

    def __init__(self) -> None:
        self._idle: list[Scratch] = []

    @contextmanager
    def one(self) -> Iterator[Scratch]:
        """Buffers that no other thread uses meanwhile."""
        try:
            scratch = self._idle.pop()
        except IndexError:
            scratch = Scratch()
        try:
            yield scratch
        finally:
            self._idle.append(scratch)
