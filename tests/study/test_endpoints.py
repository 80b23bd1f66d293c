"""Campaigns against a server that mixes: what they pay, what they keep, and when they stop."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from evomerge.cli import app
from evomerge.errors import ObjectiveError
from evomerge.objectives.endpoint.store import Charge, Store
from evomerge.study.folder import ENDPOINTS
from evomerge.study.loop import Ending, RunResult, run
from evomerge.study.study import Study
from evomerge.trial import Outcome, TrialState
from tests.conftest import FAULTS, LATE, Loopback, as_json, random_faults, served, settled

CAMPAIGN = """
base: base
models: {math: math, code: code}
merge: {method: task_arithmetic, groups: {layers: all}, scaling: {fixed: 1.0}}
goals:
  - metric: skill
    objective:
      type: template
      url: URL
      items: 10
      request: {mix: "{weights}", item: "{index}"}
      score: $.score
      api_key_env: THE_KEY
      connection: {first_wait: 0.001, longest_wait: 0.01, retries: 12, total: 10}
sampler: random
budget: {trials: 6}
study: study
"""
CANARY = "sk-canary-0123456789"


def skill(body: Any) -> float:
    """A landscape with its optimum at (0.7, -0.1), a little different for every item."""
    mix, item = body["mix"], body["item"]
    return math.cos(item) / 8 - (mix["math"] - 0.7) ** 2 - (mix["code"] + 0.1) ** 2


def honest(body: Any, path: str) -> tuple[int, dict[str, str], bytes]:
    return as_json({"score": skill(body), "usage": {"prompt_tokens": 5, "completion_tokens": 1}})


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes the campaign for a server, with words replaced."""
    monkeypatch.setenv("THE_KEY", CANARY)
    for name in ("base", "math", "code"):
        (tmp_path / name).mkdir()
        tensors = {f"model.layers.{i}.mlp.w": np.zeros((1, 1), "f4") for i in range(2)}
        save_file(tensors, tmp_path / name / "model.safetensors")

    def write(server: Loopback, *edits: tuple[str, str], study: str = "study") -> Path:
        text = CAMPAIGN.replace("URL", server.url).replace("study: study", f"study: {study}")
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "campaign.yaml"
        path.write_text(text)
        return path

    return write


def ran(campaign: Path, **options: Any) -> tuple[RunResult, Study]:
    with Study.open(campaign) as study:
        result = run(study, **options)
    return result, Study.read(campaign)


def values(study: Study) -> list[Any]:
    return [(dict(t.candidate.parameters), t.results) for t in study.trials()]


def test_a_fifth_of_requests_failing_changes_no_value_and_every_one_is_counted(
    make: Callable[..., Path],
) -> None:
    with served(Loopback(honest)) as server:
        result, calm = ran(make(server))
    assert result.ending is Ending.FINISHED
    # 6 trials on 6 items, 4 items three times for the self-test, and the held-out 2 + 2 of
    # those that were confirmed; 6 tokens each.
    confirmed = sum("test" in trial.results for trial in calm.trials())
    requests = 6 * 6 + 3 * 4 + confirmed * 4
    assert server.requests == requests
    spend = calm.spend()
    assert (spend.requests, spend.tokens) == (requests, 6 * requests)

    faults = random_faults(2, 0.2, *FAULTS)
    assert {faults(number) for number in range(requests)} == {None, *FAULTS}
    with served(Loopback(honest, lambda number: LATE.get(number) or faults(number))) as bad:
        late = ("total: 10", "read: 2, total: 3")
        result, study = ran(make(bad, late, study="stormy"), workers=2)
        settled(lambda: study.spend().requests == bad.requests)
    assert result.ending is Ending.FINISHED
    assert values(study) == values(calm)
    assert bad.requests > requests * 1.1
    calm.close(), study.close()


def test_a_budget_of_requests_stops_cleanly_and_a_raised_one_goes_on_without_paying_twice(
    make: Callable[..., Path],
) -> None:
    with served(Loopback(honest)) as server:
        campaign = make(server, ("trials: 6", "trials: 6, requests: 40"))
        result, study = ran(campaign)
        assert result.ending is Ending.OUT_OF_SPEND
        assert result.why.startswith("the budget of 40 requests is used up")
        assert server.requests == 40 == study.spend().requests
        states = [trial.state for trial in study.trials()]
        assert states == [TrialState.DONE] * 4 + [TrialState.PENDING], "it failed no trial"
        assert study.attempts()[-1].outcome is Outcome.LOST
        assert sum(study.costs().values(), Charge()) == Charge(40, 240)
        assert study.costs()[0] == Charge(12, 72), "the self-test"
        study.close()
        (campaign.parent / "study" / ENDPOINTS).unlink()  # the study remembers what was spent
        result, study = ran(campaign)
        assert result.ending is Ending.OUT_OF_SPEND and server.requests == 40
        study.close()


def evaluations(server: Loopback) -> list[str]:
    """What was asked, but for the questions of self-tests, which are asked anew in every run."""
    uniform = {"math": 0.5, "code": 0.5}
    tests = ({"math": 0.0, "code": 0.0}, uniform)
    asked = [body for body in server.seen if body["mix"] not in tests]
    return [json.dumps(body, sort_keys=True) for body in asked]


def test_a_campaign_that_is_killed_pays_for_nothing_twice_and_sends_nothing_uncounted(
    make: Callable[..., Path],
) -> None:
    """By SIGKILL, while requests are under way."""
    dying = threading.Event()

    def reply(body: Any, path: str) -> tuple[int, dict[str, str], bytes]:
        if server.requests == 30:
            dying.set()
        return honest(body, path)

    with served(Loopback(reply)) as server:
        campaign = make(server)
        command = [sys.executable, "-m", "evomerge", "run", str(campaign)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            assert dying.wait(60)
            run.kill()
        ran(campaign)[1].close()
        with Study.read(campaign) as study:
            assert len(study.trials(state=TrialState.DONE)) == 6
            spent = study.spend().requests
    asked = evaluations(server)
    # Eight requests may be under way at the kill: answered by the server and never heard, or
    # counted and never sent.
    assert len(asked) - len(set(asked)) <= 8
    assert server.requests <= spent <= server.requests + 8


def test_a_server_down_for_good_stops_the_campaign_and_fails_no_trial(
    make: Callable[..., Path],
) -> None:
    with served(Loopback(honest)) as server:
        campaign = make(server, ("retries: 12", "retries: 2"))
        server.fault = lambda number: "503" if number >= 12 + 4 * 6 + 2 else None
        with pytest.raises(ObjectiveError, match=r"status 503.*3 times in a row") as caught:
            ran(campaign)
        assert caught.value.exit_code == 5
        with Study.read(campaign) as study:
            assert study.trials(state=TrialState.FAILED) == []
            assert len(study.trials(state=TrialState.DONE)) == 4
            assert study.spend().requests == server.requests
        server.fault = lambda number: None
        before = len(evaluations(server))
        result, study = ran(campaign)
        assert result.ending is Ending.FINISHED
        study.close()
    asked = evaluations(server)
    assert len(asked) == len(set(asked)) > before


class Mixer:
    """A server whose mix is remembered for the next request, as faulty as a test wants it."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.last: Any = None
        self.count = 0

    def __call__(self, body: Any, path: str) -> tuple[int, dict[str, str], bytes]:
        self.count += 1
        mix = body["mix"]
        if self.fault == "ignores":
            mix = {"math": 0.0, "code": 0.0}
        if self.fault == "stale" and self.last is not None and self.last != mix:
            mix = {"math": 0.5, "code": 0.5}
        self.last = body["mix"] if self.last is None else self.last
        noise = self.count / 10 if self.fault == "samples" else 0.0
        return as_json({"score": skill({**body, "mix": mix}) + noise})


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("ignores", "ignores the coefficients"),
        ("samples", "the same question to the same candidate gets different answers"),
    ],
)
def test_a_server_that_does_not_do_what_it_is_told_is_found_before_anything_is_measured(
    fault: str, said: str, make: Callable[..., Path]
) -> None:
    with served(Loopback(Mixer(fault))) as server:
        campaign = make(server)
        with pytest.raises(ObjectiveError, match=said):
            ran(campaign)
        with Study.read(campaign) as study:
            assert study.attempts() == []
    assert server.requests == 12


def test_a_server_that_changes_between_or_during_runs_is_found(make: Callable[..., Path]) -> None:
    with served(Loopback(honest)) as server:
        campaign = make(server, ("api_key_env", "check_every: 3\n      api_key_env"))

        def changed(body: Any, path: str) -> tuple[int, dict[str, str], bytes]:
            return as_json({"score": skill(body) + 0.5 * (server.requests > 12 + 3 * 6)})

        server.reply = changed
        with pytest.raises(ObjectiveError, match="answered otherwise than before"):
            ran(campaign)
        with Study.read(campaign) as study:
            assert len(study.trials(state=TrialState.DONE)) == 3
        with pytest.raises(ObjectiveError, match="another model, build or state stands behind"):
            ran(campaign)


def test_no_secret_is_in_any_file_output_or_traceback(make: Callable[..., Path]) -> None:
    def gossip(body: Any, path: str) -> tuple[int, dict[str, str], bytes]:
        if server.requests > 30:
            return as_json({"error": f"you sent {server.headers['Authorization']}"}, 403)
        return as_json({"score": skill(body), "you": dict(server.headers)})

    faults = random_faults(3, 0.2, "429", "500", "reset", "garbage", "half")
    with served(Loopback(gossip, faults)) as server:
        campaign = make(server)
        command = [sys.executable, "-m", "evomerge", "--debug", "run", str(campaign)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert server.headers["Authorization"] == f"Bearer {CANARY}"
    assert done.returncode == 5, done.stderr
    assert 'status 403: {"error": "you sent Bearer ***"}' in done.stderr
    assert "Traceback" in done.stderr
    written = [path for path in campaign.parent.rglob("*") if path.is_file()]
    assert {"log", ENDPOINTS, "study.db"} <= {path.name for path in written}
    with closing(Store(campaign.parent / "study" / ENDPOINTS)) as store:
        kept = [
            zlib.decompress(answer) for (answer,) in store._rows("SELECT answer FROM answers", [])
        ]
    assert kept
    haystack = [done.stdout.encode(), done.stderr.encode(), *kept]
    haystack += [path.read_bytes() for path in written]
    assert not [hay for hay in haystack if b"canary" in hay]


def test_status_says_what_endpoints_have_cost(
    make: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    prices = ("score: $", "prices: {prompt: 1000}\n      score: $")
    with served(Loopback(honest)) as server:
        campaign = make(server, ("trials: 6", "tokens: 0.3k"), prices)
        assert app.run(["run", str(campaign)]) == 75
    assert "the budget of 300 tokens is used up" in capsys.readouterr().err
    assert app.run(["status", str(campaign), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["requests"] == server.requests
    assert status["tokens"] == 6 * server.requests <= 300
    assert status["money"] == pytest.approx(server.requests * 5 * 1000 / 1e6)


def test_a_study_of_an_evomerge_that_knew_no_endpoints_resumes(make: Callable[..., Path]) -> None:
    with served(Loopback(honest)) as server:
        campaign = make(server, ("trials: 6", "trials: 1"))
        ran(campaign)[1].close()
        with closing(sqlite3.connect(campaign.parent / "study" / "study.db")) as old:
            old.executescript(
                "DROP TABLE costs; DROP TABLE stages; ALTER TABLE trials DROP COLUMN chance; "
                "PRAGMA user_version = 1;"
            )
        with Study.read(campaign) as study:
            assert study.spend().requests == 0
        result, study = ran(campaign)
        assert result.ending is Ending.FINISHED
        assert study.spend().requests > 0
        study.close()
