"""PCB-Merging against a plain formula, entry by entry, and numbers worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.merger import Merger

Store = Callable[..., Checkpoint]


def merge(
    store: Store, weights: tuple[float, ...], kept: tuple[float, ...], *vectors: list[float]
) -> list[float]:
    """What task vectors become, over a base of 0."""
    stored = {f"m{i}": store({"t": torch.tensor(v)}) for i, v in enumerate(vectors)}
    merger = Merger(store({"t": torch.zeros(len(vectors[0]))}), stored)
    found: list[float] = merger.tensor("t", {"weight": weights, "density": kept}, "pcb").tolist()
    return found


def place(values: list[float], fraction: float) -> float:
    return sorted(values)[round(fraction * (len(values) - 1))]


def minmax(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(v - low) / (high - low) if high > low else 1.0 for v in values]


def plain(
    weights: tuple[float, ...], kept: tuple[float, ...], *vectors: list[float]
) -> list[float]:
    """The formula of the module's docstring."""
    count = len(vectors)
    signs = [[math.copysign(1, v) if v else 0.0 for v in vector] for vector in vectors]
    sizes = []
    for vector in vectors:
        a = [abs(v) for v in vector]
        low, high = place(a, 1e-4), place(a, 1 - 1e-4)
        sizes.append([min(max(x, low), high) for x in a])
    units = [
        [s * m for s, m in zip(sign, minmax(a), strict=True)]
        for sign, a in zip(signs, sizes, strict=True)
    ]
    scores = []
    for i in range(count):
        raw = [
            math.exp(count * u * u) * sum(math.tanh(u * units[j][e]) for j in range(count))
            for e, u in enumerate(units[i])
        ]
        floor = place(raw, 1 - kept[i])
        scores.append(minmax([max(r, floor) for r in raw]))
    merged = []
    for e in range(len(vectors[0])):
        total = sum(scores[i][e] for i in range(count))
        above = sum(scores[i][e] * signs[i][e] * sizes[i][e] * weights[i] for i in range(count))
        merged.append(above / total if total else 0.0)
    return merged


def test_one_entry_wins(store: Store) -> None:
    """Task vectors (4, 1, 0) and (2, 0, 1): at density 0.4 the cut is at the middle score. The
    first entry has both models' highest score, 1: (4 + 2) / 2; nothing else is above its cut."""
    found = merge(store, (1.0, 1.0), (0.4, 0.4), [4.0, 1.0, 0.0], [2.0, 0.0, 1.0])
    assert found[0] == 3.0
    assert found == pytest.approx(plain((1.0, 1.0), (0.4, 0.4), [4.0, 1.0, 0.0], [2.0, 0.0, 1.0]))


@pytest.mark.parametrize("count", [1, 2, 3, 101])
@pytest.mark.parametrize("kept", [0.05, 0.2, 1.0])
def test_the_formula(store: Store, count: int, kept: float) -> None:
    generator = torch.Generator().manual_seed(count)
    vectors = [torch.randn(count, generator=generator).tolist() for _ in range(3)]
    weights, densities = (1.0, 0.8, 1.3), (kept, kept, 0.5)
    found = merge(store, weights, densities, *vectors)
    assert found == pytest.approx(plain(weights, densities, *vectors), rel=1e-5, abs=1e-6)


def test_the_scale_of_task_vectors_does_not_change_who_wins(store: Store) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(50, generator=generator).tolist() for _ in range(2)]
    small = [[v / 4096 for v in vector] for vector in vectors]
    found, shrunk = (merge(store, (1.0, 1.0), (0.2, 0.2), *v) for v in (vectors, small))
    assert shrunk == pytest.approx([v / 4096 for v in found], rel=1e-6)
