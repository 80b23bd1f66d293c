"""Small records of a campaign: what measures, how items are split, when to stop, what to write."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evomerge.errors import UsageError
from evomerge.recipe.strict_yaml import Place
from evomerge.trial import SPLITS, Split

REACHING = frozenset(
    {"url", "api_key_env", "connection", "prices", "self_test", "tolerance", "check_every"}
)
"""Options of endpoints that a running study may change."""


Parents = Literal["auto", "measured", "unmeasured"]
"""Whether each model is measured by itself before the search."""

FEW_PARENTS = 8
"""Up to so many models are measured by themselves whatever the budget."""


def measures_parents(models: int, trials: int | None) -> bool:
    """Whether ``parents: auto`` measures each model by itself.

    Not where more than `FEW_PARENTS` would take more than a quarter of the budget.

    Args:
        trials: of the budget; None if only time is limited.
    """
    return trials is None or models <= FEW_PARENTS or 4 * models <= trials


@dataclass(frozen=True)
class ObjectiveSpec:
    """What measures a metric.

    Attributes:
        type: of the objectives' registry.
        options: everything else that stands beside the type; plain JSON.
        place: for errors that only making the objective can find.
    """

    type: str
    options: Mapping[str, Any]
    place: Place | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """As the campaign file has it."""
        return {"type": self.type, **self.options}

    def identity(self) -> dict[str, Any]:
        """What of it decides results: not where an endpoint is reached, nor how."""
        return {key: value for key, value in self.to_json().items() if key not in REACHING}


@dataclass(frozen=True)
class SamplerSpec:
    """What proposes points."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As the campaign file has it."""
        return {"name": self.name, **self.options}


@dataclass(frozen=True)
class ItemSplits:
    """Three disjoint parts of every objective's items.

    Attributes:
        search, selection, test: shares that sum to 1, or counts.
        counted: whether the numbers are counts.
        seed: of the permutation that deals the items out.
    """

    search: float = 0.6
    selection: float = 0.2
    test: float = 0.2
    counted: bool = False
    seed: int = 0

    def sizes(self, items: int) -> dict[Split, int]:
        """How many items each part gets.

        Shares are rounded so that the parts hold all items; a part with a share gets at least
        one item while there are enough.

        Raises:
            UsageError: if there are fewer items than parts, or than the counts ask for.
        """
        shares: dict[Split, float] = dict(
            zip(SPLITS, (self.search, self.selection, self.test), strict=True)
        )
        if self.counted:
            counts = {split: int(share) for split, share in shares.items()}
            if sum(counts.values()) > items:
                raise UsageError(f"{sum(counts.values())} items are asked for; there are {items}")
            return counts
        used = [split for split in SPLITS if shares[split] > 0]
        if items < len(used):
            raise UsageError(f"{items} items cannot be split into {len(used)} parts")
        return _rounded(shares, items)

    def to_json(self) -> dict[str, Any]:
        """All that decides which items are in which part."""
        numbers = {"search": self.search, "selection": self.selection, "test": self.test}
        return {**numbers, "counted": self.counted, "seed": self.seed}


def _rounded(shares: Mapping[Split, float], items: int) -> dict[Split, int]:
    """Largest remainders over one item each; ties go to the earlier part."""
    sizes: dict[Split, int] = {split: int(shares[split] > 0) for split in SPLITS}
    wanted = {split: shares[split] * items for split in SPLITS}
    for split in SPLITS:
        sizes[split] = max(sizes[split], math.floor(wanted[split] + 1e-9))
    while sum(sizes.values()) != items:
        step = 1 if sum(sizes.values()) < items else -1
        able = [split for split in SPLITS if shares[split] > 0 and (step > 0 or sizes[split] > 1)]
        split = max(able, key=lambda split: step * (wanted[split] - sizes[split]))
        sizes[split] += step
    return sizes


@dataclass(frozen=True)
class Racing:
    """How new candidates race; see `evomerge.search.racing`.

    Attributes:
        first: share of an objective's search items that are measured first, in (0, 1); every
            further stage doubles what is measured.
        error: a candidate whose chance of entering the front is less is stopped, in (0, 1);
            shared out among the stages.
        tolerance: how many standard errors, of paired differences over items, a candidate must be
            ahead of a front member to count as better; None: 3, but 0 for one goal, whose front is
            a single trial, so few enter it.
    """

    first: float = 0.125
    error: float = 0.2
    tolerance: float | None = None

    def tolerated(self, goals: int) -> float:
        """The tolerance, for so many goals."""
        if self.tolerance is not None:
            return self.tolerance
        return 0.0 if goals == 1 else 3.0

    def to_json(self) -> dict[str, Any]:
        """All that decides which items are measured."""
        return {"first": self.first, "error": self.error, "tolerance": self.tolerance}


@dataclass(frozen=True)
class Budget:
    """When asking stops; whichever is reached first. At least one is set.

    Attributes:
        trials: references included.
        hours: of wall time, summed over resumes.
        requests, tokens: sent to endpoints and counted there, retries included.
        money: in the currency of the endpoints' prices.
    """

    trials: int | None = None
    hours: float | None = None
    requests: int | None = None
    tokens: int | None = None
    money: float | None = None

    @property
    def limits_spend(self) -> bool:
        """Whether it is about endpoints at all."""
        return (self.requests, self.tokens, self.money) != (None, None, None)


@dataclass(frozen=True)
class ExportSpec:
    """What is written when the campaign ends.

    Attributes:
        to: the folder that gets one folder per merge.
        which: ``front``, the whole Pareto set.
        dtype: of the files, a safetensors word; None keeps the campaign's, or the base's.
        shard_size: in bytes.
        form: ``lora`` writes each merge as one adapter to the base.
        rank: the largest of such an adapter; None keeps all ranks.
    """

    to: Path
    which: Literal["front"] = "front"
    dtype: str | None = None
    shard_size: int = 5_000_000_000
    form: Literal["full", "lora"] = "full"
    rank: int | None = None
