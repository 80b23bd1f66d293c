"""Links between a quadratic's value and a loss: identity, sigmoid, softplus.

MAP (Li et al. 2024, arXiv:2406.07529) fits quadratics behind one of these: a sigmoid for metrics
between two bounds, such as accuracies, a softplus for those bounded below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit, logit

from evomerge.space import Array

Shape = Literal["identity", "sigmoid", "softplus"]

_INSIDE = 1e-3  # how far from its bounds a loss is taken to be, for the start of a fit


@dataclass(frozen=True)
class Response:
    """One link.

    Attributes:
        low, high: the bounds of the losses; ``high`` is of use to the sigmoid alone, neither to
            the identity.
    """

    shape: Shape
    low: float = 0.0
    high: float = 1.0

    def value(self, latent: Array) -> Array:
        """Losses of latent values."""
        if self.shape == "identity":
            return latent
        if self.shape == "softplus":
            return np.asarray(self.low + np.logaddexp(0.0, latent))
        return np.asarray(self.low + (self.high - self.low) * expit(latent))

    def slope(self, latent: Array) -> Array:
        """The derivative of `value`."""
        if self.shape == "identity":
            return np.ones_like(latent)
        share = expit(latent)
        if self.shape == "softplus":
            return np.asarray(share)
        return np.asarray((self.high - self.low) * share * (1 - share))

    def latent(self, losses: Array) -> Array:
        """The inverse of `value`, with losses at or beyond a bound taken a little inside."""
        if self.shape == "identity":
            return losses
        above = np.maximum(losses - self.low, _INSIDE)
        if self.shape == "softplus":
            return np.asarray(above + np.log(-np.expm1(-above)))
        share = (losses - self.low) / (self.high - self.low)
        return np.asarray(logit(np.clip(share, _INSIDE, 1 - _INSIDE)))


def responses_of(losses: Array) -> tuple[Response, ...]:
    """The links that a goal's losses allow, the likelier first.

    A sigmoid where they lie between 0 and 1, or turned around between -1 and 0, as accuracies do; a
    softplus where they are not negative; the identity always.

    Args:
        losses: ``(n,)``; a maximised accuracy lies in [-1, 0].
    """
    low, high = float(losses.min()), float(losses.max())
    plain = Response("identity")
    if low >= -1 and high <= 0:
        return Response("sigmoid", -1.0, 0.0), plain
    if low >= 0 and high <= 1:
        return Response("sigmoid", 0.0, 1.0), plain, Response("softplus")
    return (plain, Response("softplus")) if low >= 0 else (plain,)
