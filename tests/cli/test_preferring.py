"""`export --prefer` and `front --predicted` on a real campaign."""

from __future__ import annotations

import json
import re

import pytest

from evomerge.study.study import Study
from tests.cli.conftest import World


@pytest.fixture
def searched(world: World) -> World:
    """Twelve trials, each measured on all three splits' items."""
    world.edit("{trials: 6}", "{trials: 12}")
    assert world.run("run", "campaign.yaml").code == 0
    return world


def test_a_preference_is_proposed_measured_and_exported(searched: World) -> None:
    said = searched.run("export", "study", "out", "--prefer", "small=1,near=2")
    assert said.code == 0, said.text
    assert "trial 12 is to prefer near=2,small=1" in said.text
    assert re.search(r"near: predicted \S+ ± \S+, measured \S+", said.text)
    with Study.read(searched / "study") as study:
        trial = study.trial(12)
        assert trial.candidate.origin == "prefer near=2,small=1"
        assert set(trial.results) == {"search", "selection", "test"}
        assert study.spend().trials == 12  # it is not of the budget
    manifest = json.loads((searched / "out/study-12/evomerge.json").read_text())
    assert manifest["parameters"] == dict(trial.candidate.parameters)
    again = searched.run("export", "study", "out", "--prefer", "near=2,small=1")
    assert again.code == 0 and "trial 12 is" in again.text  # nothing new was learnt


def test_it_says_so_where_a_measured_trial_is_better(searched: World) -> None:
    """Small weights alone: the base has none, which no forecast can beat."""
    said = searched.run("export", "study", "out", "--prefer", "small=1")
    assert said.code == 0
    assert "trial 0 (base) measured better for these weights" in said.text
    assert "evomerge export study OUT --trial 0" in said.text
    assert "measured better" not in searched.run("export", "study", "o2", "--prefer", "near=1").text


def test_what_counts_more_comes_out_better(searched: World) -> None:
    for words in ("near=1", "small=1"):
        assert searched.run("export", "study", "out", "--prefer", words).code == 0
    with Study.read(searched / "study") as study:
        near, small = (study.trial(number).values() or {} for number in (12, 13))
    assert near["near"] > small["near"]
    assert near["small"] > small["small"]  # which is minimised


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("maths=1", "no goal has the metric 'maths'; known: near, small"),
        ("near=-1", "a number >= 0 is wanted"),
        ("near=nan", "a number >= 0 is wanted"),
        ("near=0", "no goal has a weight above 0"),
        ("near", "--prefer has 'near'; `metric=number` is wanted"),
        ("near=1,near=2", "--prefer has 'near' more than once"),
        ("near=1", "trials have ended; a forecast needs 8"),
    ],
)
def test_what_cannot_be_preferred_writes_nothing(world: World, words: str, cause: str) -> None:
    assert world.run("ask", "campaign.yaml", "-n", "6").code == 0
    said = world.run("export", "study", "out", "--prefer", words)
    assert said.code == 2 and cause in said.text
    assert not (world / "out").exists()
    with Study.read(world / "study") as study:
        assert len(study.trials()) == 6


def test_a_surrogate_that_explains_nothing_is_refused(world: World) -> None:
    world.edit("{trials: 6}", "{trials: 16}")
    world.edit(
        "return [-sum((w - 0.3 - 0.01 * item) ** 2 for w in weights) for item in items]",
        "return [hash(tuple(weights)) % 1009 / 1009] * len(items)",
        file="score.py",
    )
    assert world.run("run", "campaign.yaml").code == 0
    said = world.run("export", "study", "out", "--prefer", "near=1")
    assert said.code == 2 and "of near on trials left out" in said.text
    assert not (world / "out").exists()
    assert world.run("export", "study", "out", "--prefer", "small=1").code == 0  # it knows this one


def test_the_front_shows_predicted_apart_from_measured(searched: World) -> None:
    rows = searched.run("front", "study", "--predicted", "--json").json
    for row in rows:
        if row["predicted"] is not None:
            assert set(row["predicted"]) == {"near", "small"}
            assert row["predicted"]["near"]["std"] >= 0
            assert set(row["values"]["near"]) == {"search", "selection", "test"}
    assert any(row["predicted"] for row in rows)
    assert "near (predicted)" in searched.run("front", "study", "--predicted").text
    assert "predicted" not in searched.run("front", "study", "--json").json[0]
