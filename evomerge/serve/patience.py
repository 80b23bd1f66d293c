"""Connections that have to say what they want within a time.

uvicorn waits for ever for the end of a request's headers, so a few hundred clients that send a
byte a minute would keep all others out.
"""

from __future__ import annotations

import asyncio
from typing import Any


def patient(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP/1.1, but it closes a connection whose headers are not there in time.

    The extra ``serve`` is imported here, so that the module can be without it.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PatientProtocol(H11Protocol):
        """The time runs from the connection, or a later request's first byte, to the headers."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._start()

        def handle_events(self) -> None:
            super().handle_events()
            if self.conn.their_state is not h11.IDLE:
                self._stop()
            elif self.conn.trailing_data[0]:
                self._start()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _start(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(seconds, self.transport.close)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return PatientProtocol
