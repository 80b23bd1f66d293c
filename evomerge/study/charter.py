"""The charter: what was fixed when a study was created, and never changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evomerge.goals import Goal, loss_limits, reference_point
from evomerge.interfaces import SearchProblem
from evomerge.recipe.specs import ItemSplits, Racing
from evomerge.space import Array, Space
from evomerge.study.items import partition
from evomerge.trial import SPLITS, InvalidScoresError, Scores, Split


@dataclass(frozen=True)
class Charter:
    """See the module's docstring.

    Attributes:
        name: the study's, for humans: its folder's name without the suffix.
        created: seconds since 1970, UTC.
        version: of evomerge.
        identity: what decides results, as `Campaign.identity` said it.
        lookahead: how many trials may run ahead of the ask that sees their ends.
        trials: the budget at creation, which samplers plan with; None if only time is limited.
        counts: how many items each metric's objective has; None without items.
        splits: how each objective's items are split.
        references: how many of the first trials are the base, the parents and the like.
        anchors: the trials that set the reference point, by their numbers without asides.
        carried: how many further trials a fork brought along, right after the references.
        forked_from: the folder of the study that this one is a fork of.
        racing: how candidates race; None measures each on all search items.
        parents: whether each model is measured by itself, among the references.
    """

    name: str
    created: float
    version: str
    identity: Mapping[str, Any]
    goals: tuple[Goal, ...]
    seed: int
    lookahead: int
    trials: int | None
    counts: Mapping[str, int | None]
    splits: ItemSplits
    references: int
    anchors: tuple[int, ...]
    carried: int = 0
    forked_from: str | None = None
    racing: Racing | None = None
    parents: bool = True

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Charter:
        """The inverse of `to_json`; keys of later versions are passed over."""
        body = json.loads(text)
        known = {name: body[name] for name in cls.__dataclass_fields__ if name in body}
        known["goals"] = tuple(Goal(**goal) for goal in body["goals"])
        known["splits"] = ItemSplits(**body["splits"])
        known["anchors"] = tuple(body["anchors"])
        known["racing"] = Racing(**body["racing"]) if body.get("racing") else None
        return cls(**known)

    @cached_property
    def _partitions(self) -> dict[str, dict[Split, tuple[int, ...]] | None]:
        return {
            metric: None if count is None else partition(count, self.splits)
            for metric, count in self.counts.items()
        }

    def items(self, metric: str, split: Split) -> tuple[int, ...] | None:
        """Indices of the items of a split; None for an objective without items."""
        parts = self._partitions[metric]
        return None if parts is None else parts[split]

    @cached_property
    def asked_together(self) -> tuple[tuple[str, ...], ...]:
        """Metrics by objective: those of one are measured by the same answers."""
        groups: dict[str, list[str]] = {}
        for metric, *_, objective in self.identity["goals"]:
            key = json.dumps([objective, self.counts[metric]], sort_keys=True)
            groups.setdefault(key, []).append(metric)
        return tuple(map(tuple, groups.values()))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The goals' metrics, in their order."""
        return tuple(goal.metric for goal in self.goals)

    @property
    def planned(self) -> int | None:
        """How many trials samplers plan with, those that a fork brought along among them."""
        return None if self.trials is None else self.trials + self.carried

    def problem(self, space: Space) -> SearchProblem:
        """What a sampler is made for."""
        return SearchProblem(
            space=space,
            goals=len(self.goals),
            trials=self.planned,
            seed=self.seed,
            limits=loss_limits(self.goals),
        )

    def given_reference(self) -> Array | None:
        """The reference point, where the goals give all of it; nothing needs to be measured."""
        if any(goal.reference is None for goal in self.goals):
            return None
        return reference_point(self.goals, np.zeros((1, len(self.goals))))

    def checked(
        self,
        scores: Mapping[str, object],
        split: Split,
        *,
        means: bool = False,
        counts: Mapping[str, int] | None = None,
    ) -> dict[str, Scores]:
        """A checked copy of scores by metric.

        Args:
            means: also take a single number for an objective with items: the mean that somebody
                else worked out.
            counts: how many items by metric, where not all of the split were asked.

        Raises:
            InvalidScoresError: unless there is one right answer for every goal and no other.
        """
        if split not in SPLITS:
            raise InvalidScoresError(f"no split {split!r}; known: {', '.join(SPLITS)}")
        if set(scores) != set(self.metrics):
            raise InvalidScoresError(
                f"scores of {sorted(map(str, scores))} were told; "
                f"the goals are {sorted(self.metrics)}"
            )
        found = {}
        for metric in self.metrics:
            answer = scores[metric]
            count = counts[metric] if counts else self._count(metric, split, answer, means)
            found[metric] = Scores.of(answer, count, metric=metric)
        return found

    def _count(self, metric: str, split: Split, answer: object, means: bool) -> int | None:
        items = self.items(metric, split)
        if items is None or (means and _is_mean(answer)):
            return None
        return len(items)


def _is_mean(answer: object) -> bool:
    """Whether a told answer is one number: bare, or a `Scores` of a mean that was told so."""
    if isinstance(answer, Scores):
        return answer.margins is None and len(answer.items) == 1
    return np.ndim(answer) == 0 if not isinstance(answer, Mapping) else False  # type: ignore[arg-type]
