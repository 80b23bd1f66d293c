"""What a coordinator and its workers say to each other: one JSON object per line.

The coordinator sends one `Setup`, then `Job` after `Job`; a worker answers the setup by `Ready` or
`Broken`, and each job by an `Answer`. An answer is also the content of an attempt's
``result.json``, written before it is sent: what was measured outlives the coordinator, its
database and the worker.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import StudyDamagedError
from evomerge.study.folder import RESULT
from evomerge.trial import Evaluation, Outcome, Scores, Split

NOBODY = 0
"""In place of an attempt's number: a self-test, which belongs to none."""

Items = tuple[int, ...] | None
"""Indices of the items to measure; None for an objective without items."""


@dataclass(frozen=True)
class Setup:
    """What a worker loads before its first job.

    Attributes:
        campaign: the campaign file; relative paths start there.
        text: what was in it when the study was opened; edits since then wait for the next run.
        threads: of torch, on the CPU; part of what makes values repeat bit for bit.
        endpoints: the study's file of endpoints' answers and spend; None keeps none.
    """

    campaign: Path
    text: str
    threads: int = 1
    endpoints: Path | None = None


@dataclass(frozen=True)
class Job:
    """One attempt at one trial.

    Attributes:
        attempt: the study's number of the attempt.
        token: what tells it from an attempt of the same number, should the study ever be
            restored from its backup.
        folder: the attempt's own; log and result go there.
        scratch: shared by all attempts; merged checkpoints lie there while they are measured.
        method, parameters: of the candidate.
        splits: what to measure: items by metric, by split.
        probe: nothing is measured: the endpoints are tested by these items, see
            `evomerge.study.workers.probes`.
    """

    attempt: int
    token: str
    trial: int
    folder: Path
    scratch: Path
    method: str
    parameters: Mapping[str, float]
    splits: Mapping[Split, Mapping[str, Items]]
    probe: bool = False


@dataclass(frozen=True)
class Ready:
    """The worker is set up. `versions`: of what may change a value."""

    versions: Mapping[str, str]


@dataclass(frozen=True)
class Broken:
    """The worker cannot work, and no other could: an error of the campaign, not of a trial.

    Attributes:
        error: the class in `evomerge.errors` to raise in the coordinator.
    """

    error: str
    cause: str
    place: str | None = None
    command: str | None = None
    kept: str | None = None


@dataclass(frozen=True)
class Answer:
    """How an attempt ended.

    Attributes:
        evaluations: by split; empty unless it succeeded.
        reason: one line; None if it succeeded.
        seconds: wall time of the whole attempt in the worker.
        discard: the process may be harmed (out of memory, a CUDA error) and is to be replaced.
        broken: a failure that is no candidate's fault (no disk space): stops the campaign.
        spent: the budget that kept it from its end, in words; the trial is put back.
    """

    attempt: int
    token: str
    trial: int
    outcome: Outcome
    evaluations: Mapping[Split, Evaluation] = field(default_factory=dict)
    reason: str | None = None
    seconds: float = 0.0
    discard: bool = False
    broken: Broken | None = None
    spent: str | None = None

    def is_of(self, job: Job) -> bool:
        """Whether it answers this very job."""
        return (self.attempt, self.token) == (job.attempt, job.token)


Message = Setup | Job | Ready | Broken | Answer


def encode(message: Message) -> bytes:
    """One line of JSON; floats survive to the bit."""
    body = {"kind": type(message).__name__.lower()} | _plain(message)
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message of a line.

    Raises:
        StudyDamagedError: if it is none.
    """
    try:
        body = json.loads(line)
        return _READERS[body.pop("kind")](body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyDamagedError(f"not a message of a worker: {line[:80]!r} ({error!r})") from error


def kept_answer(job: Job) -> Answer | None:
    """What a worker wrote of a job, which may never have been sent; None unless it is whole."""
    try:
        message = decode((job.folder / RESULT).read_bytes())
    except (OSError, StudyDamagedError):
        return None
    return message if isinstance(message, Answer) and message.is_of(job) else None


def _plain(message: Message) -> dict[str, Any]:
    match message:
        case Setup():
            return vars(message) | {
                "campaign": str(message.campaign),
                "endpoints": None if message.endpoints is None else str(message.endpoints),
            }
        case Job():
            return vars(message) | {
                "folder": str(message.folder),
                "scratch": str(message.scratch),
                "parameters": dict(message.parameters),
                "splits": {split: dict(items) for split, items in message.splits.items()},
            }
        case Ready():
            return {"versions": dict(message.versions)}
        case Broken():
            return dict(vars(message))
        case Answer():
            return vars(message) | {
                "evaluations": {s: _plain_evaluation(e) for s, e in message.evaluations.items()},
                "broken": None if message.broken is None else vars(message.broken),
            }


def _plain_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    scores = {
        metric: {
            "items": list(s.items),
            "margins": None if s.margins is None else list(s.margins),
            "rates": dict(s.rates),
        }
        for metric, s in evaluation.scores.items()
    }
    return {"scores": scores, "seconds": evaluation.seconds}


def _setup(body: dict[str, Any]) -> Setup:
    endpoints = body["endpoints"]
    return Setup(
        **body
        | {
            "campaign": Path(body["campaign"]),
            "endpoints": None if endpoints is None else Path(endpoints),
        }
    )


def _job(body: dict[str, Any]) -> Job:
    splits = {
        split: {metric: None if i is None else tuple(i) for metric, i in items.items()}
        for split, items in body.pop("splits").items()
    }
    return Job(
        **body
        | {
            "folder": Path(body["folder"]),
            "scratch": Path(body["scratch"]),
            "splits": splits,
        }
    )


def _answer(body: dict[str, Any]) -> Answer:
    broken = body["broken"]
    return Answer(
        **body
        | {
            "outcome": Outcome(body["outcome"]),
            "evaluations": {s: _evaluation(e) for s, e in body["evaluations"].items()},
            "broken": None if broken is None else Broken(**broken),
        }
    )


def _evaluation(body: dict[str, Any]) -> Evaluation:
    scores = {
        metric: Scores(
            items=tuple(map(float, s["items"])),
            margins=None if s["margins"] is None else tuple(map(float, s["margins"])),
            rates=dict(s.get("rates", {})),  # not in what earlier versions wrote
        )
        for metric, s in body["scores"].items()
    }
    return Evaluation(scores=scores, seconds=float(body["seconds"]))


_READERS: dict[str, Callable[[dict[str, Any]], Message]] = {
    "setup": _setup,
    "job": _job,
    "ready": lambda body: Ready(**body),
    "broken": lambda body: Broken(**body),
    "answer": _answer,
}
