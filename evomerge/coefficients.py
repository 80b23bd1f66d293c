"""A candidate as bare numbers, for objectives that get no weights, and what a server makes of them.

Every candidate, the base and the models among them, is the same set of numbers: each field of its
method, for every model and tensor group. What a server can mix is said once, by a `Mixing`, and
checked before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Settings = Mapping[str, float | tuple[float, ...]]
"""A group's numbers by field: one per model, in the recipe's order, or one for all."""

SUMMED = frozenset({"weight", "density", "scaling"})
"""Fields of methods whose merge is the base and a weighted sum of task vectors."""


class Coefficients(dict[str, float]):
    """``{"math/0-3/weight": 0.4, ...}``: natural units, in the order of models, groups, fields.

    The names are ``MODEL/GROUP/FIELD``, or ``GROUP/FIELD`` for numbers that belong to no model;
    two candidates of one method have the same names. It is a plain dictionary besides, so that
    it can be written as JSON as it is.

    Attributes:
        method: the candidate's; a reference may have another than the campaign.
        models: in the recipe's order.
        layers: group to the numbers of the layers that it covers; empty for what lies outside
            the layers (embeddings, head).
        merge: the same as the section ``merge`` of a recipe file, rules for embeddings, norms and
            head included; JSON.
    """

    def __init__(
        self,
        method: str,
        models: tuple[str, ...],
        settings: Mapping[str, Settings],
        layers: Mapping[str, tuple[int, ...]],
        merge: Mapping[str, Any] | None = None,
    ) -> None:
        """All numbers of a candidate.

        Args:
            settings: by group.
        """
        self.method = method
        self.models = models
        self.layers = dict(layers)
        self.merge = dict(merge or {})
        self._settings = {group: dict(fields) for group, fields in settings.items()}
        super().__init__()
        for i, model in enumerate(models):
            for group, fields in self._settings.items():
                self.update(
                    {
                        f"{model}/{group}/{name}": value[i]
                        for name, value in fields.items()
                        if isinstance(value, tuple)
                    }
                )
        for group, fields in self._settings.items():
            self.update(
                {
                    f"{group}/{name}": value
                    for name, value in fields.items()
                    if not isinstance(value, tuple)
                }
            )

    def __reduce__(self) -> tuple[object, ...]:
        parts = (self.method, self.models, self._settings, self.layers, self.merge)
        return type(self), parts

    @property
    def groups(self) -> tuple[str, ...]:
        """In order of depth."""
        return tuple(self._settings)

    @property
    def fields(self) -> frozenset[str]:
        """Of the method."""
        return frozenset(name for fields in self._settings.values() for name in fields)

    def weight(self, model: str, group: str) -> float:
        """The factor of a model's task vector in a group: its weight times the group's scaling."""
        fields = self._settings[group]
        scaling = fields.get("scaling", 1.0)
        assert not isinstance(scaling, tuple)
        return self._number(fields, "weight", model) * scaling

    def density(self, model: str, group: str) -> float:
        """The fraction of a model's task vector that is kept in a group; 1 where all of it is."""
        fields = self._settings[group]
        return self._number(fields, "density", model) if "density" in fields else 1.0

    def weights_by_model(self) -> dict[str, float]:
        """One factor per model; for servers with `Mixing.per` ``model``, whose groups agree."""
        first = self.groups[0]
        return {model: self.weight(model, first) for model in self.models}

    def weights_by_layer(self) -> dict[str, dict[int, float]]:
        """One factor per model and layer, layers ascending; for `Mixing.per` ``layer``."""
        return {
            model: dict(
                sorted(
                    (layer, self.weight(model, group))
                    for group in self.groups
                    for layer in self.layers[group]
                )
            )
            for model in self.models
        }

    def weights_by_group(self) -> dict[str, dict[str, float]]:
        """One factor per model and group."""
        return {
            model: {group: self.weight(model, group) for group in self.groups}
            for model in self.models
        }

    def _number(self, fields: Settings, name: str, model: str) -> float:
        value = fields[name]
        return value[self.models.index(model)] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Mixing:
    """What a server can mix.

    Attributes:
        per: how finely its weights are set: one for each ``model``; for each model and ``layer``;
            or for each model and ``group`` of the recipe.
        signed: whether weights may be negative.
        most: the largest weight, without its sign; None has no bound.
        density: how finely densities are set; None keeps task vectors whole; ``all`` is one
            number for all models.
        methods: the merge methods whose arithmetic it does. At density 1, ``sparse_signed`` and
            ``task_arithmetic`` are the plain sum of weighted task vectors.
        models: the names that it knows; None takes any.
        semantics: ``delta`` where it sums task vectors, so that an export equals what was
            measured; ``factor`` where it mixes the two factors of LoRA adapters apart, which no
            export of ours repeats.
    """

    per: Literal["model", "layer", "group"] = "model"
    signed: bool = True
    most: float | None = None
    density: Literal["all", "model", "group"] | None = None
    methods: frozenset[str] = frozenset({"sparse_signed", "task_arithmetic"})
    models: frozenset[str] | None = None
    semantics: Literal["delta", "factor"] = "delta"

    def problem(self, candidate: Coefficients) -> str | None:
        """What of a candidate the server cannot mix, in a sentence; None if it can."""
        foreign = sorted(candidate.fields - SUMMED)
        if candidate.method not in self.methods or foreign:
            what = f"{candidate.method}'s {foreign[0]}" if foreign else candidate.method
            return f"it does not do {what}; it does {', '.join(sorted(self.methods))}"
        unknown = sorted(set(candidate.models) - (self.models or set(candidate.models)))
        if unknown:
            return f"it does not know the model {unknown[0]!r}"
        return self._weight_problem(candidate) or self._density_problem(candidate)

    def _weight_problem(self, candidate: Coefficients) -> str | None:
        for model, weights in candidate.weights_by_group().items():
            low, high = min(weights.values()), max(weights.values())
            if low < 0 and not self.signed:
                return f"a weight of {low:g} for {model} is negative; it takes none below 0"
            if self.most is not None and max(-low, high) > self.most:
                return f"a weight of {max(-low, high):g} for {model} is above its {self.most:g}"
            if self.per == "model" and low != high:
                return (
                    "it takes one weight per model; "
                    "let groups share theirs, by `shared: true` or `layers: all`"
                )
            if self.per == "layer" and (wrong := _split_layer(candidate, weights)):
                return wrong
        return None

    def _density_problem(self, candidate: Coefficients) -> str | None:
        by_model = [
            {candidate.density(model, group) for group in candidate.groups}
            for model in candidate.models
        ]
        found = set().union(*by_model)
        if self.density is None and found != {1.0}:
            return f"a density of {min(found):g}: it keeps task vectors whole; fix density at 1"
        if self.density == "all" and len(found) > 1:
            return "it takes one density for all; tie the models' and let groups share theirs"
        if self.density == "model" and any(len(values) > 1 for values in by_model):
            return "it takes one density per model; let groups share theirs, by `shared: true`"
        return None


def _split_layer(candidate: Coefficients, weights: Mapping[str, float]) -> str | None:
    """Where a layer would need two weights, or a group has no layer."""
    seen: dict[int, float] = {}
    for group, weight in weights.items():
        if not candidate.layers[group]:
            return f"the group {group!r} lies outside the layers, where it mixes nothing"
        for layer in candidate.layers[group]:
            if seen.setdefault(layer, weight) != weight:
                return f"it takes one weight per model and layer; layer {layer} is split"
    return None
