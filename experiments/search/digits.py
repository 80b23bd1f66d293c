"""A real merging problem that measures a hundred merges a second: specialists on digits.

A residual MLP is trained on scikit-learn's digits, with a touch of every transform; eight
specialists are full fine-tunes on hard transforms of them. A merge adds to the base, per group of
blocks, each task vector with a signed weight after keeping its largest entries. Items are images;
an item's margin is the logit of its class less the largest other one. Search items and unseen items
are images that no training saw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from problem import Merging, ranks
from scipy import ndimage
from sklearn.datasets import load_digits

from evomerge.randomness import generator, torch_generator
from evomerge.space import Array

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
    vectors, ranked = [], []
    for index, transform in enumerate(TRANSFORMS.values()):
        tuned = _trained(base, transform(seen), truth, _TUNING_STEPS, _TUNING_RATE, seed + index)
        vectors.append([new - old for new, old in zip(tuned, base, strict=True)])
        ranked.append([ranks(vector) for vector in vectors[-1]])
    return World(base, vectors, ranked, images[TRAINED:], labels[TRAINED:])


class Digits(Merging):
    """One problem on a world.

    Args:
        models: the first so many specialists, each with a task.
        groups: of blocks.
        goals, densities, margins: see `Merging`.
        seed: which images are searched on.
    """

    def __init__(
        self,
        models: int,
        groups: int,
        goals: int,
        *,
        seed: int = 0,
        densities: bool = True,
        margins: bool = True,
    ) -> None:
        super().__init__(models, groups, goals, densities=densities, margins=margins)
        self.world = world()
        order = generator(seed, "items").permutation(len(self.world.images))
        self._search = self._tasks(order[:SEARCHED])
        self._unseen = self._tasks(order[SEARCHED:])

    def task_margins(self, weights: Array, densities: Array, *, unseen: bool) -> list[Array]:
        """See `Merging`; a logit less the largest other one."""
        merged = self._merged(weights, densities)
        return [_margins(merged, *task) for task in (self._unseen if unseen else self._search)]

    def _tasks(self, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        images, labels = self.world.images[rows], self.world.labels[rows]
        transforms = list(TRANSFORMS.values())[: self.models]
        return [(_flat(transform(images)), labels) for transform in transforms]

    def _merged(self, weights: Array, densities: Array) -> Tensors:
        merged = [tensor.copy() for tensor in self.world.base]
        for model in range(self.models):
            vector, ranked = self.world.vectors[model], self.world.ranks[model]
            for index, tensor in enumerate(merged):
                # embedding and head follow their neighbours
                block = min(max(index - 1, 0) // 2, BLOCKS - 1)
                group = block * self.groups // BLOCKS
                outer = index in (0, 2 * BLOCKS + 1)
                density = 1.0 if outer else densities[model, group]
                kept = ranked[index] < density * tensor.size
                tensor += np.float32(weights[model, group]) * vector[index] * kept
        return merged


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
