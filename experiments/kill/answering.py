"""A server that mixes by coefficients, for campaigns whose requests are counted."""

from __future__ import annotations

import json
import math
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Room for all connections of a campaign; ends with the process."""

    request_queue_size = 128
    daemon_threads = True


class Answers(BaseHTTPRequestHandler):
    """``{"mix": {model: {group: weight}}, "index": 3}`` to ``{"score": ...}``."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        total = sum(w for groups in body["mix"].values() for w in groups.values())
        text = json.dumps({"score": math.sin(3 * total + body["index"])}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@cache
def url() -> str:
    """Of a server in this process, started when first asked for."""
    server = Server(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"
