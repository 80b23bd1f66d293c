"""The worker's side of the conversation: jobs in, attempts run, answers out."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from evomerge import errors
from evomerge.checkpoint.files import write_file
from evomerge.errors import CheckpointError, DiskFullError, EvomergeError, StoppedError
from evomerge.faults import reach
from evomerge.objectives.endpoint.failures import EndpointDownError
from evomerge.study.folder import LOG, RESULT
from evomerge.study.workers.evaluator import Evaluator, versions
from evomerge.study.workers.messages import (
    Answer,
    Broken,
    Job,
    Message,
    Ready,
    Setup,
    decode,
    encode,
)
from evomerge.trial import Evaluation, InvalidScoresError, Outcome, Split

_LONGEST_REASON = 300

Evaluate = Callable[[Job], Mapping[Split, Evaluation]]


def serve(connection: socket.socket) -> None:
    """Set up, then answer jobs until the coordinator closes the connection."""
    lines = connection.makefile("rb")

    def send(message: Message) -> None:
        connection.sendall(encode(message))

    setup = decode(lines.readline())
    if not isinstance(setup, Setup):
        return
    try:
        evaluator = Evaluator.load(setup)
    except BaseException as error:  # the user's module is imported here: anything may be raised
        _tell_log(error)
        send(broken(error))
        return
    send(Ready(versions()))
    for line in lines:
        job = decode(line)
        if isinstance(job, Job):
            answer = run(evaluator.evaluate, job)
            _keep(answer, job.folder)
            send(answer)
            reach("worker.after-answer")


def run(evaluate: Evaluate, job: Job) -> Answer:
    """Run one attempt; whatever the objective raises becomes an outcome and one line of reason."""
    started = time.monotonic()
    job.folder.mkdir(parents=True, exist_ok=True)
    with _contained(job.folder / LOG):
        try:
            evaluations = evaluate(job)
        except BaseException as error:
            _tell_log(error)
            return _failure(job, error, time.monotonic() - started)
    seconds = time.monotonic() - started
    return Answer(
        job.attempt, job.token, job.trial, Outcome.SUCCEEDED, evaluations, seconds=seconds
    )


def broken(error: BaseException) -> Broken:
    """The error as a message; one that is not ours is the objective's, raised while it loaded."""
    if isinstance(error, EvomergeError):
        name = next(c.__name__ for c in type(error).__mro__ if hasattr(errors, c.__name__))
        return Broken(name, error.cause, error.place, error.command, error.kept)
    return Broken("ObjectiveError", f"a worker cannot start: {reason_of(error)}")


def reason_of(error: BaseException) -> str:
    """One line: the class and the first line of what it says."""
    text = error.cause if isinstance(error, EvomergeError) else _words(error)
    first = next(iter(text.strip().splitlines()), "")
    named = first if isinstance(error, EvomergeError) else f"{type(error).__name__}: {first}"
    return named.rstrip(": ")[:_LONGEST_REASON]


def outcome_of(error: BaseException) -> Outcome:
    """What an exception says about the attempt; torch's are told by name, without torch."""
    if isinstance(error, InvalidScoresError):
        return Outcome.INVALID
    if isinstance(error, StoppedError):
        return Outcome.LOST
    names = {c.__name__ for c in type(error).__mro__}
    allocator = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    if names & {"MemoryError", "OutOfMemoryError"}:
        return Outcome.OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(words in _words(error) for words in allocator):
        return Outcome.OUT_OF_MEMORY
    return Outcome.FAILED


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a class of the objective's own
        return ""


def _tell_log(error: BaseException) -> None:
    text = "".join(traceback.format_exception(error))
    with contextlib.suppress(
        OSError
    ):  # not through sys.stderr, which the objective may have closed
        os.write(2, text.encode(errors="replace"))


def _failure(job: Job, error: BaseException, seconds: float) -> Answer:
    outcome = outcome_of(error)
    harmed = outcome is Outcome.OUT_OF_MEMORY or "CUDA error" in _words(error)
    return Answer(
        job.attempt,
        job.token,
        job.trial,
        outcome,
        reason=reason_of(error),
        seconds=seconds,
        discard=harmed,
        broken=broken(error) if _nobodys_fault(error) else None,
        spent=error.cause if isinstance(error, StoppedError) else None,
    )


def _nobodys_fault(error: BaseException) -> bool:
    """Whether others would fare the same: no space, a model's file changed, the server is down."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or isinstance(error, DiskFullError | CheckpointError | EndpointDownError)


def _keep(answer: Answer, folder: Path) -> None:
    reach("worker.before-result")
    with contextlib.suppress(OSError, DiskFullError):  # the coordinator gets the answer anyway
        write_file(folder / RESULT, encode(answer))
    reach("worker.after-result")


@contextlib.contextmanager
def _contained(log: Path) -> Iterator[None]:
    """Standard output and error into the attempt's log; folder and umask as before, afterwards."""
    folder, mask = Path.cwd(), os.umask(0)
    os.umask(mask)
    before = os.dup(1), os.dup(2)
    into = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    _redirect(into, into)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # closed or replaced by the objective
            sys.stdout.flush()
        _redirect(*before)
        for descriptor in (into, *before):
            os.close(descriptor)
        os.chdir(folder)
        os.umask(mask)


def _redirect(output: int, error: int) -> None:
    """Point both at descriptors; below Python, for libraries and children write there too."""
    os.dup2(output, 1)
    os.dup2(error, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
