"""What a merge method is: its fields, declared once, and its arithmetic on a stretch of entries.

The fields are the table that everything else derives from: the space that is searched, the check
of settings, the listings. Nothing here loads torch, so that recipes can be read without it.

Most methods are elementwise: each entry of the merged tensor depends on the same entry of the base
and of the models, on the sparsifier's thresholds, which come from whole tensors
(`evomerge.merging.magnitudes`), and on random numbers that have addresses. So tensors are merged in
chunks, and nothing about the chunks shows in the result. Methods that need angles find them in a
pass of their own over the tensor (`Traits.local`). Those that need norms or ranks of what they make
get the tensor as one chunk (`Traits.whole`); memory then grows with the largest tensor, but not
with the models.

A few methods rank over the whole model, as their papers do: their thresholds come from all tensors
together (`Traits.pooled`), and what else they must know they find by a `Surveying.survey`. Both are
figures of a few numbers per model, found once for all candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeGuard, runtime_checkable

from evomerge.errors import UsageError
from evomerge.space import Scale

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merging.low_rank import Factors

Settings = Mapping[str, float | tuple[float, ...]]
"""One tensor's numbers by field: one per model, in the recipe's order, or one for all."""


@dataclass(frozen=True)
class Field:
    """One number that a method takes.

    Attributes:
        name: ``weight``, ``density``, ``scaling``.
        per: whether there is one for each model, or one for the group.
        low, high: the range that is searched unless the campaign file gives another.
        default: the value at which the method is itself where nothing is said.
        scale: ``log`` searches the range in the logarithm.
        meaning: one line for people.
        source: where the range and the default come from.
        limits: the least and the greatest value that make sense; others are refused.
        shared: one number over all groups, always.
        searched: False for what the recipe itself fills in from the tensor's place in the model.
    """

    name: str
    per: Literal["model", "group"]
    low: float
    high: float
    default: float
    scale: Scale
    meaning: str
    source: str
    limits: tuple[float, float] = (-math.inf, math.inf)
    shared: bool = False
    searched: bool = True

    @property
    def role(self) -> str:
        """``weight`` or ``density`` for all that are one, such as ``negative_weight``."""
        return role_of(self.name)


def role_of(name: str) -> str:
    """What a field of this name is: the last of its words."""
    return name.rpartition("_")[2]


@dataclass(frozen=True)
class Traits:
    """What the engine and recipes must know of a method.

    Attributes:
        whole: `MergeMethod.combine` needs all entries of a tensor in one chunk.
        local: what the method surveys (`Surveying`) is each tensor, not the whole model.
        fewest, most: models that it takes; None is any number.
        parents: weights of 0 give the base, and a weight of 1 for one model alone gives that
            model, at density 1 and scaling 1.
        average: N weights of 1/N give the plain average, at density 1 and scaling 1.
        pooled: densities are of a model's entries in all merged tensors, not in each.
        steady: where all models have the base's tensor, so has the merge.
        adapters: works on the factors of LoRA adapters (`Joining`) and takes no other models.
    """

    whole: bool = False
    local: bool = False
    fewest: int = 1
    most: int | None = None
    parents: bool = True
    average: bool = False
    pooled: bool = False
    steady: bool = True
    adapters: bool = False


ELEMENTWISE = Traits()


class Chunk(Protocol):
    """A stretch of entries of one tensor, as a method sees it; all tensors are flat, ``(n,)``.

    The dtype is float32, or float64 where an input is. Tensors are scratch: those of one chunk
    are overwritten by the next.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor, whose entries are in row-major order."""
        ...

    @property
    def found(self) -> Any:
        """What the method's `Surveying.survey` found, or the factors that it joined; else None."""
        ...

    @property
    def total(self) -> Tensor:
        """The result; holds the base's entries at first."""
        ...

    def vector(self, model: int) -> Tensor:
        """The task vector of a model, sparsified to its density; valid until the next call."""
        ...

    def model(self, model: int) -> Tensor:
        """The entries of a model; valid until the next call."""
        ...

    def uniform(self, model: int) -> Tensor:
        """Random numbers in [0, 1), float32; valid until the next call.

        They depend on the plan's seed, the names of model and tensor and the entry's place in it,
        and on nothing else: the same for every candidate, chunk size and thread.
        """
        ...

    def product(self, factors: Factors) -> Tensor:
        """The entries of a product as large as the tensor; valid until the next call."""
        ...

    def spare(self, role: str) -> Tensor:
        """Memory like ``total``'s, holding anything; the same for the same role."""
        ...


class MergeMethod(Protocol):
    """Base, models and settings to merged entries. Stateless."""

    @property
    def name(self) -> str:
        """As the campaign file says it."""
        ...

    @property
    def paper(self) -> str:
        """Authors, year and identifier."""
        ...

    @property
    def fields(self) -> tuple[Field, ...]:
        """What `Settings` must hold: these names and no others."""
        ...

    @property
    def traits(self) -> Traits:
        """What it needs and what can be relied on."""
        ...

    def used(self, settings: Settings) -> tuple[int, ...]:
        """The models that the result depends on, ascending; none means the base's own bytes."""
        ...

    def densities(self, settings: Settings) -> tuple[float, ...] | None:
        """The fraction that `Chunk.vector` keeps, one per model; None keeps everything."""
        ...

    def combine(self, chunk: Chunk, settings: Settings) -> None:
        """Turns ``chunk.total`` from the base's entries into the merged ones, in place.

        Models are taken in their order, and every product is rounded before it is added: a fused
        multiply-add, which compilers use for some entries of an array and not for others, would
        let the chunks show in the bits.
        """
        ...


class Surveying(MergeMethod, Protocol):
    """A method that looks at the whole model, or at all of a tensor, before it merges any entry."""

    def survey(self, chunks: Callable[[], Iterator[Chunk]], used: tuple[int, ...]) -> Any:
        """What `Chunk.found` will be where these models are used.

        Args:
            chunks: makes a new iterator over chunks of all tensors that are merged, or of one
                (`Traits.local`), always the same ones in the same order; their vectors are whole,
                whatever the densities.
            used: as `MergeMethod.used` says; all that the result may depend on.
        """
        ...


def surveys(method: object) -> TypeGuard[Surveying]:
    """Whether a method is `Surveying`; told at once, for it is asked for each tensor."""
    return hasattr(method, "survey")


@runtime_checkable
class Joining(Protocol):
    """A method that makes one pair of factors of those of adapters, tensor by tensor."""

    def join(
        self, parts: Mapping[int, tuple[Tensor, Tensor, float]], settings: Settings
    ) -> tuple[Tensor, Tensor]:
        """The merged change ``up @ down``: ``(out, rank)`` and ``(rank, in)``.

        Args:
            parts: by model, without those that leave the tensor alone: up, down, and the scale of
                their product. They may be written to.

        Raises:
            UsageError: the factors do not go together.
        """
        ...


def per_model(settings: Settings, field: str) -> tuple[float, ...]:
    """The numbers of a per-model field.

    Raises:
        UsageError: there is one number where one per model is needed.
    """
    value = settings[field]
    if not isinstance(value, tuple):
        raise UsageError(f"{field} is {value}; one number per model is needed")
    return value


def per_group(settings: Settings, field: str) -> float:
    """The number of a per-group field.

    Raises:
        UsageError: there are several numbers where one is needed.
    """
    value = settings[field]
    if isinstance(value, tuple):
        raise UsageError(f"{field} is {value}; one number is needed")
    return value


def counting(weights: Sequence[float], kept: Sequence[float] | None = None) -> tuple[int, ...]:
    """The models with a weight, of which something is kept; ascending.

    Args:
        weights: one per model; 0 leaves the model out.
        kept: the density of each; None where nothing is dropped.
    """
    if kept is None:
        return tuple([i for i, weight in enumerate(weights) if weight])
    pairs = zip(weights, kept, strict=True)
    return tuple([i for i, (weight, density) in enumerate(pairs) if weight and density > 0])


def check_settings(method: MergeMethod, settings: Settings, models: int) -> None:
    """Says whether settings are what a method takes.

    Args:
        models: how many there are.

    Raises:
        UsageError: on missing or unknown fields, a wrong count, or a value outside its limits.
    """
    check_count(method, models)
    names = {field.name for field in method.fields}
    if set(settings) != names:
        raise UsageError(
            f"{method.name} takes {', '.join(sorted(names))}; "
            f"{', '.join(sorted(settings)) or 'nothing'} was given"
        )
    for field in method.fields:
        _check_values(field, _values(field, settings, models))


def check_count(method: MergeMethod, models: int) -> None:
    """Says whether a method takes this many models.

    Raises:
        UsageError: if it does not.
    """
    fewest, most = method.traits.fewest, method.traits.most
    if models < fewest or (most is not None and models > most):
        wanted = f"exactly {fewest}" if fewest == most else f"at least {fewest}"
        raise UsageError(f"{method.name} takes {wanted} models; here are {models}")


def _values(field: Field, settings: Settings, models: int) -> Sequence[float]:
    if field.per == "group":
        return (per_group(settings, field.name),)
    values = per_model(settings, field.name)
    if len(values) != models:
        raise UsageError(f"{field.name} has {len(values)} numbers for {models} models")
    return values


def _check_values(field: Field, values: Sequence[float]) -> None:
    low, high = field.limits
    for value in values:
        if not (math.isfinite(value) and low <= value <= high):
            raise UsageError(f"{field.name} is {value}; allowed is [{low}, {high}], finite")
