"""Methods that thin each task vector out and fuse what is left: the common part.

A method of this kind is a way to thin and a way to fuse. ``weight`` is a model's factor,
``density`` the fraction of its entries kept; where the fusion elects signs and takes the mean,
``scaling`` is the factor of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evomerge.merging.fusion import add_elected, add_sum
from evomerge.merging.method import (
    ELEMENTWISE,
    Chunk,
    Field,
    Settings,
    Traits,
    counting,
    per_group,
    per_model,
)

if TYPE_CHECKING:
    from torch import Tensor

Thinning = Callable[[Chunk, int, Settings], "Tensor"]
"""A model's task vector, thinned out; may be written to."""
Fusion = Literal["sum", "elected sum", "elected mean"]


@dataclass(frozen=True)
class Sparsified:
    """One of the family; see `evomerge.merging.method.MergeMethod`."""

    name: str
    paper: str
    fields: tuple[Field, ...]
    thin: Thinning
    fusion: Fusion
    traits: Traits = ELEMENTWISE

    def used(self, settings: Settings) -> tuple[int, ...]:
        """Models with a weight of which something is kept; none where the scaling is 0."""
        if "scaling" in settings and per_group(settings, "scaling") == 0:
            return ()
        return counting(per_model(settings, "weight"), per_model(settings, "density"))

    def densities(self, settings: Settings) -> None:
        """None: the method thins by itself."""

    def combine(self, chunk: Chunk, settings: Settings) -> None:
        """Thin, fuse, add to the base."""

        def vector(model: int) -> Tensor:
            return self.thin(chunk, model, settings)

        weights, used = per_model(settings, "weight"), self.used(settings)
        if self.fusion == "sum":
            add_sum(chunk, vector, used, weights)
        else:
            scaling = per_group(settings, "scaling") if "scaling" in settings else 1.0
            mean = self.fusion == "elected mean"
            add_elected(chunk, vector, used, weights, scaling=scaling, mean=mean)


def weight(low: float, source: str) -> Field:
    """The factor of a model's task vector, searched from ``low`` to 1.5."""
    return Field(
        name="weight",
        per="model",
        low=low,
        high=1.5,
        default=1.0,
        scale="linear",
        meaning="factor of the model's thinned task vector",
        source=source,
    )


def density(low: float, default: float, meaning: str, source: str) -> Field:
    """The fraction of a task vector's entries kept, searched from ``low`` to 1."""
    return Field(
        name="density",
        per="model",
        low=low,
        high=1.0,
        default=default,
        scale="log",
        meaning=meaning,
        source=source,
        limits=(0.0, 1.0),
    )


SCALING = Field(
    name="scaling",
    per="group",
    low=0.5,
    high=2.5,
    default=1.0,
    scale="linear",
    meaning="factor of the merged task vector",
    source="1 in mergekit; 0.8 to 2.5 in the code of TIES' authors",
)
