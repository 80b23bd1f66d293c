"""From parameters by name to the numbers of each group: explicit names, pins, defaults."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from evomerge.errors import UsageError
from evomerge.merging.method import Field, Settings, role_of
from evomerge.recipe.pins import Pin

ALL_GROUPS = "*"
ALL_TENSORS = "**"

_WHOLE = {"density": 1.0, "scaling": 1.0}
"""What keeps a task vector whole and unscaled."""


@dataclass(frozen=True)
class Numbers:
    """Looks up what a method's fields are in each group.

    In order: the group's own name, the name with ``*``, the pin, the method's default. Names with
    ``**`` exclude all others.

    Attributes:
        dense: groups whose density is 1.
        pins: by ``MODEL/FIELD`` or ``FIELD``; empty for a method that is not the recipe's.
        given: parameters by name; checked when the record is made.
    """

    fields: tuple[Field, ...]
    models: tuple[str, ...]
    groups: tuple[str, ...]
    dense: frozenset[str]
    pins: Mapping[str, Pin]
    given: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, value in self.given.items():
            self._check(name, value)
        if self.everywhere and any(group_of(name) != ALL_TENSORS for name in self.given):
            raise UsageError("parameters with the group ** exclude those of other groups")

    @cached_property
    def everywhere(self) -> bool:
        """Whether the parameters hold for every tensor, past groups and rules."""
        return any(group_of(name) == ALL_TENSORS for name in self.given)

    def group(self, group: str) -> Settings:
        """The settings of one group's tensors."""
        return {
            f.name: tuple(self._number(f, model, group) for model in self.models)
            if f.per == "model"
            else self._number(f, None, group)
            for f in self.fields
        }

    def mean(self, groups: tuple[str, ...]) -> Settings:
        """The settings of tensors that follow some groups: mean numbers, whole task vectors."""
        all_settings = [self.group(group) for group in groups]
        return {f.name: _mean(f, [s[f.name] for s in all_settings]) for f in self.fields}

    def average(self) -> Settings:
        """The settings of the plain average of the models."""
        count = len(self.models)
        return {
            f.name: (_average(f, count),) * count if f.per == "model" else _average(f, count)
            for f in self.fields
        }

    def explicit(self) -> dict[str, float]:
        """Every number by its own name, so that no pin or default is needed to know it."""
        if self.everywhere:
            return dict(self.given)
        found: dict[str, float] = {}
        for f in self.fields:
            for model in self.models if f.per == "model" else (None,):
                prefix = "" if model is None else f"{model}/"
                for group in self._groups_of(f):
                    found[f"{prefix}{group}/{f.name}"] = self._number(f, model, group)
        return found

    def searched(self, name: str) -> float:
        """The number that a searched parameter has here; of the first group where it is shared."""
        model, group, word = parts_of(name)
        declared = next(f for f in self.fields if f.name == word)
        if self.everywhere:
            return self._number(declared, model, ALL_TENSORS)
        first = next(g for g in self.groups if g not in self.dense or role_of(word) != "density")
        return self._number(declared, model, first if group == ALL_GROUPS else group)

    def _number(self, f: Field, model: str | None, group: str) -> float:
        if f.role == "density" and group in self.dense:
            return 1.0
        prefix = "" if model is None else f"{model}/"
        for where in (group, ALL_GROUPS):
            value = self.given.get(f"{prefix}{where}/{f.name}")
            if value is not None:
                return float(value)
        pin = None if self.everywhere else self.pins.get(f"{prefix}{f.name}")
        if pin is not None and pin.tie is not None:
            return self._number(f, pin.tie, group)
        return f.default if pin is None or pin.fixed is None else pin.fixed

    def _groups_of(self, f: Field) -> tuple[str, ...]:
        """Where a field has a number that can be said."""
        if f.shared:
            return (ALL_GROUPS,)
        whole = self.dense if f.role == "density" else frozenset()
        return tuple(group for group in self.groups if group not in whole)

    @cached_property
    def _known(self) -> frozenset[str]:
        names = set[str]()
        for f in self.fields:
            owners = [f"{model}/" for model in self.models] if f.per == "model" else [""]
            for group in {*self._groups_of(f), ALL_GROUPS, ALL_TENSORS}:
                names.update(f"{owner}{group}/{f.name}" for owner in owners)
        return frozenset(names)

    def _check(self, name: str, value: float) -> None:
        if name not in self._known:
            near = difflib.get_close_matches(name, sorted(self._known), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"no parameter {name!r}{hint}")
        word = parts_of(name)[2]
        low, high = next(f.limits for f in self.fields if f.name == word)
        if role_of(word) == "density" and not 0 < value <= 1:
            raise UsageError(f"{name} is {value}; it is the fraction kept, in (0, 1]")
        if not (math.isfinite(value) and low <= value <= high):
            raise UsageError(f"{name} is {value}; a finite number in [{low}, {high}] is wanted")


def group_of(name: str) -> str:
    """The group in a parameter's name."""
    return parts_of(name)[1]


def parts_of(name: str) -> tuple[str | None, str, str]:
    """Model (None for a number of no model), group and field of a parameter's name."""
    model, _, rest = name.rpartition("/")[0].rpartition("/")
    return model or None, rest, name.rpartition("/")[2]


def uniform(
    fields: tuple[Field, ...], models: tuple[str, ...], weights: Mapping[str, float]
) -> dict[str, float]:
    """Parameters for every tensor: whole task vectors, unscaled, at these weights (else 0)."""
    parameters: dict[str, float] = {}
    for f in fields:
        for prefix in [f"{model}/" for model in models] if f.per == "model" else [""]:
            weight = weights.get(prefix[:-1], 0.0)
            value = weight if f.role == "weight" else _WHOLE.get(f.role, f.default)
            parameters[f"{prefix}{ALL_TENSORS}/{f.name}"] = value
    return parameters


def _average(f: Field, count: int) -> float:
    return 1 / count if f.role == "weight" else _WHOLE.get(f.role, f.default)


def _mean(f: Field, values: list[float | tuple[float, ...]]) -> float | tuple[float, ...]:
    if f.per == "group":
        numbers = [v for v in values if not isinstance(v, tuple)]
        return 1.0 if f.role == "density" else _mean_of(numbers)
    columns = zip(*(v for v in values if isinstance(v, tuple)), strict=True)
    return tuple(1.0 if f.role == "density" else _mean_of(list(column)) for column in columns)


def _mean_of(values: list[float]) -> float:
    """The mean; of equal numbers it is that number exactly."""
    return values[0] if len(set(values)) == 1 else math.fsum(values) / len(values)
