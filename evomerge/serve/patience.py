"""Connections that have to say what they want within a time.

uvicorn waits for ever for the end of a request's headers, so a few thousand clients that send a
byte a minute would keep all others out.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose headers are not there in time."""

    seconds = 10.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """The time starts."""
        super().connection_made(transport)
        self._start()

    def handle_events(self) -> None:
        """The time ends with the headers, and starts again with the next request's first byte."""
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self.conn.trailing_data[0]:
            self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop()
        super().connection_lost(exc)

    def _start(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.seconds, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def patient(seconds: float) -> type[PatientProtocol]:
    """The protocol with another time, in seconds."""
    return type("PatientProtocol", (PatientProtocol,), {"seconds": seconds})
