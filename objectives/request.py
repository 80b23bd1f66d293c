"""A sequence to be judged; beside the torch modules, so that items are encoded without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """A sequence whose last tokens are to be judged.

    Attributes:
        tokens: two or more ids.
        scored: how many of the last ones are judged, 1 to ``len(tokens) - 1``.
    """

    tokens: tuple[int, ...]
    scored: int
