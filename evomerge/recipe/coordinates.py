"""Where groups of tensors lie in the model: depth and kind of module, read off tensor names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evomerge.recipe.anatomy import Part, anatomy
from evomerge.recipe.numbers import ALL_GROUPS, parts_of
from evomerge.space import Coordinate


def group_coordinates(
    groups: Mapping[str, Sequence[str]], tensors: Sequence[str]
) -> dict[str, tuple[float | None, str | None]]:
    """Depth and kind of every group.

    The depth is the mean over a group's tensors, with 0 for the first layer and for what stands
    before the layers, 1 for the last layer and for what stands behind them. A group that holds
    more than one kind of module has no kind.

    Args:
        groups: to their tensors.
        tensors: all of the base's, which say how many layers there are.
    """
    parts = anatomy(tensors)
    layers = [part.layer for part in parts.values() if part.layer is not None]
    first, last = min(layers, default=0), max(layers, default=0)
    return {
        group: _place([parts[name] for name in names], first, last)
        for group, names in groups.items()
    }


def coordinate_of(name: str, places: Mapping[str, tuple[float | None, str | None]]) -> Coordinate:
    """The coordinate of a parameter; one shared by all groups has neither depth nor kind."""
    model, group, field = parts_of(name)
    depth, kind = (None, None) if group == ALL_GROUPS else places[group]
    return Coordinate(model, depth, kind, field)


def _place(parts: Sequence[Part], first: int, last: int) -> tuple[float | None, str | None]:
    kinds = {part.kind for part in parts}
    if first == last:
        return None, kinds.pop() if len(kinds) == 1 else None
    depths = [
        (0.0 if part.first else 1.0)
        if part.layer is None
        else (part.layer - first) / (last - first)
        for part in parts
    ]
    return sum(depths) / len(depths), kinds.pop() if len(kinds) == 1 else None
