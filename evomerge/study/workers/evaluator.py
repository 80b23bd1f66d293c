"""From parameters to scores, in a worker: merge what the objectives need, then ask them."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from evomerge.interfaces import Objective
from evomerge.objectives.endpoint.objective import EndpointObjective, endpoint_of
from evomerge.objectives.endpoint.query import Desk
from evomerge.objectives.endpoint.store import Limits, Store
from evomerge.objectives.registry import make
from evomerge.recipe.campaign import Campaign
from evomerge.study.filesystem import is_network
from evomerge.study.workers.messages import Items, Job, Setup
from evomerge.study.workers.probes import Probes
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

    def __init__(
        self, measures: tuple[Measure, ...], subjects: Subjects, probes: Probes | None = None
    ) -> None:
        self._measures = measures
        self._subjects = subjects
        self._probes = probes

    @classmethod
    def load(cls, setup: Setup) -> Evaluator:
        """Read the campaign, load its objectives, and open the models that they need.

        Raises:
            EvomergeError: if the campaign, a model or an objective is not in order.
        """
        campaign = Campaign.parse(setup.text, setup.campaign)
        measures = measures_of(campaign)
        needs = frozenset(measure.objective.needs for measure in measures)
        subjects = Subjects(campaign, needs)
        return cls(measures, subjects, _probes(campaign, measures, subjects, setup.endpoints))

    def evaluate(self, job: Job) -> dict[Split, Evaluation]:
        """Measure one candidate on the items of its splits; the first carries the merge's time."""
        evaluations: dict[Split, Evaluation] = {}
        if self._probes is not None:
            if job.probe:
                self._probes.self_test(job)
                return evaluations
            self._probes.check_drift(job)
            self._probes.charge_to(job.attempt)
        started = time.monotonic()
        with self._subjects.of(job) as subject:
            for split, items in job.splits.items():
                scores: dict[str, Scores] = {}
                for measure in self._measures:
                    if measure.objective.needs == "model":
                        self._subjects.mend(job)
                    scores |= measure.scores(subject[measure.objective.needs], items)
                now = time.monotonic()
                evaluations[split] = Evaluation(scores, now - started)
                started = now
        return evaluations


def _probes(
    campaign: Campaign, measures: Iterable[Measure], subjects: Subjects, place: Path | None
) -> Probes | None:
    """The endpoints among the objectives, with the study's file and budget; None without any.

    A large model behind an API pays from the same desk.
    """
    endpoints = endpoints_of(measures)
    if not endpoints and subjects.client is None:
        return None
    store = None if place is None else open_store(place)
    return Probes(endpoints, subjects, Desk(store, limits_of(campaign)))


def limits_of(campaign: Campaign) -> Limits:
    """The campaign's budget for its endpoints."""
    budget = campaign.budget
    return Limits(budget.requests, budget.tokens, budget.money)


def endpoints_of(measures: Iterable[Measure]) -> dict[str, EndpointObjective]:
    """Objectives that ask a server, by the first of their metrics."""
    found = {measure.metrics[0]: endpoint_of(measure.objective) for measure in measures}
    return {metric: endpoint for metric, endpoint in found.items() if endpoint is not None}


def open_store(place: Path) -> Store:
    """The study's file of endpoints, in a mode that its file system bears."""
    return Store(place, shared_memory=not is_network(place.parent))


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
