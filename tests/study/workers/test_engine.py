"""Workers: what an objective may do to them, and what its attempt is then said to be."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from evomerge import errors, faults
from evomerge.study.workers.engine import LocalEngine
from evomerge.study.workers.messages import Answer, Job, Setup, decode
from evomerge.study.workers.processes import MARKER, marker_of
from evomerge.study.workers.slot import Limits, Terms
from evomerge.trial import Outcome

# The candidate's one weight says how the objective behaves.
OBJECTIVE = """
import ctypes, os, signal, subprocess, sys, time

class Silent(Exception):
    def __str__(self): raise RuntimeError

def stubborn(items):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)

def orphaning(items):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    time.sleep(60)

def noisy(items):
    print("to the log")
    os.system("echo from a child")
    sys.stdout.close()
    sys.stderr = None
    return items

def wandering(items):
    os.chdir("/")
    os.umask(0o077)
    return items

def raising(error):
    def act(items): raise error
    return act

def lines(items):
    print("a traceback is" " wanted", file=sys.stderr)
    raise KeyError("several\\nlines")

ACTS = [
    lambda items: items, raising(ZeroDivisionError("no")), raising(SystemExit(0)),
    raising(KeyboardInterrupt()), raising(Silent()), raising(MemoryError()),
    raising(RuntimeError("CUDA error: device-side assert")),
    lambda items: [float("nan")] * len(items), lambda items: items[1:],
    lambda items: "0.5", lambda items: None,
    lambda items: time.sleep(60), stubborn, orphaning,
    lambda items: os._exit(0), lambda items: os.kill(os.getpid(), signal.SIGKILL),
    lambda items: (os.kill(os.getppid(), signal.SIGKILL), time.sleep(60)),
    lambda items: ctypes.string_at(0),
    noisy, wandering, lambda items: [os.getpid()] * len(items), lines,
    lambda items: [float(os.environ["CUDA_VISIBLE_DEVICES"])] * len(items),
    lambda items: [float(os.umask(0o022)) if os.getcwd() == HOME else -1.0] * len(items),
    lambda items: [float(os.getsid(0) == int(os.environ["OUR_SESSION"]))] * len(items),
    lambda items: [float("torch" in sys.modules)] * len(items),
]
HOME = os.getcwd()

def score(parameters, items):
    return ACTS[int(parameters["math/all/weight"])](items)

score.needs = "coefficients"
"""
(
    FINE, RAISES, EXITS, INTERRUPTS, SILENT, MEMORY, CUDA, NAN, SHORT, TEXT, NOTHING, HANGS,
    STUBBORN, ORPHANS, LEAVES, DIES, KILLS_GUARD, CRASHES, NOISY, WANDERS, PID, LINES, DEVICE,
    PLACE, SESSION, TORCH,
) = range(26)  # fmt: skip

CAMPAIGN = """
base: base
models: {math: math}
goals: [{metric: a, objective: {type: python, function: "acts.py:score", items: 10}}]
budget: {trials: 9}
study: study
"""


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("acts"), OBJECTIVE)


def written(folder: Path, objective: str) -> Path:
    """A campaign of one model, whose headers are all that is read."""
    tensors = {"model.layers.0.mlp.up_proj.weight": np.zeros((1, 1), "f4")}
    for name in ("base", "math"):
        (folder / name).mkdir()
        save_file(tensors, folder / name / "model.safetensors")
    (folder / "acts.py").write_text(objective)
    path = folder / "campaign.yaml"
    path.write_text(CAMPAIGN)
    return path


class Workplace:
    """An engine, and the shortest way to have it do something."""

    def __init__(
        self,
        campaign: Path,
        folder: Path,
        *,
        devices: tuple[str, ...] = (),
        isolate: bool = False,
        workers: int = 1,
        attempt: float | None = None,
    ) -> None:
        self.folder = folder
        setup = Setup(campaign, campaign.read_text())
        limits = Limits(attempt=attempt, grace=0.3)
        terms = Terms(setup, folder, limits, isolate)
        self.engine = LocalEngine(terms, workers=workers, devices=devices)
        self._numbers = count(1)

    def submit(self, act: int) -> Job:
        number = next(self._numbers)
        folder = self.folder / "attempts" / str(number)
        job = Job(
            number,
            f"t{number}",
            number,
            folder,
            self.folder / "scratch",
            "task_arithmetic",
            {"math/*/weight": float(act)},
            {"search": {"a": (4, 2)}},
        )
        self.engine.submit(job)
        return job

    def do(self, act: int) -> Answer:
        self.submit(act)
        (answer,) = self.engine.wait(100.0)
        return answer

    def pid(self) -> float:
        return self.value(PID)

    def value(self, act: int) -> float:
        answer = self.do(act)
        assert answer.outcome is Outcome.SUCCEEDED, answer.reason
        return answer.evaluations["search"].scores["a"].items[0]

    def log(self, answer: Answer) -> str:
        return (self.folder / "attempts" / str(answer.attempt) / "log").read_text()

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get(MARKER, "").startswith(marker_of(self.folder))
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


@contextmanager
def workplace(campaign: Path, folder: Path, **options: object) -> Iterator[Workplace]:
    made = Workplace(campaign, folder, **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.engine.stop()
        assert made.processes() == []


@pytest.fixture(scope="module")
def shared(campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with workplace(campaign, tmp_path_factory.mktemp("shared")) as made:
        yield made


@pytest.fixture(scope="module")
def hasty(campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with workplace(campaign, tmp_path_factory.mktemp("hasty"), attempt=2.0) as made:
        yield made


def test_an_answer_is_also_on_the_disk(shared: Workplace) -> None:
    answer = shared.do(FINE)
    assert answer.outcome is Outcome.SUCCEEDED
    assert answer.evaluations["search"].scores["a"].items == (4.0, 2.0)
    kept = shared.folder / "attempts" / str(answer.attempt) / "result.json"
    assert decode(kept.read_bytes()) == answer


SURVIVED = {
    RAISES: (Outcome.FAILED, "ZeroDivisionError: no"),
    EXITS: (Outcome.FAILED, "SystemExit: 0"),
    INTERRUPTS: (Outcome.FAILED, "KeyboardInterrupt"),
    SILENT: (Outcome.FAILED, "Silent"),
    NAN: (Outcome.INVALID, r"nan at item 0; scores must be finite"),
    SHORT: (Outcome.INVALID, r"\(1,\) returned; 2 wanted"),
    TEXT: (Outcome.INVALID, "'0.5' was returned; numbers are wanted"),
    NOTHING: (Outcome.INVALID, "None was returned; numbers are wanted"),
}


@pytest.mark.parametrize("act", SURVIVED)
def test_what_an_objective_raises_fails_one_attempt(act: int, shared: Workplace) -> None:
    before = shared.pid()
    answer = shared.do(act)
    outcome, reason = SURVIVED[act]
    assert answer.outcome is outcome
    assert re.search(reason, answer.reason or "")
    assert answer.evaluations == {}
    assert shared.pid() == before, "the worker goes on"


DEADLY = {
    LEAVES: "left with status 0 and no answer",
    DIES: "killed by SIGKILL, perhaps for want of memory",
    KILLS_GUARD: "killed by SIGKILL",
    CRASHES: "killed by SIGSEGV",
}


@pytest.mark.parametrize("act", DEADLY)
def test_a_worker_that_dies_costs_one_attempt_and_is_replaced(act: int, shared: Workplace) -> None:
    before = shared.pid()
    answer = shared.do(act)
    assert answer.outcome is Outcome.CRASHED
    assert re.search(DEADLY[act], answer.reason or "")
    assert shared.pid() != before


@pytest.mark.parametrize(
    ("act", "outcome"), [(MEMORY, Outcome.OUT_OF_MEMORY), (CUDA, Outcome.FAILED)]
)
def test_a_worker_that_may_be_harmed_is_replaced(
    act: int, outcome: Outcome, shared: Workplace
) -> None:
    before = shared.pid()
    assert shared.do(act).outcome is outcome
    assert shared.pid() != before


@pytest.mark.parametrize("act", [HANGS, STUBBORN, ORPHANS])
def test_past_its_time_an_attempt_ends_with_all_that_it_started(act: int, hasty: Workplace) -> None:
    answer = hasty.do(act)
    assert answer.outcome is Outcome.TIMED_OUT
    assert answer.reason == "took longer than its limit of 2 s"
    assert hasty.processes() == []
    assert hasty.do(FINE).outcome is Outcome.SUCCEEDED


def test_what_an_attempt_prints_is_in_its_log(shared: Workplace) -> None:
    answer = shared.do(NOISY)
    assert answer.outcome is Outcome.SUCCEEDED
    assert shared.log(answer) == "to the log\nfrom a child\n"


def test_a_traceback_is_in_the_log_and_one_line_in_the_reason(shared: Workplace) -> None:
    answer = shared.do(LINES)
    assert answer.reason == r"KeyError: 'several\nlines'"
    assert "a traceback is wanted\nTraceback (most recent call last)" in shared.log(answer)


def test_folder_and_umask_are_as_before_for_the_next_attempt(shared: Workplace) -> None:
    shared.do(WANDERS)
    assert shared.value(PLACE) == 0o022


def test_a_worker_is_in_a_session_of_its_own(
    shared: Workplace, campaign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_SESSION", str(os.getsid(0)))
    with workplace(campaign, tmp_path) as made:
        assert made.value(SESSION) == 0.0


def test_an_objective_of_coefficients_needs_no_torch(shared: Workplace) -> None:
    assert shared.value(TORCH) == 0.0


def test_each_worker_has_its_own_device(campaign: Path, tmp_path: Path) -> None:
    with workplace(campaign, tmp_path, devices=("5", "6"), workers=2) as made:
        made.submit(DEVICE)
        made.submit(DEVICE)
        answers: list[Answer] = []
        while len(answers) < 2:
            answers += made.engine.wait(100.0)
        values = {a.evaluations["search"].scores["a"].items[0] for a in answers}
        assert values == {5.0, 6.0}


def test_isolated_attempts_never_share_a_process(campaign: Path, tmp_path: Path) -> None:
    with workplace(campaign, tmp_path, isolate=True) as made:
        assert made.pid() != made.pid()


def test_stopping_gives_back_what_runs_and_leaves_nothing(campaign: Path, tmp_path: Path) -> None:
    with workplace(campaign, tmp_path, workers=2) as made:
        made.do(FINE)
        job = made.submit(ORPHANS)
        for _ in range(600):
            if len(made.processes()) == 3:  # guard, worker, and what it started
                break
            assert made.engine.wait(0.1) == []
        assert made.engine.running == (job,)
        assert len(made.processes()) == 3
        assert made.engine.stop() == (job,)
        assert made.processes() == []


def test_an_answer_that_was_written_but_not_sent_counts(
    campaign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(faults.VARIABLE, "worker.after-result")
    with workplace(campaign, tmp_path) as made:
        assert made.do(FINE).outcome is Outcome.SUCCEEDED
        assert made.do(FINE).outcome is Outcome.SUCCEEDED, "a rehearsed crash happens once"


def test_a_worker_killed_while_it_starts_is_started_again(campaign: Path, tmp_path: Path) -> None:
    with workplace(campaign, tmp_path) as made:
        made.submit(FINE)
        (guard,) = [p for p in made.processes() if p.ppid() == os.getpid()]
        guard.send_signal(signal.SIGKILL)
        (answer,) = made.engine.wait(100.0)
        assert answer.outcome is Outcome.SUCCEEDED


BROKEN = {
    "raise ValueError('at import')": (errors.UsageError, "ValueError: at import"),
    "import os; os._exit(4)": (errors.ObjectiveError, "workers die while they start, 3 times"),
    "raise SystemExit": (errors.ObjectiveError, "a worker cannot start: SystemExit"),
}


@pytest.mark.parametrize("code", BROKEN)
def test_an_objective_that_cannot_be_loaded_is_an_error_of_the_campaign(
    code: str, tmp_path: Path
) -> None:
    path = written(tmp_path, f"def score(subject, items): ...\n{code}\n")
    kind, text = BROKEN[code]
    with workplace(path, tmp_path / "study") as made:
        made.submit(FINE)
        with pytest.raises(kind) as caught:
            made.engine.wait(100.0)
        assert text in str(caught.value)
