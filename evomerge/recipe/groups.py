"""Tensor groups: which tensors share one set of merge parameters.

The layers are cut into bands, bands perhaps by kind of module; named regular expressions take
their tensors before that; and embeddings, norms and head each have a rule. Or every tensor is a
group, the space of aTLAS (Zhang et al. 2024, arXiv:2407.02880). All of it is decided by names
alone, so the order of shards changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from evomerge.errors import CampaignError, UsageError
from evomerge.recipe.anatomy import Part, anatomy
from evomerge.recipe.strict_yaml import Place

Layers = int | Literal["all", "each"] | tuple[tuple[int, int], ...]
Rule = Literal["follow", "own", "base", "average"]
Module = Literal["attention", "mlp"]

RULES: tuple[Rule, ...] = get_args(Rule)
MODULES: tuple[Module, ...] = get_args(Module)
_RULED = {"embedding": "embeddings", "norm": "norms", "head": "head"}
RESERVED = frozenset({*_RULED.values(), "all"})


@dataclass(frozen=True)
class Grouping:
    """How a recipe groups tensors; not bound to any model yet.

    Attributes:
        layers: a number of bands of nearly equal size; ``each`` layer; ``all`` together; or the
            first and last layer of every band.
        modules: kinds that form groups of their own within each band.
        regex: group name to a pattern searched in the tensor's name; the first match wins.
        embeddings, norms, head: ``follow`` the mean weight of their band (norms the band around
            them, embeddings the first, final norm and head the last) at density 1; a group of
            their ``own``; the ``base`` untouched; or the plain ``average`` of the models.
        each: every tensor is a group of its own, named as it is; then there are no bands, and
            nothing follows any.
        places: of ``layers`` and of each pattern, for errors.
    """

    layers: Layers = "all"
    modules: tuple[Module, ...] = ()
    regex: Mapping[str, str] = field(default_factory=dict)
    embeddings: Rule = "follow"
    norms: Rule = "follow"
    head: Rule = "follow"
    each: bool = False
    places: Mapping[str, Place] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """All that decides the groups."""
        layers = [list(b) for b in self.layers] if isinstance(self.layers, tuple) else self.layers
        rules = {"embeddings": self.embeddings, "norms": self.norms, "head": self.head}
        regex = [[name, pattern] for name, pattern in self.regex.items()]
        found = {"layers": layers, "modules": list(self.modules), "regex": regex, **rules}
        return {**found, "per": "tensor"} if self.each else found

    def assign(self, names: Collection[str]) -> Groups:
        """Give every tensor to a group or a rule.

        Args:
            names: of the base's floating-point tensors.

        Raises:
            CampaignError: if a pattern matches nothing, or bands do not fit the layers.
        """
        return _Assignment(self, names).result()

    def error(self, cause: str, key: str) -> CampaignError:
        """An error at the place of one of this grouping's keys."""
        place = self.places.get(key)
        return CampaignError(cause, place=str(place) if place else None)


@dataclass(frozen=True)
class Groups:
    """A grouping bound to a model's tensors.

    Attributes:
        members: group to its tensors, in order of depth.
        follows: tensor to the groups whose mean weight it takes.
        averaged: tensors that take the plain average of the models.
        dense: groups whose tensors are kept whole (norms): no density is searched.
    """

    members: Mapping[str, tuple[str, ...]]
    follows: Mapping[str, tuple[str, ...]]
    averaged: tuple[str, ...]
    dense: frozenset[str]


class _Assignment:
    """Works out `Groups`; lives for one call."""

    def __init__(self, grouping: Grouping, names: Collection[str]) -> None:
        self.grouping = grouping
        self.parts = anatomy(names)
        self.by_regex = self._matched()
        self.layers = sorted({part.layer for part in self.parts.values() if part.layer is not None})
        self.bands = {} if grouping.each else self._bands()

    def result(self) -> Groups:
        members: dict[str, list[str]] = {name: [] for name in self._order()}
        followers: dict[str, str] = {}
        averaged: list[str] = []
        for name, part in self.parts.items():
            group, rule = self._home(name, part)
            if group is not None:
                members[group].append(name)
            elif rule == "follow":
                followers[name] = self._band_of(part)
            elif rule == "average":
                averaged.append(name)
        kept = {group: tuple(tensors) for group, tensors in members.items() if tensors}
        if not kept:
            raise UsageError("no tensor falls into any group; there is nothing to search")
        follows = {name: self._leaders(band, kept) for name, band in followers.items()}
        return Groups(kept, follows, tuple(averaged), self._dense(kept))

    def _dense(self, kept: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
        if not self.grouping.each:
            return frozenset({"norms"} & set(kept))
        alone = [g for g in kept if g in self.parts and g not in self.grouping.regex]
        return frozenset(g for g in alone if self.parts[g].kind == "norm")

    def _matched(self) -> dict[str, str]:
        """Tensor to the regex group that takes it."""
        matched: dict[str, str] = {}
        for group, pattern in self.grouping.regex.items():
            found = [name for name in self.parts if re.search(pattern, name)]
            new = [name for name in found if name not in matched]
            if not new:
                raise self.grouping.error(self._no_match(group, pattern, bool(found)), group)
            matched.update(dict.fromkeys(new, group))
        return matched

    def _no_match(self, group: str, pattern: str, taken: bool) -> str:
        if taken:
            return f"all that the pattern of {group!r} matches is taken by the patterns before it"
        shown = ", ".join(ascii(name)[1:-1] for name in list(self.parts)[:3])
        return f"the pattern {pattern!r} of {group!r} matches no tensor; the base has {shown}, ..."

    def _bands(self) -> dict[str, tuple[int, ...]]:
        """Band name to its layers; one band without layers if the model has none."""
        wanted, layers = self.grouping.layers, self.layers
        if wanted == "all":
            return {"all": tuple(layers)}
        if not layers:
            raise self.grouping.error(
                "the base has no numbered layers; 'layers: all', or regex groups, are possible",
                "layers",
            )
        if wanted == "each":
            return {str(layer): (layer,) for layer in layers}
        if isinstance(wanted, int):
            return _named(self._equal(wanted))
        return _named(self._explicit(wanted))

    def _equal(self, count: int) -> list[tuple[int, ...]]:
        n = len(self.layers)
        if count > n:
            raise self.grouping.error(
                f"{count} bands are asked of {n} layers; 1 to {n}, 'each' or 'all' are possible",
                "layers",
            )
        return equal_bands(self.layers, count)

    def _explicit(self, bands: tuple[tuple[int, int], ...]) -> list[tuple[int, ...]]:
        first, last = self.layers[0], self.layers[-1]
        for low, high in bands:
            if low < first or high > last:
                raise self.grouping.error(
                    f"the band [{low}, {high}] reaches beyond the base's layers, {first} to {last}",
                    "layers",
                )
        cut = [tuple(n for n in self.layers if low <= n <= high) for low, high in bands]
        left = sorted(set(self.layers) - {layer for band in cut for layer in band})
        if left:
            raise self.grouping.error(
                f"layers in no band: {', '.join(map(str, left))}; every layer needs one", "layers"
            )
        return [band for band in cut if band]

    def _order(self) -> list[str]:
        """Every group there could be, in the order in which parameters are listed."""
        if self.grouping.each:
            return self._all_tensors()
        kinds = [*self.grouping.modules, "other"] if self.grouping.modules else [""]
        cut = [f"{band}.{kind}" if kind else band for band in self.bands for kind in kinds]
        order = [*self.grouping.regex, "embeddings", *cut, "norms", "head"]
        twice = [name for name in self.grouping.regex if order.count(name) > 1]
        if twice:
            cause = f"{twice[0]!r} is also the name of a group made by 'layers'; choose another"
            raise self.grouping.error(cause, twice[0])
        return order

    def _all_tensors(self) -> list[str]:
        slashed = [name for name in self.parts if "/" in name]
        if slashed:
            text = f"the tensor {slashed[0]!a} has a slash, which parameters' names cannot have"
            raise UsageError(f"{text}; 'per: tensor' is not possible")
        return list(dict.fromkeys([*self.grouping.regex, *self.parts]))

    def _home(self, name: str, part: Part) -> tuple[str | None, Rule]:
        """The group of a tensor, or the rule that it goes by."""
        if name in self.by_regex:
            return self.by_regex[name], "own"
        if part.kind in _RULED:
            rule: Rule = getattr(self.grouping, _RULED[part.kind])
            own = name if self.grouping.each else _RULED[part.kind]
            return (own if rule == "own" else None), rule
        if self.grouping.each:
            return name, "own"
        if part.layer is None and self.layers:
            return None, "follow"
        band = self._band_of(part)
        if not self.grouping.modules:
            return band, "own"
        kind = part.kind if part.kind in self.grouping.modules else "other"
        return f"{band}.{kind}", "own"

    def _band_of(self, part: Part) -> str:
        """The band around a tensor; the first or the last one outside the layers."""
        if part.layer is None:
            return next(iter(self.bands)) if part.first else list(self.bands)[-1]
        return next(band for band, layers in self.bands.items() if part.layer in layers)

    def _leaders(self, band: str, kept: Mapping[str, object]) -> tuple[str, ...]:
        """The groups of a band; every group where patterns have emptied the band."""
        own = [g for g in kept if g == band or g.startswith(f"{band}.")]
        inside = [g for g in own if g not in self.grouping.regex]
        return tuple(inside or kept)


def equal_bands(layers: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Layers cut into bands whose sizes differ by one at most; `count` is at most their number."""
    n = len(layers)
    return [tuple(layers[i * n // count : (i + 1) * n // count]) for i in range(count)]


def _named(bands: list[tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"{b[0]}-{b[-1]}" if len(b) > 1 else str(b[0]): b for b in bands}
