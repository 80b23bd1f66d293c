"""The sampler ``nested_map``: a tree of two-model quadratics, for many goals (nested MAP).

Li et al. (2024), arXiv:2406.07529: the two nodes whose metrics are nearest are joined. Mixtures
``a * left + b * right`` with a and b in [0, 1] are measured, a quadratic is fitted to each goal of
the pair, and the mixture that it predicts best for the preferences is measured and takes the place
of the two. So N models take N - 1 fits of six numbers, and end in one merge. A merge of merges of
task vectors is a merge, so every trial is a point of the space.

What the published code lacks: fits start warm, a design must fix all six numbers, and each goal has
the link that foretells left-out trials best; the choice stays inside what was sampled and weighs
goals by the range of what was measured; and once the tree is done, what is left of the budget
measures its last two nodes for other preferences. Metrics are compared as they are, so goals should
share a unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evomerge.errors import UsageError
from evomerge.interfaces import Asked, Log, Observation, Proposal, SearchProblem
from evomerge.randomness import generator
from evomerge.search.mixtures import Mixtures
from evomerge.search.options import known_options
from evomerge.search.preferences import ranges
from evomerge.search.quasirandom import folded, sobol_point
from evomerge.space import Array
from evomerge.surrogates.basis import full
from evomerge.surrogates.history import FitError, History, filled_variances
from evomerge.surrogates.quadratic import QuadraticSurrogate, fit_exactly

DESIGN = 20
"""Mixtures measured per node, as published, where the budget has them."""

_FEWEST = 8  # of them, however short the budget is
_GRID = 33  # mixtures along each side, when the best predicted one is looked for
_ZOOMS = 5
_MISSED = 10.0  # times what a limit is missed by, in the goal's range
_SAME = 1e-3
_STEP = 0.05


@dataclass(frozen=True)
class Node:
    """A merge that stands for some goals.

    Attributes:
        goals: their indices.
        weights: by model.
        metric: mean of its goals' losses, weighted by preference.
    """

    goals: tuple[int, ...]
    weights: Mapping[str, float]
    metric: float

    def told(self) -> list[Any]:
        """As JSON."""
        return [list(self.goals), dict(self.weights), self.metric]


def make(problem: SearchProblem, options: Mapping[str, Any]) -> NestedMap:
    """The sampler ``nested_map``.

    Args:
        options: ``tasks``, the model of each goal, in the goals' order (the models' order);
            ``preferences``, a positive number for each goal (all 1).

    Raises:
        UsageError: with one goal, where models and goals do not match, or where averages of the
            models are not in the space (see `Mixtures.point`).
    """
    name, goals = "nested_map", problem.goals
    known_options(name, options, ("tasks", "preferences"))
    mixtures = Mixtures(name, problem.space)
    tasks = options.get("tasks", list(mixtures.models))
    if goals < 2 or not isinstance(tasks, list) or len(tasks) != goals:
        raise UsageError(
            f"{name} needs two goals or more and one model for each; there are {goals} goals and "
            f"the models {tasks!r}: say 'tasks: [...]' in the goals' order"
        )
    if sorted(map(str, tasks)) != sorted(mixtures.models):
        raise UsageError(f"tasks of {name} are {tasks}; the models are {list(mixtures.models)}")
    preferences = options.get("preferences", [1.0] * goals)
    if not isinstance(preferences, list) or len(preferences) != goals:
        raise UsageError(f"preferences of {name} are {preferences!r}; one number for each goal")
    for value in preferences:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
            raise UsageError(f"preferences of {name} hold {value!r}; each is a number above 0")
    for model in tasks:
        mixtures.point({model: 1.0})
    return NestedMap(problem, mixtures, tuple(tasks), np.array(preferences, dtype=float))


@dataclass
class _Read:
    """A log, as this sampler reads it.

    Attributes:
        references: losses of points that others asked for, by the points' bytes.
        others: how many of these were asked.
        notes: of its own asks, in order, with their numbers.
        ended: those of them with losses, by number.
    """

    references: dict[bytes, Array] = field(default_factory=dict)
    others: int = 0
    notes: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)
    ended: dict[int, Observation] = field(default_factory=dict)

    @classmethod
    def of(cls, log: Log) -> _Read:
        """Reads a log."""
        read, own = cls(), set[int]()
        for event in log.events():
            if isinstance(event, Asked):
                if event.own:
                    own.add(event.number)
                    read.notes.append((event.number, event.note))
                else:
                    read.others += 1
            elif event.losses is not None and np.isfinite(event.losses).all():
                if event.number in own:
                    read.ended[event.number] = event
                else:
                    read.references[event.point.tobytes()] = event.losses
        return read

    def node(self) -> list[tuple[int, Mapping[str, Any]]]:
        """The asks of the node that was opened last, in order."""
        opened = [i for i, (_, note) in enumerate(self.notes) if "open" in note]
        return self.notes[opened[-1] :] if opened else []


@dataclass(frozen=True)
class NestedMap:
    """See the module's docstring. Implements `evomerge.interfaces.Sampler`.

    Notes hold each trial's mixture (``mix``), the forest with the first trial of a node
    (``open``), and with the mixture that was chosen for it its predicted metric (``metric``) and
    its goals' ``links``.
    """

    problem: SearchProblem
    mixtures: Mixtures
    tasks: tuple[str, ...]
    preferences: Array
    name: str = "nested_map"

    def ask(self, log: Log, number: int) -> Proposal:
        """The proposal for trial `number`; see `evomerge.interfaces.Sampler`."""
        read = _Read.of(log)
        node = read.node()
        if not node:
            return self._opened(self._leaves(read), read)
        opening = node[0][1]["open"]
        forest = [Node(tuple(g), w, m) for g, w, m in opening["forest"]]
        pair = [forest[i] for i in opening["pair"]]
        chosen = [(n, note) for n, note in node if "metric" in note]
        if chosen and len(forest) > 2:
            rest = [one for i, one in enumerate(forest) if i not in opening["pair"]]
            return self._opened([*rest, self._joined(pair, *chosen[0], read)], read)
        if len(node) < opening["size"]:
            return self._designed(pair, len(forest), len(node))
        try:
            surrogate = self._fitted(node, read)
        except FitError:
            return self._designed(pair, len(forest), len(node))
        goals = [goal for one in pair for goal in one.goals]
        rng = generator(self.problem.seed, self.name, number)
        weights = rng.dirichlet(np.ones(len(goals))) if chosen else self.preferences[goals]
        mix = self._best(surrogate, goals, weights, read)
        if not chosen:
            losses = surrogate.predict(mix[None]).mean[0]
            links = [surrogate.surfaces[goal].response.shape for goal in goals]
            note = {"metric": self._metric(goals, losses), "links": links}
            return self._proposal(pair, mix, note)
        known = np.array([note["mix"] for _, note in node])
        if np.abs(known - mix).max(axis=1).min() <= _SAME:
            mix = folded(mix + _STEP * rng.normal(size=2))
        return self._proposal(pair, mix, {})

    def _leaves(self, read: _Read) -> list[Node]:
        """The models; one that was not measured has the metric 0."""
        leaves = []
        for goal, model in enumerate(self.tasks):
            losses = read.references.get(self.mixtures.point({model: 1.0}).tobytes())
            metric = 0.0 if losses is None else float(losses[goal])
            leaves.append(Node((goal,), {model: 1.0}, metric))
        return leaves

    def _opened(self, forest: list[Node], read: _Read) -> Proposal:
        """The first trial of the node over the two whose metrics are nearest."""
        pairs = [(i, j) for j in range(len(forest)) for i in range(j)]
        i, j = min(pairs, key=lambda pair: abs(forest[pair[0]].metric - forest[pair[1]].metric))
        told = {"forest": [one.told() for one in forest], "pair": [i, j], "size": self._size(read)}
        first = self._designed([forest[i], forest[j]], len(forest), 0)
        return Proposal(first.point, {**first.note, "open": told})

    def _size(self, read: _Read) -> int:
        """Trials of a node's design: all nodes' are alike, and each node takes one more."""
        before = next((note["open"]["size"] for _, note in read.notes if "open" in note), None)
        if before is not None:
            return int(before)
        if self.problem.trials is None:
            return DESIGN
        share = (self.problem.trials - read.others) // (self.problem.goals - 1) - 1
        return min(DESIGN, max(_FEWEST, share))

    def _designed(self, pair: Sequence[Node], nodes: int, index: int) -> Proposal:
        spot = sobol_point(self.problem.seed, 2, index, stream=f"{self.name} {nodes}")
        return self._proposal(pair, spot, {})

    def _proposal(self, pair: Sequence[Node], mix: Array, note: Mapping[str, Any]) -> Proposal:
        point = self.mixtures.point(_mixed(pair, mix.tolist()))
        return Proposal(point, {"mix": mix.tolist(), **note})

    def _fitted(
        self, node: Sequence[tuple[int, Mapping[str, Any]]], read: _Read
    ) -> QuadraticSurrogate:
        """The quadratics of all goals in a node's two numbers.

        Raises:
            FitError: if its trials do not fix them.
        """
        rows = [(note["mix"], read.ended[n]) for n, note in node if n in read.ended]
        unknown = np.full(self.problem.goals, np.nan)
        errors = [unknown if e.standard_errors is None else e.standard_errors for _, e in rows]
        if not rows:
            raise FitError("no trial has ended yet")
        history = History(
            points=np.array([mix for mix, _ in rows]),
            losses=np.array([event.losses for _, event in rows], dtype=float),
            variances=np.array(errors) ** 2,
            items=(None,) * self.problem.goals,
        )
        noise = filled_variances(history)
        return fit_exactly(full(np.full(2, 0.5)), history.points, history.losses, noise)

    def _best(
        self, surrogate: QuadraticSurrogate, goals: Sequence[int], weights: Array, read: _Read
    ) -> Array:
        """The mixture in the unit square with the least weighted loss, ``(2,)``."""
        measured = [*read.references.values(), *(e.losses for e in read.ended.values())]
        best, worst = ranges(np.array(measured, dtype=float), range(len(read.references)))
        spans = (worst - best)[goals]
        limits = np.array(self.problem.limits or [np.inf] * self.problem.goals)[goals]
        centre, half = np.full(2, 0.5), 0.5
        for _ in range(_ZOOMS):
            steps = np.linspace(-half, half, _GRID)
            grid = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
            points = np.clip(centre + grid, 0.0, 1.0)
            losses = surrogate.predict(points).mean[:, goals]
            missed = np.maximum(losses - limits, 0.0) / spans
            values = (losses / spans) @ (weights / weights.sum()) + _MISSED * missed.sum(axis=1)
            centre, half = points[int(np.argmin(values))], 4 * half / _GRID
        return np.asarray(centre)

    def _joined(
        self, pair: Sequence[Node], number: int, note: Mapping[str, Any], read: _Read
    ) -> Node:
        """The node in the place of two: with its measured metric, or the predicted one."""
        goals = [goal for one in pair for goal in one.goals]
        event = read.ended.get(number)
        losses = None if event is None else event.losses
        metric = float(note["metric"]) if losses is None else self._metric(goals, losses)
        return Node(tuple(goals), _mixed(pair, note["mix"]), metric)

    def _metric(self, goals: Sequence[int], losses: Array) -> float:
        shares = self.preferences[list(goals)]
        return float(np.asarray(losses)[list(goals)] @ shares / shares.sum())


def _mixed(pair: Sequence[Node], mix: Sequence[float]) -> dict[str, float]:
    """Weights by model of two nodes' mixture."""
    return {
        model: share * weight
        for one, share in zip(pair, mix, strict=True)
        for model, weight in one.weights.items()
    }
