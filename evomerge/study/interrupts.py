"""Signals while a campaign runs: when to stop asking, when to hand back, when to let go.

The first Ctrl-C stops asking and lets what runs finish; the second ends at once. SIGTERM (a
cluster's scheduler, a spot machine), SIGHUP (a lost terminal) and SIGUSR1 (Slurm's warning) hand
everything back: a scheduler's patience is seconds.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType, TracebackType
from typing import Any

_HANDING_BACK = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Urgency(IntEnum):
    """How soon to stop."""

    NONE = 0
    FINISH = 1  # let what runs end, within its grace
    HAND_BACK = 2  # give up what runs
    AT_ONCE = 3


class Interrupted(BaseException):
    """Raised inside `Interrupts.breakable` by the first signal; no library's own to swallow."""


class Interrupts:
    """Takes over the signals while it is entered; in the main thread, for others cannot.

    Attributes:
        urgency: the strongest of the signals that came.
        why: its signal's name.
    """

    def __init__(self) -> None:
        self.urgency = Urgency.NONE
        self.why = ""
        self._breakable = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *_HANDING_BACK):
                # What is ignored stays so: `nohup` means to outlive its terminal.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._heed)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ignore(self) -> None:
        """Take no more notice of signals, for the last steps."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """A block that the first signal breaks off, for it may take long and is safe to repeat.

        Raises:
            Interrupted: if a signal came.
        """
        self._breakable = True
        try:
            if self.urgency:
                raise Interrupted
            yield
        finally:
            self._breakable = False

    def _heed(self, number: int, frame: FrameType | None) -> None:
        new = self._meaning(signal.Signals(number))
        if new > self.urgency:
            self.urgency, self.why = new, signal.Signals(number).name
        if new is Urgency.AT_ONCE:
            self.ignore()
            raise KeyboardInterrupt
        if self._breakable:
            self._breakable = False
            raise Interrupted

    def _meaning(self, number: signal.Signals) -> Urgency:
        if number in _HANDING_BACK:
            return Urgency.HAND_BACK
        return Urgency.AT_ONCE if self.urgency else Urgency.FINISH
