"""Pins: what a field of a model may be: searched in a range, fixed, tied, or one for all groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.errors import UsageError
from evomerge.merging.method import Field
from evomerge.recipe.reader import Parser, Section, boolean, error, got, nearest, number, text
from evomerge.recipe.strict_yaml import Node, Place


@dataclass(frozen=True)
class Pin:
    """What the search may do with one field.

    Attributes:
        fixed: the value, not searched.
        range: the ends between which it is searched; None takes the method's own.
        tie: the model whose number this one always equals.
        shared: one number over all groups.
    """

    fixed: float | None = None
    range: tuple[float, float] | None = None
    tie: str | None = None
    shared: bool = False

    def over(self, wider: Pin) -> Pin:
        """This pin, with what it leaves open taken from a wider one."""
        if self.fixed is not None or self.tie is not None:
            return self
        if self.range is None and wider.fixed is not None:
            return wider
        return Pin(range=self.range or wider.range, shared=self.shared or wider.shared)

    def to_json(self) -> dict[str, Any]:
        """What is set, and nothing else."""
        parts = {
            "fixed": self.fixed,
            "range": list(self.range) if self.range else None,
            "tie": self.tie,
            "shared": self.shared or None,
        }
        return {key: value for key, value in parts.items() if value is not None}


def pin(field: Field, *, model: str | None = None) -> Parser[Pin]:
    """How one field is pinned.

    Args:
        model: whose field it is; None where it is for all models, and cannot be tied.
    """

    def parse(node: Node) -> Pin:
        if isinstance(node.value, tuple):
            return Pin(range=_range(field, node))
        if not isinstance(node.value, Mapping):
            return Pin(fixed=field_value(field)(node))
        return _mapping(field, node, model)

    return parse


def field_value(field: Field) -> Parser[float]:
    """A value that the field can take, searched or not; a density of 0 would keep nothing."""
    low, high = field.limits
    return number(above=0, high=high) if field.role == "density" else number(low=low, high=high)


def check_ties(ties: Mapping[str, str], field: str, places: Mapping[str, Place]) -> None:
    """Refuse ties that lead back to where they start.

    Args:
        ties: model to the model that it is tied to.
        places: of each tie.

    Raises:
        CampaignError: naming the models of the cycle.
    """
    for model in ties:
        chain = [model]
        while chain[-1] in ties and ties[chain[-1]] not in chain:
            chain.append(ties[chain[-1]])
        if ties.get(chain[-1]) == model:
            cycle = " -> ".join([*chain, model])
            raise error(f"the {field} ties lead in a circle: {cycle}", places[model])


def _range(field: Field, node: Node) -> tuple[float, float]:
    ends = node.value
    if not isinstance(ends, tuple) or len(ends) != 2:
        raise error(f"{got(node)} stands here; a range is [low, high]", node)
    low, high = (field_value(field)(end) for end in ends)
    if low == high:
        raise error(
            f"both ends of the range are {low:g}; a fixed value is {{fixed: {low:g}}}", node
        )
    if low > high:
        raise error(
            f"the range [{low:g}, {high:g}] is upside down; the lower end comes first", node
        )
    if field.scale == "log" and low <= 0:
        raise error(f"the range starts at {low:g}; {field.name} is searched by its logarithm", node)
    return low, high


def _mapping(field: Field, node: Node, model: str | None) -> Pin:
    problems: list[UsageError] = []
    part = Section(node, "", problems)
    if model is None and "tie" in part:
        cause = "a tie is between two models; write it at a model, under models"
        raise error(cause, node.keys["tie"])
    fixed = part.get("fixed", field_value(field), None)
    ends = part.get("range", lambda value: _range(field, value), None)
    shared = part.get("shared", boolean, False)
    tie = part.get("tie", text, None) if model is not None else None
    part.finish()
    if problems:
        raise problems[0]
    given = [key for key in ("fixed", "range", "tie") if key in part]
    if len(given) > 1 or (shared and given not in ([], ["range"])):
        both = " and ".join([*given, *(["shared"] if shared else [])])
        raise error(f"{both} exclude each other", node)
    if not given and "shared" not in part:
        raise error(f"an empty pin{nearest('', ['fixed', 'range', 'tie', 'shared'])}", node)
    return Pin(fixed, ends, tie, shared)
