"""What every landscape of these experiments offers, and what they share.

A landscape is a base and some models, trained for real, that merge in well under a second. A
problem on it is a space (numbers per model, or per model and group of layers) and goals. Whatever
searches needs `Problem` alone; landscapes are made from `Merging`, which asks them for one thing,
the margins of a merge on the items of every task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from evomerge.interfaces import ItemLosses
from evomerge.recipe.specs import measures_parents
from evomerge.space import Array, Coordinate, Parameter, Space


class Problem(Protocol):
    """A merging problem with items to search on, and others that no search sees."""

    @property
    def space(self) -> Space:
        """Its points are merges."""
        ...

    @property
    def goals(self) -> int:
        """How many accuracies there are, >= 1."""
        ...

    def references(self) -> list[Array]:
        """Points of the base, each model and their uniform average, ``(d,)`` each."""
        ...

    def items(self, point: Array, *, unseen: bool = False) -> tuple[ItemLosses, ...]:
        """By goal: losses, -1 where an item went right and else 0, and margins if there are any.

        The items of a goal are the same in every call, in the same order.
        """
        ...

    def values(self, point: Array, *, unseen: bool = False) -> Array:
        """Accuracies by goal, ``(goals,)``: higher is better."""
        ...


class Merging(ABC):
    """A problem whose numbers are weights, and densities if wanted, per model and group.

    Args:
        models, groups: numbers are per model and group; groups follow each other in depth.
        goals: the tasks are dealt out to so many goals.
        densities: whether they are searched; else all entries are kept.
        margins: whether items have them; else there are 0/1 scores only.
    """

    def __init__(
        self, models: int, groups: int, goals: int, *, densities: bool = True, margins: bool = True
    ) -> None:
        self.models, self.groups, self.margins = models, groups, margins
        self._goals, self._densities = goals, densities
        self._space = Space(tuple(self._parameters()))

    @abstractmethod
    def task_margins(self, weights: Array, densities: Array, *, unseen: bool) -> Sequence[Array]:
        """By task ``(items,)``: above 0 where an item goes right, and the higher the safer.

        Args:
            weights, densities: ``(models, groups)``.
        """

    @property
    def space(self) -> Space:
        """``m0/0/weight``, ``m0/0/density``, ...; models first, then groups."""
        return self._space

    @property
    def goals(self) -> int:
        """See `Problem`."""
        return self._goals

    def references(self) -> list[Array]:
        """See `Problem`; densities are 1."""
        weights = [
            np.zeros(self.models),
            *np.eye(self.models),
            np.full(self.models, 1 / self.models),
        ]
        return [self._constant(w) for w in weights]

    def items(self, point: Array, *, unseen: bool = False) -> tuple[ItemLosses, ...]:
        """See `Problem`."""
        settings = np.array(list(self.space.values(point).values()))
        settings = settings.reshape(self.models, self.groups, -1)
        weights = settings[..., 0]
        densities = settings[..., 1] if self._densities else np.ones_like(weights)
        tasks = self.task_margins(weights, densities, unseen=unseen)
        by_goal = [np.concatenate(tasks[goal :: self.goals]) for goal in range(self.goals)]
        return tuple(
            ItemLosses(-(m > 0).astype(float), -m if self.margins else None) for m in by_goal
        )

    def values(self, point: Array, *, unseen: bool = False) -> Array:
        """See `Problem`."""
        return np.array([-one.losses.mean() for one in self.items(point, unseen=unseen)])

    def _parameters(self) -> Iterator[Parameter]:
        fields = [("weight", -0.5, 1.5, "linear"), ("density", 0.05, 1.0, "log")]
        for model in range(self.models):
            for group in range(self.groups):
                depth = (group + 0.5) / self.groups
                for field, low, high, scale in fields[: 1 + self._densities]:
                    place = Coordinate(f"m{model}", depth, None, field)
                    yield Parameter(f"m{model}/{group}/{field}", low, high, scale, place)

    def _constant(self, weights: Array) -> Array:
        values = {}
        for parameter in self.space.parameters:
            model, _, field = parameter.name.split("/")
            values[parameter.name] = float(weights[int(model[1:])]) if field == "weight" else 1.0
        return self.space.point(values)


def measured_first(problem: Problem, trials: int | None) -> list[Array]:
    """The references that a campaign of so many trials begins with: see `measures_parents`."""
    base, *models, average = problem.references()
    return [base, *(models if measures_parents(len(models), trials) else []), average]


class Remembered:
    """A problem whose merges are measured once on the search items, and then remembered."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._known: dict[bytes, tuple[ItemLosses, ...]] = {}
        self.space, self.goals = problem.space, problem.goals
        self.references = problem.references

    def items(self, point: Array, *, unseen: bool = False) -> tuple[ItemLosses, ...]:
        """See `Problem`."""
        if unseen:
            return self._problem.items(point, unseen=True)
        key = point.tobytes()
        if key not in self._known:
            self._known[key] = self._problem.items(point)
        return self._known[key]

    def values(self, point: Array, *, unseen: bool = False) -> Array:
        """See `Problem`."""
        return np.array([-one.losses.mean() for one in self.items(point, unseen=unseen)])


def ranks(tensor: np.ndarray) -> np.ndarray:
    """Each entry's place by magnitude in its tensor, 0 is the largest."""
    order = np.argsort(-np.abs(tensor), axis=None, kind="stable")
    found = np.empty(tensor.size, dtype=np.int32)
    found[order] = np.arange(tensor.size, dtype=np.int32)
    return found.reshape(tensor.shape)
