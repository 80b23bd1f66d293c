"""TIES: trim, elect a sign per entry, average the models that agree with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from evomerge.merging.fusion import add_elected
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


@dataclass(frozen=True)
class Ties:
    """Yadav et al. 2023, section 4.

    1. Trim: of each task vector the `density` largest entries are kept, by the rule of
       `evomerge.merging.magnitudes`: of each tensor, as mergekit does (`TIES`), or of the whole
       model, as the paper does (`TIES_MODEL`).
    2. Elect: each entry gets the sign of ``sum weight * kept entry``, the side with the larger
       total mass; where the sum is 0, nothing is added (the paper's sgn(0) = 0).
    3. Disjoint mean: ``sum weight * kept entry / sum |weight|`` over the models whose term has
       the elected sign. Absolute weights, since a sum with both signs can cancel and explode.

    The base gets ``scaling`` times that. With weights 1 this is the paper's form.

    Attributes:
        mean: whether step 3 divides; the plain sum of the agreeing terms otherwise.
    """

    name: str = "ties"
    paper: str = "Yadav et al. 2023 (arXiv:2306.01708)"
    fields: tuple[Field, ...] = field(
        default=(
            Field(
                name="weight",
                per="model",
                low=0.0,
                high=1.5,
                default=1.0,
                scale="linear",
                meaning="factor of the model's task vector before the election",
                source="1 in the paper",
            ),
            Field(
                name="density",
                per="model",
                low=0.05,
                high=1.0,
                default=0.2,
                scale="log",
                meaning="fraction of the task vector's entries kept, the largest ones",
                source="0.2 in the paper",
                limits=(0.0, 1.0),
            ),
            Field(
                name="scaling",
                per="group",
                low=0.5,
                high=2.5,
                default=1.0,
                scale="linear",
                meaning="factor of the merged task vector",
                source="1 without validation, 0.8 to 2.5 with, in the authors' code",
            ),
        )
    )
    traits: Traits = ELEMENTWISE
    mean: bool = True

    def used(self, settings: Settings) -> tuple[int, ...]:
        """Models with a weight of which something is kept; none where the scaling is 0."""
        if per_group(settings, "scaling") == 0:
            return ()
        return counting(per_model(settings, "weight"), self.densities(settings))

    def densities(self, settings: Settings) -> tuple[float, ...]:
        """The field ``density``."""
        return per_model(settings, "density")

    def combine(self, chunk: Chunk, settings: Settings) -> None:
        """Trimmed vectors, elected, averaged, scaled."""
        add_elected(
            chunk,
            chunk.vector,
            self.used(settings),
            per_model(settings, "weight"),
            scaling=per_group(settings, "scaling"),
            mean=self.mean,
        )


TIES = Ties()
TIES_SUM = Ties(
    name="ties_sum",
    paper="Yadav et al. 2023 (arXiv:2306.01708) without the mean: mergekit's `normalize: false`",
    mean=False,
)
TIES_MODEL = Ties(
    name="ties_model",
    paper="Yadav et al. 2023 (arXiv:2306.01708), trimmed over the whole model as in the paper",
    traits=Traits(pooled=True),
)
