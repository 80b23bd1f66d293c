"""Methods that rank over the whole model: TIES and PCB as in their papers, ComPEFT."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.compeft import SCALE_BITS, file_bits
from evomerge.merging.entries import STRETCH
from evomerge.merging.merger import Merger
from evomerge.merging.method import Settings
from evomerge.merging.plan import MergePlan

from .test_pcb import plain as plain_pcb

Store = Callable[..., Checkpoint]
Vector = dict[str, list[float]]


def merge(store: Store, method: str, settings: Settings, *vectors: Vector) -> Vector:
    """What task vectors of several tensors become, over a base of 0."""
    stored = {
        f"m{i}": store({n: torch.tensor(v) for n, v in vector.items()})
        for i, vector in enumerate(vectors)
    }
    base = store({n: torch.zeros(len(v)) for n, v in vectors[0].items()})
    merger = Merger(base, stored)
    return {name: merger.tensor(name, settings, method).tolist() for name in vectors[0]}


def test_ties_trims_by_one_threshold_for_the_whole_model(store: Store) -> None:
    """The two largest of eight are in the first tensor; mergekit's form takes one of each."""
    vector = {"a": [8.0, -4.0, 1.0, 0.5], "b": [2.0, 0.25, -0.125, 1.5]}
    settings = {"weight": (1.0,), "density": (0.25,), "scaling": 1.0}
    found = merge(store, "ties_model", settings, vector)
    assert found == {"a": [8.0, -4.0, 0.0, 0.0], "b": [0.0] * 4}
    assert merge(store, "ties", settings, vector) == {
        "a": [8.0, 0.0, 0.0, 0.0],
        "b": [2.0, 0.0, 0.0, 0.0],
    }


def test_every_model_has_its_own_threshold(store: Store) -> None:
    """A model whose entries are all small keeps as many as one whose entries are large."""
    large = {"a": [8.0, 1.0], "b": [2.0, 0.5]}
    small = {"a": [0.01, 0.04], "b": [0.02, -0.08]}
    settings = {"weight": (1.0, 1.0), "density": (0.5, 0.5), "scaling": 1.0}
    found = merge(store, "ties_model", settings, large, small)
    assert found["a"] == pytest.approx([8.0, 0.04])
    assert found["b"] == pytest.approx([2.0, -0.08])


def test_entries_equal_at_the_threshold_are_weakened_in_all_tensors_alike(store: Store) -> None:
    """Three of six are wanted: one is above, and two of the four that are equal: half of each."""
    vector = {"a": [4.0, 1.0, -1.0], "b": [1.0, -1.0, 0.25]}
    settings = {"weight": (1.0,), "density": (0.5,), "scaling": 1.0}
    assert merge(store, "ties_model", settings, vector) == {
        "a": [4.0, 0.5, -0.5],
        "b": [0.5, -0.5, 0.0],
    }


def ties(vectors: list[Tensor], density: float) -> Tensor:
    """The paper's TIES of flat vectors whose magnitudes all differ, weights 1."""
    trimmed = []
    for vector in vectors:
        least = vector.abs().sort(descending=True).values[round(density * len(vector)) - 1]
        trimmed.append(torch.where(vector.abs() >= least, vector, torch.zeros(())))
    stack = torch.stack(trimmed)
    sign = stack.sum(0).sign()
    agree = (stack.sign() == sign) & (stack != 0)
    return (stack * agree).sum(0) / agree.sum(0).clamp(min=1)


def vectors_of(sizes: dict[str, int], models: int) -> list[Vector]:
    """Task vectors whose magnitudes lie in codes of their own."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for _ in range(models):
        count = sum(sizes.values())
        codes = (117 << 7) + torch.randperm(count, generator=generator)
        signs = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
        entries = (codes.int() << 16).view(torch.float32) * signs
        parts = entries.split(list(sizes.values()))
        found.append({name: part.tolist() for name, part in zip(sizes, parts, strict=True)})
    return found


def flat(vector: Vector) -> list[float]:
    return [entry for part in vector.values() for entry in part]


@pytest.mark.parametrize("density", [0.1, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("sizes", [{"a": 600, "b": 40, "c": 0, "d": 160}, {"a": 10}])
def test_ties_is_the_papers_formula(store: Store, density: float, sizes: dict[str, int]) -> None:
    vectors = vectors_of(sizes, 3)
    settings = {"weight": (1.0,) * 3, "density": (density,) * 3, "scaling": 1.0}
    found = merge(store, "ties_model", settings, *vectors)
    expected = ties([torch.tensor(flat(vector)) for vector in vectors], density)
    assert flat(found) == pytest.approx(expected.tolist(), rel=1e-6)


def test_pcb_is_the_formula_over_all_tensors_together(store: Store) -> None:
    """To the fineness of its counts, one part in 4096."""
    generator = torch.Generator().manual_seed(2)
    vectors = [
        {"a": torch.randn(60, generator=generator).tolist(), "b": [3.0, -0.01, 0.5]}
        for _ in range(3)
    ]
    weights, kept = (1.0, 0.8, 1.3), (0.2, 0.2, 0.5)
    found = merge(store, "pcb_model", {"weight": weights, "density": kept}, *vectors)
    expected = plain_pcb(weights, kept, *(flat(vector) for vector in vectors))
    assert flat(found) == pytest.approx(expected, rel=2e-2, abs=2e-3)
    apart = merge(store, "pcb", {"weight": weights, "density": kept}, *vectors)
    assert flat(apart) != pytest.approx(expected, rel=2e-2, abs=2e-3)


def test_compeft_by_hand(store: Store) -> None:
    """Entries 3, -1, 0, 0, 0, 0, 0, -2: mean 0, variance 14 / 8; two of eight are kept."""
    vector = {"a": [3.0, -1.0, 0.0, 0.0], "b": [0.0, 0.0, 0.0, -2.0]}
    scale = 2 * math.sqrt(14 / 8)
    found = merge(store, "compeft", {"weight": (2.0,), "density": (0.25,)}, vector)
    assert found["a"] == pytest.approx([scale, 0.0, 0.0, 0.0])
    assert found["b"] == pytest.approx([0.0, 0.0, 0.0, -scale])


def test_compeft_is_the_papers_formula(store: Store) -> None:
    vectors = vectors_of({"a": 600, "b": 200}, 2)
    settings = {"weight": (1.5, 0.5), "density": (0.05, 0.2)}
    found = merge(store, "compeft", settings, *vectors)
    expected = torch.zeros(800)
    for vector, scale, density in zip(vectors, (1.5, 0.5), (0.05, 0.2), strict=True):
        entries = torch.tensor(flat(vector), dtype=torch.float64)
        least = entries.abs().sort(descending=True).values[round(density * 800) - 1]
        kept = (entries.abs() >= least) * entries.sign()
        expected = expected + scale * entries.std(correction=0) * kept
    assert flat(found) == pytest.approx(expected.tolist(), rel=1e-5)


def test_compeft_halves_signs_where_half_of_equal_entries_is_wanted(store: Store) -> None:
    vector = {"a": [1.0, -1.0, 0.0, 0.0]}
    found = merge(store, "compeft", {"weight": (1.0,), "density": (0.25,)}, vector)
    assert found["a"] == pytest.approx([0.5 * math.sqrt(0.5), -0.5 * math.sqrt(0.5), 0.0, 0.0])


def test_the_size_of_a_compressed_file() -> None:
    """At 5 % a gap takes 4 + 1 / (1 - 0.95**16) = 5.786 bits, and with the sign 6.786."""
    assert file_bits(1000, 50) == pytest.approx(50 * 6.7857 + SCALE_BITS, rel=1e-4)
    entropy = -(0.95 * math.log2(0.95) + 0.05 * math.log2(0.05 / 2)) * 1000 + SCALE_BITS
    assert entropy < file_bits(1000, 50) < 1.02 * entropy
    assert file_bits(1000, 0) == SCALE_BITS
    assert file_bits(0, 0) == SCALE_BITS
    assert file_bits(1000, 1000) == 1000 + SCALE_BITS


@pytest.mark.parametrize("method", ["ties_model", "pcb_model", "compeft"])
def test_a_survey_longer_than_its_stretches_depends_on_nothing(store: Store, method: str) -> None:
    """Threads and the order in which tensors are asked for."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"a": (STRETCH + 3,), "b": (7, 11), "c": ()}
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    model = {name: t + torch.randn(t.shape, generator=generator) for name, t in base.items()}
    settings: dict[str, float | tuple[float, ...]] = {"weight": (0.7,), "density": (0.3,)}
    settings |= {"scaling": 1.0} if method == "ties_model" else {}
    opened = store(base), store(model)
    found = []
    for order in (list(shapes), list(shapes)[::-1]):
        merger = Merger(opened[0], {"m": opened[1]}, compiled=False)
        plan = MergePlan(method, ("m",), dict.fromkeys(shapes, settings))
        torch.set_num_threads(3)
        merger.check(plan)
        names = list(merger.spread(lambda name, m=merger: m.tensor(name, settings, method), order))
        found.append(sorted(tensor.sum().item() for tensor in names))
    assert found[0] == found[1]


def test_tensors_that_are_no_numbers_are_in_no_pool(store: Store) -> None:
    counters = {"t": torch.tensor([8.0, 1.0]), "count": torch.arange(50)}
    base = {"t": torch.zeros(2), "count": torch.arange(50)}
    merger = Merger(store(base), {"m": store(counters)})
    settings = {"weight": (1.0,), "density": (0.5,), "scaling": 1.0}
    assert merger.tensor("t", settings, "ties_model").tolist() == [8.0, 0.0]
