"""A merge with every number filled in: which method, and each tensor's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from evomerge.merging.method import Settings

Vocabulary = Literal["refuse", "common", "base"]
"""What becomes of models with another vocabulary, see `evomerge.merging.vocabulary`."""

VOCABULARIES: tuple[Vocabulary, ...] = get_args(Vocabulary)

Mask = Literal["smooth", "exact", "plain"]
"""What becomes of entries that tie at a threshold: see `evomerge.merging.magnitudes`."""


@dataclass(frozen=True)
class MergePlan:
    """What a candidate is for the engine.

    Attributes:
        method: a name in `evomerge.merging.registry.METHODS`.
        models: in the order of the numbers in per-model fields.
        tensors: settings by tensor name; the tensors that are absent are the base's.
        seed: of the methods that draw random numbers, and of lots.
        mask: of the methods that keep the largest entries by the density rule.
    """

    method: str
    models: tuple[str, ...]
    tensors: Mapping[str, Settings]
    seed: int = 0
    mask: Mask = "smooth"
