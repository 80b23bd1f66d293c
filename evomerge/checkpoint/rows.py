"""A checkpoint whose vocabulary is cut or filled up to the base's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import DTYPES, dtype_word, torch_dtype

if TYPE_CHECKING:
    import torch

    from evomerge.checkpoint.memory import Entries


class RefittedCheckpoint(Checkpoint):
    """A model with the base's number of rows: its own first ones, then the base's.

    Where a row is the base's, the task vector is 0: both are held in the wider of their dtypes.
    Closing it closes nothing; it lasts as long as the checkpoints that it is made of.

    Args:
        model, base: open.
        rows: how many of the model's rows are used, by tensor; at most what both have.
    """

    def __init__(self, model: Checkpoint, base: Checkpoint, rows: Mapping[str, int]) -> None:
        super().__init__(model.path, {})
        self.shards = model.shards
        self._model, self._base = model, base
        self._own = {n: k * math.prod(base.entry(n).shape[1:]) for n, k in rows.items()}
        refitted = {}
        for name in rows:
            own, other = model.entry(name), base.entry(name)
            word = _wider(own.dtype, other.dtype)
            size = other.count * DTYPES[word].size
            refitted[name] = replace(own, dtype=word, shape=other.shape, size=size)
        self.tensors = MappingProxyType({**model.tensors, **refitted})

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        """The model's."""
        return self._model.metadata

    def read(
        self, name: str, start: int = 0, stop: int | None = None, *, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As `Checkpoint.read`, of the refitted tensor."""
        if name not in self._own:
            return self._model.read(name, start, stop, out=out)
        import torch

        entry = self.entry(name)
        stop = entry.count if stop is None else stop
        if out is None:
            out = torch.empty(stop - start, dtype=torch_dtype(entry.dtype))
        edge = min(max(self._own[name], start), stop)
        if edge > start:
            out[: edge - start].copy_(self._model.read(name, start, edge))
        if stop > edge:
            out[edge - start : stop - start].copy_(self._base.read(name, edge, stop))
        return out[: stop - start]

    def read_into(self, name: str, start: int, out: Entries, *, once: bool = False) -> None:
        """As `Checkpoint.read_into`, of the refitted tensor."""
        if name not in self._own:
            self._model.read_into(name, start, out, once=once)
        else:
            self.read(name, start, start + len(out), out=out.tensor())

    def address(self, name: str) -> int | None:
        """None for refitted tensors, which are in no file."""
        return None if name in self._own else self._model.address(name)

    def identity(self, name: str) -> str | None:
        """None for refitted tensors."""
        return None if name in self._own else self._model.identity(name)

    def close(self) -> None:
        """Nothing."""


def _wider(one: str, other: str) -> str:
    import torch

    return dtype_word(torch.promote_types(torch_dtype(one), torch_dtype(other)))
