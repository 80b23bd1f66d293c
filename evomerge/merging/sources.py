"""Where a merge takes stored tensors from: open checkpoints, or what was read of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from evomerge.checkpoint.header import TensorEntry
from evomerge.checkpoint.memory import Entries

if TYPE_CHECKING:
    from torch import Tensor


class Stored(Protocol):
    """What `evomerge.checkpoint.checkpoint.Checkpoint` does for a merge, which see."""

    def entry(self, name: str) -> TensorEntry:
        """What the tensor is."""
        ...

    def read(
        self, name: str, start: int = 0, stop: int | None = None, *, out: Tensor | None = None
    ) -> Tensor:
        """Entries as stored; in `out`, or in memory that is not to be written to."""
        ...

    def read_into(self, name: str, start: int, out: Entries, *, once: bool = False) -> None:
        """Fill with entries as stored; `once` if nobody reads them again soon."""
        ...

    def address(self, name: str) -> int | None:
        """Where the tensor lies in memory that is its file's; None if it does not."""
        ...

    def identity(self, name: str) -> str | None:
        """What decides the tensor's content, if that is known."""
        ...


@dataclass(frozen=True)
class Staged:
    """Some entries of one tensor, read already; for the rest as their source.

    Attributes:
        source: where they are from.
        start: the first one's place in the flattened tensor.
        entries: as stored.
    """

    source: Stored
    start: int
    entries: Entries

    def entry(self, name: str) -> TensorEntry:
        """The source's."""
        return self.source.entry(name)

    def read(
        self, name: str, start: int = 0, stop: int | None = None, *, out: Tensor | None = None
    ) -> Tensor:
        """The entries where they are; `out` is left alone."""
        stop = self.entry(name).count if stop is None else stop
        return self.part(start, stop).tensor()

    def part(self, start: int, stop: int) -> Entries:
        """Entries start to stop of the tensor."""
        return self.entries.part(start - self.start, stop - self.start)

    def read_into(self, name: str, start: int, out: Entries, *, once: bool = False) -> None:
        """A copy."""
        out.data[:] = self.part(start, start + len(out)).data

    def address(self, name: str) -> None:
        """None: the entries are nobody's file."""

    def identity(self, name: str) -> str | None:
        """The source's."""
        return self.source.identity(name)
