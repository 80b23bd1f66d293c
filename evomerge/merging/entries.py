"""One tensor's merge, chunk by chunk, from open checkpoints.

Whatever the chunks, every entry goes through the same roundings: the task vector, its product with
a number, each addition, and one rounding to nearest, ties to even, at the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import dtype_word, torch_dtype
from evomerge.checkpoint.models import Model
from evomerge.merging.bound_adapter import BoundAdapter, FactorCache
from evomerge.merging.draws import fill_uniform
from evomerge.merging.fused import Formula, Run, blend
from evomerge.merging.low_rank import Factors, fill_product
from evomerge.merging.magnitudes import Threshold, sparsify
from evomerge.merging.method import MergeMethod, Settings
from evomerge.merging.scratch import Scratch
from evomerge.merging.sources import Staged, Stored

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from evomerge.merging.products import Lazy, Products

    Piece = tuple[int, Tensor]
CHUNK = 2**18
"""Entries at a time: the buffers of a chunk stay in a core's cache."""

COMPILED_CHUNK = 2**16
"""The compiled loops touch nothing but what was read, which then stays in a smaller cache."""

Source = Checkpoint | BoundAdapter
"""Where a model's entries come from."""

STRETCH = 2**16
"""Entries at a time for those who only look; fixed, because sums over chunks depend on it."""


def bound(base: Checkpoint, models: Mapping[str, Model], *, compiled: bool) -> dict[str, Source]:
    """Models as the merge reads them: adapters bound to the base, with one cache of factors."""
    cache = FactorCache()
    return {
        name: BoundAdapter(base, model, cache, compiled=compiled)
        if isinstance(model, Adapter)
        else model
        for name, model in models.items()
    }


def may_differ(model: Source, name: str) -> bool:
    """Whether a model can have another tensor than the base."""
    return not isinstance(model, BoundAdapter) or name in model.changes


@dataclass(frozen=True)
class Inputs:
    """Where one tensor's entries come from.

    Attributes:
        name: of the tensor, in all checkpoints.
        base: the base model.
        models: in the order of the settings' numbers.
        words: the models' names, which address their random numbers.
        seed: of random numbers.
    """

    name: str
    base: Stored
    models: Sequence[Stored | BoundAdapter]
    words: Sequence[str] = ()
    seed: int = 0

    @property
    def count(self) -> int:
        """Entries of the tensor."""
        return self.base.entry(self.name).count

    def arithmetic(self, models: Sequence[int]) -> torch.dtype:
        """float64 where the base or one of these models is, else float32."""
        import torch

        wide = any(source.entry(self.name).dtype == "F64" for source in self.stored(models))
        return torch.float64 if wide else torch.float32

    def stored(self, models: Sequence[int]) -> list[Stored]:
        """The base, and those of these models that are whole checkpoints."""
        sources = (self.base, *(self.models[i] for i in models))
        return [source for source in sources if not isinstance(source, BoundAdapter)]

    def factors(self, models: Sequence[int]) -> dict[int, Lazy] | None:
        """Of those of these models that have another tensor; None if they are not all products."""
        found = {}
        for i in models:
            source = self.models[i]
            if not isinstance(source, BoundAdapter):
                return None
            if self.name in source.changes:
                factors = source.factors(self.name)
                if factors is None:
                    return None
                found[i] = factors
        return found or None

    def adapted(self, models: Sequence[int]) -> bool:
        """Whether one of these models is an adapter."""
        return any(isinstance(self.models[i], BoundAdapter) for i in models)


@dataclass(frozen=True)
class TensorMerge:
    """How one tensor is merged, with nothing left to decide.

    Attributes:
        thresholds: by model; the models without one keep everything.
        found: what the method's survey of the whole model found, or the factors that it joined.
        formula: how the compiled loops do it; None leaves it to torch.
        products: how those for adapters do it.
        whole: the sum of all task vectors, where that is one product and torch adds it.
    """

    inputs: Inputs
    method: MergeMethod
    settings: Settings
    thresholds: Mapping[int, Threshold]
    formula: Formula | None = None
    products: Products | None = None
    found: Any = None
    whole: Factors | None = None


class Stretch:
    """`evomerge.merging.method.Chunk` for entries start to stop of a tensor."""

    def __init__(
        self,
        inputs: Inputs,
        kind: torch.dtype,
        span: tuple[int, int],
        scratch: Scratch,
        thresholds: Mapping[int, Threshold],
        found: Any = None,
    ) -> None:
        self._inputs, self._kind, self._span = inputs, kind, span
        self._scratch, self._thresholds = scratch, thresholds
        self.found = found
        self._base = self._load(inputs.base, "base")
        # A sum that starts without -0 never meets one again: then a term of 0 has no sign either.
        self.total = scratch.buffer("total", kind, len(self._base)).copy_(self._base).add_(0.0)

    def vector(self, model: int) -> Tensor:
        source = self._inputs.models[model]
        if not isinstance(source, BoundAdapter):
            vector = self._load(source, "vector").sub_(self._base)
        else:
            vector = self._made(source, "vector")
        if model in self._thresholds:
            sparsify(vector, self._thresholds[model], self._scratch, self._span[0])
        return vector

    @property
    def shape(self) -> tuple[int, ...]:
        return self._inputs.base.entry(self._inputs.name).shape

    def model(self, model: int) -> Tensor:
        source = self._inputs.models[model]
        if not isinstance(source, BoundAdapter):
            return self._load(source, "model")
        return self._made(source, "model").add_(self._base)

    def uniform(self, model: int) -> Tensor:
        import torch

        out = self._scratch.buffer("uniform", torch.float32, len(self._base))
        inputs = self._inputs
        key = ("merge", inputs.words[model], inputs.name)
        return fill_uniform(out, self._span[0], inputs.seed, *key)

    def product(self, factors: Factors) -> Tensor:
        out = self._scratch.buffer("product", self._kind, len(self._base))
        fill_product(factors, self._span[0], out, self._scratch)
        return out

    def spare(self, role: str) -> Tensor:
        return self._scratch.buffer(f"spare {role}", self._kind, len(self._base))

    def _made(self, source: BoundAdapter, role: str) -> Tensor:
        """An adapter's task vector."""
        out = self._scratch.buffer(role, self._kind, len(self._base))
        source.fill(self._inputs.name, self._span[0], self._base, out, self._scratch)
        return out

    def _load(self, source: Stored, role: str) -> Tensor:
        """A checkpoint's entries in the dtype of the arithmetic, which holds them exactly."""
        stored = read(source, self._inputs.name, self._span, self._scratch)
        return self._scratch.buffer(role, self._kind, len(stored)).copy_(stored)


def read(source: Stored, name: str, span: tuple[int, int], scratch: Scratch) -> Tensor:
    """Entries as stored, in memory that the next read overwrites."""
    start, stop = span
    kind = torch_dtype(source.entry(name).dtype)
    return source.read(name, start, stop, out=scratch.buffer("stored", kind, stop - start))


def spans(count: int, most: int | None = None, *, first: int = 0) -> Iterator[tuple[int, int]]:
    """Start and stop of each chunk of the entries from the first on up to the count."""
    step = CHUNK if most is None else min(CHUNK, most)
    for start in range(first, count, step):
        yield start, min(start + step, count)


def merged(
    merge: TensorMerge,
    out: torch.dtype,
    scratch: Scratch,
    *,
    within: tuple[int, int] | None = None,
) -> Iterator[Piece]:
    """The merged tensor piece by piece: place of the first entry, and entries from there on.

    A piece is overwritten by the next. From float64 to a half-width dtype torch rounds by way of
    float32.

    Args:
        within: only these entries; not for methods that need the whole tensor.
    """
    first, stop = within or (0, merge.inputs.count)
    if merge.formula is not None:
        yield from _blended(merge.inputs, merge.formula, out, scratch, (first, stop))
        return
    if merge.products is not None:
        yield from _summed(merge.inputs, merge.products, scratch, (first, stop))
        return
    kind = merge.inputs.arithmetic(merge.method.used(merge.settings))
    whole = merge.method.traits.whole and stop > 0
    for span in [(first, stop)] if whole else spans(stop, first=first):
        stretch = Stretch(merge.inputs, kind, span, scratch, merge.thresholds, merge.found)
        if merge.whole is None:
            merge.method.combine(stretch, merge.settings)
        else:
            stretch.total.add_(stretch.product(merge.whole))
        yield span[0], _stored(stretch.total, out, scratch)


def stretches(inputs: Inputs, used: Sequence[int], scratch: Scratch) -> Iterator[Stretch]:
    """Chunks with these models' whole task vectors, of a fixed length, in order."""
    kind = inputs.arithmetic(used)
    for start in range(0, inputs.count, STRETCH):
        span = start, min(start + STRETCH, inputs.count)
        yield Stretch(inputs, kind, span, scratch, {})


def mapped_runs(inputs: Inputs, models: Sequence[int]) -> list[Run] | None:
    """Where base and models lie in memory that is their files'; None if they cannot be used so.

    The models are whole checkpoints.
    """
    runs = []
    for source in inputs.stored(models):
        address = source.address(inputs.name)
        if address is None:
            return None
        runs.append(Run(source.entry(inputs.name).dtype, address))
    return runs


def read_runs(
    inputs: Inputs, models: Sequence[int], span: tuple[int, int], scratch: Scratch
) -> list[Run]:
    """Entries of base and models as stored, in memory that the next such read overwrites.

    The models are whole checkpoints.
    """
    runs: list[Run] = []
    for source in inputs.stored(models):
        word = source.entry(inputs.name).dtype
        if isinstance(source, Staged):
            runs.append(Run(word, source.part(*span).address))
            continue
        room = scratch.buffer(f"stored {len(runs)}", torch_dtype(word), span[1] - span[0])
        runs.append(Run(word, source.read(inputs.name, *span, out=room).data_ptr()))
    return runs


def _blended(
    inputs: Inputs, formula: Formula, out: torch.dtype, scratch: Scratch, within: tuple[int, int]
) -> Iterator[Piece]:
    for start, stop in spans(within[1], COMPILED_CHUNK, first=within[0]):
        runs = read_runs(inputs, formula.models, (start, stop), scratch)
        piece = scratch.buffer("out", out, stop - start)
        blend(formula, Run(dtype_word(out), piece.data_ptr()), runs, (0, stop - start), start)
        yield start, piece


def _summed(
    inputs: Inputs, products: Products, scratch: Scratch, within: tuple[int, int]
) -> Iterator[Piece]:
    import torch

    for start, stop in spans(within[1], first=within[0]):
        stored = read(inputs.base, inputs.name, (start, stop), scratch)
        piece = scratch.buffer("out", torch.bfloat16, stop - start)
        products.add(piece.data_ptr(), stored.data_ptr(), (start, stop))
        yield start, piece


def copied(source: Stored, name: str, out: torch.dtype, scratch: Scratch) -> Iterator[Piece]:
    """A checkpoint's own tensor piece by piece; its very bits where the dtype is the same."""
    for span in spans(source.entry(name).count):
        yield span[0], _stored(read(source, name, span, scratch), out, scratch)


def _stored(entries: Tensor, out: torch.dtype, scratch: Scratch) -> Tensor:
    if entries.dtype == out:
        return entries
    return scratch.buffer("out", out, len(entries)).copy_(entries)
