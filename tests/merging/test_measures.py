"""Measures of task vectors, on numbers worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.entries import STRETCH
from evomerge.merging.measures import Measures, measure
from evomerge.merging.merger import Merger

Store = Callable[..., Checkpoint]


def measured(store: Store, *vectors: list[float], base: float = 2.0) -> Measures:
    """Of task vectors over a base that is the same number everywhere; two tensors, two parts."""
    half = len(vectors[0]) // 2
    parts = [{"a": torch.tensor(v[:half]), "b": torch.tensor(v[half:])} for v in vectors]
    start = {name: torch.full_like(part, base) for name, part in parts[0].items()}
    models = {
        f"m{i}": store({name: start[name] + part for name, part in vector.items()})
        for i, vector in enumerate(parts)
    }
    merger = Merger(store(start), models)
    return measure(merger, [("a", "first"), ("b", "second")])


def test_norms_are_of_the_whole_and_of_parts(store: Store) -> None:
    found = measured(store, [3.0, 0.0, 4.0, 0.0], [0.0, 1.0, 0.0, 0.0])
    assert [found.whole.norm(i) for i in (0, 1)] == [5.0, 1.0]
    assert [found.parts[part].norm(0) for part in ("first", "second")] == [3.0, 4.0]
    assert found.whole.base == 16.0
    assert [found.whole.zeros(i) for i in (0, 1)] == [0.5, 0.75]
    assert (found.whole.tensors, found.whole.entries) == (2, 4)


def test_kinship_keeps_its_sign(store: Store) -> None:
    """(3, 4, 0, 0) and (-4, -3, 0, 0): the product is -24, the cosine -24 / 25."""
    kin = measured(store, [3.0, 4.0, 0.0, 0.0], [-4.0, -3.0, 0.0, 0.0]).whole.kinship(0, 1)
    assert kin.cosine == pytest.approx(-24 / 25)
    # Means 7/4 and -7/4: (-24 + 49/4) / (25 - 49/4).
    assert kin.pearson == pytest.approx(-(24 - 49 / 4) / (25 - 49 / 4))
    assert kin.distance == pytest.approx(math.sqrt(49 + 49))
    assert kin.conflicts == 1.0


def test_conflicts_are_shares_of_what_was_changed(store: Store) -> None:
    """Changed: four of six; apart: one; both changed: two."""
    found = measured(store, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [-1.0, 1.0, 0.0, 2.0, 0.0, 0.0])
    assert found.whole.conflicts == 0.25
    assert found.whole.kinship(0, 1).conflicts == 0.5


def test_a_model_that_is_the_base_has_no_kin(store: Store) -> None:
    found = measured(store, [0.0, 0.0], [1.0, 2.0])
    kin = found.whole.kinship(0, 1)
    assert math.isnan(kin.cosine) and math.isnan(kin.pearson) and math.isnan(kin.conflicts)
    assert kin.distance == pytest.approx(math.sqrt(5))
    assert found.whole.zeros(0) == 1.0
    assert math.isnan(found.magnitudes[0].kept(0.5)[1])


def test_what_sparsity_leaves(store: Store) -> None:
    """Of 4, 2, 2, 1, 0, 0, 0, 0 three eighths are 4 and both 2; an eighth and a half is 4 and a
    quarter of each 2: the rule weakens what is equal."""
    found = measured(store, [4.0, 2.0, -2.0, 1.0, 0.0, 0.0, 0.0, 0.0]).magnitudes[0]
    assert found.kept(3 / 8) == (3.0, pytest.approx(8 / 9), pytest.approx(math.sqrt(24 / 25)))
    weak = found.kept(1.5 / 8)
    assert weak == (1.5, pytest.approx(5 / 9), pytest.approx(math.sqrt(16.5 / 25)))
    assert found.kept(1.0) == (4.0, 1.0, 1.0)
    assert found.largest_tie == 0.5


def test_long_tensors_are_summed_as_short_ones(store: Store) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(2 * STRETCH + 5, generator=generator) for _ in range(2)]
    base = {"t": torch.zeros(2 * STRETCH + 5)}
    merger = Merger(store(base), {f"m{i}": store({"t": v}) for i, v in enumerate(vectors)})
    found = measure(merger, [("t", "all")])
    wide = [vector.double() for vector in vectors]
    kin = found.whole.kinship(0, 1)
    assert kin.cosine == pytest.approx(float(torch.cosine_similarity(*wide, dim=0)))
    assert kin.pearson == pytest.approx(float(torch.corrcoef(torch.stack(wide))[0, 1]))
    top = wide[0].abs().sort(descending=True).values[: round(0.1 * len(wide[0]))]
    kept = found.magnitudes[0].kept(0.1)
    assert kept[1] == pytest.approx(float(top.sum() / wide[0].abs().sum()), rel=1e-3)
