"""Evo-Merging: signed weights and densities on the factors of LoRA adapters.

Chen et al. 2025 (arXiv:2509.12951), as the authors' release computes it. ``S_d(A)`` keeps the
``round(d * n)`` entries of a factor A that are largest in magnitude, at least one, with all that
are as large as the smallest of them, and rescales nothing. B is never thinned. Per module:

    factor space    ``scale * (sum w_i B_i) (sum w_i S_i(A_i))``, the release
    delta space     ``sum w_i scale_i B_i S_i(A_i)``

In factor space a model's own term has the factor ``w_i ** 2``: a negative weight does not subtract
it, only its cross terms with others change sign, and w and -w are the same merge. There all
adapters of a module need one rank and one scale (the release takes the first one's for all). In
delta space a weight is the factor of the model's task vector, and ranks may differ.

An adapter that leaves a module alone has no part in it; the other weights stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evomerge.errors import UsageError
from evomerge.merging.method import Chunk, Field, Settings, Traits, counting, per_model

if TYPE_CHECKING:
    from torch import Tensor

_FIELDS = (
    Field(
        name="weight",
        per="model",
        low=-1.5,
        high=1.5,
        default=1.0,
        scale="linear",
        meaning="signed weight of the adapter's factors",
        source="-1.5 to 1.5 in the authors' release, from 1/N",
    ),
    Field(
        name="density",
        per="model",
        low=0.05,
        high=1.0,
        default=1.0,
        scale="linear",
        meaning="fraction of the factor A's entries kept, the largest ones",
        source="0 to 1 in the authors' release, from 1",
        limits=(0.0, 1.0),
    ),
)
_PAPER = "Chen et al. 2025 (arXiv:2509.12951)"


@dataclass(frozen=True)
class EvoMerging:
    """One of the two; see `evomerge.merging.method.MergeMethod` and `Joining`."""

    name: str
    paper: str
    space: Literal["factor", "delta"]
    traits: Traits
    fields: tuple[Field, ...] = _FIELDS

    def used(self, settings: Settings) -> tuple[int, ...]:
        """Models with a weight; in delta space, of which something is kept."""
        kept = per_model(settings, "density") if self.space == "delta" else None
        return counting(per_model(settings, "weight"), kept)

    def densities(self, settings: Settings) -> None:
        """None: factors are thinned, not task vectors."""

    def join(
        self, parts: Mapping[int, tuple[Tensor, Tensor, float]], settings: Settings
    ) -> tuple[Tensor, Tensor]:
        """Weighted factors, added up or side by side."""
        import torch  # recipes read this module without it

        weights, kept = per_model(settings, "weight"), per_model(settings, "density")
        thinned = {i: thin(down, kept[i]) for i, (_, down, _) in parts.items()}
        if self.space == "delta":
            ups = [up.mul_(weights[i] * scale) for i, (up, _, scale) in parts.items()]
            return torch.cat(ups, dim=1), torch.cat(list(thinned.values()))
        kinds = {(len(down), scale) for _, down, scale in parts.values()}
        if len(kinds) > 1:
            found = ", ".join(f"rank {rank} and scale {scale:g}" for rank, scale in sorted(kinds))
            raise UsageError(
                f"factor space needs adapters of one rank and scale; here are {found}; "
                "evo_merging_delta takes any"
            )
        first, *others = parts
        up, down = parts[first][0].mul_(weights[first]), thinned[first].mul_(weights[first])
        for i in others:
            up.add_(parts[i][0].mul_(weights[i]))
            down.add_(thinned[i].mul_(weights[i]))
        return up.mul_(parts[first][2]), down

    def combine(self, chunk: Chunk, settings: Settings) -> None:
        """Base plus the product of the joined factors."""
        chunk.total.add_(chunk.product(chunk.found))


def thin(factor: Tensor, density: float) -> Tensor:
    """The largest entries of a factor, in place; those as large as the smallest kept stay too."""
    if density == 1 or not factor.numel():
        return factor
    if density == 0:
        return factor.zero_()
    count = factor.numel()
    kept = min(max(round(density * count), 1), count)
    sizes = factor.abs().reshape(-1)
    least = sizes.kthvalue(count - kept + 1).values
    return factor.mul_(factor.abs() >= least)


EVO_MERGING = EvoMerging(
    "evo_merging", f"{_PAPER}, in factor space as released", "factor", Traits(adapters=True)
)
EVO_MERGING_DELTA = EvoMerging(
    "evo_merging_delta",
    f"{_PAPER}, in delta space",
    "delta",
    Traits(adapters=True, average=True),
)
