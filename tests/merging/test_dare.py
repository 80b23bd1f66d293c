"""DARE against a plain formula, and what its random masks promise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.draws import BLOCK
from evomerge.merging.merger import Merger
from evomerge.randomness import torch_generator

Store = Callable[..., Checkpoint]
COUNT = BLOCK + 101


def opened(store: Store, *vectors: Tensor) -> Merger:
    models = {f"m{i}": store({"t": 1 + vector}) for i, vector in enumerate(vectors)}
    return Merger(store({"t": torch.ones_like(vectors[0])}), models)


def vectors(count: int = COUNT) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randint(-8, 9, (count,), generator=generator) / 8 for _ in range(2))
    return first, second


def uniform(model: str, *, count: int = COUNT) -> Tensor:
    """What decides a mask, drawn as documented."""
    blocks = range(-(-count // BLOCK))
    streams = (torch_generator(0, "merge", model, "t", block) for block in blocks)
    return torch.cat([torch.rand(BLOCK, generator=stream) for stream in streams])[:count]


def test_linear_is_the_sum_of_kept_entries_divided_by_the_density(store: Store) -> None:
    first, second = vectors()
    settings = {"weight": (0.5, -2.0), "density": (0.25, 1.0)}
    found = opened(store, first, second).tensor("t", settings, "dare_linear")
    kept = torch.where(uniform("m0") < 0.25, first, 0.0) / 0.25
    assert torch.equal(found, 1 + 0.5 * kept - 2 * second)


def test_ties_averages_the_kept_entries_that_agree(store: Store) -> None:
    first, second = vectors()
    settings = {"weight": (1.0, 1.0), "density": (0.5, 0.5), "scaling": 2.0}
    found = opened(store, first, second).tensor("t", settings, "dare_ties")
    a, b = ((uniform(m) < 0.5) * v * 2 for m, v in (("m0", first), ("m1", second)))
    both = torch.where(a * b > 0, (a + b) / 2, a + b)  # equal signs, or one of them is 0
    larger = torch.where(a.abs() > b.abs(), a, b)
    opposed = torch.where(a.abs() == b.abs(), 0.0, larger)
    assert torch.equal(found, 1 + 2 * torch.where(a * b < 0, opposed, both))


def test_l1_forms_keep_the_sum_of_magnitudes(store: Store) -> None:
    first, second = vectors()
    settings = {"weight": (1.0, 0.0), "density": (0.3, 0.5)}
    found = opened(store, first, second).tensor("t", settings, "dare_linear_l1") - 1
    kept = torch.where(uniform("m0") < 0.3, first, 0.0)
    torch.testing.assert_close(found, kept * (first.abs().sum() / kept.abs().sum()))
    torch.testing.assert_close(found.abs().sum(), first.abs().sum())


def test_the_mean_over_masks_is_the_task_vector(store: Store) -> None:
    """One entry's value, many times: the mean of 0 and 1/p is 1 within five standard errors."""
    ones = torch.ones(40_000)
    merger = opened(store, ones)
    for density in (0.1, 0.5, 0.9):
        settings = {"weight": (1.0,), "density": (density,)}
        kept = merger.tensor("t", settings, "dare_linear") - 1
        error = (1 / density - 1) ** 0.5 / 200
        assert abs(float(kept.mean()) - 1) < 5 * error


def test_less_density_keeps_a_subset(store: Store) -> None:
    merger = opened(store, vectors()[0] + 2)
    few, many = (
        merger.tensor("t", {"weight": (1.0,), "density": (d,)}, "dare_linear") != 1
        for d in (0.2, 0.6)
    )
    assert bool((many | ~few).all())
    assert 0.18 < float(few.float().mean()) < 0.22


def test_models_and_seeds_have_masks_of_their_own(store: Store) -> None:
    from evomerge.merging.plan import MergePlan

    same = vectors()[0] + 2
    merger = opened(store, same, same)
    masks = []
    for seed, weights in ((0, (1.0, 0.0)), (0, (0.0, 1.0)), (1, (1.0, 0.0))):
        settings = {"weight": weights, "density": (0.5, 0.5)}
        plan = MergePlan("dare_linear", ("m0", "m1"), {"t": settings}, seed)
        pieces = merger.pieces("t", plan, "F32")
        masks.append(torch.cat([piece.clone() for _, piece in pieces]) != 1)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert 0.48 < float((masks[a] == masks[b]).float().mean()) < 0.52
