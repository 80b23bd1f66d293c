"""What one client may ask of the server at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds that keep the server serving, whatever is sent to it.

    Attributes:
        body: bytes of a request.
        seconds: until a request has arrived whole, its headers and its body each.
        items: prompts of one request.
        continuations: of one prompt.
        new_tokens: generated after one prompt.
        waiting: requests that wait for a free desk; the next one is told to come back.
        connections: open at the same time.
        remembered: results in memory.
    """

    body: int = 1_000_000
    seconds: float = 10.0
    items: int = 64
    continuations: int = 64
    new_tokens: int = 1024
    waiting: int = 64
    connections: int = 512
    remembered: int = 10_000
