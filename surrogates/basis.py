"""The monomials of a quadratic: of every parameter, or of fewer numbers made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evomerge.space import Array, Coordinate

_SLOPED = 3  # depths, from which on a profile has a slope


@dataclass(frozen=True)
class Basis:
    """Products of two entries of ``u = [projection (x - centre), 1]``.

    Attributes:
        projection: ``(k, d)``.
        first, second: ``(p,)``, which entries of u; k is the constant 1.
    """

    name: str
    centre: Array
    projection: Array
    first: NDArray[np.int64]
    second: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)

    def features(self, points: Array) -> Array:
        """``(n, d)`` to ``(n, p)``."""
        u = self._entries(points)
        return np.asarray(u[:, self.first] * u[:, self.second])

    def pull(self, points: Array, weights: Array) -> Array:
        """Gradient of ``sum(weights * features(points))`` in the points, ``(n, d)``.

        Args:
            weights: ``(n, p)``.
        """
        u = self._entries(points)
        by_entry = np.zeros((u.shape[1], len(u)))
        np.add.at(by_entry, self.first, (weights * u[:, self.second]).T)
        np.add.at(by_entry, self.second, (weights * u[:, self.first]).T)
        return np.asarray(by_entry[:-1].T @ self.projection)

    def _entries(self, points: Array) -> Array:
        turned = (points - self.centre) @ self.projection.T
        return np.concatenate([turned, np.ones((len(points), 1))], axis=1)


def full(centre: Array) -> Basis:
    """All ``(d + 1)(d + 2) / 2`` monomials."""
    return _complete("full", centre, np.eye(len(centre)))


def diagonal(centre: Array) -> Basis:
    """Constant, linear terms and squares, ``2 d + 1``."""
    d = len(centre)
    each = np.arange(d)
    first = np.concatenate([[d], each, each])
    second = np.concatenate([[d], np.full(d, d), each])
    return Basis("diagonal", centre, np.eye(d), first, second)


def low_rank(centre: Array, directions: Array) -> Basis:
    """The diagonal one, and all products of a few directions.

    Args:
        directions: ``(r, d)``.
    """
    plain, r, d = diagonal(centre), len(directions), len(centre)
    rows, columns = np.triu_indices(r)
    first = np.where(plain.first == d, d + r, plain.first)
    second = np.where(plain.second == d, d + r, plain.second)
    return Basis(
        "low rank",
        centre,
        np.concatenate([np.eye(d), directions]),
        np.concatenate([first, d + rows]),
        np.concatenate([second, d + columns]),
    )


def profiles(centre: Array, coordinates: Sequence[Coordinate | None]) -> Basis | None:
    """All monomials of each model's and field's mean over depth and, in depth, slope.

    None where coordinates are unknown, or where that says nothing less than all parameters do.
    """
    known = [coordinate for coordinate in coordinates if coordinate is not None]
    if len(known) < len(coordinates):
        return None
    rows = []
    for model, field in dict.fromkeys((c.model, c.field) for c in known):
        own = np.array([(c.model, c.field) == (model, field) for c in known], dtype=float)
        rows.append(own / own.sum())
        depths = np.array([0.5 if c.depth is None else c.depth for c in known])
        slope = own * (depths - float(own @ depths) / own.sum())
        if len(set(depths[own > 0].tolist())) >= _SLOPED:
            rows.append(slope / np.abs(slope).sum())
    if len(rows) >= len(known):
        return None
    return _complete("profiles", centre, np.array(rows))


def _complete(name: str, centre: Array, projection: Array) -> Basis:
    first, second = np.triu_indices(len(projection) + 1)
    return Basis(name, centre, projection, first, second)
