"""Stored tensors on a CUDA device: kept there while there is room, else passed through."""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.checkpoint.dtypes import torch_dtype
from evomerge.merging.scratch import Scratch
from evomerge.merging.sources import Stored

CHUNK = 2**24
"""Entries that are copied to the device at a time."""

SHARE = 0.5
"""Of the memory that is free at first, the part that copies may take: evaluations need the rest."""


class DeviceCopies:
    """Copies of checkpoints' tensors on one device, made when they are first wanted.

    Copies go through one pinned buffer, chunk by chunk, each waiting for the one before.

    Args:
        device: where they are.
        budget: bytes that are kept; None for `SHARE` of what is free on that CUDA device.
    """

    def __init__(self, device: torch.device, budget: int | None = None) -> None:
        if budget is None:
            budget = int(torch.cuda.mem_get_info(device)[0] * SHARE)
        self._device, self._room = device, budget
        self._kept: dict[tuple[int, str], tuple[Stored, Tensor]] = {}
        self._passing = Scratch(device)
        self._host = Scratch(pinned=device.type == "cuda")

    def whole(self, source: Stored, name: str) -> Tensor | None:
        """The tensor as stored, ``(n,)``, not to be written to; None where there is no room.

        Raises:
            CheckpointError: the file changed.
        """
        _, kept = self._kept.get((id(source), name), (None, None))
        if kept is not None:
            source.read(name, 0, 0)  # which says if the file changed
            return kept
        entry = source.entry(name)
        if entry.size > self._room:
            return None
        try:
            made = torch.empty(entry.count, dtype=torch_dtype(entry.dtype), device=self._device)
        except torch.OutOfMemoryError:  # somebody else took it since
            self._room = 0
            return None
        for start in range(0, entry.count, CHUNK):
            stop = min(start + CHUNK, entry.count)
            self._copy(source, name, (start, stop), made[start:stop])
        self._room -= entry.size
        self._kept[id(source), name] = source, made  # the source too: ids are used again
        return made

    def passing(self, role: int, source: Stored, name: str, span: tuple[int, int]) -> Tensor:
        """Entries start to stop as stored; the role's next ones overwrite them.

        Raises:
            CheckpointError: the file changed.
        """
        kind = torch_dtype(source.entry(name).dtype)
        out = self._passing.buffer(str(role), kind, span[1] - span[0])
        self._copy(source, name, span, out)
        return out

    def _copy(self, source: Stored, name: str, span: tuple[int, int], out: Tensor) -> None:
        room = self._host.buffer("stored", out.dtype, len(out))
        out.copy_(source.read(name, *span, out=room))
