"""The problems of the tables, by names such as ``digits4/layers/2``: landscape, space, goals."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from problem import Problem

GOALS = (1, 2, 4)
Maker = Callable[[int, int, bool], Problem]  # from goals, seed, and whether items have margins


def _digits(family: str, models: int, groups: int, *, densities: bool = True) -> Maker:
    def make(goals: int, seed: int, margins: bool) -> Problem:
        from digits import Digits

        options = {"seed": seed, "densities": densities, "margins": margins}
        return Digits(models, groups, goals, family=family, **options)

    return make


def _language(groups: int) -> Maker:
    def make(goals: int, seed: int, margins: bool) -> Problem:
        from language import Language

        return Language(groups, goals, seed=seed, margins=margins)

    return make


def _clouds(bands: int) -> Maker:
    def make(goals: int, seed: int, margins: bool) -> Problem:
        from landscape import Landscape

        return Landscape(seed, models=4, bands=bands, goals=goals, margins=margins)

    return make


def _pool(groups: int) -> Maker:
    def make(goals: int, seed: int, margins: bool) -> Problem:
        from pool import Pool

        return Pool(groups, goals, seed=seed, margins=margins)

    return make


SPACES: Mapping[str, Mapping[str, Maker]] = {
    "digits4": {"models": _digits("mlp", 4, 1), "layers": _digits("mlp", 4, 4)},
    "digits8": {
        "models": _digits("mlp", 8, 1, densities=False),
        "layers": _digits("mlp", 8, 6),
        "blocks": _digits("mlp", 8, 12),
    },
    "vit": {"models": _digits("vit", 4, 1), "layers": _digits("vit", 4, 4)},
    "clouds": {"models": _clouds(1), "layers": _clouds(4)},
    "language": {"models": _language(1), "layers": _language(8)},
    "pool": {"layers": _pool(1)},
}
"""By landscape and space; ``models`` has 4 to 8 dimensions, ``layers`` 32 or more: the
pool 64, with one weight and one density for each of 32 adapters."""


def make(name: str, *, seed: int = 0, margins: bool = True) -> Problem:
    """A problem by name.

    Args:
        seed: which items are searched on; of ``clouds`` the networks as well.
        margins: whether items have them; else 0/1 scores only.
    """
    landscape, space, goals = name.split("/")
    return SPACES[landscape][space](int(goals), seed, margins)
