"""Many models, a small budget: the models are not measured by themselves, and the rest holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from evomerge.errors import StudyMismatchError
from evomerge.report.summary import content_of, status_of
from evomerge.study.charter import Charter
from evomerge.study.forking import as_begun
from evomerge.study.opening import ANCHORS
from evomerge.study.references import is_reference, model_of
from evomerge.study.study import Study
from evomerge.trial import Outcome

Write = Callable[..., Path]
MODELS = [f"m{i}" for i in range(9)]
MANY = ("{math: math, code: code}", f"{{{', '.join(f'{name}: math' for name in MODELS)}}}")
BUDGET = ("trials: 12", "trials: 20")
MEASURED = ("sampler: random", "sampler: random\nparents: measured")
UNMEASURED = ("sampler: random", "sampler: random\nparents: unmeasured")


def origins(study: Study) -> list[str]:
    return [trial.candidate.origin for trial in study.trials()]


def measure(study: Study, *numbers: int) -> None:
    """Trial n has the values n / 10 and 1 - n / 10, so that all are on the front."""
    for number in numbers:
        study.tell(number, {"a": number / 10, "b": 1 - number / 10})


def test_the_search_begins_after_the_base_and_the_average(write_campaign: Write) -> None:
    with Study.open(write_campaign(MANY, BUDGET)) as study:
        study.ask(4)
        assert origins(study) == ["base", "uniform", "random", "random"]
        assert status_of(study)["parents"] == "unmeasured"
        assert ("models", "not measured by themselves") in content_of(study).facts


@pytest.mark.parametrize("fork", [False, True])  # one that changes nothing else is no fork
def test_a_longer_budget_does_not_change_a_study_that_has_begun(
    write_campaign: Write, fork: bool
) -> None:
    with Study.open(write_campaign(MANY, BUDGET)):
        pass
    longer = write_campaign(MANY, ("trials: 12", "trials: 200"))
    with Study.open(longer, fork=fork) as study:
        assert study.campaign.measures_parents  # a new study would
        assert not as_begun(study.campaign).measures_parents
        study.ask(3)
        assert origins(study) == ["base", "uniform", "random"]


def test_the_first_trials_set_the_reference_point_failed_ones_and_asides_apart(
    write_campaign: Write,
) -> None:
    with Study.open(write_campaign(MANY, BUDGET)) as study:
        study.ask(6)
        aside = study.add_aside("prefer a=1", study.trial(2).candidate.parameters)
        study.ask(6)
        measure(study, 0, *range(2, 12), aside.number)
        study.end(study.begin(1, "search", "w"), Outcome.FAILED, reason="why")
        assert study.reference_point is None
        measure(study, 12)  # the twelfth of the search
        # losses from (0, 1) of the base to (-1.2, -0.2), and a tenth of 1.2 beyond the worst
        assert study.reference_point == pytest.approx([0.12, 1.12])


@pytest.mark.parametrize(
    ("edits", "anchors"),
    [
        ((MANY, BUDGET), ANCHORS),
        ((MANY, ("trials: 12", "trials: 5")), 5),
        ((MANY, UNMEASURED, ("trials: 12", "hours: 1")), ANCHORS),
        ((MANY, UNMEASURED, ("method: sparse_signed", "density: 1, weight: 0.5")), 2),
    ],
)  # fmt: skip
def test_no_more_anchors_than_trials_that_will_be(
    write_campaign: Write, edits: tuple[tuple[str, str], ...], anchors: int
) -> None:
    with Study.open(write_campaign(*edits)) as study:
        assert study.charter.anchors == tuple(range(anchors))


def test_what_the_file_says_in_words_is_the_campaigns(write_campaign: Write) -> None:
    with Study.open(write_campaign(MANY, BUDGET, MEASURED)) as study:
        study.ask(11)
        assert origins(study) == ["base", *(f"parent {name}" for name in MODELS), "uniform"]
    with pytest.raises(StudyMismatchError, match=r'parents: "measured" -> "unmeasured"'):
        Study.open(write_campaign(MANY, BUDGET, UNMEASURED))


def test_a_fork_that_measures_the_models_has_the_old_trials_behind_them(
    write_campaign: Write,
) -> None:
    with Study.open(write_campaign(MANY, BUDGET)) as old:
        old.ask(4)
        measure(old, 0, 1, 2)
    with Study.open(write_campaign(MANY, BUDGET, MEASURED), fork=True) as fork:
        carried = "random, trial 2 of the fork's source"
        assert origins(fork) == [
            "base", *(f"parent {name}" for name in MODELS), "uniform", carried,
        ]  # fmt: skip
        measured = [t.number for t in fork.trials() if t.values()]
        assert measured == [0, 10, 11]
        assert fork.charter.anchors == tuple(range(10))
        waiting = fork.ask_next()
        assert waiting is not None
        assert waiting.origin == "parent m0"


@pytest.mark.parametrize("weight", ["[0, 1]", "[0, 0.5]"])  # the second has no point for a model
def test_a_fork_that_does_not_measure_the_models_keeps_their_values(
    write_campaign: Write, weight: str
) -> None:
    space = ("sparse_signed,", f"sparse_signed, weight: {weight},")
    with Study.open(write_campaign(MANY, BUDGET, MEASURED, space)) as old:
        old.ask(11)
        measure(old, *range(11))
    with Study.open(write_campaign(MANY, BUDGET, UNMEASURED, space), fork=True) as fork:
        trials = fork.trials()
        assert [t.number for t in trials if is_reference(t)] == [0, 1]
        assert [model_of(t.candidate.origin) for t in trials] == [None, None, *MODELS]
        assert trials[2].values() == {"a": 0.1, "b": 0.9}
        assert fork.spend().trials == 2
        assert "models" not in dict(content_of(fork).facts)  # its page lists what they scored
        assert fork.reference_point is None  # eleven were carried over, and twelve set it
        (fresh,) = fork.ask()
        measure(fork, fresh.number)
        assert fork.reference_point is not None


def test_studies_from_before_the_key_have_measured_the_models(campaign_file: Path) -> None:
    with Study.open(campaign_file) as study:
        before = json.loads(study.charter.to_json())
        assert "parents" not in before["identity"]
        del before["parents"]
        assert asdict(Charter.from_json(json.dumps(before))) == asdict(study.charter)
        assert study.charter.parents
