"""A worker: a process that merges and measures.

``python -m evomerge.study.workers.worker DESCRIPTOR GRACE`` is started by the engine, never by
hand. The descriptor is the private connection with the coordinator; standard output and error go
to a log, for they belong to the user's objective.
"""

from __future__ import annotations

import os
import socket
import sys

from evomerge.study.workers.guard import fork_guarded


def main() -> None:
    """Fork off the guard's side, then serve until the coordinator closes the connection."""
    descriptor, grace = int(sys.argv[1]), float(sys.argv[2])
    os.set_inheritable(descriptor, False)
    fork_guarded(descriptor, grace=grace)
    from evomerge.study.workers.service import (
        serve,  # after the fork, so that the guard stays small
    )

    serve(socket.socket(fileno=descriptor))
    os._exit(0)  # threads that the objective left behind must not keep us


if __name__ == "__main__":
    main()
