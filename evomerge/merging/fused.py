"""Which merges the compiled loops can do, and how they are told: a formula, then runs of entries.

The torch code of the methods is the reference and does the rest: float64, other dtypes, other
methods, and machines without numba. Nothing here loads numba before it is needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.checkpoint.dtypes import DTYPES
from evomerge.merging.lots import limit
from evomerge.merging.magnitudes import CODES, Threshold
from evomerge.merging.method import MergeMethod, Settings, per_group, per_model
from evomerge.merging.sums import WeightedSum
from evomerge.merging.ties import Ties

WORDS = frozenset({"F32", "BF16", "F16"})
"""The dtypes that the loops read and write."""


class Run(NamedTuple):
    """Entries in a row in the CPU's memory: their safetensors dtype, the first one's address."""

    word: str
    address: int


@dataclass(frozen=True)
class Formula:
    """One tensor's merge, as the loops take it.

    Attributes:
        models: whose task vectors are added, in this order.
        rules: ``(N, columns)`` float32, see `evomerge.merging.kernels`.
        scaling: where signs are elected; None for a plain sum.
        key: of the tensor's lots.
    """

    models: tuple[int, ...]
    rules: NDArray[np.float32]
    scaling: float | None
    key: int = 0


def formula(
    method: MergeMethod, settings: Settings, thresholds: Mapping[int, Threshold]
) -> Formula | None:
    """How the loops do this merge; None if they cannot."""
    if not formulated(method):
        return None
    models = method.used(settings)
    if isinstance(method, WeightedSum):
        factors, scaling = method.coefficients(settings), None
    else:
        factors, scaling = per_model(settings, "weight"), per_group(settings, "scaling")
    rules = _rules([thresholds.get(i) for i in models], [factors[i] for i in models])
    key = next((t.lot.key for t in thresholds.values() if t.lot is not None), 0)
    return Formula(models, rules, scaling, key)


def formulated(method: MergeMethod) -> bool:
    """Whether the loops do merges by this method."""
    return isinstance(method, WeightedSum) or (isinstance(method, Ties) and method.mean)


def fits(words: Sequence[str]) -> bool:
    """Whether the loops can be used, and take these dtypes."""
    return WORDS.issuperset(words) and loops() is not None


@cache
def loops() -> Any:
    """The module of the compiled loops; None where numba is absent, unfit or switched off."""
    if sys.byteorder != "little" or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return None
    try:
        from evomerge.merging import kernels
    except ImportError:  # not installed, or not for this numpy
        return None
    return kernels


def blend(
    form: Formula, out: Run, sources: Sequence[Run], span: tuple[int, int], origin: int = 0
) -> None:
    """Fill the entries of a span of ``out`` with the merge of those of the sources.

    Args:
        form: what to compute.
        out: written to.
        sources: base, then the formula's models.
        span: first entry, and the one behind the last; each run has them.
        origin: the place in the tensor of the runs' first entry.
    """
    kernels, (start, stop) = loops(), span
    kinds, addresses = _arrays([out, *sources])
    columns = (None,) * form.rules.shape[1]
    scaling = None if form.scaling is None else np.float32(form.scaling)
    alike = {run.word for run in sources} == {out.word} and out.word in kernels.WRITTEN_OUT
    if alike and len(form.models) <= kernels.UNROLLED:
        size = DTYPES[out.word].size
        first, *rest = addresses + size * start
        places, words = np.array(rest), (stop - start) * size // 4
        kind = (None,) * kernels.KINDS[out.word]
        lengths = form.key, origin + start, (None,) * len(sources), columns, kind
        if scaling is None:
            kernels.add_words(first, places, form.rules, words, *lengths)
        else:
            kernels.elect_words(first, places, form.rules, scaling, words, *lengths)
        start += words * 4 // size
    if start < stop:
        kernels.merge(kinds, addresses, form.rules, scaling, start, stop, form.key, origin, columns)


class Counting:
    """Entries of several task vectors by their codes, counted by the loops."""

    def __init__(self, models: int) -> None:
        from evomerge.merging.counting import LANES, count_codes  # loads numba

        self._counts = np.zeros((models, LANES, CODES), np.int64)
        self._count: Callable[..., None] = count_codes

    def add(self, sources: Sequence[Run], count: int) -> None:
        """Count the first entries of the base and of these models."""
        self._count(*_arrays(sources), 0, count, self._counts)

    def counts(self) -> list[NDArray[np.int64]]:
        """``(2**15,)`` by model."""
        return list(self._counts.sum(axis=1))


def _rules(thresholds: Sequence[Threshold | None], factors: Sequence[float]) -> NDArray[np.float32]:
    """The table of the loops, in the form that all these masks fit."""
    whole = [Threshold(0.0, 0.0, 1.0) if t is None else t for t in thresholds]
    pairs = list(zip(factors, whole, strict=True))
    if any(t.lot for t in whole):
        lots = [(limit(t.fraction), t.lot.factor if t.lot else 0) for t in whole]
        rules = np.array([(factor, t.low, t.high) for factor, t in pairs], np.float32)
        return np.hstack([rules, np.array(lots, np.uint32).view(np.float32)])
    if any(t.fraction != 1 for t in whole):
        return np.array([(factor, t.low, t.high, t.fraction) for factor, t in pairs], np.float32)
    if any(thresholds):
        return np.array([(factor, t.low) for factor, t in pairs], np.float32)
    return np.array([(factor,) for factor in factors], np.float32).reshape(-1, 1)


def _arrays(runs: Sequence[Run]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Dtypes and addresses, as the loops take them."""
    kinds: Mapping[str, int] = loops().KINDS
    words, addresses = zip(*runs, strict=True)
    return np.array([kinds[word] for word in words]), np.array(addresses, np.int64)
