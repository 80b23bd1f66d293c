"""When a study is copied beside itself: at intervals, and never for much of the time."""

from __future__ import annotations

import math
import time
from pathlib import Path

INTERVAL_SECONDS = 300.0
_SHARE = 50
"""A backup is due no sooner than this many times its own duration after the last."""


class BackupClock:
    """Says when the next backup is due, counted from the last one, whoever made it."""

    def __init__(self, backup: Path) -> None:
        """Takes the backup's file; where there is none, one is due."""
        self._asked = time.monotonic()
        self._last = self._asked - _age_seconds(backup)
        self._took = 0.0

    def due(self) -> bool:
        """Whether it is time; the caller starts at once, and says `done`."""
        self._asked = time.monotonic()
        return self._asked - self._last >= max(INTERVAL_SECONDS, _SHARE * self._took)

    def done(self) -> None:
        """A backup has just ended."""
        self._last = time.monotonic()
        self._took = self._last - self._asked


def _age_seconds(path: Path) -> float:
    """0 for a file of the future, for clocks may jump."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return math.inf
