"""The guard of a worker: a process that does nothing but see to it that nothing stays behind.

It is the parent of the worker's process, and by adoption of all its descendants. When the worker
ends, when the coordinator ends (by SIGKILL, say) or when it is told to (SIGTERM), it ends them
all, then itself. It imports nothing heavy: the worker is forked off before it loads anything.
"""

from __future__ import annotations

import os
import select
import signal
from typing import NoReturn

from evomerge.study.workers.processes import adopt_orphans, die_with_parent, kill_descendants


def fork_guarded(channel: int, *, grace: float) -> None:
    """Return in a new process, the worker's; the calling process becomes its guard.

    Args:
        channel: the descriptor of the connection with the coordinator; its closing at the far end
            is the coordinator's end.
        grace: seconds between SIGTERM and SIGKILL for the worker and its descendants.
    """
    guard = os.getpid()
    adopt_orphans()
    worker = os.fork()
    if worker:
        _guard(worker, channel, grace)
    die_with_parent(guard)


def _guard(worker: int, channel: int, grace: float) -> NoReturn:
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)
    poller = select.poll()
    poller.register(channel, 0)  # only POLLHUP, which cannot be switched off
    poller.register(told, select.POLLIN)
    status = _reap(worker)
    while status is None:
        ready = dict(poller.poll())
        signals = os.read(told, 64) if told in ready else b""
        status = _reap(worker)
        if channel in ready or signal.SIGTERM in signals:
            break
    kill_descendants(os.getpid(), grace=grace)
    status = _reap(worker) if status is None else status
    os._exit(_code(status))


def _reap(worker: int) -> int | None:
    """Collect ended children; the worker's status if it was among them."""
    found = None
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if child == 0:
            return found
        if child == worker:
            found = status


def _code(status: int | None) -> int:
    """As a shell says it: 128 + signal for a killed worker."""
    code = os.waitstatus_to_exitcode(status) if status is not None else 0
    return code if code >= 0 else 128 - code
