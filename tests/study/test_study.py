"""A study: asks in a window, tells that repeat, ends that count once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from evomerge.errors import StudyError, UsageError
from evomerge.report.summary import doubts
from evomerge.study.study import Study
from evomerge.trial import Evaluation, Outcome, Scores, TrialState

A, B = 0.5, 0.25
SCORES = {"a": [A] * 6, "b": [B] * 6}


@pytest.fixture
def study(campaign_file: Path) -> Iterator[Study]:
    with Study.open(campaign_file) as opened:
        yield opened


def evaluation(a: float = A, b: float = B) -> dict[str, Evaluation]:
    return {"search": Evaluation({"a": Scores([a] * 6), "b": Scores([b] * 6)}, seconds=2.0)}


def run_one(study: Study, outcome: Outcome = Outcome.SUCCEEDED) -> int:
    """Asks, begins and ends one trial; its number."""
    candidate = study.ask_next()
    assert candidate is not None
    attempt = study.begin(candidate.number, "search", "w")
    measured = evaluation() if outcome is Outcome.SUCCEEDED else None
    study.end(attempt, outcome, evaluations=measured, reason="why", seconds=2.0)
    return candidate.number


def test_the_references_come_first(study: Study) -> None:
    origins = [candidate.origin for candidate in study.ask(5)]
    assert origins == ["base", "parent math", "parent code", "uniform", "random"]


def test_numbers_count_asks_from_zero(study: Study) -> None:
    assert [c.number for c in (*study.ask(2), *study.ask(1))] == [0, 1, 2]


def test_a_told_trial_is_done_and_keeps_its_value(study: Study) -> None:
    (candidate,) = study.ask()
    trial = study.tell(candidate, SCORES, seconds=3.0)
    assert trial.state is TrialState.DONE
    assert trial.values() == {"a": A, "b": B}
    assert trial.results["search"]["a"].items == 6
    assert study.scores(0, "search", "a").items == (A,) * 6
    assert study.spend().seconds == 3.0


def test_telling_the_same_again_changes_nothing(study: Study) -> None:
    study.ask()
    first = study.tell(0, SCORES, seconds=3.0)
    assert study.tell(0, SCORES, seconds=3.0) == first
    assert study.spend().seconds == 3.0


def test_telling_something_else_is_refused_and_the_first_stays(study: Study) -> None:
    study.ask()
    study.tell(0, SCORES)
    with pytest.raises(StudyError, match="never changed"):
        study.tell(0, {"a": 0.6, "b": 0.1})
    assert study.trial(0).values() == {"a": A, "b": B}


def test_a_mean_can_be_told_for_an_objective_with_items(study: Study) -> None:
    study.ask()
    assert study.tell(0, {"a": 0.75, "b": 0.5}).values() == {"a": 0.75, "b": 0.5}
    assert study.tell(0, {"a": 0.75, "b": 0.5}).state is TrialState.DONE


def test_margins_are_kept(study: Study) -> None:
    study.ask()
    study.tell(0, SCORES | {"a": Scores([1.0] * 6, margins=[0.5, -1, 2, 3, 4, 5])})
    assert study.scores(0, "search", "a").margins == (0.5, -1, 2, 3, 4, 5)


def test_what_puts_values_in_doubt_is_logged_and_told(study: Study) -> None:
    """A share of 5 % is told, a smaller one only logged."""
    study.ask(2)
    for trial, invalid in enumerate((0.2, 0.5)):
        rates = {"invalid": invalid, "truncated": 0.04}
        study.tell(trial, SCORES | {"a": Scores([1.0] * 6, rates=rates)})
    events = [event.data for event in study.events() if event.kind == "doubted"]
    assert events[1] == {"split": "search", "rates": {"a": {"invalid": 0.5, "truncated": 0.04}}}
    (said,) = doubts(study)
    assert said.startswith("a: up to 50% of the items were answered by nothing")
    assert said.endswith("in 2 trials")


@pytest.mark.parametrize(
    "scores",
    [
        {"a": 0.5},
        {"a": 0.5, "b": 0.5, "c": 0.5},
        {"a": [0.5] * 5, "b": 0.5},
        {"a": float("nan"), "b": 0.5},
        {"a": "0.5", "b": 0.5},
        {"a": None, "b": 0.5},
    ],
)
def test_scores_that_do_not_fit_are_refused(study: Study, scores: dict[str, object]) -> None:
    study.ask()
    with pytest.raises(UsageError):
        study.tell(0, scores)
    assert study.trial(0).state is TrialState.PENDING


def test_an_unknown_trial_cannot_be_told(study: Study) -> None:
    with pytest.raises(UsageError, match="no trial 7"):
        study.tell(7, SCORES)


def test_the_loop_waits_for_the_window(study: Study) -> None:
    # lookahead 2, references 0..3: the ask numbered 4 needs the ends of 0 and 1.
    candidates = [study.ask_next() for _ in range(4)]
    assert all(candidate is not None for candidate in candidates)
    assert study.ask_next() is None
    study.tell(0, SCORES)
    assert study.ask_next() is None
    study.tell(1, SCORES)
    study.tell(3, SCORES)  # ended, but not yet to be seen
    following = study.ask_next()
    assert following is not None and following.number == 4
    assert [trial.visible_from for trial in study.trials()] == [4, 4, None, None, None]


def test_an_ask_by_hand_sees_everything_told(study: Study) -> None:
    study.ask(5)
    study.tell(4, SCORES)
    study.ask()
    assert [trial.visible_from for trial in study.trials()] == [None] * 4 + [5, None]


def test_the_budget_counts_references(study: Study) -> None:
    numbers = []
    while not study.exhausted:
        numbers.append(run_one(study))
    assert numbers == list(range(12))
    assert study.ask_next() is None
    assert study.spend().trials == 12


def test_a_candidate_is_handed_out_once(study: Study) -> None:
    first, second = study.ask_next(), study.ask_next()
    assert first is not None and second is not None
    assert first.number != second.number


def test_a_lost_attempt_puts_its_trial_back_however_often(study: Study) -> None:
    for _ in range(5):
        assert run_one(study, Outcome.LOST) == 0
    assert study.trial(0).state is TrialState.PENDING


@pytest.mark.parametrize("outcome", [Outcome.CRASHED, Outcome.OUT_OF_MEMORY])
def test_a_candidate_that_kills_three_workers_is_quarantined(
    study: Study, outcome: Outcome
) -> None:
    assert [run_one(study, outcome) for _ in range(3)] == [0, 0, 0]
    trial = study.trial(0)
    assert trial.state is TrialState.FAILED
    assert trial.reason == f"killed 3 workers; {outcome}: why"
    assert run_one(study) == 1


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.INVALID, Outcome.TIMED_OUT])
def test_other_failures_fail_the_trial_at_once(study: Study, outcome: Outcome) -> None:
    run_one(study, outcome)
    assert study.trial(0).reason == f"{outcome}: why"
    assert study.trial(0).values() is None


def test_a_success_with_unfit_scores_is_invalid(study: Study) -> None:
    study.ask()
    attempt = study.begin(0, "search", "w")
    study.end(attempt, Outcome.SUCCEEDED, evaluations=evaluation(a=float("inf")))
    assert study.attempts()[0].outcome is Outcome.INVALID
    assert "finite" in (study.trial(0).reason or "")


def test_ending_twice_counts_once(study: Study) -> None:
    study.ask()
    attempt = study.begin(0, "search", "w")
    for _ in range(2):
        study.end(attempt, Outcome.SUCCEEDED, evaluations=evaluation(), seconds=2.0)
    study.end(attempt, Outcome.FAILED, reason="too late")
    assert study.spend().seconds == 2.0
    assert study.trial(0).state is TrialState.DONE


def test_a_result_that_comes_after_its_attempt_was_given_up_is_taken(study: Study) -> None:
    study.ask()
    attempt = study.begin(0, "search", "w")
    study.end(attempt, Outcome.LOST)
    study.end(attempt, Outcome.SUCCEEDED, evaluations=evaluation())
    assert study.trial(0).values() == {"a": A, "b": B}


def test_the_first_of_two_results_counts(study: Study) -> None:
    study.ask()
    lost = study.begin(0, "search", "w")
    study.end(lost, Outcome.LOST)
    again = study.begin(0, "search", "w")
    study.end(again, Outcome.SUCCEEDED, evaluations=evaluation(a=1.0))
    study.end(lost, Outcome.SUCCEEDED, evaluations=evaluation(a=0.0))
    assert study.trial(0).values() == {"a": 1.0, "b": B}


def test_confirmation_does_not_change_a_trials_state(study: Study) -> None:
    run_one(study)
    both = study.begin(0, ("selection", "test"), "w")
    held_out = {"a": Scores([0.0, 1.0]), "b": Scores([1.0, 1.0])}
    study.end(
        both,
        Outcome.SUCCEEDED,
        evaluations={"selection": Evaluation(held_out), "test": Evaluation(held_out)},
    )
    assert study.trial(0).values("test") == {"a": 0.5, "b": 1.0}
    with pytest.raises(StudyError, match="measured"):
        study.begin(0, "selection", "w")
    run_one(study)
    study.end(study.begin(1, "test", "w"), Outcome.FAILED, reason="why")
    assert study.trial(1).state is TrialState.DONE


def test_only_a_waiting_trial_begins(study: Study) -> None:
    study.ask()
    study.begin(0, "search", "w")
    with pytest.raises(StudyError, match="running"):
        study.begin(0, "search", "v")


def test_the_items_of_the_splits_are_disjoint_and_shared_by_goals(study: Study) -> None:
    parts = [study.items("a", split) for split in ("search", "selection", "test")]
    assert [len(part or ()) for part in parts] == [6, 2, 2]
    assert sorted(i for part in parts for i in part or ()) == list(range(10))
    assert study.items("b", "search") == parts[0]


def test_the_reference_point_comes_from_base_and_parents_and_stays(study: Study) -> None:
    study.ask(5)
    assert study.hypervolume() is None
    study.tell(0, {"a": 0.0, "b": 1.0})
    study.tell(1, {"a": 1.0, "b": 1.0})
    assert study.reference_point is None
    study.tell(2, {"a": 0.0, "b": 0.0})
    # losses (0, 1), (-1, 1), (0, 0): worst (0, 1), spread (1, 1), a tenth of it beyond.
    assert study.reference_point == pytest.approx([0.1, 1.1])
    # two rectangles to (0.1, 1.1): 1.1 x 0.1 from (-1, 1) and 0.1 x 1.1 from (0, 0), less 0.1 x 0.1
    assert study.hypervolume() == pytest.approx(0.11 + 0.11 - 0.01)
    study.tell(4, {"a": 2.0, "b": -5.0})
    assert study.reference_point == pytest.approx([0.1, 1.1])
    assert [trial.number for trial in study.front()] == [4]
    assert study.hypervolume() == pytest.approx(2.1 * 6.1)
    points = [(point.trial, pytest.approx(point.hypervolume)) for point in study.history()]
    assert points == [(0, 0.01), (1, 0.11), (2, 0.21), (4, 2.1 * 6.1)]


def test_a_failed_parent_does_not_keep_the_reference_point_away(study: Study) -> None:
    study.ask(3)
    study.tell(0, {"a": 0.0, "b": 1.0})
    study.tell(1, {"a": 1.0, "b": 0.0})
    study.end(study.begin(2, "search", "w"), Outcome.FAILED, reason="why")
    assert study.reference_point == pytest.approx([0.1, 1.1])


def test_a_front_under_limits_holds_what_meets_them(
    write_campaign: Callable[..., Path],
) -> None:
    edited = write_campaign(("direction: minimize", "direction: minimize, limit: 0.5"))
    with Study.open(edited) as study:
        study.ask(3)
        study.tell(0, {"a": 0.9, "b": 0.7})
        assert [trial.number for trial in study.front()] == [0]  # the nearest, for want of better
        study.tell(1, {"a": 0.1, "b": 0.4})
        study.tell(2, {"a": 0.2, "b": 0.9})
        assert [trial.number for trial in study.front()] == [1]


def test_the_event_log_tells_the_story(study: Study) -> None:
    run_one(study)
    kinds = [event.kind for event in study.events()]
    assert kinds == ["created", "opened", "asked", "began", "ended"]
    last = list(study.events())[-1]
    assert (last.trial, last.data) == (0, {"outcome": "succeeded"})


def test_wall_time_adds_up_over_resumes(campaign_file: Path) -> None:
    for _ in range(2):
        with Study.open(campaign_file) as study:
            study.add_wall_seconds(1.5)
    with Study.read(campaign_file) as study:
        assert study.spend().wall_seconds == 3.0


def test_a_point_is_what_its_parameters_say(study: Study) -> None:
    *_, own = study.ask(5)
    assert own.point is not None
    assert np.allclose(study.recipe.space.point(own.parameters), own.point)
    assert study.trial(4).candidate.parameters == own.parameters


def test_a_long_reason_is_shortened(study: Study) -> None:
    study.ask()
    study.end(study.begin(0, "search", "w"), Outcome.FAILED, reason="x" * 5_000_000)
    assert len(study.trial(0).reason or "") < 5000
