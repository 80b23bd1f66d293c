"""From files to a listening server, and its end."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge._version import __version__
from evomerge.checkpoint.models import opened_in, own_tensors
from evomerge.checkpoint.outline import Outline
from evomerge.errors import UsageError
from evomerge.serve.limits import Limits

if TYPE_CHECKING:
    from evomerge.serve.app import App

EXTRA = "this needs the extra 'serve': pip install 'evomerge[serve]'"


@dataclass(frozen=True)
class Service:
    """What is to be served, and to whom.

    Attributes:
        base, models: folders or files; names are those that requests use.
        host, port: to listen on; port 0 takes a free one.
        keys_env: the environment variable that holds the keys, separated by commas; None lets
            everybody in, which is only done on the machine itself.
        name: of the mixes, OpenAI's ``model``.
        desks: mixes at the same time, each with a live model of its own.
        device, dtype: as for `evomerge.objectives.models.load_model`.
    """

    base: Path
    models: Mapping[str, Path]
    host: str = "127.0.0.1"
    port: int = 8460
    keys_env: str | None = None
    name: str = "evomerge"
    desks: int = 2
    device: str | None = None
    dtype: str | None = None
    limits: Limits = field(default_factory=Limits)

    def keys(self) -> list[str]:
        """The keys, from the environment.

        Raises:
            UsageError: there are none where there must be.
        """
        if self.keys_env is None:
            if not _local(self.host):
                cause = f"{self.host} can be reached from outside, and no key is asked for"
                raise UsageError(cause, command="export KEYS=...; evomerge serve --keys-env KEYS")
            return []
        found = [key.strip() for key in os.environ.get(self.keys_env, "").split(",")]
        if not all(found) or not all(key.isascii() and key.isprintable() for key in found):
            raise UsageError(f"the environment variable {self.keys_env} holds no keys")
        return found


def serve(service: Service, told: Callable[[str], None]) -> None:
    """Serve until a signal (SIGINT, SIGTERM), then let the requests under way end.

    Args:
        told: is given the address once the server listens.

    Raises:
        UsageError: the extra is missing, a key is, or the address is taken.
        CheckpointError: a file is broken, or a model does not fit the base.
    """
    try:
        import uvicorn
    except ImportError:
        raise UsageError(EXTRA) from None
    from evomerge.serve.patience import patient

    keys = service.keys()
    with ExitStack() as stack:
        listening = stack.enter_context(_listen(service))
        app = _app(service, keys, stack)
        config = uvicorn.Config(
            app,
            http=patient(service.limits.seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=service.limits.connections,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=30,
        )
        host, port = listening.getsockname()[:2]
        told(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        _quietly(uvicorn.Server(config), listening)


def _app(service: Service, keys: list[str], stack: ExitStack) -> App:
    import torch

    from evomerge.serve.app import App, Pool
    from evomerge.serve.desks import Office, open_desks
    from evomerge.serve.mixes import Mixes

    if service.desks > 1:
        torch.set_num_threads(1)  # a desk is a thread; more would fight for the same cores
    base, desks = open_desks(
        service.base,
        service.models,
        service.desks,
        stack,
        device=service.device,
        dtype=service.dtype,
    )
    names = tuple(service.models)
    office = Office(desks, waiting=service.limits.waiting)
    stack.callback(office.close)
    digests = _digests(service)
    outlines = [Outline("base", digests["base"], base.tensors)]
    outlines += [Outline(name, digests[name], {}) for name in names]
    told = {"build": _build(service, digests), "outlines": [o.to_json() for o in outlines]}
    pool = Pool(service.name, names, told)
    app = App(pool, Mixes(base.tensors, names), office, service.limits, keys)
    stack.callback(app.close)
    return app


def _digests(service: Service) -> dict[str, str]:
    """What the base and each model are, whatever their files are called."""
    found = {}
    for name, path in {"base": service.base, **service.models}.items():
        with ExitStack() as stack:
            shards = own_tensors(opened_in(stack, path)).digests()
            text = json.dumps(sorted(shard.blake2b for shard in shards.values()))
            found[name] = hashlib.sha256(text.encode()).hexdigest()
    return found


def _build(service: Service, digests: Mapping[str, str]) -> str:
    """Another one whenever answers might be others."""
    content = [__version__, service.dtype, digests]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _listen(service: Service) -> socket.socket:
    kind = socket.AF_INET6 if ":" in service.host else socket.AF_INET
    listening = socket.socket(kind, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((service.host, service.port))
        listening.listen(128)  # so that nobody who is told the address is turned away
    except OSError as error:
        listening.close()
        cause = f"cannot listen on {service.host}:{service.port}: {error.strerror or error}"
        raise UsageError(cause, command="evomerge serve --port 0 ... takes a free port") from None
    return listening


def _quietly(server: object, listening: socket.socket) -> None:
    """Run until a signal; uvicorn raises it again at the end, which nobody needs to hear."""
    import uvicorn

    assert isinstance(server, uvicorn.Server)
    main = threading.current_thread() is threading.main_thread()
    known = (signal.SIGINT, signal.SIGTERM)
    before = {sig: signal.signal(sig, lambda *_: None) for sig in known} if main else {}
    try:
        server.run(sockets=[listening])
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


def _local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
