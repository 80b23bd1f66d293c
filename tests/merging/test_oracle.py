"""Our float32 results against mergekit 0.1.5's, for every method that both have.

mergekit is a foreign library under the LGPL; it is run here and read by nobody. Where it draws
random masks it is handed our random numbers, so that everything but the draws is compared. The
differences that are meant are in docs/merging.md, and tested where our own methods are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.draws import fill_uniform
from evomerge.merging.merger import Merger
from evomerge.merging.method import Settings

pytest.importorskip("mergekit", reason="the oracle mergekit==0.1.5 is not installed")
oracle: Any = pytest.importorskip("mergekit.merge_methods.api")

Store = Callable[..., Checkpoint]
SHAPES = [(16, 24), (7, 5), (13,), (1, 9), (33, 1), (257,), (1,)]
DENSITIES = [0.01, 0.1, 0.37, 0.5, 0.9, 1.0]


def members(shape: tuple[int, ...], models: int = 3) -> list[Tensor]:
    """A base and models, exact differences: every magnitude of a task vector has a code of its own
    (so that densities cut between codes), and no masses cancel."""
    generator = torch.Generator().manual_seed(17)
    base = torch.randint(-64, 65, shape, generator=generator) / 64
    count = base.numel()
    found = [base]
    for offset in (1, 2, 5)[:models]:  # no sum of these with signs is a multiple of 16
        codes = (117 << 7) + torch.randperm(count, generator=generator)  # from 2**-10 on
        sizes = (codes.int() << 16).view(torch.float32) + offset * 2**-21
        signs = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
        found.append(base + (sizes * signs).reshape(shape))
    return found


def ours(store: Store, tensors: list[Tensor], method: str, settings: Settings) -> Tensor:
    base, *models = [store({"t": tensor}) for tensor in tensors]
    merger = Merger(base, {f"m{i}": model for i, model in enumerate(models)})
    return merger.tensor("t", settings, method)


def theirs(
    tensors: list[Tensor], method: str, base: int | None = 0, **parameters: object
) -> Tensor:
    """Tuples are per model, without the base."""
    given = {
        name: dict(enumerate(value, start=1)) if isinstance(value, tuple) else value
        for name, value in parameters.items()
    }
    found: Tensor = oracle.merge_tensors(
        tensors, method, parameters=given, base_index=base, dtype=torch.float32
    )
    return found


def agree(found: Tensor, expected: Tensor, tensors: list[Tensor]) -> None:
    """To 1e-6 of the largest number that enters the sum."""
    assert found.shape == expected.shape
    if found.numel():
        largest = max(float(tensor.abs().max()) for tensor in (expected, *tensors))
        assert float((found - expected).abs().max()) <= 1e-6 * largest


@pytest.fixture
def same_draws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """mergekit draws the masks of m0, m1, ... from our random numbers."""
    drawn = 0

    def bernoulli(chances: Tensor) -> Tensor:
        nonlocal drawn
        key = ("merge", f"m{drawn}", "t")
        numbers = fill_uniform(torch.empty(chances.numel()), 0, 0, *key)
        drawn += 1
        return (numbers.reshape(chances.shape) < chances).to(chances.dtype)

    monkeypatch.setattr(torch, "bernoulli", bernoulli)
    yield


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", DENSITIES[:-1])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.7, 0.2, 1.1), (0.7, -0.4, 1.1)])
def test_dare(
    store: Store,
    same_draws: None,
    shape: tuple[int, ...],
    density: float,
    weights: tuple[float, ...],
) -> None:
    tensors, densities = members(shape), (density,) * 3
    settings = {"weight": weights, "density": densities}
    them = partial(theirs, tensors, weight=weights, density=densities)
    agree(ours(store, tensors, "dare_linear_l1", settings), them("dare_linear"), tensors)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", DENSITIES[:-1])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.7, 0.2, 1.1), (0.7, -0.4, 1.1)])
def test_dare_ties(
    store: Store,
    same_draws: None,
    shape: tuple[int, ...],
    density: float,
    weights: tuple[float, ...],
) -> None:
    tensors, densities = members(shape), (density,) * 3
    settings = {"weight": weights, "density": densities, "scaling": 0.8}
    expected = theirs(tensors, "dare_ties", weight=weights, density=densities, **{"lambda": 0.8})
    agree(ours(store, tensors, "dare_ties_l1", settings), expected, tensors)


def counted(density: float, shape: tuple[int, ...]) -> float:
    """The density that keeps exactly as many entries as mergekit, which rounds the count down."""
    count = torch.Size(shape).numel()
    return max(1, int(density * count)) / count


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.7, 0.2, 1.1), (0.7, -0.4, 1.1)])
def test_sums(store: Store, shape: tuple[int, ...], weights: tuple[float, ...]) -> None:
    tensors = members(shape)
    settings = {"weight": weights, "scaling": 0.6}
    expected = theirs(tensors, "task_arithmetic", weight=weights, **{"lambda": 0.6})
    agree(ours(store, tensors, "task_arithmetic", settings), expected, tensors)
    if min(weights) >= 0:
        average = theirs(tensors, "linear", weight={0: 0.0, **dict(enumerate(weights, start=1))})
        agree(ours(store, tensors, "linear", {"weight": weights}), average, tensors)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.7, 0.2, 1.1)])
def test_ties(
    store: Store, shape: tuple[int, ...], density: float, weights: tuple[float, ...]
) -> None:
    tensors = members(shape)
    exact = (counted(density, shape),) * 3
    settings = {"weight": weights, "density": exact, "scaling": 0.8}
    expected = theirs(tensors, "ties", weight=weights, density=(density,) * 3, **{"lambda": 0.8})
    agree(ours(store, tensors, "ties", settings), expected, tensors)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.2])
def test_breadcrumbs(store: Store, shape: tuple[int, ...], density: float, gamma: float) -> None:
    """Where mergekit keeps nothing of a small tensor, we keep one entry."""
    tensors, count = members(shape), torch.Size(shape).numel()
    if int(density * count) == 0:
        density = 1.5 / count
    weights, densities = (0.7, -0.4, 1.1), (min(density, 1.0),) * 3
    settings = {"weight": weights, "density": densities, "gamma": gamma}
    them = partial(theirs, tensors, weight=weights, density=densities, gamma=(gamma,) * 3)
    agree(ours(store, tensors, "breadcrumbs_tensor", settings), them("breadcrumbs"), tensors)
    expected = them("breadcrumbs_ties", **{"lambda": 0.8})
    found = ours(store, tensors, "breadcrumbs_ties", {**settings, "scaling": 0.8})
    agree(found, expected, tensors)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[-1] > 1])
@pytest.mark.parametrize(("density", "epsilon"), [(0.01, 0.005), (0.3, 0.15), (0.9, 0.09)])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.7, 0.2, 1.1), (0.7, -0.4, 1.1)])
@pytest.mark.parametrize("elect", [False, True])
def test_della(
    store: Store,
    same_draws: None,
    shape: tuple[int, ...],
    density: float,
    epsilon: float,
    weights: tuple[float, ...],
    elect: bool,
) -> None:
    """mergekit divides by a signed sum of weights, so negative ones are compared without it."""
    if elect and min(weights) < 0:
        return
    tensors, name = members(shape), "della" if elect else "della_linear"
    given = {"weight": weights, "density": (density,) * 3}
    settings = {**given, "epsilon": epsilon, **({"scaling": 0.8} if elect else {})}
    more = {"lambda": 0.8} if elect else {}
    expected = theirs(tensors, name, **given, epsilon=(epsilon,) * 3, **more)
    agree(ours(store, tensors, f"{name}_l1", settings), expected, tensors)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("t", [0.0, 0.25, 0.8, 1.0])
def test_between_two_models(store: Store, shape: tuple[int, ...], t: float) -> None:
    """mergekit's base is our first model."""
    tensors = members(shape, models=2)
    far = [tensors[0], tensors[1], tensors[2].flip(0) + 0.125]
    for triple in (tensors, far):
        agree(ours(store, triple, "slerp", {"t": t}), theirs(triple[1:], "slerp", t=t), triple)
        weights = (1 - t, t)
        found = ours(store, triple, "nuslerp", {"weight": weights})
        agree(found, theirs(triple, "nuslerp", weight=weights), triple)
        step = t / 64
        found = ours(store, triple, "nearswap", {"step": step})
        agree(found, theirs(triple[1:], "nearswap", t=step), triple)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.7, 0.2, 1.1)])
def test_directions(store: Store, shape: tuple[int, ...], weights: tuple[float, ...]) -> None:
    tensors = members(shape)
    settings = {"weight": weights}
    expected = theirs(tensors, "multislerp", weight=weights)
    agree(ours(store, tensors, "multislerp", settings), expected, tensors)
    if len(set(weights)) == 1:
        mean = theirs(tensors[1:], "karcher", base=None, max_iter=100, tol=1e-7)
        agree(ours(store, tensors, "karcher", settings), mean, tensors)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != (1,)])
def test_model_stock(store: Store, shape: tuple[int, ...]) -> None:
    """mergekit bounds the product of two norms from below by 1e-6, which would show at (1,)."""
    tensors = members(shape)
    found = ours(store, tensors, "model_stock", {"weight": (1.0, 1.0, 1.0)})
    agree(found, theirs(tensors, "model_stock"), tensors)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", DENSITIES)
def test_sce(store: Store, shape: tuple[int, ...], density: float) -> None:
    """Where mergekit selects nothing of a small tensor, we select one entry."""
    tensors, count = members(shape), torch.Size(shape).numel()
    if int(density * count) == 0:
        density = 1.5 / count
    density = min(density, 1.0)
    # mergekit takes squares that add up to less than 1e-6 for 0: these are larger.
    large = [tensors[0], *(tensors[0] + 64 * (model - tensors[0]) for model in tensors[1:])]
    settings = {"weight": (1.0, 1.0, 1.0), "density": density}
    agree(ours(store, large, "sce", settings), theirs(large, "sce", select_topk=density), large)


@pytest.mark.parametrize("density", [0.1, 0.37, 0.9])
def test_ties_over_the_whole_model_is_ties_of_all_tensors_as_one(
    store: Store, density: float
) -> None:
    """mergekit trims a tensor at a time; one tensor that holds all of them is the paper's trim."""
    tensors, sizes = members((400,)), [150, 0, 1, 249]
    names = [f"t{i}" for i in range(len(sizes))]
    cut = [dict(zip(names, tensor.split(sizes), strict=True)) for tensor in tensors]
    base, *models = [store(parts) for parts in cut]
    merger = Merger(base, {f"m{i}": model for i, model in enumerate(models)})
    settings = {"weight": (0.7, 0.2, 1.1), "density": (density,) * 3, "scaling": 0.8}
    found = torch.cat([merger.tensor(name, settings, "ties_model") for name in names])
    weights, densities = settings["weight"], (density,) * 3
    expected = theirs(tensors, "ties", weight=weights, density=densities, **{"lambda": 0.8})
    agree(found, expected, tensors)
