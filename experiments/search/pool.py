"""A real merging problem with many adapters, most of which are of no use for it.

The base is the residual MLP of the digits; adapters are low-rank fine-tunes of the first matrix of
every block. The tasks are digits turned by 120 degrees, which no adapter was trained on, then
digits as they are, and turned by 100 and by 140 degrees. Eight adapters learnt other angles; with
the factor B of four of them turned around, these planted negatives help only where they are
subtracted. The others are distractors: other transforms, half of them under shuffled labels.
Hundreds of merges are measured a second.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import numpy as np
import torch
from digits import CLASSES, FAMILIES, TRAINED, TRANSFORMS, margins_of, world
from kept import kept
from problem import Merging, ranks
from scipy import ndimage
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from evomerge.randomness import generator, torch_generator
from evomerge.space import Array

RANK, SEARCHED = 4, 150  # images of each task that are searched on
_STEPS, _BATCH, _RATE, _NOISE = 150, 128, 3e-3, 0.1
_ANGLES, _NEGATED = (90.0, 100.0, 140.0, 150.0), (105.0, 115.0, 125.0, 135.0)
_DISTRACTORS = 24
_MLP = FAMILIES["mlp"]
Kind = Literal["useful", "negative", "distractor"]
Factors = list[np.ndarray]


def _turned(degrees: float, images: Array) -> Array:
    return ndimage.rotate(images, -degrees, axes=(1, 2), reshape=False, order=1)


TASKS: tuple[Callable[[Array], Array], ...] = tuple(
    partial(_turned, degrees) for degrees in (120.0, 0.0, 100.0, 140.0)
)


@dataclass(frozen=True)
class Adapters:
    """What was trained, by block.

    Attributes:
        kinds: of the adapters.
        downs: ``(models, inputs, rank)``, the factors A.
        ups: ``(models, rank, outputs)``, the factors B.
        ranks: of every entry of A within its own factor, 0 for the largest.
    """

    kinds: tuple[Kind, ...]
    downs: Factors
    ups: Factors
    ranks: Factors


@cache
def adapters() -> Adapters:
    """The whole pool; a minute or two, once per machine."""
    torch.set_num_threads(1)
    return kept("pool", [sys.modules[__name__], sys.modules["digits"]], _made)


def _made() -> Adapters:
    data, plain = load_digits(), np.arange(CLASSES)
    rows = generator(0, "digits").permutation(len(data.images))[:TRAINED]
    images, labels = data.images[rows] / 16.0, data.target[rows]
    courses: list[tuple[Kind, Callable[[Array], Array], np.ndarray]] = []
    courses += [("useful", partial(_turned, angle), plain) for angle in _ANGLES]
    courses += [("negative", partial(_turned, angle), plain) for angle in _NEGATED]
    others = list(TRANSFORMS.values())
    for i in range(_DISTRACTORS):
        shuffled = generator(i, "labels").permutation(CLASSES)
        courses.append(("distractor", others[i % len(others)], shuffled if i % 2 else plain))
    downs, ups = [], []
    for i, (kind, transform, told) in enumerate(courses):
        down, up = _trained(_flat(transform(images)), torch.from_numpy(told[labels]), i)
        downs.append(down)
        ups.append([-one for one in up] if kind == "negative" else up)
    by_block = [np.array(one) for one in zip(*downs, strict=True)]
    ranked = [np.array([ranks(one) for one in block]) for block in by_block]
    kinds = tuple(kind for kind, _, _ in courses)
    return Adapters(kinds, by_block, [np.array(one) for one in zip(*ups, strict=True)], ranked)


def _trained(x: Tensor, labels: Tensor, seed: int) -> tuple[Factors, Factors]:
    """The factors A and B of one adapter, by block: A starts at random, B at 0."""
    stream, rng = torch_generator(seed, "adapter"), generator(seed, "adapter")
    base = [torch.from_numpy(tensor) for tensor in world().base]
    downs, ups = [], []
    for tensor in base[1:-1:2]:
        inputs, outputs = tensor.shape
        start = rng.uniform(-1, 1, size=(inputs, RANK)) / np.sqrt(inputs)
        downs.append(torch.tensor(start, dtype=torch.float32, requires_grad=True))
        ups.append(torch.zeros((RANK, outputs), requires_grad=True))
    optimizer = torch.optim.AdamW([*downs, *ups], lr=_RATE, weight_decay=0.01)
    for _ in range(_STEPS):
        rows = torch.randint(len(x), (_BATCH,), generator=stream)
        noisy = x[rows] + _NOISE * torch.randn((_BATCH, x.shape[1]), generator=stream)
        tensors = list(base)
        for block, (down, up) in enumerate(zip(downs, ups, strict=True)):
            tensors[1 + 2 * block] = base[1 + 2 * block] + down @ up
        loss = functional.cross_entropy(_MLP.logits(tensors, noisy), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [down.detach().numpy() for down in downs], [up.detach().numpy() for up in ups]


class Pool(Merging):
    """One problem on the pool: the first tasks, one per goal.

    Args:
        groups: of blocks.
        goals, margins: see `Merging`; up to four goals.
        seed: which images are searched on.
        factors: adapters are added factor by factor, as Evo-Merging's release does, else as task
            vectors; see `evomerge.merging.evo`.
    """

    def __init__(
        self,
        groups: int,
        goals: int,
        *,
        seed: int = 0,
        margins: bool = True,
        factors: bool = False,
    ) -> None:
        self.pool, self.factors, self._base = adapters(), factors, world().base
        super().__init__(len(self.pool.kinds), groups, goals, margins=margins)
        images, labels = world().images, world().labels
        order = generator(seed, "items").permutation(len(images))
        self._search, self._unseen = (
            [(_flat(task(images[rows])), torch.from_numpy(labels[rows])) for task in TASKS[:goals]]
            for rows in (order[:SEARCHED], order[SEARCHED:])
        )

    def task_margins(self, weights: Array, densities: Array, *, unseen: bool) -> list[Array]:
        """See `Merging`; a logit less the largest other one."""
        found = self._logits(weights, densities, unseen=unseen)
        return [margins_of(logits.double(), labels) for logits, labels in found]

    def losses(self, weights: Array, densities: Array, *, unseen: bool = False) -> list[float]:
        """The mean cross-entropy of every task."""
        found = self._logits(weights, densities, unseen=unseen)
        return [float(functional.cross_entropy(logits, labels)) for logits, labels in found]

    def _logits(
        self, weights: Array, densities: Array, *, unseen: bool
    ) -> Sequence[tuple[Tensor, Tensor]]:
        tensors = [torch.from_numpy(tensor) for tensor in self._merged(weights, densities)]
        with torch.inference_mode():
            tasks = self._unseen if unseen else self._search
            return [(_MLP.logits(tensors, x), labels) for x, labels in tasks]

    def _merged(self, weights: Array, densities: Array) -> list[np.ndarray]:
        merged = list(self._base)
        for block, (downs, ups) in enumerate(zip(self.pool.downs, self.pool.ups, strict=True)):
            models, inputs, rank = downs.shape
            group = block * self.groups // _MLP.blocks
            weight = weights[:, group, None, None].astype(np.float32)
            count = np.maximum(np.rint(densities[:, group] * inputs * rank), 1)
            thin = downs * (self.pool.ranks[block] < count[:, None, None])
            if self.factors:
                change = (weight * thin).sum(axis=0) @ (weight * ups).sum(axis=0)
            else:
                side = (weight * thin).transpose(1, 0, 2).reshape(inputs, models * rank)
                change = side @ ups.reshape(models * rank, -1)
            merged[1 + 2 * block] = merged[1 + 2 * block] + change
        return merged


def _flat(images: Array) -> Tensor:
    return torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))
