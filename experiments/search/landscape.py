"""A small landscape that behaves like model merging: numpy only, the same for the same seed.

A residual network learns to tell ten classes apart; specialists are fine-tuned from it on inputs
turned by a rotation of their own, so that their skills conflict in part. A merge adds to the base,
per band of blocks, each task vector with a signed weight after keeping its largest entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from merging import Merger
from problem import Merging

from evomerge.randomness import generator
from evomerge.space import Array

WIDTH, BLOCKS, CLASSES = 32, 6, 10
NOISE = 1.2
Tensors = dict[str, Array]


@dataclass(frozen=True)
class Task:
    """Inputs ``(n, WIDTH)`` and labels ``(n,)``, for the search and unseen by it."""

    search: tuple[Array, Array]
    unseen: tuple[Array, Array]


class Landscape(Merging):
    """Specialists, their task vectors, and the margins of any merge of them.

    Args:
        seed: of data, training and rotations.
        models: how many specialists, and tasks.
        bands: groups of blocks.
        goals: the tasks are dealt out to so many; each task is one if None.
        items: per task, for the search.
        conflict: how far the specialists' inputs are turned; 0.9 is mild, 1.8 is hard.
        margins: see `Merging`.
    """

    def __init__(
        self,
        seed: int,
        *,
        models: int = 3,
        bands: int = 2,
        goals: int | None = None,
        items: int = 100,
        conflict: float = 1.2,
        margins: bool = True,
    ) -> None:
        super().__init__(models, bands, goals or models, margins=margins)
        world = _World(seed, models, conflict)
        self.base = _train(_start(seed), lambda i: world.batch(None, 128, "base", i), 500, 3e-3)
        vectors = []
        for model in range(models):
            tuned = _train(self.base, lambda i, m=model: world.batch(m, 128, "tune", i), 250, 1e-3)
            vectors.append([tuned[name] - self.base[name] for name in self.base])
        groups, inner = zip(*map(self._band, self.base), strict=True)
        base = list(self.base.values())
        self._merger = Merger(base, vectors, groups, [not one for one in inner])
        self.tasks = [
            Task(world.batch(m, items, "search", 0), world.batch(m, 1000, "unseen", 0))
            for m in range(models)
        ]

    def task_margins(self, weights: Array, densities: Array, *, unseen: bool) -> list[Array]:
        """See `Merging`; a logit less the largest other one."""
        merged = dict(zip(self.base, self._merger(weights, densities), strict=True))
        return [_margins(merged, *(t.unseen if unseen else t.search)) for t in self.tasks]

    def _band(self, name: str) -> tuple[int, bool]:
        """A tensor's band, and whether it lies in a block; the others follow their neighbours."""
        kind, _, block = name.partition(".")
        if kind == "block":
            return int(block.split(".")[0]) * self.groups // BLOCKS, True
        return (self.groups - 1 if kind == "head" else 0), False


class _World:
    """Classes are clouds around prototypes; a task turns the inputs and shifts them."""

    def __init__(self, seed: int, tasks: int, conflict: float) -> None:
        rng = generator(seed, "world")
        self.seed = seed
        self.prototypes = 1.5 * rng.normal(size=(CLASSES, 3, WIDTH)) / np.sqrt(3)
        self.turns = [_rotation(rng, conflict) for _ in range(tasks)]
        self.shifts = 0.7 * rng.normal(size=(tasks, WIDTH))

    def batch(self, task: int | None, count: int, *key: str | int) -> tuple[Array, Array]:
        rng = generator(self.seed, "batch", -1 if task is None else task, *key)
        labels = rng.integers(CLASSES, size=count)
        styles = rng.dirichlet(np.ones(3), size=count) * 2.0
        x = np.einsum("nk,nkd->nd", styles, self.prototypes[labels])
        x = x + NOISE * rng.normal(size=x.shape)
        if task is not None:
            x = x @ self.turns[task] + self.shifts[task]
        return x, labels


def _rotation(rng: np.random.Generator, conflict: float) -> Array:
    """A random rotation by angles in proportion to the conflict, ``(WIDTH, WIDTH)``."""
    skew = rng.normal(size=(WIDTH, WIDTH))
    skew = (skew - skew.T) / np.sqrt(2 * WIDTH)
    values, vectors = np.linalg.eig(skew)
    return np.real(vectors @ np.diag(np.exp(conflict * values)) @ np.linalg.inv(vectors))


def _start(seed: int) -> Tensors:
    rng = generator(seed, "start")
    tensors = {"embed": np.eye(WIDTH), "head": 0.1 * rng.normal(size=(WIDTH, CLASSES))}
    for block in range(BLOCKS):
        tensors[f"block.{block}.up"] = rng.normal(size=(WIDTH, 2 * WIDTH)) / np.sqrt(WIDTH)
        tensors[f"block.{block}.down"] = 0.2 * rng.normal(size=(2 * WIDTH, WIDTH)) / np.sqrt(WIDTH)
    return tensors


def _forward(tensors: Tensors, x: Array) -> tuple[Array, list[tuple[Array, Array, Array]]]:
    h, tape = x @ tensors["embed"], []
    for block in range(BLOCKS):
        scale = 1.0 / np.sqrt(np.mean(h**2, axis=1, keepdims=True) + 1e-6)
        inner = np.maximum((h * scale) @ tensors[f"block.{block}.up"], 0.0)
        tape.append((h, scale, inner))
        h = h + inner @ tensors[f"block.{block}.down"]
    return h, tape


def _gradients(tensors: Tensors, x: Array, labels: Array) -> Tensors:
    h, tape = _forward(tensors, x)
    logits = h @ tensors["head"]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(x)), labels] -= 1.0
    p /= len(x)
    gradients = {"head": h.T @ p}
    dh = p @ tensors["head"].T
    for block in reversed(range(BLOCKS)):
        up, down = tensors[f"block.{block}.up"], tensors[f"block.{block}.down"]
        h, scale, inner = tape[block]
        gradients[f"block.{block}.down"] = inner.T @ dh
        dinner = (dh @ down.T) * (inner > 0)
        z = h * scale
        gradients[f"block.{block}.up"] = z.T @ dinner
        dz = dinner @ up.T
        dh = dh + scale * (dz - z * np.mean(dz * z, axis=1, keepdims=True))
    gradients["embed"] = x.T @ dh
    return gradients


def _train(start: Tensors, batch, steps: int, rate: float) -> Tensors:
    """Adam with a linear decay."""
    tensors = {name: tensor.copy() for name, tensor in start.items()}
    mean = {name: np.zeros_like(t) for name, t in tensors.items()}
    square = {name: np.zeros_like(t) for name, t in tensors.items()}
    for step in range(1, steps + 1):
        for name, gradient in _gradients(tensors, *batch(step)).items():
            mean[name] = 0.9 * mean[name] + 0.1 * gradient
            square[name] = 0.99 * square[name] + 0.01 * gradient**2
            m, s = mean[name] / (1 - 0.9**step), square[name] / (1 - 0.99**step)
            tensors[name] -= rate * (1 - step / (steps + 1)) * m / (np.sqrt(s) + 1e-8)
    return tensors


def _margins(tensors: Tensors, x: Array, labels: Array) -> Array:
    logits = _forward(tensors, x)[0] @ tensors["head"]
    rows = np.arange(len(x))
    right = logits[rows, labels].copy()
    logits[rows, labels] = -np.inf
    return right - logits.max(axis=1)
