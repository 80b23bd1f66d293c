"""Racing: a new candidate is measured on few items, and on more only while it can matter.

The items come in stages, the same for every candidate. After each stage the candidate's loss over
all items is estimated from the items that it has in common with the trials measured on all of
them (`evomerge.surrogates.likeness`), which pairs every item with what earlier trials did on it;
where items have margins, these say more than the scores. The estimates' errors are those found
when the same is done to earlier trials, left out in turn. A candidate that enters the front with
less than the stated chance is stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from evomerge.interfaces import ItemLosses
from evomerge.pareto import non_dominated
from evomerge.space import Array
from evomerge.surrogates.likeness import Likeness, Places, learn_likeness

FEWEST = 6
"""Trials measured on all items, below which none is stopped."""

MOST = 160
"""That items are learnt from; of more, the latest."""

STREAK = 8
"""Trials stopped in a row, after which one is measured on all items."""

_LEAST = 4  # items of the first stage
_NEARLY_ALL = 0.75  # of the items; after so many the rest is measured, too
_FLOOR = 0.25  # of the mean disagreement, which every item has at least
_BLUR = 0.5  # of the margins' std; what a margin says of a score is smoothed by it
_FOLDS = 8
_DOUBT, _DOUBTED = 1.3, 8.0  # the errors' prior factor, and how many trials it counts as
_PAIRED = 4.0  # items that the variance of a difference is drawn to the trials' by
_DRAWS = 2000


def stage_sizes(first: float, counts: Sequence[int]) -> list[tuple[int, ...]]:
    """How many of each objective's items are measured after each stage; the last is all.

    Args:
        first: share of the first stage, in (0, 1); each later one doubles what is measured, and
            stages in which the smallest objective would have too few items are left out.
        counts: of the objectives' search items, >= 1.
    """
    share = first
    while share * min(counts) < _LEAST:
        share *= 2
    shares = []
    while share < _NEARLY_ALL:
        shares.append(share)
        share *= 2
    return [(*(round(share * count) for share in shares), count) for count in counts]


def must_be_whole(place: int, stopped: Sequence[bool]) -> bool:
    """Whether a trial is measured on all items, whatever its chance.

    A few items say that a candidate is worse, and hardly how the next one would be better: of
    stopped trials alone a surrogate learns so little that it may ask for their like for ever.

    Args:
        place: the trial's own, in the search: one in eight, so not all that are asked ahead.
        stopped: which of the ended trials that its ask saw were stopped, the latest last.
    """
    return place % STREAK == 0 and len(stopped) >= STREAK and all(stopped[-STREAK:])


@dataclass(frozen=True)
class Standing:
    """What is known of a candidate after some of its items.

    Attributes:
        losses: ``(m,)``, estimated over all search items.
        errors: ``(m,)``, standard errors of that estimate.
        chance: that it would enter the front, in [0, 1].
    """

    losses: Array
    errors: Array
    chance: float


def stages(
    tables: Sequence[ItemsTable], sizes: Sequence[int], rng: np.random.Generator
) -> list[Places]:
    """The items of each stage of one objective, as ascending places.

    Systematic sampling along the items' difficulty, so that easy and hard ones are all there, with
    chances in proportion to how much earlier trials disagree on an item.

    Args:
        tables: one per goal that the objective serves, ``(n, p)``.
        sizes: how many items are measured after each stage, ascending; the last is p.
    """
    signals = [table.signals for table in tables]
    difficulty = np.mean([signal.mean(axis=0) for signal in signals], axis=0)
    disagreement = np.mean([signal.std(axis=0) for signal in signals], axis=0)
    left = np.argsort(difficulty, kind="stable")
    found: list[Places] = []
    for size, before in zip(sizes, (0, *sizes), strict=False):
        rows = _systematic(disagreement[left], size - before, rng)
        found.append(np.sort(left[rows]))
        left = np.delete(left, rows)
    return found


def _systematic(disagreement: Array, count: int, rng: np.random.Generator) -> Places:
    """Positions of `count` items, drawn with chances in proportion to their disagreement."""
    weights = disagreement + max(_FLOOR * float(disagreement.mean()), 1e-12)
    chances = np.zeros(len(weights))
    certain = np.zeros(len(weights), dtype=bool)
    while True:
        free = count - int(certain.sum())
        chances = np.where(certain, 1.0, free * weights / max(weights[~certain].sum(), 1e-300))
        if (chances <= 1.0).all():
            break
        certain |= chances > 1.0
    ends = np.cumsum(chances)
    marks = rng.random() + np.arange(count)
    return np.searchsorted(ends * (count / ends[-1]), marks, side="right").clip(0, len(ends) - 1)


@dataclass(frozen=True)
class ItemsTable:
    """One goal's items of the trials that were measured on all of them.

    Attributes:
        losses: ``(n, p)``, finite.
        margins: ``(n, p)``, finite; None where one of the trials has none.
    """

    losses: Array
    margins: Array | None

    @classmethod
    def of(cls, trials: Sequence[ItemLosses]) -> ItemsTable:
        """Of at least one trial, all with the same number of items."""
        margins = [trial.margins for trial in trials if trial.margins is not None]
        whole = len(margins) == len(trials)
        return cls(
            np.array([trial.losses for trial in trials]), np.array(margins) if whole else None
        )

    @property
    def signals(self) -> Array:
        """``(n, p)``: what of an item is compared: its loss, or its smoothed margin's side."""
        return self.losses if self.margins is None else _smoothed(self.margins, self.blur)

    @property
    def blur(self) -> float:
        """What margins are smoothed by, in their unit."""
        return 1.0 if self.margins is None else (_BLUR * float(np.std(self.margins)) or 1.0)


def _smoothed(margins: Array, blur: float) -> Array:
    return np.asarray(ndtr(margins / blur))


@dataclass(frozen=True)
class _Estimator:
    """Of one goal's mean loss, from the items at some places."""

    signals: Likeness
    losses: Likeness
    places: Places

    @classmethod
    def learnt(cls, signals: Array, losses: Array, places: Places) -> _Estimator:
        return cls(learn_likeness(signals), learn_likeness(losses), places)

    def mean_and_std(self, signals: Array, losses: Array) -> tuple[float, float]:
        """Of the loss over all items; the arguments are of those at the places, ``(k,)``."""
        count = len(self.losses.means)
        rest = np.delete(np.arange(count), self.places)
        mixture = self.signals.mixture(self.places, signals)
        mean, variance = self.losses.total(mixture, rest)
        return (float(losses.sum()) + mean) / count, float(np.sqrt(variance)) / count


def estimate(table: ItemsTable, places: Places, items: ItemLosses) -> tuple[float, float]:
    """Mean and standard error of a trial's loss over all items, from those at some places.

    Args:
        table: of at least two trials.
        places: ``(k,)``, which items are known; all p of them give the mean, without error.
        items: of the trial, at these places.
    """
    if len(places) == table.losses.shape[1]:
        return float(items.losses.mean()), 0.0
    # Without margins of its own, a trial is compared by its losses.
    known = table if items.margins is not None else ItemsTable(table.losses, None)
    signals = known.signals
    own = items.losses
    if known.margins is not None and items.margins is not None:
        own = _smoothed(items.margins, known.blur)
    rows = np.arange(len(signals))
    folds = min(_FOLDS, len(rows))
    doubt = [_DOUBTED * _DOUBT**2]
    for fold in range(folds):
        kept = rows[rows % folds != fold]
        estimator = _Estimator.learnt(signals[kept], known.losses[kept], places)
        for row in rows[rows % folds == fold]:
            mean, std = estimator.mean_and_std(signals[row, places], known.losses[row, places])
            doubt.append(((mean - float(known.losses[row].mean())) / std) ** 2)
    factor = np.sqrt(sum(doubt) / (_DOUBTED + len(rows)))
    mean, std = _Estimator.learnt(signals, known.losses, places).mean_and_std(own, items.losses)
    low, high = float(known.losses.min()), float(known.losses.max())
    low, high = min(low, float(items.losses.min())), max(high, float(items.losses.max()))
    return min(max(mean, low), high), float(factor * std)


def standing(
    tables: Sequence[ItemsTable],
    places: Sequence[Places],
    items: Sequence[ItemLosses],
    limits: Sequence[float],
    rng: np.random.Generator,
    *,
    tolerance: float,
) -> Standing:
    """How a candidate stands after some of its items.

    Args:
        tables: by goal, the same trials in the same order, at least `FEWEST`; the candidate's
            rivals are those of them that are on their front.
        places: by goal, which of its items are measured.
        items: by goal, of the candidate, at these places.
        limits: ``(m,)`` losses that a feasible trial does not exceed; empty without any.
        tolerance: standard errors of the paired differences over items, by which the candidate
            must be ahead of a rival in some goal.
    """
    goals = list(zip(tables, places, items, strict=True))
    found = [estimate(*goal) for goal in goals]
    losses, errors = (np.array(column) for column in zip(*found, strict=True))
    rivals = np.array([table.losses.mean(axis=1) for table in tables]).T
    ahead = rivals - tolerance * np.array([_paired_errors(*goal) for goal in goals]).T
    draws = losses + errors * rng.normal(size=(_DRAWS, len(losses)))
    missed, rivals_missed = _violations(draws, limits), _violations(rivals, limits)
    beaten = np.zeros(len(draws), dtype=bool)
    for row in np.flatnonzero(non_dominated(rivals, rivals_missed)):
        dominated = (ahead[row] <= draws).all(axis=1)
        same = rivals_missed[row] == missed
        beaten |= (rivals_missed[row] < missed) | (same & dominated)
    return Standing(losses, errors, float(1.0 - beaten.mean()))


def _paired_errors(table: ItemsTable, places: Places, items: ItemLosses) -> Array:
    """``(n,)``: standard errors over items of the candidate's loss less each trial's.

    The variances are drawn to that between two of the trials: few items may show no difference.
    """
    count = len(places)
    typical = 2.0 * float(table.losses.var(axis=0).mean())
    apart = (items.losses - table.losses[:, places]).var(axis=1)
    variances = (count * apart + _PAIRED * typical) / (count + _PAIRED)
    return np.asarray(np.sqrt(variances / table.losses.shape[1]))


def _violations(losses: Array, limits: Sequence[float]) -> Array:
    """``(n,)``: how far losses ``(n, m)`` miss the limits, 0 is feasible."""
    if not len(limits):
        return np.zeros(len(losses))
    return np.asarray(np.maximum(losses - np.asarray(limits), 0.0).sum(axis=1))
