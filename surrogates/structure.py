"""Which parameters act alike: a family of covariances between a recipe's parameters.

The covariance of the effects of two parameters is a product over what they are: the same field or
not, the same model or not, near in depth or not. Each factor is a mixture whose shares are learnt,

    S = field weight * ((1 - c) same model + c all models)
        * (shared + smooth over depth + own group),

so S is a sum of fixed matrices with coefficients >= 0: what is learnt costs no more than a
weighted sum of Gram matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.space import Array, Coordinate

_DEPTH_LENGTHSCALE = 0.3  # of depth, which runs from 0 to 1
_Place = tuple[float | None, str | None]  # depth and kind
_OTHER_KIND = 0.5  # what smoothness over depth is worth between attention and MLP, say


@dataclass(frozen=True)
class Structure:
    """The components of S and the shares that they belong to.

    Attributes:
        components: ``(c, d, d)``, positive semidefinite.
        members: ``(c, 3)``, each component's field, share between models and share over depth.
        fields, models, depths: how many there are of each; 1 is nothing to learn.
    """

    components: Array
    members: tuple[tuple[int, int, int], ...]
    fields: int
    models: int
    depths: int

    @property
    def parameters(self) -> int:
        """How many numbers `coefficients` takes."""
        return self.fields - 1 + self.models - 1 + self.depths - 1

    def coefficients(self, numbers: Array) -> tuple[Array, Array]:
        """The components' coefficients and their derivatives.

        Args:
            numbers: ``(k,)``: logarithms of the field weights against the first field's, and
                logits of the shares against the first share's.

        Returns:
            ``(c,)`` > 0, and ``(c, k)``.
        """
        first, second = self.fields - 1, self.fields - 1 + self.models - 1
        weights = np.exp(np.append(0.0, numbers[:first]))
        models, depths = _shares(numbers[first:second]), _shares(numbers[second:])
        f, a, b = np.array(self.members).T
        values = weights[f] * models[a] * depths[b]
        columns = [
            *(values * (f == i) for i in range(1, self.fields)),
            *(values * ((a == i) - models[i]) for i in range(1, self.models)),
            *(values * ((b == i) - depths[i]) for i in range(1, self.depths)),
        ]
        return values, np.array(columns, dtype=float).reshape(len(columns), len(values)).T


def _shares(logits: Array) -> Array:
    powers = np.exp(np.append(0.0, logits))
    return np.asarray(powers / powers.sum())


def structure_of(coordinates: Sequence[Coordinate | None]) -> Structure:
    """The structure of a space; every parameter on its own where coordinates are unknown."""
    known = [coordinate for coordinate in coordinates if coordinate is not None]
    if len(known) < len(coordinates):
        return Structure(np.eye(len(coordinates))[None], ((0, 0, 0),), 1, 1, 1)
    fields = list(dict.fromkeys(c.field for c in known))
    models, depths = _model_factors(known), _depth_factors(known)
    components, members = [], []
    for i, field in enumerate(fields):
        mask = np.array([c.field == field for c in known], dtype=float)
        for a, model in enumerate(models):
            for b, depth in enumerate(depths):
                components.append(np.outer(mask, mask) * model * depth)
                members.append((i, a, b))
    return Structure(np.array(components), tuple(members), len(fields), len(models), len(depths))


def _model_factors(known: Sequence[Coordinate]) -> list[Array]:
    numbers: dict[str | None, int] = {}
    models = np.array([numbers.setdefault(c.model, len(numbers)) for c in known])
    same = (models[:, None] == models).astype(float)
    return [same, np.ones_like(same)] if (same == 0).any() else [same]


def _depth_factors(known: Sequence[Coordinate]) -> list[Array]:
    places: dict[_Place, int] = {}
    rows = [places.setdefault((c.depth, c.kind), len(places)) for c in known]
    shared = np.ones((len(known), len(known)))
    if len(places) == 1:
        return [shared]
    between = np.array([[_nearness(a, b) for b in places] for a in places])
    chosen = np.ix_(rows, rows)
    return [shared, between[chosen], np.eye(len(places))[chosen]]


def _nearness(one: _Place, other: _Place) -> float:
    (depth, kind), (other_depth, other_kind) = one, other
    kinds = 1.0 if kind == other_kind else _OTHER_KIND
    if depth is None or other_depth is None:
        return kinds * float(depth is other_depth)
    return kinds * float(np.exp(-0.5 * ((depth - other_depth) / _DEPTH_LENGTHSCALE) ** 2))
