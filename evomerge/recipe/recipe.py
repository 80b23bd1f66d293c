"""The recipe: base, models, method, groups and pins; everything but the numbers.

Bound to the base's tensors it gives the space to search, and turns parameters into a merge plan.

Parameter names are ``MODEL/GROUP/FIELD``, or ``GROUP/FIELD`` for a method's numbers that belong to
no model. Two groups are always there: ``*`` is every group, with the rules for embeddings, norms
and head at work; ``**`` is every floating-point tensor, past groups, rules and pins. References
are of the second kind, so that the base is the base whatever the recipe says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evomerge.checkpoint.header import TensorEntry
from evomerge.coefficients import Coefficients
from evomerge.errors import CampaignError, UsageError
from evomerge.merging.method import Field, MergeMethod, Settings, check_count
from evomerge.merging.plan import Mask, MergePlan, Vocabulary
from evomerge.merging.registry import method_named
from evomerge.recipe.anatomy import anatomy, depths
from evomerge.recipe.coordinates import coordinate_of, group_coordinates
from evomerge.recipe.families import fields_of
from evomerge.recipe.groups import Grouping, Groups
from evomerge.recipe.numbers import ALL_GROUPS, ALL_TENSORS, Numbers, uniform
from evomerge.recipe.pins import Pin
from evomerge.recipe.strict_yaml import Place
from evomerge.space import Array, Parameter, Space

PLAIN_METHOD = "sparse_signed"
"""What expresses base, parents and their average where the recipe's own method cannot."""


class Reference(NamedTuple):
    """A candidate that a study measures first."""

    origin: str
    method: str
    parameters: Mapping[str, float]


@dataclass(frozen=True)
class WarmStart:
    """Parameters that the user wants measured first; names as in the module's docstring."""

    method: str
    parameters: Mapping[str, float]
    place: Place | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Recipe:
    """What is merged, and what may be searched.

    Attributes:
        base: folder or file of the base model.
        models: name to folder or file; their order is the order of arithmetic.
        method: of `evomerge.merging`'s registry.
        grouping: how tensors share parameters.
        pins: ``MODEL/FIELD``, or ``FIELD``, to its pin; every field of the method is there.
        warm_starts: measured after the references.
        seed: of the masks of methods that drop entries at random; one for all candidates.
        vocabulary: what becomes of rows where the models' vocabularies differ from the base's.
        mask: what becomes of entries that tie at a density's threshold.
    """

    base: Path
    models: Mapping[str, Path]
    method: str
    grouping: Grouping
    pins: Mapping[str, Pin]
    warm_starts: tuple[WarmStart, ...] = ()
    seed: int = 0
    vocabulary: Vocabulary = "refuse"
    mask: Mask = "smooth"

    @property
    def fields(self) -> tuple[Field, ...]:
        """The method's parameters per model and per group."""
        return fields_of(self.method)

    def identity(self) -> dict[str, Any]:
        """All that decides the space and the references, as JSON; not where the models lie."""
        pins = {name: self.range_of(name).to_json() for name in sorted(self.pins)}
        found = {
            "models": list(self.models),
            "method": self.method,
            "pins": pins,
            "seed": self.seed,
            "groups": self.grouping.to_json(),
            "warm_start": [[warm.method, dict(warm.parameters)] for warm in self.warm_starts],
        }
        if self.mask != "smooth":
            found["mask"] = self.mask
        return found if self.vocabulary == "refuse" else {**found, "vocabulary": self.vocabulary}

    def range_of(self, name: str) -> Pin:
        """A pin with its range filled in from the method."""
        declared = {f.name: f for f in self.fields}[name.rpartition("/")[2]]
        return self.pins[name].over(Pin(range=(declared.low, declared.high)))

    def bind(self, tensors: Mapping[str, TensorEntry]) -> BoundRecipe:
        """The recipe for one base model.

        Raises:
            CampaignError: if the method does not take so many models, if groups or warm starts do
                not fit the base's tensors, or if nothing is left to search.
        """
        try:
            check_count(method_named(self.method), len(self.models))
        except UsageError as error:
            raise CampaignError(error.cause) from None
        names = [name for name, entry in tensors.items() if entry.is_float]
        bound = BoundRecipe(self, self.grouping.assign(names), tuple(names))
        for warm in self.warm_starts:
            try:
                bound.plan(warm.method, warm.parameters)
            except UsageError as error:
                raise CampaignError(f"warm start: {error.cause}", place=str(warm.place)) from None
        return bound


@dataclass(frozen=True)
class BoundRecipe:
    """A recipe and the groups that it makes of the base's tensors.

    Attributes:
        assigned: groups, and what becomes of the tensors outside them.
        floating: names of all floating-point tensors of the base.
    """

    recipe: Recipe
    assigned: Groups
    floating: tuple[str, ...]

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Group to its tensors, in order of depth."""
        return self.assigned.members

    @cached_property
    def space(self) -> Space:
        """The numbers that are searched; empty where everything is pinned."""
        named = {parameter.name: parameter for parameter in self._parameters()}
        return Space(tuple(named.values()))

    def plan(self, method: str, parameters: Mapping[str, float]) -> MergePlan:
        """What to do with every tensor.

        Args:
            method: the recipe's, or another: references may use another.
            parameters: natural values; see the module's docstring. A number that is missing is
                what its pin says, or the method's default.

        Raises:
            UsageError: on an unknown name, or a value that its field cannot take.
        """
        numbers = self._numbers(method, parameters)
        if numbers.everywhere:
            settings = numbers.group(ALL_TENSORS)
            tensors = dict.fromkeys(self.floating, settings)
        else:
            tensors = self._tensors(numbers)
        if any(field.name == "depth" for field in method_named(method).fields):
            tensors = {name: {**s, "depth": self._depths[name]} for name, s in tensors.items()}
        recipe = self.recipe
        return MergePlan(method, tuple(recipe.models), tensors, recipe.seed, recipe.mask)

    def coefficients(self, method: str, parameters: Mapping[str, float]) -> Coefficients:
        """Every number of a candidate, group by group, whatever names it was asked by.

        Args:
            method, parameters: as `plan` takes them.
        """
        plan = self.plan(method, parameters)
        settings = {group: plan.tensors[names[0]] for group, names in self.groups.items()}
        merge = self.merge_section(method, parameters)
        return Coefficients(method, plan.models, settings, self._layers, merge)

    def merge_section(self, method: str, parameters: Mapping[str, float]) -> dict[str, Any]:
        """A candidate as the section ``merge`` of a recipe file, every number said; JSON.

        Args:
            method, parameters: as `plan` takes them.
        """
        groups = self.recipe.grouping.to_json()
        return {
            "method": method,
            "groups": {key: value for key, value in groups.items() if value != []}
            | ({"regex": dict(groups["regex"])} if groups["regex"] else {}),
            "seed": self.recipe.seed,
            "parameters": self._numbers(method, parameters).explicit(),
        }

    @cached_property
    def _layers(self) -> dict[str, tuple[int, ...]]:
        """Group to the layers that it covers."""
        parts = anatomy(self.floating)
        found = {
            group: {parts[name].layer for name in names} for group, names in self.groups.items()
        }
        return {
            group: tuple(sorted(layer for layer in layers if layer is not None))
            for group, layers in found.items()
        }

    def references(self, *, parents: bool = True) -> tuple[Reference, ...]:
        """The base, each parent, their uniform average, then the warm starts.

        Args:
            parents: False leaves the parents out.
        """
        models, method = self.recipe.models, self.recipe.method
        traits = method_named(method).traits
        average = method if traits.average else PLAIN_METHOD
        method = method if traits.parents else PLAIN_METHOD
        share = 1 / len(models)
        return (
            Reference("base", method, self._everywhere(method, dict.fromkeys(models, 0.0))),
            *(
                Reference(f"parent {name}", method, self._everywhere(method, {name: 1.0}))
                for name in (models if parents else ())
            ),
            Reference("uniform", average, self._everywhere(average, dict.fromkeys(models, share))),
            *(
                Reference(f"warm start {i}", warm.method, warm.parameters)
                for i, warm in enumerate(self.recipe.warm_starts)
            ),
        )

    def point_of(
        self, parameters: Mapping[str, float], *, method: str | None = None
    ) -> Array | None:
        """The point whose merge is this merge, ``(d,)``; None where the space has none.

        Args:
            method: of the parameters; another than the recipe's has no point.
        """
        own = self.recipe.method
        if method not in (None, own):
            return None
        wanted = self.plan(own, parameters)
        numbers = self._numbers(own, parameters)
        values = {p.name: _clipped(p, numbers.searched(p.name)) for p in self.space.parameters}
        if _effect(self.plan(own, values)) != _effect(wanted):
            return None
        return self.space.point(values)

    @cached_property
    def _depths(self) -> Mapping[str, float]:
        return depths(self.floating)

    def _numbers(self, method: str, parameters: Mapping[str, float]) -> Numbers:
        return Numbers(
            fields=fields_of(method),
            models=tuple(self.recipe.models),
            groups=tuple(self.groups),
            dense=self.assigned.dense,
            pins=self.recipe.pins if method == self.recipe.method else {},
            given=parameters,
        )

    def _tensors(self, numbers: Numbers) -> dict[str, Settings]:
        by_group = {group: numbers.group(group) for group in self.groups}
        tensors = {name: by_group[g] for g, names in self.groups.items() for name in names}
        means = {groups: numbers.mean(groups) for groups in set(self.assigned.follows.values())}
        tensors |= {name: means[groups] for name, groups in self.assigned.follows.items()}
        return tensors | dict.fromkeys(self.assigned.averaged, numbers.average())

    def _parameters(self) -> Iterator[Parameter]:
        """Every searched number, shared ones as often as they have groups."""
        fields = self.recipe.fields
        places = group_coordinates(self.groups, self.floating)
        owners = [(model, f"{model}/", "model") for model in self.recipe.models]
        for _, prefix, per in [*owners, ("", "", "group")]:
            for group in self.groups:
                for f in fields:
                    if f.per != per or (f.role == "density" and group in self.assigned.dense):
                        continue
                    pin = self.recipe.range_of(f"{prefix}{f.name}")
                    if pin.range is not None:
                        name = f"{prefix}{ALL_GROUPS if pin.shared else group}/{f.name}"
                        place = coordinate_of(name, places)
                        yield Parameter(name, *pin.range, scale=f.scale, coordinate=place)

    def _everywhere(self, method: str, weights: Mapping[str, float]) -> dict[str, float]:
        """Parameters past groups and rules: whole task vectors, unscaled, at these weights."""
        return uniform(fields_of(method), tuple(self.recipe.models), weights)


def _clipped(parameter: Parameter, value: float) -> float:
    return float(np.clip(value, parameter.low, parameter.high))


def _effect(plan: MergePlan) -> dict[str, Any]:
    """What a plan does, tensor by tensor: numbers of models that do not count are left out."""
    method = method_named(plan.method)
    effects = {id(s): _of_tensor(method, s) for s in plan.tensors.values()}
    return {name: effects[id(s)] for name, s in plan.tensors.items() if effects[id(s)]}


def _of_tensor(method: MergeMethod, settings: Settings) -> tuple[Any, ...]:
    used = method.used(settings)
    if not used:
        return ()
    return tuple(
        (name, tuple((i, value[i]) for i in used) if isinstance(value, tuple) else value)
        for name, value in sorted(settings.items())
    )
