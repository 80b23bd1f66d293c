"""Memory that is used again: one thread's buffers, by role."""

from __future__ import annotations

from torch import Tensor, dtype, empty, inference_mode, uint8


class Scratch:
    """Flat buffers for one thread. Each role's memory grows to the largest request and stays."""

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def buffer(self, role: str, kind: dtype, count: int) -> Tensor:
        """``(count,)`` of this dtype, holding anything; the role's next buffer overwrites it."""
        size = count * kind.itemsize
        memory = self._memory.get(role)
        if memory is None or len(memory) < size:
            with inference_mode(False):  # else it could not be written to outside that mode
                memory = self._memory[role] = empty(size, dtype=uint8)
        return memory[:size].view(kind)
