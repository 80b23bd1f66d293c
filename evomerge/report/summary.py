"""What commands and pages say of a study: its status, its front, its failures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evomerge.goals import violation
from evomerge.study.control import compare, is_control
from evomerge.study.references import model_of
from evomerge.study.study import Study
from evomerge.trial import Measured, Split, Trial, TrialState

if TYPE_CHECKING:
    from evomerge.report.page import Content

LONGEST_REASON = 160
ALARMING = 0.05
"""Share of items whose answers are in doubt from which a user is told."""
_DOUBTS = {
    "truncated": "lost their beginning, for they are longer than the model's context",
    "invalid": "were answered by nothing, or by more than max_new_tokens",
}


def chosen_on(trials: Sequence[Trial]) -> Split:
    """The split that the final front is judged on: selection items once some were measured."""
    return "selection" if any("selection" in trial.results for trial in trials) else "search"


def status_of(study: Study) -> dict[str, Any]:
    """One record: trials by state, front, hypervolume, spend, estimated time left."""
    trials, spend = study.trials(), study.spend()
    states = Counter(trial.state for trial in trials)
    left = None if study.limit is None else max(0, study.limit - spend.trials)
    return {
        "study": str(study.folder),
        "trials": spend.trials,
        "budget": study.limit,
        **{state.value: states[state] for state in TrialState},
        **({} if study.charter.parents else {"parents": "unmeasured"}),
        **economy(study, trials),
        "front": len(study.front(chosen_on(trials))),
        "hypervolume": study.hypervolume(),
        "attempts": spend.attempts,
        "evaluation hours": spend.seconds / 3600,
        "hours": spend.wall_seconds / 3600,
        **({"requests": spend.requests, "tokens": spend.tokens} if spend.requests else {}),
        **({"money": spend.money} if spend.money else {}),
        "hours left": hours_left(states[TrialState.DONE], left, spend.wall_seconds),
    }


def economy(study: Study, trials: Sequence[Trial]) -> dict[str, Any]:
    """Of a campaign in which candidates race: what was stopped, and what that spared.

    ``items`` were spent on the ended trials of the search, of ``items of full evaluation`` that
    they would have cost without races; goals of one objective count once. ``false discards
    expected``: the sum of the chances at which trials were stopped.
    """
    charter = study.charter
    if charter.racing is None:
        return {}
    searched = [trial for trial in trials if not is_control(trial)]
    ended = [trial.results["search"] for trial in searched if "search" in trial.results]
    groups = [group[0] for group in charter.asked_together]
    full = sum(len(charter.items(metric, "search") or ()) for metric in groups)
    stopped = [trial.chance for trial in trials if trial.chance is not None]
    return {
        "stopped": len(stopped),
        "items": sum(results[metric].items for results in ended for metric in groups),
        "items of full evaluation": full * len(ended),
        "false discards expected": sum(stopped),
    }


def share_of_items(saved: Mapping[str, Any]) -> str:
    """What `economy` says of items, such as ``72 of 180 (40%)``."""
    spent, whole = saved["items"], saved["items of full evaluation"]
    return f"{spent} of {whole}" + (f" ({spent / whole:.0%})" if whole else "")


def hours_left(done: int, left: int | None, wall_seconds: float) -> float | None:
    """How long the trials that are left will take, at the pace so far; None if unknown."""
    if left is None or done == 0 or wall_seconds <= 0:
        return None
    return left * wall_seconds / done / 3600


def failures(study: Study) -> dict[str, int]:
    """Reasons of failed trials with their counts, most frequent first; numbers are blanked."""
    reasons = [_kind(trial.reason) for trial in study.trials(state=TrialState.FAILED)]
    return dict(Counter(reasons).most_common())


def doubts(study: Study) -> list[str]:
    """What puts values in doubt, one sentence for each metric and cause; numbers are shares."""
    worst: dict[tuple[str, str], float] = {}
    trials: dict[tuple[str, str], set[int | None]] = {}
    for event in study.events():
        if event.kind == "doubted":
            for metric, rates in event.data["rates"].items():
                for cause, rate in rates.items():
                    if rate >= ALARMING:
                        worst[metric, cause] = max(rate, worst.get((metric, cause), 0.0))
                        trials.setdefault((metric, cause), set()).add(event.trial)
    return [
        f"{metric}: up to {share:.0%} of the items {_DOUBTS.get(cause, f'are {cause}')}, "
        f"in {len(trials[metric, cause])} trials"
        for (metric, cause), share in worst.items()
    ]


def front_rows(study: Study) -> list[dict[str, Any]]:
    """The Pareto set, one record per trial: origin, values by metric and split, parameters."""
    chosen = study.front(chosen_on(study.trials()))
    return [trial_row(study, trial) for trial in chosen]


def trial_row(study: Study, trial: Trial) -> dict[str, Any]:
    """One trial as a record of plain numbers and words."""
    means = trial.values(chosen_on([trial]))
    return {
        "trial": trial.number,
        "origin": trial.candidate.origin,
        "method": trial.candidate.method,
        "feasible": means is not None and violation(study.goals, means) == 0,
        "values": {
            goal.metric: {
                split: _measured(by_metric[goal.metric])
                for split, by_metric in trial.results.items()
            }
            for goal in study.goals
        },
        "parameters": dict(trial.candidate.parameters),
    }


def content_of(study: Study) -> Content:
    """What the page shows of a study."""
    from evomerge.report.page import Content

    trials = study.trials()
    front = frozenset(trial.number for trial in study.front(chosen_on(trials)))
    searched = [trial for trial in trials if not is_control(trial)]
    measured = [
        trial
        for trial in searched
        if trial.values() is not None and (trial.chance is None or trial.number in front)
    ]
    volumes = {point.trial: point.hypervolume for point in study.history()}
    volume = study.hypervolume()
    facts = [("trials", f"{len(measured)} measured of {len(searched)}")]
    if volume is not None:
        facts.append(("hypervolume", f"{volume:.4g}"))
    saved = economy(study, trials)
    if saved:
        facts += [("stopped early", str(saved["stopped"])), ("items", share_of_items(saved))]
    compared = compare(study)
    if compared is not None:
        facts.append(("control", str(compared)))
    if not (study.charter.parents or any(model_of(t.candidate.origin) for t in measured)):
        facts.append(("models", "not measured by themselves"))
    facts.append(("seed", str(study.seed)))
    return Content(
        name=study.name,
        goals=study.goals,
        measured=measured,
        front=front,
        hypervolumes=[volumes.get(trial.number) for trial in measured],
        facts=facts,
    )


def _measured(value: Measured) -> dict[str, Any]:
    return {
        "mean": value.mean,
        "standard_error": value.standard_error,
        "items": value.items,
    }


def _kind(reason: str | None) -> str:
    """A reason without its numbers, so that the same mistake at other places counts as one."""
    return re.sub(r"\d+", "…", reason or "no reason was given")[:LONGEST_REASON]
