"""Optuna's samplers on a study rebuilt from the log."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.errors import PluginError
from evomerge.interfaces import Asked, Observation, Sampler, SearchProblem
from evomerge.search import from_optuna
from evomerge.search.from_optuna import OptunaSampler
from evomerge.space import Array, Parameter, Space

SPACE = Space(tuple(Parameter(f"p{i}", 0.0, 1.0) for i in range(3)))
PROBLEM = SearchProblem(SPACE, 2, 60, seed=4)


class ListLog(list[Asked | Observation]):
    def events(self, start: int = 0) -> Iterator[Asked | Observation]:
        yield from self[start:]

    def ask(self, sampler: Sampler, number: int) -> Asked:
        proposal = sampler.ask(self, number)
        self.append(Asked(number, proposal.point, True, proposal.note))
        return self[-1]

    def tell(self, number: int, losses: list[float], violation: float = 0.0) -> None:
        point = next(e.point for e in self if isinstance(e, Asked) and e.number == number)
        self.append(Observation(number, point, np.array(losses), violation))


def two_bowls(point: Array) -> list[float]:
    return [float(np.sum(point**2)), float(np.sum((point - 1) ** 2))]


def run(sampler: Sampler, log: ListLog, trials: int, *, limit: float = np.inf) -> ListLog:
    """Asks and tells; x0 may be at most the limit."""
    for number in range(len([e for e in log if isinstance(e, Asked)]), trials):
        point = log.ask(sampler, number).point
        log.tell(number, two_bowls(point), max(0.0, float(point[0]) - limit))
    return log


def test_the_first_note_holds_the_population_that_the_budget_decided() -> None:
    log = run(from_optuna.nsga2(PROBLEM, {}), ListLog(), 30)
    assert log[0].note["settings"] == {"population_size": 10}  # a sixth of 60
    longer = replace(PROBLEM, trials=600)
    extended = from_optuna.nsga2(longer, {}).ask(log, 30)
    assert extended.note["settings"] == {"population_size": 10}
    assert extended.point.tobytes() == from_optuna.nsga2(PROBLEM, {}).ask(log, 30).point.tobytes()
    assert from_optuna.nsga2(longer, {}).ask(ListLog(), 0).note["settings"] == {
        "population_size": 40
    }


def test_a_population_that_the_user_chose_is_kept() -> None:
    log = run(from_optuna.nsga3(PROBLEM, {"population_size": 4}), ListLog(), 12)
    generations = [e.note["trial"] for e in log if isinstance(e, Asked)]
    assert [generation["NSGAIIISampler:generation"] for generation in generations] == [
        *[0] * 4,
        *[1] * 4,
        *[2] * 4,
    ]


def test_notes_stay_small() -> None:
    wide = replace(PROBLEM, space=Space(tuple(Parameter(f"p{i}", 0.0, 1.0) for i in range(60))))
    for make in (from_optuna.nsga2, from_optuna.nsga3, from_optuna.tpe):
        log = run(make(wide, {}), ListLog(), 20)
        assert max(len(str(e.note)) for e in log if isinstance(e, Asked)) < 300


@pytest.mark.parametrize("make", [from_optuna.nsga2, from_optuna.nsga3, from_optuna.tpe])
def test_points_that_miss_a_limit_become_rare(make: Any) -> None:
    """Without the limit the second bowl draws x0 to 1; with it, late points keep below 0.4."""
    shares = []
    for limit in (0.4, np.inf):
        log = run(make(replace(PROBLEM, trials=90), {}), ListLog(), 90, limit=limit)
        late = np.array([e.point[0] for e in log if isinstance(e, Asked)][60:])
        shares.append(np.mean(late <= 0.4))
    assert shares[0] > 0.6
    assert shares[0] > shares[1] + 0.2


def test_a_clone_gets_a_step_of_its_own() -> None:
    """NSGA-II's children can equal a parent; measuring one again would say nothing."""
    log = run(from_optuna.make("NSGAIISampler", PROBLEM, {"population_size": 4}), ListLog(), 80)
    points = [tuple(e.point) for e in log if isinstance(e, Asked)]
    assert len(set(points)) == 80


def test_what_optuna_raises_names_the_sampler() -> None:
    def build(seed: int, settings: Any) -> Any:
        raise ValueError("no luck")

    with pytest.raises(PluginError, match="the sampler x of Optuna failed: no luck"):
        OptunaSampler("x", PROBLEM, build).ask(ListLog(), 0)


def test_an_ask_that_was_interrupted_leaves_no_trace() -> None:
    """Ctrl-C in the middle of Optuna's sampling, after its trial was made."""
    log = run(from_optuna.tpe(PROBLEM, {}), ListLog(), 14)
    sampler = from_optuna.tpe(PROBLEM, {})
    expected = from_optuna.tpe(PROBLEM, {}).ask(log, 14)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optuna.samplers.TPESampler.sample_relative", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            sampler.ask(log, 14)
    assert sampler.ask(log, 14).point.tobytes() == expected.point.tobytes()


def _interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_optunas_gaussian_process_samples_and_replays() -> None:
    """The slow one: once, with its start-up cut to four trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of imports, torch's among them
        sampler = from_optuna.make("GPSampler", PROBLEM, {"n_startup_trials": 4})
        log = run(sampler, ListLog(), 5)
        proposal = from_optuna.make("GPSampler", PROBLEM, {"n_startup_trials": 4}).ask(log, 5)
    assert proposal.point.tobytes() == sampler.ask(log, 5).point.tobytes()


PROGRAM = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from test_samplers import ONE_GOAL, campaign, problem
for name in ONE_GOAL:
    log = campaign(name, problem(1), own=20)
    print(name, hashlib.sha256(b"".join(a.point.tobytes() for a in log.asks())).hexdigest())
"""


@pytest.mark.slow
def test_another_process_with_another_hash_seed_proposes_the_same() -> None:
    here = str(Path(__file__).parent)
    answers = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM, here],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert answers[0] == answers[1]
    assert len(answers[0].splitlines()) >= 16
