"""The live mirror: what a run measures, copied into the campaign's Optuna storage as it goes."""

from __future__ import annotations

import time

from evomerge.cli.display import Watcher
from evomerge.cli.output import escape, say
from evomerge.errors import StudyError
from evomerge.study.events import AttemptEnded, Event
from evomerge.study.mirror import mirror
from evomerge.study.study import Study

INTERVAL_SECONDS = 10.0
_SHARE = 20
"""A copy is due no sooner than this many times its own duration after the last."""


class Mirroring:
    """A watcher that hands events on, and copies the study at times.

    A mirror that cannot be written is spoken of once; the run goes on without.

    Args:
        url: of the Optuna storage.
        watcher: told of every event first.
    """

    def __init__(self, study: Study, url: str, watcher: Watcher) -> None:
        self._study = study
        self._url = url
        self._watcher = watcher
        self._due = time.monotonic()
        self._failed = False

    def __call__(self, event: Event) -> None:
        """Take one event of the loop."""
        self._watcher(event)
        if isinstance(event, AttemptEnded) and time.monotonic() >= self._due:
            self.copy()

    def copy(self) -> None:
        """Copy what the mirror does not have yet."""
        began = time.monotonic()
        try:
            mirror(self._study, self._url)
            self._failed = False
        except StudyError as error:
            if not self._failed:
                say(f"warning: {escape(error.cause)}; the run goes on")
            self._failed = True
        ended = time.monotonic()
        self._due = ended + max(INTERVAL_SECONDS, _SHARE * (ended - began))
