"""Clients that are slow, broken or many: the server goes on serving."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.serve.conftest import KEY, Server, serving

ITEM = {"items": [{"prompt": "a", "continuations": ["b", "c"]}]}
HASTY = """
import sys
from pathlib import Path
from evomerge.serve.limits import Limits
from evomerge.serve.server import Service, serve

folder = Path(sys.argv[1])
limits = Limits(seconds=2, waiting=2)
service = Service(folder / "base", {"math": folder / "math"}, port=0, limits=limits, desks=1)
serve(service, lambda url: print(url, file=sys.stderr, flush=True))
"""


@pytest.fixture(scope="module")
def hasty(pool: Path) -> Iterator[Server]:
    """Waits two seconds for a request; lets two wait."""
    with serving([sys.executable, "-c", HASTY, str(pool)]) as running:
        yield running


def answers(server: Server) -> bool:
    return server.post("/v1/score", ITEM)[0] == 200


UNFINISHED = {
    "nothing": b"",
    "half a line": b"POST /v1/score HT",
    "half a second request": b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /he",
    "half a body": b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{",
}


def test_who_does_not_finish_a_request_is_left(hasty: Server) -> None:
    with ExitStack() as stack:
        for sent in UNFINISHED.values():
            address = ("127.0.0.1", hasty.port)
            waiting = stack.enter_context(socket.create_connection(address, timeout=60))
            waiting.sendall(sent)
            stack.callback(drain, waiting)
    assert answers(hasty)


def drain(connection: socket.socket) -> None:
    """Read until the server closes."""
    while connection.recv(1000):
        pass


def test_who_comes_when_too_many_wait_is_told_to_come_back(hasty: Server) -> None:
    """Twenty at once on one desk: two wait, and none of the others is lost without an answer."""

    def ask(number: int) -> int:
        text = f"{number} and some more to read"
        return hasty.post("/v1/completions", {"prompt": text, "max_tokens": 20})[0]

    with ThreadPoolExecutor(20) as clients:
        found = list(clients.map(ask, range(20)))
    assert set(found) <= {200, 429}
    assert found.count(200) >= 1
    assert answers(hasty)


def test_a_thousand_malformed_requests_leave_it_serving(server: Server) -> None:
    random = np.random.default_rng(0)
    body = json.dumps(ITEM).encode()
    whole = b"POST /v1/score HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n" % KEY.encode()
    whole += b"content-length: %d\r\n\r\n%b" % (len(body), body)

    def garble(number: int) -> bytes:
        """Cut, or with bytes overwritten, doubled or of any value."""
        at = int(random.integers(len(whole)))
        noise = random.bytes(int(random.integers(1, 20)))
        return [whole[:at], whole[:at] + noise, whole[:at] + noise + whole[at:], noise][number % 4]

    def send(data: bytes) -> None:
        place = ("127.0.0.1", server.port)
        with socket.create_connection(place, timeout=60) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                drain(connection)
            except ConnectionError:
                pass  # as good an answer as any

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(send, [garble(number) for number in range(1000)]))
    assert answers(server)


def test_nothing_outside_is_read_or_written(server: Server, pool: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in pool.rglob("*")}
    for path in ("/../../etc/passwd", "/v1/models/../../etc/passwd", "/%2e%2e/etc/passwd"):
        assert server.get(path)[0] == 404
    for merge in ({"method": "/etc/passwd"}, {"base": "/tmp"}, {"models": {"x": "/tmp"}}):
        assert server.post("/v1/score", {**ITEM, "merge": merge})[0] == 400
    assert {path: path.stat().st_mtime_ns for path in pool.rglob("*")} == before
