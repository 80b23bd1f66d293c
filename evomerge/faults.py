"""Named fault points: the way to rehearse crashes.

Every place where a crash would hurt calls `reach` with its name. Set the environment variable
EVOMERGE_FAULT to a name (or to `name@k`, the k-th time that the point is reached in a process) and
the process that reaches it is killed there with SIGKILL, as by a power cut: no handler runs,
nothing is flushed. Without the variable a fault point costs one dictionary look-up.
"""

import os
import signal
from collections import Counter

VARIABLE = "EVOMERGE_FAULT"
"""The environment variable that names the fault point to die at."""

_reached: Counter[str] = Counter()


def reach(name: str) -> None:
    """Die here by SIGKILL if EVOMERGE_FAULT names this point, and this is the asked-for time."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    point, _, time = wanted.partition("@")
    if point != name:
        return
    _reached[name] += 1
    if _reached[name] >= (int(time) if time.isdecimal() else 1):
        os.kill(os.getpid(), signal.SIGKILL)
