"""PCB-Merging: entries compete within their task vector and balance across task vectors.

Du et al. 2024 (arXiv:2410.02396), tensor by tensor (the authors rank over the whole model). For
terms ``v_i``, the task vectors of the N models used:

1. Magnitudes ``a_i = |v_i|`` are cut to their quantiles q and 1 - q, q = 1e-4, and
   ``u_i = sign(v_i) * minmax(a_i)``, in [-1, 1].
2. ``intra_i = exp(N * minmax(a_i)**2)``; ``inter_i = sum_j tanh(u_i * u_j)``; their product is the
   score. This is the form of the authors' evolutionary search, which does not depend on the scale
   of the task vectors as the forms of their other files do.
3. Scores are cut from below at their quantile ``1 - density`` and mapped to [0, 1]: s_i.
4. ``base + sum weight_i * s_i * (sign(v_i) * a_i) / sum s_i``; 0 where all s_i are.

A minmax of numbers that are all equal is 1, not 0/0: a single entry takes part whole. Quantiles are
the entries at that place of the sorted row, without interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.merging.method import Chunk, Field, Settings, Traits, counting, per_model
from evomerge.merging.sparsified import density, weight

if TYPE_CHECKING:
    from torch import Tensor

OUTLIERS = 1e-4

_FIELDS = (
    weight(0.0, "0.8 to 1.3 in the authors' search, 1.2 for their vision models"),
    density(
        0.05,
        0.1,
        "fraction of the entries that count, those with the highest scores",
        "0.05, 0.1 and 0.2 in the authors' code",
    ),
)


_TRAITS = Traits(whole=True, parents=False)


@dataclass(frozen=True)
class Pcb:
    """See `evomerge.merging.method.MergeMethod`."""

    name: str = "pcb"
    paper: str = "Du et al. 2024 (arXiv:2410.02396)"
    fields: tuple[Field, ...] = _FIELDS
    traits: Traits = _TRAITS

    def used(self, settings: Settings) -> tuple[int, ...]:
        """Models with a weight of which something is kept."""
        return counting(per_model(settings, "weight"), per_model(settings, "density"))

    def densities(self, settings: Settings) -> None:
        """None: scores decide, not magnitudes."""

    def combine(self, chunk: Chunk, settings: Settings) -> None:
        """Scores first, then the mean that they weigh."""
        used = self.used(settings)
        weights, kept = per_model(settings, "weight"), per_model(settings, "density")
        ends = {i: _ends(chunk.vector(i).abs_()) for i in used}

        def cut(i: int) -> Tensor:
            """Made anew each time: memory does not grow with the models."""
            return _cut(chunk.vector(i), ends[i])

        above, below = chunk.spare("above").zero_(), chunk.spare("below").zero_()
        for i in used:
            unit = chunk.spare("unit").copy_(_unit(cut(i)))
            score = chunk.spare("score").zero_()
            for j in used:
                score.add_(_unit(cut(j)).mul_(unit).tanh_())
            score.mul_(unit.square_().mul_(len(used)).exp_())
            score.clamp_(min=_at(score, 1 - kept[i]))
            _minmax(score)
            below.add_(score)
            above.add_(score.mul_(cut(i)).mul_(weights[i]))
        chunk.total.add_(above.div_(below.masked_fill_(below == 0, 1.0)))


def _ends(sizes: Tensor) -> tuple[float, float]:
    """The outer quantiles of magnitudes."""
    return _at(sizes, OUTLIERS), _at(sizes, 1 - OUTLIERS)


def _cut(vector: Tensor, ends: tuple[float, float]) -> Tensor:
    """Magnitudes between two ends, signs as they were; in place."""
    sizes = vector.abs().clamp_(*ends)
    return vector.sign_().mul_(sizes)


def _unit(vector: Tensor) -> Tensor:
    """Magnitudes mapped to [0, 1], signs as they were; in place."""
    sizes = _minmax(vector.abs())
    return vector.sign_().mul_(sizes)


def _minmax(values: Tensor) -> Tensor:
    """Map to [0, 1], in place; 1 where all are equal."""
    low, high = values.min().item(), values.max().item()
    if high == low:
        return values.fill_(1.0)
    return values.sub_(low).div_(high - low)


def _at(values: Tensor, fraction: float) -> float:
    """The entry at this fraction of the sorted values, the nearest place."""
    place = round(fraction * (len(values) - 1))
    return values.kthvalue(place + 1).values.item()


PCB = Pcb()
