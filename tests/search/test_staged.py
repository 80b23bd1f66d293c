"""Evo-Merging, LoraHub and PCB's evolution strategy, on pools whose best merge is known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.errors import UsageError
from evomerge.interfaces import Asked, Observation, SearchProblem
from evomerge.search.registry import make_sampler
from evomerge.space import Array, Parameter, Space
from tests.search.memory_log import MemoryLog

Loss = Callable[[Mapping[str, float]], float | None]
MODELS = ("good", "noise", "harm")


def problem(trials: int | None = 120, models: tuple[str, ...] = MODELS) -> SearchProblem:
    """A weight and a density for each model."""
    weights = [Parameter(f"{m}/*/weight", -1.5, 1.5) for m in models]
    densities = [Parameter(f"{m}/*/density", 0.05, 1.0) for m in models]
    return SearchProblem(Space((*weights, *densities)), 1, trials, seed=3)


def campaign(
    name: str, searched: SearchProblem, loss: Loss, own: int, *, late: int = 0, **options: Any
) -> MemoryLog:
    """Each trial ends `late` asks after the next one."""
    log, sampler, points = MemoryLog(), make_sampler(name, searched, options), list[Array]()
    for number in range(own):
        if number > late:
            log.entries.append(end(number - 1 - late, points[number - 1 - late], searched, loss))
        proposal = sampler.ask(log, number)
        points.append(proposal.point)
        log.entries.append(Asked(number, proposal.point, own=True, note=proposal.note))
    return log


def end(number: int, point: Array, searched: SearchProblem, loss: Loss) -> Observation:
    value = loss(searched.space.values(point))
    losses = None if value is None else np.array([value])
    return Observation(number, point, losses, None if value is None else 0.0)


def pool(values: Mapping[str, float]) -> float:
    """One model helps, one is noise that its density lets in, one is best subtracted."""
    total = sum(abs(values[f"noise/*/{f}"]) for f in ("weight", "density"))
    good, harm = values["good/*/weight"] - 1.0, values["harm/*/weight"] + 0.7
    return good**2 + harm**2 + 0.3 * total**2


def field_of(values: Mapping[str, float], kind: str) -> Array:
    return np.array([value for name, value in values.items() if name.endswith(kind)])


def test_densities_move_first_then_weights() -> None:
    """A third of 60 trials, as 400 of 1200, then the rest."""
    searched = problem(60)
    log = campaign("evo_merging", searched, pool, 60)
    assert [note["stage"] for note in log.notes()] == [0] * 20 + [1] * 40
    values = log.values(searched.space)
    for asked in values[:20]:
        assert field_of(asked, "weight") == pytest.approx([1 / 3] * 3)
    held = {tuple(np.round(field_of(asked, "density"), 9)) for asked in values[20:]}
    assert len(held) == 1
    assert len({tuple(field_of(asked, "weight")) for asked in values[20:]}) == 40


def test_the_second_stage_holds_the_densities_that_were_best_with_their_penalty() -> None:
    """Of losses alone the first trial is the best; with 0.05 times the mean density it is not."""
    searched = problem(3)
    mixed = dict.fromkeys(searched.space.names, 1 / 3)
    dense = {n: 1.0 if n.endswith("density") else v for n, v in mixed.items()}
    thin = {n: 0.2 if n.endswith("density") else v for n, v in mixed.items()}
    notes: list[dict[str, Any]] = [{"stage": 0, "trials": 2}, {"stage": 0}]
    log = MemoryLog()
    for number, (asked, loss) in enumerate(((dense, 0.50), (thin, 0.52))):
        point = searched.space.point(asked)
        log.entries.append(Asked(number, point, own=True, note=notes[number]))
        log.entries.append(Observation(number, point, np.array([loss]), 0.0))
    proposal = make_sampler("evo_merging", searched, {}).ask(log, 2)
    assert proposal.note["from"] == 1
    assert field_of(searched.space.values(proposal.point), "density") == pytest.approx([0.2] * 3)
    careless = make_sampler("evo_merging", searched, {"penalty": 0}).ask(log, 2)
    assert careless.note["from"] == 0


def test_a_harmful_model_is_subtracted_and_noise_is_thinned() -> None:
    searched = problem(300)
    log = campaign("evo_merging", searched, pool, 300, late=4)
    values = log.values(searched.space)
    best = min(values, key=pool)
    assert best["harm/*/weight"] < -0.5
    assert best["good/*/weight"] > 0.8
    assert np.mean([asked["noise/*/density"] for asked in values[200:]]) < 0.6
    start = dict.fromkeys(searched.space.names, 1 / 3) | {f"{m}/*/density": 1.0 for m in MODELS}
    assert pool(best) < 0.1 * pool(start)


def test_a_longer_budget_does_not_change_a_search_that_has_begun() -> None:
    log = campaign("evo_merging", problem(60), pool, 30)
    longer = make_sampler("evo_merging", problem(600), {}).ask(log, 30)
    assert (
        longer.point.tolist()
        == make_sampler("evo_merging", problem(60), {}).ask(log, 30).point.tolist()
    )


def test_without_a_budget_in_trials_the_stages_are_the_published_ones() -> None:
    first = make_sampler("evo_merging", problem(None), {}).ask(MemoryLog(), 0)
    assert first.note == {"stage": 0, "trials": 400}


def test_with_densities_pinned_weights_are_all_there_is() -> None:
    """The release's ablation without denoising."""
    weights = tuple(p for p in problem().space.parameters if p.name.endswith("weight"))
    searched = SearchProblem(Space(weights), 1, 30, seed=0)
    first = make_sampler("evo_merging", searched, {"sigma": 1e-6}).ask(MemoryLog(), 0)
    assert field_of(searched.space.values(first.point), "weight") == pytest.approx(
        [1 / 3] * 3, abs=1e-4
    )


def test_limits_come_before_losses() -> None:
    """Of two trials the one within the limits leads to the next stage, whatever its loss."""
    searched = problem(3)
    log, rng = MemoryLog(), np.random.default_rng(0)
    for number, (loss, violation) in enumerate(((0.1, 0.5), (9.0, 0.0))):
        point = rng.random(6)
        note = {"stage": 0, "trials": 2} if number == 0 else {"stage": 0}
        log.entries.append(Asked(number, point, own=True, note=note))
        log.entries.append(Observation(number, point, np.array([loss]), violation))
    assert make_sampler("evo_merging", searched, {}).ask(log, 2).note["from"] == 1


@pytest.mark.parametrize("name", ["evo_merging", "lorahub", "pcb_es"])
def test_a_search_in_which_everything_fails_goes_on(name: str) -> None:
    log = campaign(name, problem(20), lambda values: None, 20)
    points = [event.point for event in log.entries if isinstance(event, Asked)]
    assert len({point.tobytes() for point in points}) == 20


def test_lorahub_starts_at_the_base_and_finds_signed_weights() -> None:
    """40 evaluations of whole task vectors, as published."""
    searched = problem(40)

    def loss(values: Mapping[str, float]) -> float:
        return float(np.sum((field_of(values, "weight") - [1.0, 0.0, -0.7]) ** 2))

    first = make_sampler("lorahub", searched, {"sigma": 1e-6}).ask(MemoryLog(), 0)
    assert field_of(searched.space.values(first.point), "weight") == pytest.approx(
        [0.0] * 3, abs=1e-4
    )
    log = campaign("lorahub", searched, loss, 40)
    values = log.values(searched.space)
    assert min(map(loss, values)) < 0.2 * loss(dict.fromkeys(searched.space.names, 0.0))
    assert {tuple(field_of(asked, "density")) for asked in values} == {(1.0, 1.0, 1.0)}


def test_pcb_es_stays_in_its_box() -> None:
    searched = problem(100)

    def loss(values: Mapping[str, float]) -> float:
        return float(np.sum((field_of(values, "weight") - [0.85, 1.2, 2.0]) ** 2))

    values = campaign("pcb_es", searched, loss, 100, late=4)
    weights = np.array([field_of(asked, "weight") for asked in values.values(searched.space)])
    assert weights.min() >= 0.8 and weights.max() <= 1.3
    assert weights[-20:].mean(axis=0) == pytest.approx([0.85, 1.2, 1.3], abs=0.08)


def test_another_process_asks_the_same() -> None:
    """With four trials pending."""
    names = ["evo_merging", "lorahub", "pcb_es"]
    logs = {name: campaign(name, problem(40), pool, 25, late=3) for name in names}
    told = {
        name: [
            [event.number, event.point.tolist(), dict(event.note)]
            if isinstance(event, Asked)
            else [event.number, event.point.tolist(), None]
            for event in log.entries
        ]
        for name, log in logs.items()
    }
    program = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import numpy as np
from tests.search.memory_log import MemoryLog
from tests.search.test_staged import end, pool, problem
from evomerge.interfaces import Asked
from evomerge.search.registry import make_sampler
asked, searched = dict(), problem(40)
for name, events in json.load(sys.stdin).items():
    log = MemoryLog()
    for number, point, note in events:
        ended = end(number, np.array(point), searched, pool)
        log.entries.append(ended if note is None else Asked(number, ended.point, True, note))
    asked[name] = make_sampler(name, searched, dict()).ask(log, 25).point.tolist()
print(json.dumps(asked))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(told), capture_output=True, text=True
    )
    assert done.stderr == ""
    expected = {
        name: make_sampler(name, problem(40), {}).ask(log, 25).point.tolist()
        for name, log in logs.items()
    }
    assert json.loads(done.stdout) == expected


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("evo_merging", {"penalty": -1}, "penalty of the sampler evo_merging is -1"),
        ("evo_merging", {"sigam": 0.1}, "did you mean 'sigma'?"),
        ("lorahub", {"penalty": float("inf")}, "it is a number from 0"),
        ("pcb_es", {"low": 2}, "low 2 and high 1.3; low is less"),
        ("pcb_es", {"low": 2.0, "high": 3.0}, "its range is [-1.5, 1.5]; widen that"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_sampler(name, problem(), options)
    assert says in str(caught.value)


def test_spaces_that_do_not_fit_are_refused() -> None:
    other = Space((Parameter("*/t", 0.0, 1.0),))
    with pytest.raises(UsageError, match=r"\*/t is neither: fix that number"):
        make_sampler("evo_merging", SearchProblem(other, 1, 9, 0), {})
    dense = Space((Parameter("a/*/density", 0.1, 1.0),))
    with pytest.raises(UsageError, match="no weight is searched here"):
        make_sampler("lorahub", SearchProblem(dense, 1, 9, 0), {})
    with pytest.raises(UsageError, match="is for one goal, the campaign has 2"):
        make_sampler("pcb_es", SearchProblem(problem().space, 2, 9, 0), {})
