"""Three disjoint parts of each objective's items: what chose a merge never also reports it."""

from __future__ import annotations

from evomerge.randomness import generator
from evomerge.recipe.specs import ItemSplits
from evomerge.trial import SPLITS, Split


def partition(count: int, splits: ItemSplits) -> dict[Split, tuple[int, ...]]:
    """Cuts a seeded permutation of the items; the same count and seed give the same parts.

    So objectives with the same number of items are measured on the same ones, and an objective
    that serves several goals is asked once.

    Args:
        count: of the objective's items.

    Returns:
        Indices in [0, count) by split, disjoint, each in ascending order.

    Raises:
        UsageError: if there are too few items for the parts.
    """
    sizes = splits.sizes(count)
    order = generator(splits.seed, "items").permutation(count).tolist()
    parts: dict[Split, tuple[int, ...]] = {}
    for split in SPLITS:
        parts[split], order = tuple(sorted(order[: sizes[split]])), order[sizes[split] :]
    return parts
