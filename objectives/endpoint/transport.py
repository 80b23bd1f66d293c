"""One exchange with a server, bounded in every direction; the only place that imports httpx.

The library is httpx2, the maintained continuation of httpx under the same interface.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx2 as httpx

from evomerge.objectives.endpoint.options import Connection

for _name in ("httpx2", "httpcore2"):  # they would log URLs, and at DEBUG headers with the key
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Reply:
    """What came back, whole.

    Attributes:
        headers: by lower-case name.
        body: decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoReplyError(Exception):
    """There is no whole reply.

    Attributes:
        sent: whether the server may have seen the request.
        again: whether another try could fare better.
    """

    def __init__(self, cause: str, *, sent: bool = True, again: bool = True) -> None:
        super().__init__(cause)
        self.sent = sent
        self.again = again


@dataclass(frozen=True)
class Exchange:
    """An open client; `send` may run many times at once."""

    client: httpx.AsyncClient
    connection: Connection

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> Reply:
        """Send a request and read all of its reply. Redirects are replies like any other.

        Raises:
            NoReplyError: nothing came, not all of it, too much of it, or too late.
        """
        sent = False

        async def trace(event: str, info: Mapping[str, Any]) -> None:
            nonlocal sent
            sent = sent or event.endswith("send_request_headers.started")

        try:
            async with (
                asyncio.timeout(self.connection.total),
                self.client.stream(
                    method,
                    url,
                    headers=dict(headers),
                    content=content,
                    extensions={"trace": trace},
                ) as response,
            ):
                body = await _body(response, self.connection.largest)
                found = {name.lower(): value for name, value in response.headers.items()}
                return Reply(response.status_code, found, body)
        except TimeoutError:
            cause = f"no whole answer within {self.connection.total:g} s"
            raise NoReplyError(cause, sent=sent) from None
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL) as error:
            raise NoReplyError(_said(error), sent=sent, again=False) from None
        except httpx.TransportError as error:
            raise NoReplyError(_said(error), sent=sent) from None


@asynccontextmanager
async def opened(connection: Connection) -> AsyncIterator[Exchange]:
    """A client for a batch of requests; its connections are closed at the end.

    Nothing of the environment is used (no proxies, no .netrc with other people's passwords), and
    no redirect is followed.
    """
    timeout = httpx.Timeout(
        connect=connection.connect,
        read=connection.read,
        write=connection.write,
        pool=connection.pool,
    )
    limits = httpx.Limits(
        max_connections=connection.concurrency, max_keepalive_connections=connection.concurrency
    )
    async with httpx.AsyncClient(
        verify=_certificates(),
        timeout=timeout,
        limits=limits,
        follow_redirects=False,
        trust_env=False,
        headers={"Accept": "application/json", "Accept-Encoding": "gzip"},
    ) as client:
        yield Exchange(client, connection)


@cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes longer than a request."""
    return ssl.create_default_context()


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def _body(response: httpx.Response, largest: int) -> bytes:
    """The body, never more than `largest` bytes of it in memory however well it was packed."""
    unpack = _unpacker(response.headers.get("content-encoding", "identity").strip().lower())
    parts: list[bytes] = []
    room = largest
    async for raw in response.aiter_raw():
        part = unpack(raw, room + 1)
        room -= len(part)
        if room < 0:
            raise NoReplyError(f"the answer is longer than {largest} bytes", again=False)
        parts.append(part)
    unpack(b"", 0)
    return b"".join(parts)


def _unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    """A function of bytes and the most to make of them; with 0, the check at the end."""
    if encoding == "identity":
        return lambda raw, limit: raw[:limit]
    if encoding != "gzip":
        raise NoReplyError(f"the answer is packed as {encoding!r:.30}; gzip was asked for")
    machine = zlib.decompressobj(wbits=31)

    def unpack(raw: bytes, limit: int) -> bytes:
        if limit == 0:
            if not machine.eof:
                raise NoReplyError("the packed answer ends too early")
            return b""
        try:
            return machine.decompress(raw, limit)
        except zlib.error as error:
            raise NoReplyError(f"the packed answer is damaged: {error}") from None

    return unpack
