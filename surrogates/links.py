"""From margins to item losses: ``low + (high - low) * Phi((margin - threshold) / spread)``.

Where the margin says by its sign whether an item went well, the threshold is 0. Where it is only a
weaker signal (the log-probability of a reference answer), every item has a threshold of its own,
learnt from which trials got it right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from evomerge.space import Array

_AGREEMENT = 0.98  # of items whose loss is on the side that the margin's sign says
_PROBIT = 1.702  # a logistic function of this slope is the normal distribution function, nearly
_SLOPES = (0.25, 0.5, 1.0, 2.0)  # spreads tried, in standard deviations of the margins over trials
_NEWTON_STEPS = 12


@dataclass(frozen=True)
class Link:
    """One goal's link.

    Attributes:
        low, high: the least and the greatest item loss.
        thresholds: ``(p,)`` margins at which an item is as likely to go well as not.
        spread: what is between a margin and its item's loss beside the prediction's own
            uncertainty, in the margins' unit; 0 where the sign decides.
    """

    low: float
    high: float
    thresholds: Array
    spread: float


def learn_link(losses: Array, margins: Array) -> Link:
    """The link of one goal.

    Args:
        losses, margins: ``(n, p)``, finite, lower is better.
    """
    low, high = float(losses.min()), float(losses.max())
    items = losses.shape[1]
    if low == high:
        return Link(low, high, np.zeros(items), 0.0)
    bad = (losses - low) / (high - low)
    if np.mean((margins > 0) == (bad > 0.5)) >= _AGREEMENT:
        return Link(low, high, np.zeros(items), 0.0)
    thresholds, spread = _learnt(bad, margins)
    return Link(low, high, thresholds, spread)


def _learnt(bad: Array, margins: Array) -> tuple[Array, float]:
    """Thresholds by logistic regression with a normal prior around their common offset.

    The spread is the one of `_SLOPES` under which the outcomes are likeliest.
    """
    unit = float(np.sqrt(np.mean(np.var(margins, axis=0)))) or 1.0
    found = [_thresholds(bad, margins, slope * unit) for slope in _SLOPES]
    best = int(np.argmax([likelihood for _, likelihood in found]))
    return found[best][0], _SLOPES[best] * unit


def _thresholds(bad: Array, margins: Array, spread: float) -> tuple[Array, float]:
    middle = margins.mean(axis=0)
    prior = max(float(np.std(margins)), spread)
    offset = np.zeros(margins.shape[1])
    common = 0.0
    slope = _PROBIT / spread
    for _ in range(_NEWTON_STEPS):
        p = expit(slope * (margins - middle - offset))
        gradient = -slope * (bad - p).sum(axis=0) - (offset - common) / prior**2
        curvature = slope**2 * (p * (1 - p)).sum(axis=0) + 1 / prior**2
        offset = offset + np.clip(gradient / curvature, -prior, prior)
        common = float(offset.mean())
    p = np.clip(expit(slope * (margins - middle - offset)), 1e-9, 1 - 1e-9)
    likelihood = float((bad * np.log(p) + (1 - bad) * np.log(1 - p)).sum())
    return middle + offset, likelihood - 0.5 * float(((offset - common) ** 2).sum()) / prior**2
