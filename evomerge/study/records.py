"""What a study hands out beside trials: attempts, events, spend, findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.trial import Outcome, Split


@dataclass(frozen=True)
class Attempt:
    """A begun evaluation of one trial, before its end.

    Attributes:
        id: unique in the study, ascending.
        splits: what is to be measured.
        token: number of the writer's session, digest of the candidate, and if it races the stage
            and the digest of its items: an answer that bears another token belongs to another
            life of the study.
    """

    id: int
    trial: int
    splits: tuple[Split, ...]
    token: str

    @property
    def stage(self) -> int | None:
        """Of the trial's race that is measured; None where all items are."""
        parts = self.token.split(".")
        return int(parts[1]) if len(parts) > 1 else None


@dataclass(frozen=True)
class AttemptRecord:
    """An attempt as the database has it.

    Attributes:
        started, ended: seconds since 1970, UTC, of the coordinator's clock, for display.
        outcome: None while it runs.
        seconds: wall time; None while it runs.
    """

    id: int
    trial: int
    splits: tuple[Split, ...]
    worker: str
    started: float
    ended: float | None
    outcome: Outcome | None
    seconds: float | None
    reason: str | None


@dataclass(frozen=True)
class Event:
    """One line of the study's append-only log.

    Attributes:
        at: seconds since 1970, UTC.
        kind: ``created``, ``opened``, ``asked``, ``began``, ``ended``, ``told``, ...
    """

    id: int
    at: float
    kind: str
    trial: int | None
    attempt: int | None
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Spend:
    """What the study has cost so far, over all its sessions.

    Attributes:
        trials: asked, the references among them; not those carried over by a fork.
        attempts: begun.
        seconds: of evaluation, all workers together.
        wall_seconds: that the loop has run.
        requests, tokens, money: at endpoints, retries and self-tests included.
    """

    trials: int
    attempts: int
    seconds: float
    wall_seconds: float
    requests: int = 0
    tokens: int = 0
    money: float = 0.0


@dataclass(frozen=True)
class HistoryPoint:
    """The hypervolume once a trial had ended, in order of trial numbers."""

    trial: int
    hypervolume: float
