"""The failure budget: when trial after trial fails, the objective is at fault, not the merges."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from evomerge.errors import ObjectiveError

FIRST = 5
"""A run ends if its first trials fail, this many without one success."""

RECENT = 20
"""A run ends if more than half of this many most recent trials failed."""

_SHOWN_GROUPS = 3
_SHOWN_TRIALS = 4
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class FailureGroup:
    """Failures whose reasons differ in nothing but numbers.

    Attributes:
        reason: the first one's, as it was.
        trials: their numbers, in order.
    """

    reason: str
    trials: tuple[int, ...]

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.trials[:_SHOWN_TRIALS]))
        more = ", ..." if len(self.trials) > _SHOWN_TRIALS else ""
        plural = "s" if len(self.trials) > 1 else ""
        return f"{len(self.trials)} × {self.reason} (trial{plural} {shown}{more})"


def grouped(failures: Iterable[tuple[int, str]]) -> list[FailureGroup]:
    """Groups of failures, the largest first.

    Args:
        failures: number and reason of each failed trial.
    """
    groups: dict[str, list[tuple[int, str]]] = {}
    for number, reason in failures:
        groups.setdefault(_NUMBERS.sub("#", reason), []).append((number, reason))
    found = [
        FailureGroup(members[0][1], tuple(number for number, _ in members))
        for members in groups.values()
    ]
    return sorted(found, key=lambda group: -len(group.trials))


@dataclass
class FailureBudget:
    """Counts the ends of one run, so that a resume after a repair starts afresh."""

    _ended: int = 0
    _succeeded: int = 0
    _recent: deque[tuple[int, str | None]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def count(self, trial: int, failure: str | None) -> None:
        """Count a trial's end.

        Args:
            failure: its reason; None if it succeeded.

        Raises:
            ObjectiveError: if the budget is spent.
        """
        self._ended += 1
        self._succeeded += failure is None
        self._recent.append((trial, failure))
        failures = [(number, reason) for number, reason in self._recent if reason is not None]
        if self._ended >= FIRST and self._succeeded == 0:
            raise _error(f"the first {self._ended} trials of this run all failed", failures)
        if len(failures) > RECENT // 2:
            raise _error(f"{len(failures)} of the last {len(self._recent)} trials failed", failures)


def _error(cause: str, failures: list[tuple[int, str]]) -> ObjectiveError:
    groups = grouped(failures)
    listed = "; ".join(map(str, groups[:_SHOWN_GROUPS]))
    rest = len(groups) - _SHOWN_GROUPS
    more = f"; and {rest} more reasons" if rest > 0 else ""
    return ObjectiveError(
        f"{cause}: {listed}{more}",
        kept="every trial that was measured is kept; each attempt's log is in attempts/",
    )
