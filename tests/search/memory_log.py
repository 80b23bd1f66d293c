"""A log that lives in a list, as a study would serve it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.interfaces import Asked, Observation
from evomerge.space import Space


@dataclass
class MemoryLog:
    """Asks and ends, in their order."""

    entries: list[Asked | Observation] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.entries)

    def events(self, start: int = 0) -> Iterator[Asked | Observation]:
        """Those from a place on."""
        yield from self.entries[start:]

    def cut(self, length: int) -> MemoryLog:
        """The log as it was when it had so many entries."""
        return MemoryLog(self.entries[:length])

    def asks(self) -> list[Asked]:
        """What was asked."""
        return [event for event in self.entries if isinstance(event, Asked)]

    def values(self, space: Space) -> list[dict[str, float]]:
        """The points that were asked, in natural units."""
        return [space.values(event.point) for event in self.asks()]

    def notes(self) -> list[Mapping[str, Any]]:
        """The notes of what was asked."""
        return [event.note for event in self.asks()]
