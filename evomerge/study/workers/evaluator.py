"""From parameters to scores, in a worker: merge what the objectives need, then ask them."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from evomerge.interfaces import Objective
from evomerge.objectives.registry import make
from evomerge.recipe.campaign import Campaign
from evomerge.study.workers.messages import Items, Job, Setup
from evomerge.study.workers.subjects import Subjects
from evomerge.trial import Evaluation, InvalidScoresError, Scores, Split

_DECIDING = ("evomerge", "numpy", "torch")


@dataclass(frozen=True)
class Measure:
    """One objective and the goals that it serves: equal specifications are asked once."""

    objective: Objective
    metrics: tuple[str, ...]

    def scores(self, subject: object, items: Mapping[str, Items]) -> dict[str, Scores]:
        """Scores by metric.

        Raises:
            InvalidScoresError: on anything but the right number of finite numbers.
        """
        asked = items[self.metrics[0]]
        answer = self.objective.evaluate(subject, asked)
        count = None if asked is None else len(asked)
        return {
            metric: Scores.of(self._part(answer, metric), count, metric=metric)
            for metric in self.metrics
        }

    def _part(self, answer: Scores | Mapping[str, Scores], metric: str) -> object:
        if not isinstance(answer, Mapping):
            return answer
        if metric not in answer:
            raise InvalidScoresError(
                f"{metric} is not among the metrics that were returned: {sorted(answer)}"
            )
        return answer[metric]


class Evaluator:
    """Everything that a worker keeps from one job to the next."""

    def __init__(self, measures: tuple[Measure, ...], subjects: Subjects) -> None:
        self._measures = measures
        self._subjects = subjects

    @classmethod
    def load(cls, setup: Setup) -> Evaluator:
        """Read the campaign, load its objectives, and open the models that they need.

        Raises:
            EvomergeError: if the campaign, a model or an objective is not in order.
        """
        campaign = Campaign.parse(setup.text, setup.campaign)
        measures = measures_of(campaign)
        needs = frozenset(measure.objective.needs for measure in measures)
        return cls(measures, Subjects(campaign, needs))

    def evaluate(self, job: Job) -> dict[Split, Evaluation]:
        """Measure one candidate on the items of its splits; the first carries the merge's time."""
        evaluations: dict[Split, Evaluation] = {}
        started = time.monotonic()
        with self._subjects.of(job) as subject:
            for split, items in job.splits.items():
                scores: dict[str, Scores] = {}
                for measure in self._measures:
                    scores |= measure.scores(subject[measure.objective.needs], items)
                now = time.monotonic()
                evaluations[split] = Evaluation(scores, now - started)
                started = now
        return evaluations


def measures_of(campaign: Campaign) -> tuple[Measure, ...]:
    """The objectives, made; goals of equal type and options share one."""
    groups: dict[str, list[str]] = {}
    for goal in campaign.goals:
        spec = json.dumps(campaign.objectives[goal.metric].to_json(), sort_keys=True)
        groups.setdefault(spec, []).append(goal.metric)
    return tuple(
        Measure(_made(campaign, metrics[0]), tuple(metrics)) for metrics in groups.values()
    )


def _made(campaign: Campaign, metric: str) -> Objective:
    spec = campaign.objectives[metric]
    return make(spec.type, spec.options, folder=campaign.folder)


def versions() -> dict[str, str]:
    """Of what may change a measured value."""
    return {"python": platform.python_version()} | {name: version(name) for name in _DECIDING}
