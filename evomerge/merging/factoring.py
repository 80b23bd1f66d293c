"""A merge as one low-rank adapter: exact where it is a sum of adapters, else the nearest one.

The sum ``sum c_i s_i B_i A_i`` has the factors ``[c_1 s_1 B_1, ...]`` and ``[A_1; ...]``: their
ranks add up, and nothing is lost but one rounding of every entry. A matrix of another origin, or of
too many ranks, is cut to its largest singular values, which is the nearest matrix of that rank in
the Frobenius norm (Eckart and Young 1936), and what is lost is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.checkpoint.adapter import LowRank
from evomerge.checkpoint.adapter_writer import ModuleFactors
from evomerge.checkpoint.names import listed, quoted
from evomerge.errors import UsageError
from evomerge.merging.bound_adapter import BoundAdapter
from evomerge.merging.compatibility import is_embedding
from evomerge.merging.joining import parts_of, plain
from evomerge.merging.lines import Lines, factor_of, inner_settings
from evomerge.merging.merger import Merger
from evomerge.merging.method import Joining, MergeMethod, Settings
from evomerge.merging.plan import MergePlan
from evomerge.merging.registry import method_named
from evomerge.merging.sums import WeightedSum


@dataclass(frozen=True)
class Factored:
    """One tensor's change as factors.

    Attributes:
        transposed: whether the base stores the weights as ``(in, out)``; embeddings apart.
        squares: the sum of squares of the whole change.
        lost: that of what the factors leave out.
    """

    factors: ModuleFactors
    transposed: bool
    squares: float
    lost: float


@dataclass(frozen=True)
class _Product:
    """``up @ down``, ``(out, rank)`` and ``(rank, in)``."""

    up: Tensor
    down: Tensor

    @property
    def rank(self) -> int:
        """Of the product, at most."""
        return len(self.down)

    def to(self, kind: torch.dtype) -> _Product:
        """Rounded."""
        return _Product(self.up.to(kind), self.down.to(kind))

    def minus(self, other: _Product) -> _Product:
        """The difference of the two."""
        ups = torch.cat([self.up, -other.up.to(self.up.dtype)], dim=1)
        return _Product(ups, torch.cat([self.down, other.down.to(self.down.dtype)]))

    def squares(self) -> float:
        """The sum of squares of all entries, from the factors."""
        return float(((self.up.T @ self.up) * (self.down @ self.down.T)).sum())


def factored(
    merger: Merger, plan: MergePlan, rank: int | None, kind: torch.dtype = torch.float32
) -> Iterator[Factored]:
    """The merge, module by module.

    Args:
        plan: one that fits the merger.
        rank: the largest that is wanted; None keeps all ranks, exactly.
        kind: of the factors; what a narrower one than float32 loses is counted.

    Raises:
        UsageError: the merge is no sum of adapters and no rank is given, or it changes tensors
            that no LoRA adapter can change.
    """
    changed = [name for name in merger.base.tensors if merger.settings(name, plan) is not None]
    _refuse_others(merger, changed)
    for name in changed:
        settings = merger.settings(name, plan)
        if settings is not None:
            yield _tensor(merger, plan, name, settings, rank, kind)


def weights_of(method: MergeMethod, settings: Settings) -> dict[int, float] | None:
    """Each model's factor in a method that adds up whole task vectors; None in any other."""
    if isinstance(method, Lines):
        inner = weights_of(method.inner, inner_settings(settings))
        factor = factor_of(settings)
        return None if inner is None else {i: factor * weight for i, weight in inner.items()}
    if not isinstance(method, WeightedSum):
        return None
    used, kept = method.used(settings), method.densities(settings)
    if kept is not None and any(kept[i] < 1 for i in used):
        return None
    factors = method.coefficients(settings)
    return {i: factors[i] for i in used}


def relative_error(parts: Sequence[Factored]) -> float:
    """What is lost of the whole change, in the Frobenius norm; 0 of nothing."""
    squares = math.fsum(part.squares for part in parts)
    return math.sqrt(math.fsum(part.lost for part in parts) / squares) if squares else 0.0


def _tensor(
    merger: Merger,
    plan: MergePlan,
    name: str,
    settings: Settings,
    rank: int | None,
    kind: torch.dtype,
) -> Factored:
    low_ranks = _low_ranks(merger, plan, name)
    module, embedding, transposed = _kind(merger, name, low_ranks)
    turned = embedding or transposed
    product = _sum(merger, plan, name, settings)
    if product is None and rank is None:
        raise UsageError(
            f"{plan.method} of these models is no sum of adapters at {quoted(name)}; "
            "give the rank of the adapter that comes nearest (--lora --rank 16), or export the "
            "full checkpoint"
        )
    shape = merger.base.entry(name).shape
    if product is not None:
        cut = _shortened(product, rank).to(kind)
        squares, exact = product.squares(), kind == torch.float32 and len(cut.down) == product.rank
        lost = 0.0 if exact else product.minus(cut).squares()
    else:
        change = _change(merger, plan, name)
        dense = change.view(shape[0], -1).T if turned else change.view(shape[0], -1)
        cut = _truncated(dense, rank or 1).to(kind)
        squares = float(dense.double().square().sum())
        lost = float((dense - cut.up.double() @ cut.down.double()).square().sum())
    up, down = cut.up, cut.down
    if len(shape) > 2:
        up, down = up.view(*up.shape, *[1] * (len(shape) - 2)), down.view(-1, *shape[1:])
    factors = ModuleFactors(module, embedding, up, down)
    return Factored(factors, transposed, squares, max(0.0, lost))


def _sum(merger: Merger, plan: MergePlan, name: str, settings: Settings) -> _Product | None:
    """All factors side by side; None where the merge is no sum of plain low-rank changes."""
    method = method_named(plan.method)
    if isinstance(method, Joining):
        models = [merger.models[model] for model in plan.models]
        parts = parts_of(method_named(plan.method).used(settings), models, name, torch.float64)
        return _Product(*method.join(parts, settings))
    weights = weights_of(method, settings)
    if weights is None:
        return None
    ups, downs = [], []
    for i, weight in weights.items():
        model = merger.models[plan.models[i]]
        if not isinstance(model, BoundAdapter):
            return None
        change = model.changes.get(name)
        if change is None:
            continue
        factors = plain(change)
        if factors is None:
            return None
        up, down = model.adapter.factors(factors, torch.float64)
        ups.append(up.mul_(weight))
        downs.append(down)
    return _Product(torch.cat(ups, dim=1), torch.cat(downs))


def _shortened(product: _Product, rank: int | None) -> _Product:
    """The product, cut if it has more ranks than are wanted; from its factors alone."""
    if rank is None or product.rank <= rank:
        return product
    left, upper = torch.linalg.qr(product.up)
    right, lower = torch.linalg.qr(product.down.T)
    core = _truncated(upper @ lower.T, rank)
    return _Product(left @ core.up, core.down @ right.T)


def _truncated(matrix: Tensor, rank: int) -> _Product:
    """The nearest product of a rank, both factors of equal size."""
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    roots = values[:rank].sqrt()
    return _Product(u[:, :rank] * roots, roots[:, None] * v[:rank])


def _change(merger: Merger, plan: MergePlan, name: str) -> Tensor:
    """Merge minus base, ``(n,)`` float32."""
    found = torch.empty(merger.base.entry(name).count)
    for start, piece in merger.pieces(name, plan, "F32"):
        found[start : start + len(piece)] = piece
    return found.sub_(merger.base.read(name).float())


def _low_ranks(merger: Merger, plan: MergePlan, name: str) -> list[LowRank]:
    """What the adapters of the plan say of the module."""
    models = (merger.models[model] for model in plan.models)
    changes = (m.changes.get(name) for m in models if isinstance(m, BoundAdapter))
    return [change.low_rank for change in changes if change is not None and change.low_rank]


def _kind(merger: Merger, name: str, low_ranks: Sequence[LowRank]) -> tuple[str, bool, bool]:
    """The module, whether it is an embedding, whether it is stored as ``(in, out)``."""
    if low_ranks:
        first = low_ranks[0]
        return first.module, first.embedding, first.transposed and not first.embedding
    return name.removesuffix(".weight"), is_embedding(name), False


def _refuse_others(merger: Merger, changed: Sequence[str]) -> None:
    """Vectors have no factors: norms, biases."""
    others = [
        name
        for name in changed
        if len(merger.base.entry(name).shape) < 2 or not name.endswith(".weight")
    ]
    if others:
        raise UsageError(
            f"the merge changes {listed(others)}, which no LoRA adapter can; "
            "keep them the base's (norms: base), or export the full checkpoint"
        )
