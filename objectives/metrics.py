"""Which metrics an objective measures in one pass, and which goal gets which.

::

    metrics: accuracy_norm                        one, for whichever goal asks
    metrics: [accuracy, log_likelihood]           goals of these names
    metrics: {sums: accuracy, fluency: log_likelihood}     goals of other names

Goals whose objectives agree option for option share one pass, so the same `metrics` stands at each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import UsageError
from evomerge.registry import unknown
from evomerge.trial import Scores


@dataclass(frozen=True)
class Metrics:
    """What is measured and what it is called.

    Attributes:
        by_goal: metric by the goal's name; None for one metric, given to whichever goal asks.
        wanted: all of them, each once.
    """

    by_goal: Mapping[str, str] | None
    wanted: tuple[str, ...]

    @classmethod
    def read(
        cls, given: Any, known: Sequence[str] | None, *, default: str | None = None
    ) -> Metrics:
        """The option ``metrics``.

        Args:
            known: what the objective can measure; None if that shows later.
            default: where nothing is given; None for the first of `known`.

        Raises:
            UsageError: if it is neither a name, a list nor a mapping of names, or one is unknown.
        """
        if given is None:
            given = default if known is None else default or known[0]
        if isinstance(given, str):
            found = cls(None, (given,))
        elif isinstance(given, list | tuple) and given and all(_is_name(name) for name in given):
            found = cls({name: name for name in given}, tuple(dict.fromkeys(given)))
        elif isinstance(given, Mapping) and given and all(map(_is_name, given.values())):
            goals = {str(goal): name for goal, name in given.items()}
            found = cls(goals, tuple(dict.fromkeys(goals.values())))
        else:
            raise UsageError(
                f"metrics is {given!r:.80}; a metric, a list of metrics, or a mapping of goals to "
                "metrics is wanted"
            )
        for name in found.wanted:
            if known is not None and name not in known:
                raise UsageError(unknown("metric", name, known))
        return found

    def answer(self, scores: Mapping[str, Scores]) -> Scores | dict[str, Scores]:
        """What `Objective.evaluate` returns: scores by goal, or those of the one metric.

        Args:
            scores: of every wanted metric.
        """
        if self.by_goal is None:
            return scores[self.wanted[0]]
        return {goal: scores[metric] for goal, metric in self.by_goal.items()}


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
