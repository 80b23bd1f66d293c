"""mergekit's merge methods and what they are here: one table, one translation each.

What mergekit names otherwise, divides or counts otherwise is turned into our settings here, one
tensor at a time. docs/merging.md lists the differences that remain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evomerge.errors import UsageError
from evomerge.merging.method import Settings

Numbers = Mapping[str, float]
Inputs = Sequence[Numbers | None]
"""Each model's own numbers; None for a model that takes no part in the slice."""
Base = Literal["required", "optional", "input", "none"]
Told = tuple[str, Settings | None]
"""Our method, and one tensor's settings; None for the base's own bytes."""


@dataclass(frozen=True)
class Param:
    """One of a method's parameters.

    Attributes:
        of: the inputs beside the base, all inputs, or the merge as a whole.
        default: None where the file must say it.
        only: the one value that is merged here; None for any.
        idle: it has no say in the result.
    """

    name: str
    of: Literal["models", "inputs", "merge"]
    default: float | None = None
    only: float | None = None
    idle: bool = False


@dataclass(frozen=True)
class Translation:
    """A method of mergekit.

    Attributes:
        base: whether ``base_model`` is the origin of task vectors (required or optional), one of
            the inputs, or not taken.
        inputs: how many it takes, the base included; the last None is any number.
        tell: from the numbers of the merge, those of each input and whether a base is given, to
            ours. The inputs are those beside the base, but all where `first` says so.
        first: the base is our first model.
    """

    base: Base
    params: tuple[Param, ...]
    tell: Callable[[Numbers, Inputs, bool], Told]
    inputs: tuple[int, int | None] = (1, None)
    first: bool = False


def column(inputs: Inputs, name: str, absent: float) -> tuple[float, ...]:
    """One number of every model."""
    return tuple(absent if numbers is None else numbers[name] for numbers in inputs)


def _ones(inputs: Inputs) -> tuple[float, ...]:
    return tuple(float(numbers is not None) for numbers in inputs)


def _shares(weights: Sequence[float]) -> tuple[float, ...]:
    whole = sum(weights)
    if whole == 0:
        raise UsageError("the weights add up to 0, and normalize divides by their sum")
    return tuple(weight / whole for weight in weights)


def _linear(merge: Numbers, inputs: Inputs, based: bool) -> Told:
    weights = column(inputs, "weight", 0.0)
    return "weighted_sum", {"weight": _shares(weights) if merge["normalize"] else weights}


def _passthrough(merge: Numbers, inputs: Inputs, based: bool) -> Told:
    scales = column(inputs, "scale", 0.0)
    return "weighted_sum", None if sum(scales) == 1 else {"weight": scales}


def _slerp(merge: Numbers, inputs: Inputs, based: bool) -> Told:
    return "slerp", {"t": merge["t"]}


def _nuslerp(merge: Numbers, inputs: Inputs, based: bool) -> Told:
    weights = column(inputs, "weight", 0.0)
    return ("nuslerp", {"weight": weights}) if based else ("slerp", {"t": _shares(weights)[1]})


def _nearswap(merge: Numbers, inputs: Inputs, based: bool) -> Told:
    return "nearswap", {"step": merge["t"]}


def _model_stock(merge: Numbers, inputs: Inputs, based: bool) -> Told:
    return "model_stock", {"weight": _ones(inputs)}


def _karcher(merge: Numbers, inputs: Inputs, based: bool) -> Told:
    return "karcher", {"weight": _ones(inputs)}


def _multislerp(merge: Numbers, inputs: Inputs, based: bool) -> Told:
    return "multislerp", {"weight": column(inputs, "weight", 0.0)}


def _sce(merge: Numbers, inputs: Inputs, based: bool) -> Told:
    return "sce", {"weight": _ones(inputs), "density": merge["select_topk"]}


def _summed(ours: str, *shared: str) -> Callable[[Numbers, Inputs, bool], Told]:
    """A sum of task vectors, thinned or not: lambda and normalize go into the weights."""

    def tell(merge: Numbers, inputs: Inputs, based: bool) -> Told:
        weights = column(inputs, "weight", 0.0)
        if merge["normalize"]:
            weights = _shares(weights)
        settings: dict[str, float | tuple[float, ...]] = {
            "weight": tuple(merge["lambda"] * weight for weight in weights)
        }
        if ours == "task_arithmetic":
            return ours, {**settings, "scaling": 1.0}
        return ours, settings | _thinning(merge, inputs, shared)

    return tell


def _elected(mean: str, total: str, *shared: str) -> Callable[[Numbers, Inputs, bool], Told]:
    """An election of signs, the agreeing terms averaged or added up."""

    def tell(merge: Numbers, inputs: Inputs, based: bool) -> Told:
        ours = mean if merge["normalize"] else total
        settings: dict[str, float | tuple[float, ...]] = {
            "weight": column(inputs, "weight", 0.0),
            "scaling": merge["lambda"],
        }
        return ours, settings | _thinning(merge, inputs, shared)

    return tell


def _thinning(
    merge: Numbers, inputs: Inputs, shared: Sequence[str]
) -> dict[str, float | tuple[float, ...]]:
    """Densities; and what mergekit has per model, and we have once for all."""
    found: dict[str, float | tuple[float, ...]] = {"density": column(inputs, "density", 1.0)}
    for name in shared:
        several = {numbers[name] for numbers in inputs if numbers is not None}
        if len(several) > 1:
            raise UsageError(f"{name} differs between the models; one for all is supported")
        found[name] = several.pop()
    return found


_WEIGHT = Param("weight", "models")
_DENSITY = Param("density", "models", 1.0)
_MASK = Param("int8_mask", "merge", 0.0, idle=True)


def _family(
    normalize: float, rescale: float, *, fixed: bool, more: tuple[Param, ...] = ()
) -> tuple[Param, ...]:
    """The parameters of task arithmetic and its kin; `fixed`: normalize is as it is."""
    return (
        _WEIGHT,
        *more,
        Param("lambda", "merge", 1.0),
        Param("normalize", "merge", normalize, only=normalize if fixed else None),
        Param("rescale", "merge", rescale, only=rescale),
        _MASK,
    )


_THIN = (_DENSITY,)
_DELLA = (_DENSITY, Param("epsilon", "models", 0.15))
_CRUMBS = (_DENSITY, Param("gamma", "models", 0.01))

TRANSLATIONS: Mapping[str, Translation] = {
    "linear": Translation(
        "input", (Param("weight", "inputs"), Param("normalize", "merge", 1.0)), _linear
    ),
    "passthrough": Translation("none", (Param("scale", "inputs", 1.0),), _passthrough, (1, 1)),
    "slerp": Translation("required", (Param("t", "merge"),), _slerp, (2, 2), first=True),
    "nuslerp": Translation(
        "optional",
        (
            _WEIGHT,
            Param("nuslerp_flatten", "merge", 1.0, only=1.0),
            Param("nuslerp_row_wise", "merge", 0.0, only=0.0),
        ),
        _nuslerp,
        (2, 3),
    ),
    "nearswap": Translation("required", (Param("t", "merge"),), _nearswap, (2, 2), first=True),
    "model_stock": Translation(
        "required", (Param("filter_wise", "merge", 0.0, only=0.0),), _model_stock, (3, None)
    ),
    "karcher": Translation(
        "input",
        (
            Param("max_iter", "merge", 10.0, idle=True),
            Param("tol", "merge", 1e-5, idle=True),
        ),
        _karcher,
    ),
    "multislerp": Translation(
        "required",
        (
            _WEIGHT,
            Param("normalize_weights", "merge", 1.0, only=1.0),
            Param("eps", "merge", 1e-8, idle=True),
        ),
        _multislerp,
    ),
    "sce": Translation("required", (Param("select_topk", "merge", 1.0), _MASK), _sce),
    "task_arithmetic": Translation(
        "required", _family(0.0, 0.0, fixed=False), _summed("task_arithmetic")
    ),
    "ties": Translation(
        "required", _family(1.0, 0.0, fixed=False, more=_THIN), _elected("ties", "ties_sum")
    ),
    "dare_linear": Translation(
        "required", _family(0.0, 1.0, fixed=False, more=_THIN), _summed("dare_linear_l1")
    ),
    "dare_ties": Translation(
        "required", _family(0.0, 1.0, fixed=True, more=_THIN), _elected("", "dare_ties_l1")
    ),
    "della": Translation(
        "required", _family(1.0, 1.0, fixed=True, more=_DELLA), _elected("della_l1", "", "epsilon")
    ),
    "della_linear": Translation(
        "required",
        _family(0.0, 1.0, fixed=False, more=_DELLA),
        _summed("della_linear_l1", "epsilon"),
    ),
    "breadcrumbs": Translation(
        "required",
        _family(0.0, 0.0, fixed=False, more=_CRUMBS),
        _summed("breadcrumbs_tensor", "gamma"),
    ),
    "breadcrumbs_ties": Translation(
        "required",
        _family(0.0, 0.0, fixed=True, more=_CRUMBS),
        _elected("", "breadcrumbs_ties", "gamma"),
    ),
}

ABSENT: Mapping[str, str] = {
    "arcee_fusion": "sce and ties choose among entries by other measures",
    "ram": "ties and sce are the nearest methods here",
    "ramplus_tl": "ties and sce are the nearest methods here",
}
"""Methods of mergekit that are not here, with what is."""
