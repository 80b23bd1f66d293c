"""LiNeS: what any other method adds to the base, scaled by the depth of the block.

Wang et al. 2025 (arXiv:2410.17146): ``base + lambda(i) * (merged - base)``, where ``lambda(i) =
alpha + beta * i / (L - 1)`` for block i of L, and alpha for what is outside the blocks. Here the
two numbers are the ends: ``shallow_scaling`` is alpha, ``deep_scaling`` is alpha + beta. A model
with one block has the depth 0. Blocks are counted by `evomerge.recipe.anatomy`: the authors' code
takes the first number between dots that it finds, which may be a nested one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from evomerge.merging.method import (
    Chunk,
    Field,
    MergeMethod,
    Settings,
    Traits,
    per_group,
    surveys,
)

PREFIX = "lines:"
PAPER = "Wang et al. 2025 (arXiv:2410.17146)"


def _scaling(name: str, low: float, where: str, source: str) -> Field:
    return Field(
        name=name,
        per="group",
        low=low,
        high=1.5,
        default=1.0,
        scale="linear",
        meaning=f"factor, {where}, of all that the method adds to the base",
        source=source,
        shared=True,
    )


FIELDS = (
    _scaling("shallow_scaling", 0.0, "in the first block and outside the blocks", "paper's alpha"),
    _scaling("deep_scaling", 0.1, "in the last block", "paper's alpha + beta"),
    Field(
        name="depth",
        per="group",
        low=0.0,
        high=1.0,
        default=0.0,
        scale="linear",
        meaning="where the tensor stands, from 0 in the first block to 1 in the last",
        source="the recipe fills it in",
        limits=(0.0, 1.0),
        searched=False,
    ),
)


@dataclass(frozen=True)
class Lines:
    """A method wrapped; see `evomerge.merging.method.MergeMethod`."""

    inner: MergeMethod

    @property
    def name(self) -> str:
        """``lines:`` and the inner method's."""
        return PREFIX + self.inner.name

    @property
    def paper(self) -> str:
        """Both sources."""
        return f"{PAPER} over {self.inner.paper}"

    @property
    def fields(self) -> tuple[Field, ...]:
        """The inner method's, then the two ends and the depth."""
        return (*self.inner.fields, *FIELDS)

    @property
    def traits(self) -> Traits:
        """The inner method's: with both ends at 1 it is that method."""
        return self.inner.traits

    def used(self, settings: Settings) -> tuple[int, ...]:
        """None where the factor is 0."""
        return self.inner.used(inner_settings(settings)) if factor_of(settings) else ()

    def densities(self, settings: Settings) -> tuple[float, ...] | None:
        """The inner method's."""
        return self.inner.densities(inner_settings(settings))

    def survey(self, chunks: Callable[[], Iterator[Chunk]], used: tuple[int, ...]) -> Any:
        """The inner method's, if it has one."""
        return self.inner.survey(chunks, used) if surveys(self.inner) else None

    def combine(self, chunk: Chunk, settings: Settings) -> None:
        """The inner merge, then the way from the base to it scaled."""
        factor, settings = factor_of(settings), inner_settings(settings)
        if factor == 1:
            self.inner.combine(chunk, settings)
            return
        base = chunk.spare("lines base").copy_(chunk.total)
        self.inner.combine(chunk, settings)
        chunk.total.sub_(base).mul_(factor).add_(base)


def inner_settings(settings: Settings) -> Settings:
    """What is the inner method's."""
    own = {field.name for field in FIELDS}
    return {name: value for name, value in settings.items() if name not in own}


def factor_of(settings: Settings) -> float:
    """Of the way from the base to the inner merge."""
    shallow, deep = (per_group(settings, f"{end}_scaling") for end in ("shallow", "deep"))
    return shallow + (deep - shallow) * per_group(settings, "depth")
