"""SIGKILL before and after every commit: nothing acknowledged is lost, nothing else changes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.faults import VARIABLE
from evomerge.study.repair import verify
from evomerge.study.study import Study
from evomerge.trial import Evaluation, Outcome, Scores

Make = Callable[..., Path]


def work(campaign: Path, say: Callable[[str], object]) -> None:
    """Runs the study to its end and says every step that is acknowledged."""
    with Study.open(campaign) as study:
        while (candidate := study.ask_next()) is not None:
            n = candidate.number
            say(f"asked {n}")
            scores = {"a": Scores([n / 7] * 6), "b": Scores([1 / (1 + n)] * 6)}
            if n % 2:
                study.tell(n, scores)
            else:
                attempt = study.begin(n, "search", "w")
                say(f"began {attempt.id}")
                study.end(attempt, Outcome.SUCCEEDED, evaluations={"search": Evaluation(scores)})
            say(f"told {n}")
            study.add_wall_seconds(1.0)
        study.backup()


COMMITS = ("create", "open", "resume", "ask", "tell", "begin", "end", "spend")
POINTS = [f"study.{name}.{when}-commit" for name in COMMITS for when in ("before", "after")]
POINTS += [f"study.backup.{when}-rename" for when in ("before", "after")]


def run(campaign: Path, fault: str | None) -> tuple[int, list[str]]:
    """Exit status and acknowledged steps of one run, in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.environ.pop(VARIABLE, None)
            os.environ |= {VARIABLE: fault} if fault else {}
            work(campaign, lambda line: os.write(writing, f"{line}\n".encode()))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status, lines


def outcome(campaign: Path) -> list[tuple[object, ...]]:
    with Study.read(campaign) as study:
        return [
            (t.number, dict(t.candidate.parameters), t.state, t.visible_from, t.values())
            for t in study.trials()
        ]


EIGHT = ("trials: 12", "trials: 8")


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, make_campaign: Make
) -> list[tuple[object, ...]]:
    campaign = make_campaign(tmp_path_factory.mktemp("undisturbed"), EIGHT)
    assert run(campaign, None)[0] == 0
    return outcome(campaign)


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_there_changes_nothing(
    tmp_path: Path, make_campaign: Make, undisturbed: list[tuple[object, ...]], point: str
) -> None:
    campaign = make_campaign(tmp_path, EIGHT)
    if "resume" in point:  # is reached by the second opening only
        assert run(campaign, "study.tell.after-commit@2")[0] == -signal.SIGKILL
    time = 3 if point.split(".")[1] in ("ask", "tell", "begin", "end", "spend") else 1
    status, acknowledged = run(campaign, f"{point}@{time}")
    assert status == -signal.SIGKILL, f"{point} is not reached"
    check_kept(campaign, acknowledged)
    assert run(campaign, None)[0] == 0
    assert outcome(campaign) == undisturbed
    assert verify(tmp_path / "runs" / "demo.evomerge") == []
    assert not list(tmp_path.glob("**/*.partial"))


def check_kept(campaign: Path, acknowledged: list[str]) -> None:
    """What was printed before the kill is in the database."""
    if not acknowledged:
        return
    with Study.read(campaign) as study:
        trials = {trial.number: trial for trial in study.trials()}
        attempts = {attempt.id for attempt in study.attempts()}
    for line in acknowledged:
        word, number = line.split()
        if word == "told":
            assert trials[int(number)].values() is not None
        assert int(number) in (attempts if word == "began" else trials)
