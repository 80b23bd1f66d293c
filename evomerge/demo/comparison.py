"""The demo's closing table: the Pareto set against what one gets without a search.

Everything in it is a mean over the test items, which chose nothing. Each rival is set against one
merge of the front, chosen by the *selection* items: of those that they do not show to be worse
anywhere, the one with the largest lead in all. Which of the two is better is then asked of the
test items, item by item, so that a merge that was lucky when it was chosen gains nothing by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evomerge.goals import Goal
from evomerge.recipe.numbers import ALL_TENSORS
from evomerge.study.references import is_reference
from evomerge.study.study import Study
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.messages import Job, Setup
from evomerge.trial import Scores, Split, Trial

Verdict = Literal["better", "level", "worse"]

CERTAIN = 2.0
"""Standard errors that a difference needs to be called one."""

TOLERATED = 1.0
"""Standard errors by which a merge may be behind on the selection items and still be chosen."""

HELD_OUT: tuple[Split, ...] = ("selection", "test")

SIGNS: Mapping[Verdict, str] = {"better": "+", "level": "=", "worse": "-"}

MEAN = "mean"
"""What the mean over the goals is called; the demo's goals are all accuracies."""

NAMES = {"uniform": "uniform average"}

ScoresBySplit = Mapping[Split, Mapping[str, Scores]]


@dataclass(frozen=True)
class Entrant:
    """A merge or a model with its scores on the held-out items.

    Attributes:
        trial: its number in the study; None if the study does not know it.
    """

    name: str
    trial: int | None
    scores: ScoresBySplit


@dataclass(frozen=True)
class Duel:
    """A rival and the merge of the front that it is set against.

    Attributes:
        verdicts: of the front's merge, by metric and for their `MEAN`, on the test items.
    """

    rival: Entrant
    champion: Entrant
    verdicts: Mapping[str, Verdict]

    @property
    def outcome(self) -> str:
        """What the champion does to the rival, in words."""
        better, worse = ("better" in self.verdicts.values(), "worse" in self.verdicts.values())
        if better and worse:
            return "trades with"
        return "beats" if better else "loses to" if worse else "is level with"


@dataclass(frozen=True)
class Comparison:
    """All that the table shows.

    Attributes:
        front: merges of the final front that the search found, by trial number.
        rivals: models and merges that need no search.
        duels: one per rival; empty if the search found nothing.
    """

    goals: tuple[Goal, ...]
    front: tuple[Entrant, ...]
    rivals: tuple[Entrant, ...]
    duels: tuple[Duel, ...]


@dataclass(frozen=True)
class Published:
    """A merge method at the defaults of its paper, the same for every tensor."""

    name: str
    method: str
    scaling: float
    density: float | None

    def parameters(self, models: Sequence[str]) -> dict[str, float]:
        """By the names that plans understand."""
        parameters = {f"{ALL_TENSORS}/scaling": self.scaling}
        for model in models:
            parameters[f"{model}/{ALL_TENSORS}/weight"] = 1.0
            if self.density is not None:
                parameters[f"{model}/{ALL_TENSORS}/density"] = self.density
        return parameters


PUBLISHED: tuple[Published, ...] = (
    # Ilharco et al. 2023 tune it; 0.4 is what Yadav et al. 2023 use where nothing may be tuned.
    Published("task arithmetic, scaling 0.4", "task_arithmetic", 0.4, None),
    Published("TIES, density 0.2, scaling 1", "ties", 1.0, 0.2),  # Yadav et al. 2023
)


def compare(study: Study) -> Comparison:
    """Measure what the study has not, and set the front against it.

    Args:
        study: whose front is confirmed on the selection and test items.
    """
    references = [_known(study, t) for t in study.trials() if is_reference(t) and _confirmed(t)]
    found = [t for t in study.front("selection") if not is_reference(t) and _confirmed(t)]
    front = tuple(_known(study, trial) for trial in found)
    rivals = (*references, *_measured(study))
    duels = tuple(duel(rival, front, study.goals) for rival in rivals) if front else ()
    return Comparison(study.goals, front, rivals, duels)


def duel(rival: Entrant, front: Sequence[Entrant], goals: Sequence[Goal]) -> Duel:
    """A rival against the merge that the selection items choose; the test items judge.

    Args:
        front: one merge or more; where all are worse than the rival somewhere, the one that is
            so by the fewest standard errors is chosen.
    """

    def promise(merge: Entrant) -> tuple[float, float]:
        leads = [_lead(merge, rival, goal, "selection") for goal in goals]
        behind = min(0.0, *(lead / error + TOLERATED for lead, error in leads if error > 0), 0.0)
        return behind, sum(lead for lead, _ in leads)

    champion = max(front, key=promise)
    leads = [_lead(champion, rival, goal, "test") for goal in goals]
    verdicts = {goal.metric: _verdict(*lead) for goal, lead in zip(goals, leads, strict=True)}
    return Duel(rival, champion, {**verdicts, MEAN: _verdict(*_mean(leads))})


def table(comparison: Comparison) -> list[dict[str, str]]:
    """Rows for people: the front, then each rival with how the front's merge does against it.

    Every row has the same keys; a rival's last cell says where its champion is better (+), level
    (=) or worse (-), goal by goal and on the mean.
    """
    duels = {duel.rival.name: duel for duel in comparison.duels}
    rows = [_row(merge, comparison.goals, "", "") for merge in comparison.front]
    for rival in comparison.rivals:
        met = duels.get(rival.name)
        champion = met.champion.name if met else ""
        signs = " ".join(SIGNS[verdict] for verdict in met.verdicts.values()) if met else ""
        rows.append(_row(rival, comparison.goals, champion, signs))
    return rows


def summary(comparison: Comparison) -> list[str]:
    """Sentences: which rivals the front beats, and where it does not."""
    if not comparison.front:
        return ["the search found no merge that a model or their average does not dominate"]
    lines = []
    for met in comparison.duels:
        by = {v: [m for m, one in met.verdicts.items() if one == v] for v in SIGNS}
        parts = [f"{verdict} on {', '.join(metrics)}" for verdict, metrics in by.items() if metrics]
        lines.append(f"{met.champion.name} {met.outcome} {met.rival.name}: {'; '.join(parts)}")
    return lines


def _row(entrant: Entrant, goals: Sequence[Goal], champion: str, signs: str) -> dict[str, str]:
    scores = [entrant.scores["test"][goal.metric] for goal in goals]
    measured = [(one.mean, one.standard_error or 0.0) for one in scores]
    columns = zip([*(g.metric for g in goals), MEAN], [*measured, _mean(measured)], strict=True)
    cells = {name: f"{mean:.3f} ± {error:.3f}" for name, (mean, error) in columns}
    return {"on the test items": entrant.name, **cells, "set against": champion, "it is": signs}


def _mean(measured: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The mean of numbers with independent standard errors, and its own."""
    means, errors = zip(*measured, strict=True)
    return sum(means) / len(means), math.hypot(*errors) / len(errors)


def _confirmed(trial: Trial) -> bool:
    return all(split in trial.results for split in HELD_OUT)


def _known(study: Study, trial: Trial) -> Entrant:
    """A trial with the scores that the study holds."""
    scores: ScoresBySplit = {
        split: {g.metric: study.scores(trial.number, split, g.metric) for g in study.goals}
        for split in HELD_OUT
    }
    origin = trial.candidate.origin
    name = NAMES.get(origin, origin) if is_reference(trial) else f"trial {trial.number}"
    return Entrant(name, trial.number, scores)


def _measured(study: Study) -> Iterator[Entrant]:
    """The published methods, measured as a worker measures a trial."""
    campaign = study.campaign
    evaluator = Evaluator.load(Setup(campaign.path, campaign.source_text))
    items = {s: {g.metric: study.items(g.metric, s) for g in study.goals} for s in HELD_OUT}
    for number, published in enumerate(PUBLISHED):
        parameters = published.parameters(tuple(campaign.recipe.models))
        job = Job(
            attempt=number,
            token="comparison",
            trial=number,
            folder=study.folder,
            scratch=study.folder,
            method=published.method,
            parameters=parameters,
            splits=items,
        )
        measured = evaluator.evaluate(job)
        yield Entrant(published.name, None, {s: measured[s].scores for s in HELD_OUT})


def _lead(one: Entrant, other: Entrant, goal: Goal, split: Split) -> tuple[float, float]:
    """How much better one is than the other, and the standard error of that, item by item."""
    pairs = zip(
        one.scores[split][goal.metric].items, other.scores[split][goal.metric].items, strict=True
    )
    differences = Scores([-goal.sign * (a - b) for a, b in pairs])
    error = differences.standard_error
    return differences.mean, math.inf if error is None else error


def _verdict(lead: float, error: float) -> Verdict:
    if abs(lead) <= CERTAIN * error:
        return "level"
    return "better" if lead > 0 else "worse"
