"""What the surrogate of a study's trials foretells, and what it would have for other preferences.

The surrogate is the one of the sampler `margin`, whichever sampler asked, and learns from every
told trial of the search; asides are not among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.errors import UsageError
from evomerge.goals import losses
from evomerge.interfaces import Asked, Prediction
from evomerge.randomness import generator
from evomerge.space import Array
from evomerge.study.asides import PREFER
from evomerge.trial import Candidate, Trial, TrialState

if TYPE_CHECKING:
    from evomerge.search.knowledge import Knowledge
    from evomerge.study.study import Study
    from evomerge.surrogates.blend import Blend

FEWEST = 8
"""Trials that have ended, below which nothing is foretold."""

POOR = 0.1
"""Share of the variance that must be explained, on trials left out, of every goal that counts."""


@dataclass(frozen=True)
class Foresight:
    """A surrogate of everything that a study was told; made by `foresee`."""

    study: Study
    knowledge: Knowledge
    surrogate: Blend

    @property
    def explained(self) -> dict[str, float]:
        """By metric, the share of the variance explained on trials left out; 1 is perfect."""
        fits = zip(self.study.goals, self.surrogate.fits, strict=True)
        return {goal.metric: fit.explained for goal, fit in fits}

    def predicted(self, candidate: Candidate) -> dict[str, dict[str, float]] | None:
        """Mean and std by metric, in the goals' units; None outside the space.

        Of what was not measured they are set right by how the search's forecasts came out.
        """
        point = self.study.recipe.point_of(candidate.parameters, method=candidate.method)
        if point is None:
            return None
        prediction = self.surrogate.predict(point[None])
        if not np.isclose(self.knowledge.history().points, point).all(axis=1).any():
            prediction = self.knowledge.track_record.stated(prediction)
        rows = zip(self.study.goals, prediction.mean[0], prediction.std[0], strict=True)
        return {g.metric: {"mean": float(g.sign * m), "std": float(s)} for g, m, s in rows}

    def losses(self, trials: Sequence[Trial]) -> Array:
        """Of trials with points, ``(n, m)``, without the noise of their measurements."""
        points = [trial.candidate.point for trial in trials if trial.candidate.point is not None]
        return self.surrogate.predict(np.array(points)).mean

    def prefer(self, weights: Mapping[str, float]) -> Trial:
        """The trial with the merge that the surrogate thinks best; added, if there is none yet.

        The same weights give the same merge as long as the search goes no further.

        Args:
            weights: by metric; goals that are not named count nothing, but for their limits.

        Raises:
            UsageError: on weights that make no sense, or if a goal that counts is not understood.
        """
        origin = origin_of(self.study, weights)
        poor = {
            metric: share
            for metric, share in self.explained.items()
            if weights.get(metric) and not share >= POOR
        }
        if poor:
            words = ", ".join(f"{max(share, 0.0):.0%} of {name}" for name, share in poor.items())
            raise UsageError(
                f"the surrogate explains {words} on trials left out; {POOR:.0%} is wanted",
                kept="nothing was written",
                command=_more(self.study),
            )
        from evomerge.search.utility import best_point

        study = self.study
        rng = generator(study.seed, "prefer", origin)
        best = best_point(self.knowledge, self.surrogate, self._by_goal(weights), rng)
        point = np.clip(best, 0.0, 1.0)
        parameters, method = study.recipe.space.values(point), study.recipe.recipe.method
        for trial in study.trials():
            same = dict(trial.candidate.parameters) == parameters
            if same and trial.candidate.method == method and trial.state is not TrialState.FAILED:
                return trial
        return study.trial(study.add_aside(origin, parameters).number)

    def measured_better(self, trial: Trial, weights: Mapping[str, float]) -> Trial | None:
        """The whole trial whose measured scores have the best sum for weights; None if `trial`'s.

        Args:
            trial: measured, as all trials that it is compared with.
            weights: as `prefer` has them.
        """
        from evomerge.search.utility import utility_of

        done = [t for t in self.study.trials() if t.state is TrialState.DONE and t.chance is None]
        found = {t.number: value for t in done if (value := t.values()) is not None}
        if trial.number not in found:
            return None
        table = losses(self.study.goals, list(found.values()))
        measured = Prediction(table, np.zeros_like(table), np.zeros_like(table))
        sums = utility_of(self.knowledge, self._by_goal(weights)).value(measured)
        own, best = sums[list(found).index(trial.number)], int(sums.argmin())
        return None if own <= sums[best] else self.study.trial(list(found)[best])

    def _by_goal(self, weights: Mapping[str, float]) -> Array:
        return np.array([weights.get(goal.metric, 0.0) for goal in self.study.goals])


def is_foreseen(study: Study) -> bool:
    """Whether a surrogate proposed any trial of the search."""
    from evomerge.search.reading import forecast_in

    events = study.told().events()
    return any(isinstance(e, Asked) and e.own and forecast_in(e.note) is not None for e in events)


def foresee(study: Study) -> Foresight:
    """Fits the surrogate.

    Raises:
        UsageError: if there is nothing to fit, or too few trials have ended.
    """
    from evomerge.search.knowledge import Knowledge
    from evomerge.surrogates.history import FitError

    space = study.recipe.space
    if not len(space):
        raise UsageError("nothing to foretell: every parameter is fixed or tied")
    knowledge = Knowledge(study.charter.problem(space))
    knowledge.follow(study.told())
    try:
        if knowledge.ended < FEWEST:
            raise FitError(f"{knowledge.ended} trials have ended; a forecast needs {FEWEST}")
        return Foresight(study, knowledge, knowledge.fitted())
    except FitError as error:
        raise UsageError(error.cause, kept="nothing was written", command=_more(study)) from error


def origin_of(study: Study, weights: Mapping[str, float]) -> str:
    """``prefer math=2,code=1``, in the order of the goals.

    Raises:
        UsageError: on an unknown metric, or weights that are not >= 0 with one above.
    """
    metrics = [goal.metric for goal in study.goals]
    for metric, weight in weights.items():
        if metric not in metrics:
            raise UsageError(
                f"no goal has the metric {metric!r}; known: {', '.join(metrics)}",
                kept="nothing was written",
            )
        if not 0 <= weight < math.inf:
            raise UsageError(f"the weight of {metric} is {weight}; a number >= 0 is wanted")
    if not any(weights.values()):
        raise UsageError("no goal has a weight above 0", kept="nothing was written")
    words = [f"{metric}={weights[metric]:.15g}" for metric in metrics if weights.get(metric)]
    return PREFER + ",".join(words)


def with_predictions(foresight: Foresight, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `evomerge.report.summary.trial_row` with what is foretold under ``predicted``."""
    trials = [foresight.study.trial(row["trial"]) for row in rows]
    return [
        {**row, "predicted": foresight.predicted(trial.candidate)}
        for row, trial in zip(rows, trials, strict=True)
    ]


def _more(study: Study) -> str:
    return f"evomerge run {study.campaign.path} --trials {2 * (study.spend().trials or FEWEST)}"
