"""Methods that take two models, entry by entry: interpolation, nearswap, fine-tuning transfer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from evomerge.merging.directions import FRACTION
from evomerge.merging.method import Chunk, Field, Settings, Traits, per_group


@dataclass(frozen=True)
class Pair:
    """One of the family; see `evomerge.merging.method.MergeMethod`.

    Attributes:
        needs: the models that the result depends on.
        mix: fills ``chunk.total``.
    """

    name: str
    paper: str
    fields: tuple[Field, ...]
    needs: Callable[[float], tuple[int, ...]]
    mix: Callable[[Chunk, float], None]
    traits: Traits

    def used(self, settings: Settings) -> tuple[int, ...]:
        """By the method's one number."""
        return self.needs(self._number(settings))

    def densities(self, settings: Settings) -> None:
        """None: nothing is dropped."""

    def combine(self, chunk: Chunk, settings: Settings) -> None:
        """One model alone is itself; else the mixture."""
        self.mix(chunk, self._number(settings))

    def _number(self, settings: Settings) -> float:
        return per_group(settings, self.fields[0].name)


def interpolate(chunk: Chunk, fraction: float) -> None:
    """``first + t * (second - first)``; at t = 1 the second itself."""
    chunk.total.copy_(chunk.model(0 if fraction < 1 else 1))
    if 0 < fraction < 1:
        chunk.total.add_(chunk.model(1).sub_(chunk.total).mul_(fraction))


def swap_near(chunk: Chunk, step: float) -> None:
    """``first + clamp(second - first, -step, step)``.

    That is ``w * second + (1 - w) * first`` with ``w = min(1, step / |second - first|)``.
    """
    chunk.total.copy_(chunk.model(0))
    if step > 0:
        chunk.total.add_(chunk.model(1).sub_(chunk.total).clamp_(-step, step))


def transfer(chunk: Chunk, scaling: float) -> None:
    """``base + scaling * (second - first)``."""
    before = chunk.spare("before").copy_(chunk.model(0))
    chunk.total.add_(chunk.model(1).sub_(before).mul_(scaling))


def _between(fraction: float) -> tuple[int, ...]:
    return (0,) if fraction == 0 else (1,) if fraction == 1 else (0, 1)


def _near(step: float) -> tuple[int, ...]:
    return (0, 1) if step > 0 else (0,)


def _moved(scaling: float) -> tuple[int, ...]:
    return (0, 1) if scaling != 0 else ()


_TWO = Traits(fewest=2, most=2, parents=False)

INTERPOLATION = Pair(
    "interpolation",
    "Wu et al. 2025 (arXiv:2510.10977), between two models",
    (FRACTION,),
    _between,
    interpolate,
    _TWO,
)
NEARSWAP = Pair(
    "nearswap",
    "alchemonaut 2024 (huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001), "
    "from the first model towards the second",
    (
        Field(
            name="step",
            per="group",
            low=1e-5,
            high=1e-2,
            default=1e-4,
            scale="log",
            meaning="how far an entry may move from the first model towards the second",
            source="0.0001 where it was published",
            limits=(0.0, math.inf),
        ),
    ),
    _near,
    swap_near,
    _TWO,
)
TRANSFER = Pair(
    "transfer",
    "Lin et al. 2025 (arXiv:2503.20110): what was tuned from the first model to the second, "
    "on the base",
    (
        Field(
            name="scaling",
            per="group",
            low=0.1,
            high=1.5,
            default=1.0,
            scale="linear",
            meaning="factor of the difference of the two models",
            source="1 in the paper",
        ),
    ),
    _moved,
    transfer,
    _TWO,
)
