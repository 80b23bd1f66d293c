"""Weighted sums of task vectors: sparse signed merging, task arithmetic, the plain average.

All three are ``base + sum over models of coefficient * kept(task vector)``; they differ in where
the coefficients come from and in whether small entries are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from evomerge.merging.method import Chunk, Field, Settings, Traits, counting, per_group, per_model

_AVERAGING = Traits(average=True)


@dataclass(frozen=True)
class WeightedSum:
    """One of the family; see `evomerge.merging.method.MergeMethod`.

    Attributes:
        coefficients: one per model from the settings.
    """

    name: str
    paper: str
    fields: tuple[Field, ...]
    coefficients: Callable[[Settings], tuple[float, ...]]
    traits: Traits = _AVERAGING

    def used(self, settings: Settings) -> tuple[int, ...]:
        """Models whose coefficient is not 0 and of which something is kept."""
        return counting(self.coefficients(settings), self.densities(settings))

    def densities(self, settings: Settings) -> tuple[float, ...] | None:
        """The field ``density``, where the method has one."""
        return per_model(settings, "density") if "density" in settings else None

    def combine(self, chunk: Chunk, settings: Settings) -> None:
        """``base + sum coefficient * vector``."""
        factors = self.coefficients(settings)
        for i in self.used(settings):
            chunk.total.add_(chunk.vector(i).mul_(factors[i]))


def _weights(settings: Settings) -> tuple[float, ...]:
    return per_model(settings, "weight")


def _scaled(settings: Settings) -> tuple[float, ...]:
    scaling = per_group(settings, "scaling")
    return tuple(scaling * weight for weight in per_model(settings, "weight"))


def _shares(settings: Settings) -> tuple[float, ...]:
    """Weights divided by their sum; all zero if they are."""
    weights = per_model(settings, "weight")
    whole = sum(weights)
    return tuple(weight / whole for weight in weights) if whole else weights


SPARSE_SIGNED = WeightedSum(
    name="sparse_signed",
    paper="signed weights and magnitude sparsification as in Chen et al. 2025 (arXiv:2509.12951), "
    "on task vectors instead of LoRA factors, per tensor group",
    fields=(
        Field(
            name="weight",
            per="model",
            low=-0.5,
            high=1.5,
            default=1.0,
            scale="linear",
            meaning="factor of the model's task vector; negative subtracts the model",
            source="arXiv:2509.12951 searches [-1.5, 1.5], on LoRA factors",
        ),
        Field(
            name="density",
            per="model",
            low=0.05,
            high=1.0,
            default=1.0,
            scale="log",
            meaning="fraction of the task vector's entries kept, the largest ones",
            source="arXiv:2509.12951 searches [0, 1]",
            limits=(0.0, 1.0),
        ),
    ),
    coefficients=_weights,
)

TASK_ARITHMETIC = WeightedSum(
    name="task_arithmetic",
    paper="Ilharco et al. 2023 (arXiv:2212.04089)",
    fields=(
        Field(
            name="weight",
            per="model",
            low=-0.5,
            high=1.5,
            default=1.0,
            scale="linear",
            meaning="factor of the model's task vector; negative subtracts the model",
            source="1 in the paper",
        ),
        Field(
            name="scaling",
            per="group",
            low=0.1,
            high=1.0,
            default=0.3,
            scale="linear",
            meaning="factor of the sum of all task vectors",
            source="0.1 to 1 is the usual grid; 0.3 FusionBench's default for eight CLIP models",
        ),
    ),
    coefficients=_scaled,
)

LINEAR = WeightedSum(
    name="linear",
    paper="the weighted average of the models; Wortsman et al. 2022 (arXiv:2203.05482)",
    fields=(
        Field(
            name="weight",
            per="model",
            low=0.0,
            high=1.0,
            default=1.0,
            scale="linear",
            meaning="share of the model before division by the sum of all; the base has none",
            source="equal shares in the paper",
            # A sum of weights with both signs can cancel, and dividing by it would explode.
            limits=(0.0, math.inf),
        ),
    ),
    coefficients=_shares,
)
"""Written as base + sum share * (model - base), which is the same number as the shares add up to
1, rounds less, and leaves entries that no model changed as they are."""

SELMA = WeightedSum(
    name="selma",
    paper="Li et al. 2024 (arXiv:2403.06952): the mean of LoRA experts, each scaled as it was "
    "trained; at equal shares the authors' rule, whose released code divides by the length of a "
    "text instead of the number of experts",
    fields=LINEAR.fields,
    coefficients=_shares,
)
"""For adapters and for full models alike: the mean of their task vectors."""
