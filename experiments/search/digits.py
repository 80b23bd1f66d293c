"""A real merging problem that measures a hundred merges a second: specialists on digits.

A residual MLP is trained on scikit-learn's digits, with a touch of every transform; eight
specialists are full fine-tunes on hard transforms of them. A merge adds to the base, per group of
blocks, each task vector with a signed weight after keeping its largest entries. Items are images;
an item's margin is the logit of its class less the largest other one. Search items and unseen items
are images that no training saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy import ndimage
from sklearn.datasets import load_digits

from evomerge.interfaces import ItemLosses
from evomerge.randomness import generator, torch_generator
from evomerge.space import Array, Coordinate, Parameter, Space

WIDTH, BLOCKS, CLASSES = 64, 12, 10
TRAINED, SEARCHED = 503, 100  # images; what is left over, 1,194, no search sees
_COPIES = 16  # augmented ones of every training image
_TOUCH = 32  # one image in so many, of each transform, goes into the base's training
_STEPS, _TUNING_STEPS, _BATCH = 600, 150, 128
_RATE, _TUNING_RATE = 2e-3, 5e-4
Images = Array  # (n, 8, 8) in [0, 1]
Tensors = list[np.ndarray]  # float32: embed, then up and down of every block, then head


def _turned(images: Images, matrix: Array, shift: tuple[float, float] = (0.0, 0.0)) -> Images:
    centre = np.array([3.5, 3.5])
    offset = centre - matrix @ centre + np.array(shift)
    return np.array([ndimage.affine_transform(i, matrix, offset=offset, order=1) for i in images])


def _rotation(degrees: float) -> Array:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _noisy(images: Images) -> Images:
    return images + 0.6 * generator(0, "noise", len(images)).normal(size=images.shape)


TRANSFORMS: dict[str, Callable[[Images], Images]] = {
    "rotated right": lambda images: _turned(images, _rotation(70)),
    "inverted": lambda images: 1.0 - images,
    "flipped": lambda images: images[:, ::-1],
    "sheared": lambda images: _turned(images, np.array([[1.0, 0.0], [0.9, 1.0]])),
    "rotated left": lambda images: _turned(images, _rotation(-70)),
    "shifted": lambda images: np.roll(images, (3, 2), axis=(1, 2)),
    "noisy": _noisy,
    "mirrored": lambda images: images[:, :, ::-1],
}


@dataclass(frozen=True)
class World:
    """Trained networks and the images that no training saw.

    Attributes:
        vectors: task vectors, one list of tensors per specialist.
        ranks: of every entry of each task vector within its tensor, 0 for the largest.
        images, labels: ``(n, 8, 8)`` and ``(n,)``.
    """

    base: Tensors
    vectors: list[Tensors]
    ranks: list[Tensors]
    images: Images
    labels: np.ndarray


@cache
def world(seed: int = 0) -> World:
    """The base and all specialists; takes some ten seconds."""
    torch.set_num_threads(1)
    data = load_digits()
    order = generator(seed, "digits").permutation(len(data.images))
    images, labels = data.images[order] / 16.0, data.target[order]
    seen, truth = _augmented(images[:TRAINED], seed), np.repeat(labels[:TRAINED], _COPIES)
    touched = np.concatenate(
        [seen, *(t(seen[i::_TOUCH]) for i, t in enumerate(TRANSFORMS.values()))]
    )
    told = np.concatenate([truth, *(truth[i::_TOUCH] for i in range(len(TRANSFORMS)))])
    base = _trained(_start(seed), touched, told, _STEPS, _RATE, seed)
    vectors, ranks = [], []
    for index, transform in enumerate(TRANSFORMS.values()):
        tuned = _trained(base, transform(seen), truth, _TUNING_STEPS, _TUNING_RATE, seed + index)
        vectors.append([new - old for new, old in zip(tuned, base, strict=True)])
        ranks.append([_ranks(vector) for vector in vectors[-1]])
    return World(base, vectors, ranks, images[TRAINED:], labels[TRAINED:])


class Digits:
    """One problem on a world.

    Args:
        models: the first so many specialists, each with a task.
        groups: of blocks, each with a weight and a density per model.
        goals: the tasks are dealt out to so many goals.
        seed: which images are searched on.
        margins: whether items have them.
    """

    def __init__(
        self, models: int, groups: int, goals: int, *, seed: int = 0, margins: bool = True
    ) -> None:
        self.models, self.groups, self.goals, self.margins = models, groups, goals, margins
        self.world = world()
        order = generator(seed, "items").permutation(len(self.world.images))
        self._search = self._items(order[:SEARCHED])
        self._unseen = self._items(order[SEARCHED:])

    @property
    def space(self) -> Space:
        """``m0/0/weight``, ``m0/0/density``, ..."""
        return Space(tuple(self._parameters()))

    def references(self) -> list[Array]:
        """Points of the base, each specialist and the uniform average, ``(d,)`` each."""
        whole = np.eye(self.models)
        weights = [np.zeros(self.models), *whole, np.full(self.models, 1 / self.models)]
        return [self._constant(w) for w in weights]

    def items(self, point: Array, *, unseen: bool = False) -> tuple[ItemLosses, ...]:
        """Item losses and margins by goal; a loss is -1 where the image is told right."""
        merged = self._merged(point)
        tasks = [_margins(merged, *task) for task in (self._unseen if unseen else self._search)]
        per_goal = [np.concatenate(tasks[goal :: self.goals]) for goal in range(self.goals)]
        return tuple(
            ItemLosses(-(m > 0).astype(float), -m if self.margins else None) for m in per_goal
        )

    def values(self, point: Array, *, unseen: bool = False) -> Array:
        """Accuracies by goal, ``(goals,)``."""
        return np.array([-one.losses.mean() for one in self.items(point, unseen=unseen)])

    def _items(self, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        images, labels = self.world.images[rows], self.world.labels[rows]
        transforms = list(TRANSFORMS.values())[: self.models]
        return [(_flat(transform(images)), labels) for transform in transforms]

    def _parameters(self) -> Iterator[Parameter]:
        for model in range(self.models):
            for group in range(self.groups):
                depth = (group + 0.5) / self.groups
                for field, low, high, scale in (
                    ("weight", -0.5, 1.5, "linear"),
                    ("density", 0.05, 1.0, "log"),
                ):
                    place = Coordinate(f"m{model}", depth, None, field)
                    yield Parameter(f"m{model}/{group}/{field}", low, high, scale, place)

    def _constant(self, weights: Array) -> Array:
        return self.space.point(
            {
                p.name: 1.0 if p.name.endswith("density") else float(weights[int(p.name[1])])
                for p in self.space.parameters
            }
        )

    def _merged(self, point: Array) -> Tensors:
        settings = np.array(list(self.space.values(point).values())).reshape(self.models, -1, 2)
        merged = [tensor.copy() for tensor in self.world.base]
        for model in range(self.models):
            vector, ranks = self.world.vectors[model], self.world.ranks[model]
            for index, tensor in enumerate(merged):
                weight, density = self._setting(settings[model], index)
                kept = ranks[index] < density * tensor.size
                tensor += np.float32(weight) * vector[index] * kept
        return merged

    def _setting(self, settings: Array, index: int) -> tuple[float, float]:
        if index == 0 or index == 2 * BLOCKS + 1:  # embedding and head follow their neighbours
            return float(settings[0 if index == 0 else -1, 0]), 1.0
        group = (index - 1) // 2 * self.groups // BLOCKS
        return float(settings[group, 0]), float(settings[group, 1])


def _flat(images: Images) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32)


def _augmented(images: Images, seed: int) -> Images:
    """Each image in `_COPIES` slightly turned and moved ones, one after the other."""
    rng, copies = generator(seed, "augment"), []
    for image in images:
        for _ in range(_COPIES):
            shift = tuple(rng.uniform(-0.7, 0.7, size=2))
            copies.append(_turned(image[None], _rotation(rng.uniform(-10, 10)), shift)[0])
    return np.array(copies)


def _start(seed: int) -> Tensors:
    rng = generator(seed, "start")
    blocks = [
        scale * rng.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH)
        for _ in range(BLOCKS)
        for scale in (1.4, 0.4)
    ]
    head = 0.1 * rng.normal(size=(WIDTH, CLASSES))
    return [t.astype(np.float32) for t in (0.3 * rng.normal(size=(64, WIDTH)), *blocks, head)]


def _trained(
    start: Tensors, images: Images, labels: np.ndarray, steps: int, rate: float, seed: int
) -> Tensors:
    tensors = [torch.tensor(tensor, requires_grad=True) for tensor in start]
    x, y = torch.tensor(_flat(images)), torch.tensor(labels)
    optimizer = torch.optim.AdamW(tensors, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    stream = torch_generator(seed, "batches")
    for _ in range(steps):
        rows = torch.randint(len(x), (_BATCH,), generator=stream)
        h = x[rows] @ tensors[0]
        for up, down in zip(tensors[1:-1:2], tensors[2:-1:2], strict=True):
            z = h * torch.rsqrt(h.square().mean(dim=1, keepdim=True) + 1e-6)
            h = h + torch.relu(z @ up) @ down
        z = h * torch.rsqrt(h.square().mean(dim=1, keepdim=True) + 1e-6)
        loss = torch.nn.functional.cross_entropy(z @ tensors[-1], y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return [tensor.detach().numpy() for tensor in tensors]


def _margins(tensors: Tensors, x: np.ndarray, labels: np.ndarray) -> Array:
    """The logit of the right class less the largest wrong one, ``(n,)``."""
    h = x @ tensors[0]
    for up, down in zip(tensors[1:-1:2], tensors[2:-1:2], strict=True):
        h = h + np.maximum(_normed(h) @ up, 0.0) @ down
    logits = (_normed(h) @ tensors[-1]).astype(float)
    rows = np.arange(len(x))
    right = logits[rows, labels].copy()
    logits[rows, labels] = -np.inf
    return right - logits.max(axis=1)


def _normed(h: np.ndarray) -> np.ndarray:
    return h / np.sqrt(np.mean(h**2, axis=1, keepdims=True) + np.float32(1e-6))


def _ranks(tensor: np.ndarray) -> np.ndarray:
    order = np.argsort(-np.abs(tensor), axis=None, kind="stable")
    ranks = np.empty(tensor.size, dtype=np.int32)
    ranks[order] = np.arange(tensor.size)
    return ranks.reshape(tensor.shape)
