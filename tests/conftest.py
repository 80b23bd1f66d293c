"""What tests of several rooms share: caches of their own, adapters, a JSON server on the loopback.

No test reads or writes the user's own caches, and none reaches the hub. The server also does what
networks and their servers do to one.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from evomerge.checkpoint.caches import VARIABLE
from evomerge.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

# A shell that starts the suite in the background has it ignore Ctrl-C, `nohup` the hangup; the
# campaigns of the tests would ignore them too, as they should.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

# The same examples in every run, and none fails for being slow: a release is never refused for what
# a machine was busy with. `pytest --hypothesis-profile default` looks for new examples.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


@pytest.fixture
def adapt(tmp_path: Path) -> Callable[..., Path]:
    """Writes a PEFT adapter: factors and whole tensors by their names behind the prefix."""
    from safetensors.torch import save_file

    numbers = itertools.count()

    def adapt(tensors: Mapping[str, Tensor], **settings: object) -> Path:
        folder = tmp_path / f"adapter-{next(numbers)}"
        folder.mkdir()
        known = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q", "v", "emb"]}
        (folder / "adapter_config.json").write_text(json.dumps({**known, **settings}))
        stored = {f"base_model.model.{n}": t.clone().contiguous() for n, t in tensors.items()}
        save_file(stored, folder / "adapter_model.safetensors")
        return folder

    return adapt


@dataclass
class Loopback:
    """What a test says the server does, and what the server saw.

    Attributes:
        reply: body (None without one) and path to status, headers and body.
        fault: number of the request, from 0, to what happens to it instead of an answer.
        seen: bodies that were answered, in order.
        headers: of the last request.
        requests: all that arrived, faults among them.
    """

    reply: Callable[[Any, str], tuple[int, dict[str, str], bytes]]
    fault: Callable[[int], str | None] = lambda number: None
    seen: list[Any] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def as_json(value: Any, status: int = 200, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """A JSON reply."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return status, {"Content-Type": "application/json", **named}, json.dumps(value).encode()


FAULTS = ("429", "500", "503", "reset", "garbage", "half")
LATE = {2: "drip", 3: "hang"}
"""By number of the request: what only a deadline ends. Two, so that the deadline may be one that
honest answers keep on a busy machine."""


def random_faults(seed: int, share: float, *kinds: str) -> Callable[[int], str | None]:
    """Deterministic: the fault of request n depends on seed and n alone."""

    def fault(number: int) -> str | None:
        draw = generator(seed, "fault", number)
        return str(draw.choice(kinds)) if draw.random() < share else None

    return fault


def settled(condition: Callable[[], bool]) -> None:
    """Wait for the server's threads to have read what they were sent."""
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came true")


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        body = json.loads(raw) if raw else None
        loop = self.server.loopback
        with loop.lock:
            number, loop.requests = loop.requests, loop.requests + 1
            loop.headers = dict(self.headers)
        fault = loop.fault(number)
        if fault is not None:
            self._fail(fault)
            return
        status, headers, data = loop.reply(body, self.path)
        with loop.lock:
            loop.seen.append(body)
        self._send(status, {"Content-Length": str(len(data)), **headers}, data)

    do_GET = do_POST

    def _send(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _fail(self, fault: str) -> None:
        match fault:
            case "reset":
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.close_connection = True
                self.connection.close()
            case "garbage":
                self._send(200, {"Content-Type": "application/json"}, b'<html>"NaN"</html>')
            case "half":
                self._send(200, {"Content-Length": "400"}, b'{"score": 0.')
            case "hang":
                self.server.stopping.wait()
            case "drip":  # never long between two bytes, and never at an end
                self._send(200, {"Content-Length": "4000"}, b"{")
                while not self.server.stopping.wait(0.02):
                    self.wfile.write(b" ")
            case _:
                headers = {"Retry-After": "0.01"} if fault == "429" else {}
                self._send(int(fault), headers, b'{"error": "try again"}')

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # or connections would wait a second for their second try
    loopback: Loopback
    stopping: threading.Event

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the server."""


@contextmanager
def served(loopback: Loopback) -> Iterator[Loopback]:
    """The server, until the block ends."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.loopback, server.stopping = loopback, threading.Event()
    loopback.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield loopback
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[..., Loopback]]:
    """Starts servers that end with the test."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(served(Loopback(*args, **kwargs)))
