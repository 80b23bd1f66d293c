"""The plain sum of the models' own tensors, the base left out."""

from __future__ import annotations

from dataclasses import dataclass

from evomerge.merging.method import Chunk, Field, Settings, Traits, counting, per_model


@dataclass(frozen=True)
class TensorSum:
    """``sum of weight * model``; see `evomerge.merging.method.MergeMethod`.

    The weights need not add up to 1, which is what sets it apart from a sum of task vectors.
    """

    name: str
    paper: str
    fields: tuple[Field, ...]
    traits: Traits

    def used(self, settings: Settings) -> tuple[int, ...]:
        """Models with a weight; the first if none has one, as the sum is 0 and not the base."""
        return counting(per_model(settings, "weight")) or (0,)

    def densities(self, settings: Settings) -> None:
        """None: nothing is dropped."""

    def combine(self, chunk: Chunk, settings: Settings) -> None:
        """The sum, in the order of the models."""
        weights = per_model(settings, "weight")
        chunk.total.zero_()
        for i in self.used(settings):
            chunk.total.add_(chunk.model(i).mul_(weights[i]))


WEIGHTED_SUM = TensorSum(
    name="weighted_sum",
    paper="the sum of the models' tensors at any weights: mergekit's linear with "
    "`normalize: false`, and the scale of its passthrough",
    fields=(
        Field(
            name="weight",
            per="model",
            low=0.0,
            high=1.0,
            default=1.0,
            scale="linear",
            meaning="factor of the model's tensor",
            source="1 where nothing is said, as in mergekit",
        ),
    ),
    traits=Traits(parents=False, average=True, steady=False),
)
