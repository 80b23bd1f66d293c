"""A campaign in memory: references first, then a sampler's points, with ends that come late."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from evomerge.goals import Goal, reference_point
from evomerge.interfaces import Asked, ItemLosses, Observation, Sampler
from evomerge.pareto import hypervolume, non_dominated
from evomerge.space import Array


class MemoryLog:
    """A log that lives in a list."""

    def __init__(self) -> None:
        self.entries: list[Asked | Observation] = []

    def __len__(self) -> int:
        return len(self.entries)

    def events(self, start: int = 0) -> Iterator[Asked | Observation]:
        yield from self.entries[start:]


def run(
    sampler: Sampler,
    values: Callable[[Array], Array],
    references: list[Array],
    trials: int,
    *,
    lookahead: int = 4,
    items: Callable[[Array], tuple[ItemLosses, ...]] | None = None,
) -> tuple[Array, Array]:
    """Points ``(trials, d)`` and values ``(trials, m)``, the references' among them.

    Args:
        values: of a point, ``(m,)``, higher is better.
        lookahead: an ask sees the ends of all trials but this many before it.
        items: of a point, for samplers that look at them.
    """
    log, points, measured = MemoryLog(), [], []
    for number in range(trials):
        ended = number - 1 - lookahead
        if ended >= 0:
            log.entries.append(observed(ended, points[ended], measured[ended], items))
        own = number >= len(references)
        if own:
            proposal = sampler.ask(log, number)
            point, note = proposal.point, proposal.note
        else:
            point, note = references[number], {}
        log.entries.append(Asked(number, point, own, note))
        points.append(point)
        measured.append(values(point))
    return np.array(points), np.array(measured)


def observed(
    number: int,
    point: Array,
    values: Array,
    items: Callable[[Array], tuple[ItemLosses, ...]] | None = None,
) -> Observation:
    """An ended trial, with items where there are any."""
    if items is None:
        return Observation(number, point, -values, 0.0)
    found = items(point)
    errors = np.array([one.losses.std(ddof=1) / np.sqrt(len(one.losses)) for one in found])
    return Observation(number, point, -values, 0.0, errors, lambda: found)


def volume(values: Array, parents: Array, front_of: Array | None = None) -> float:
    """Hypervolume of values ``(n, m)``, up to the reference point that a study would take.

    Args:
        parents: ``(k, m)``, values of the base and the parents.
        front_of: ``(n, m)``, where given: values that choose which rows count, so that unseen
            items do not choose their own front.
    """
    goals = [Goal(str(i)) for i in range(values.shape[1])]
    reference = reference_point(goals, -parents)
    chosen = non_dominated(-(values if front_of is None else front_of))
    return hypervolume(-values[chosen], reference)
