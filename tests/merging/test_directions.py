"""SLERP, Karcher mean, multi-SLERP and Model Stock by geometry worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.entries import STRETCH, Stretch
from evomerge.merging.merger import Merger
from evomerge.merging.method import Settings

Store = Callable[..., Checkpoint]
HALF = math.sqrt(0.5)


def merge(store: Store, method: str, settings: Settings, *vectors: list[float]) -> list[float]:
    """Of models; or, over a base of 1, of task vectors, where the method takes those."""
    offset = 1.0 if method in ("nuslerp", "multislerp", "model_stock") else 0.0
    stored = {f"m{i}": store({"t": torch.tensor(v) + offset}) for i, v in enumerate(vectors)}
    merger = Merger(store({"t": torch.ones(len(vectors[0]))}), stored)
    found: list[float] = (merger.tensor("t", settings, method) - offset).tolist()
    return found


def on_circle(*degrees: float, length: float = 1.0) -> list[list[float]]:
    angles = [math.radians(angle) for angle in degrees]
    return [[length * math.cos(angle), length * math.sin(angle)] for angle in angles]


@pytest.mark.parametrize(
    ("t", "first", "second", "expected"),
    [
        (0.5, [1.0, 0.0], [0.0, 1.0], [HALF, HALF]),
        (0.5, [2.0, 0.0], [0.0, 1.0], [2 * HALF, HALF]),
        (1 / 3, [1.0, 0.0], [0.0, 1.0], [math.sqrt(0.75), 0.5]),  # 30 of 90 degrees
        (0.0, [2.0, 1.0], [0.0, 1.0], [2.0, 1.0]),
        (1.0, [2.0, 1.0], [0.0, 1.0], [0.0, 1.0]),
        (0.25, [1.0, 0.0], [3.0, 0.0], [1.5, 0.0]),  # parallel: along the line
        (0.25, [1.0, 0.0], [-1.0, 0.0], [0.5, 0.0]),  # opposed
        (0.25, [0.0, 0.0], [4.0, 8.0], [1.0, 2.0]),  # no direction
    ],
)
def test_slerp(
    store: Store, t: float, first: list[float], second: list[float], expected: list[float]
) -> None:
    assert merge(store, "slerp", {"t": t}, first, second) == pytest.approx(expected, abs=1e-7)


def test_nuslerp_is_slerp_of_task_vectors_by_share(store: Store) -> None:
    found = merge(store, "nuslerp", {"weight": (2.0, 1.0)}, [1.0, 0.0], [0.0, 1.0])
    assert found == pytest.approx([math.sqrt(0.75), 0.5], rel=1e-6)


def test_karcher_mean_on_a_circle_is_the_mean_angle(store: Store) -> None:
    ends = on_circle(0, 30, 90, length=2)
    found = merge(store, "karcher", {"weight": (1.0, 1.0, 1.0)}, *ends)
    assert found == pytest.approx(on_circle(40, length=2)[0], abs=1e-6)
    found = merge(store, "karcher", {"weight": (1.0, 0.0, 3.0)}, *ends)
    assert found == pytest.approx(on_circle(67.5, length=2)[0], abs=1e-6)


def test_karcher_mean_has_the_mean_length_and_is_at_rest(store: Store) -> None:
    """In three dimensions: the logarithms of the vectors at the mean add up to nothing."""
    vectors = [[3.0, 0.0, 0.0], [0.0, 2.0, 1.0], [1.0, 1.0, 4.0]]
    found = torch.tensor(merge(store, "karcher", {"weight": (1.0, 1.0, 2.0)}, *vectors)).double()
    lengths = [torch.tensor(v).double().norm() for v in vectors]
    assert float(found.norm()) == pytest.approx(
        float(lengths[0] + lengths[1] + 2 * lengths[2]) / 4, rel=1e-6
    )
    mean = found / found.norm()
    pull = torch.zeros(3).double()
    for vector, length, share in zip(vectors, lengths, (0.25, 0.25, 0.5), strict=True):
        unit = torch.tensor(vector).double() / length
        angle = torch.acos(unit @ mean)
        pull += share * angle / angle.sin() * (unit - angle.cos() * mean)
    assert float(pull.norm()) < 1e-6


def test_multislerp_is_the_mean_direction_at_the_mean_length(store: Store) -> None:
    found = merge(store, "multislerp", {"weight": (1.0, 1.0)}, [4.0, 0.0], [0.0, 2.0])
    assert found == pytest.approx([3 * HALF, 3 * HALF], rel=1e-6)
    found = merge(store, "multislerp", {"weight": (1.0, 3.0)}, [2.0, 0.0], [0.0, 2.0])
    assert found == pytest.approx([2 / math.sqrt(10), 6 / math.sqrt(10)], rel=1e-6)


def test_multislerp_of_vectors_that_cancel_is_their_plain_mean(store: Store) -> None:
    found = merge(store, "multislerp", {"weight": (1.0, 1.0)}, [4.0, 0.0], [-2.0, 0.0])
    assert found == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize(
    ("weights", "second", "expected"),
    [
        ((1.0, 1.0), [0.6, 0.8], [0.6, 0.3]),  # cos .6, t = 1.2 / 1.6, mean (.8, .4)
        ((1.0, 1.0), [0.0, 5.0], [0.0, 0.0]),  # at right angles: the base
        ((1.0, 1.0), [3.0, 0.0], [2.0, 0.0]),  # parallel: the mean
        ((3.0, 1.0), [0.6, 0.8], [0.9 * 0.6 / 0.85, 0.2 * 0.6 / 0.85]),  # sum of squares .625
        ((1.0, 1.0), [-1.0, 0.0], [0.0, 0.0]),  # opposed: no mean, the base
        ((0.0, 2.0), [0.6, 0.8], [0.6, 0.8]),  # alone
    ],
)
def test_model_stock(
    store: Store, weights: tuple[float, float], second: list[float], expected: list[float]
) -> None:
    found = merge(store, "model_stock", {"weight": weights}, [1.0, 0.0], second)
    assert found == pytest.approx(expected, abs=3e-7)


def test_angles_are_those_of_whole_tensors_and_found_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model Stock of two over a base of 0: t = 2 cos / (1 + cos), over three stretches."""
    generator = torch.Generator().manual_seed(0)
    count = 2 * STRETCH + 7
    vectors = [torch.randn(count, generator=generator) + torch.ones(count) for _ in range(2)]
    models = {f"m{i}": store({"t": vector}) for i, vector in enumerate(vectors)}
    merger = Merger(store({"t": torch.zeros(count)}), models)
    read: list[int] = []
    made = Stretch.__init__
    monkeypatch.setattr(Stretch, "__init__", lambda *a: read.append(0) or made(*a))  # type: ignore[func-returns-value]
    found = merger.tensor("t", {"weight": (1.0, 1.0)}, "model_stock")
    first = len(read)
    again = merger.tensor("t", {"weight": (1.0, 3.0)}, "model_stock")
    cosine = float(torch.cosine_similarity(*(v.double() for v in vectors), dim=0))
    ratio = 2 * cosine / (1 + cosine)
    expected = ratio * (vectors[0].double() + vectors[1].double()) / 2
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    assert not torch.equal(found, again)
    assert (first, len(read) - first) == (3 + 1, 1)  # three stretches looked at, one chunk merged
