"""What the loop tells whoever watches, such as the live display."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evomerge.objectives.endpoint.store import Charge
from evomerge.trial import Candidate, Outcome, Split, Trial

Phase = Literal["search", "confirmation"]


@dataclass(frozen=True)
class PhaseBegan:
    """A phase begins, or goes on after a resume.

    Attributes:
        attempts: how many are ahead, if that is known.
        workers: how many run at once.
    """

    phase: Phase
    attempts: int | None
    workers: int


@dataclass(frozen=True)
class AttemptBegan:
    """A candidate was given to a worker."""

    phase: Phase
    attempt: int
    worker: str
    candidate: Candidate
    splits: tuple[Split, ...]


@dataclass(frozen=True)
class AttemptEnded:
    """An attempt ended and is stored.

    Attributes:
        trial: as it stands now; ``pending`` if it will be tried again.
        seconds: wall time of the attempt.
    """

    phase: Phase
    attempt: int
    worker: str
    trial: Trial
    splits: tuple[Split, ...]
    outcome: Outcome
    reason: str | None
    seconds: float


@dataclass(frozen=True)
class Stopping:
    """Nothing more is asked.

    Attributes:
        why: a few words.
        running: attempts that still run.
        grace: seconds that they have; None for as long as they need.
    """

    why: str
    running: int
    grace: float | None


@dataclass(frozen=True)
class Paid:
    """Endpoints have cost more.

    Attributes:
        spent: all of it, over all runs.
    """

    spent: Charge


Event = PhaseBegan | AttemptBegan | AttemptEnded | Stopping | Paid
