"""Real merging problems that measure a hundred merges a second: specialists on digits.

A network is trained on scikit-learn's digits, with a touch of every transform; the specialists are
full fine-tunes on hard transforms of them. Two families: a residual MLP of twelve blocks with eight
specialists, and a vision transformer of four blocks with four specialists on the last four
transforms, tuned from a base that has seen none of them. A merge adds to the base, per group of
blocks, each task vector with a signed weight after keeping its largest entries. Items are images;
an item's margin is the logit of its class less the largest other one. Search items and unseen items
are images that no training saw.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from kept import kept
from merging import Merger
from problem import Merging
from scipy import ndimage
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from evomerge.randomness import generator, torch_generator
from evomerge.space import Array

CLASSES = 10
TRAINED, SEARCHED = 503, 100  # images; what is left over, 1,194, no search sees
_COPIES = 16  # augmented ones of every training image
_STEPS, _TUNING_STEPS, _BATCH = 600, 150, 128
_RATE, _TUNING_RATE = 2e-3, 5e-4
_WIDTH, _BLOCKS = 64, 12  # of the MLP
_VIT_WIDTH, _VIT_BLOCKS, _VIT_HEADS = 32, 4, 4
Images = Array  # (n, 8, 8) in [0, 1]
Tensors = list[np.ndarray]  # float32


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
class Family:
    """How the networks of one world are built and trained.

    Attributes:
        start: initial tensors, from a generator.
        logits: of images ``(n, 64)``, ``(n, 10)``.
        blocks: how many a network has.
        block_of: of a tensor by its index; None for those outside of the blocks, which follow
            the nearest one and keep all entries.
        transforms: the specialists'.
        touch: one image in so many, of each transform, goes into the base's training; 0 for none.
    """

    start: Callable[[np.random.Generator], list[Array]]
    logits: Callable[[Sequence[Tensor], Tensor], Tensor]
    blocks: int
    block_of: Callable[[int], int | None]
    transforms: tuple[str, ...]
    touch: int


@dataclass(frozen=True)
class World:
    """Trained networks and the images that no training saw.

    Attributes:
        vectors: task vectors, one list of tensors per specialist.
        images, labels: ``(n, 8, 8)`` and ``(n,)``.
    """

    base: Tensors
    vectors: list[Tensors]
    images: Images
    labels: np.ndarray


@cache
def world(name: str = "mlp", seed: int = 0) -> World:
    """The base and all specialists of a family; some twenty seconds, once per machine."""
    torch.set_num_threads(1)
    this = sys.modules[__name__]
    return kept(f"digits-{name}-{seed}", [this], lambda: _made(FAMILIES[name], seed))


def _made(family: Family, seed: int) -> World:
    transforms = [TRANSFORMS[one] for one in family.transforms]
    data = load_digits()
    order = generator(seed, "digits").permutation(len(data.images))
    images, labels = data.images[order] / 16.0, data.target[order]
    seen, truth = _augmented(images[:TRAINED], seed), np.repeat(labels[:TRAINED], _COPIES)
    touched, told = seen, truth
    if family.touch:
        some = [t(seen[i :: family.touch]) for i, t in enumerate(transforms)]
        touched = np.concatenate([seen, *some])
        told = np.concatenate([truth, *(truth[i :: family.touch] for i in range(len(transforms)))])
    start = [tensor.astype(np.float32) for tensor in family.start(generator(seed, "start"))]
    base = _trained(family, start, touched, told, _STEPS, _RATE, seed)
    vectors = []
    for index, transform in enumerate(transforms):
        course = (transform(seen), truth, _TUNING_STEPS, _TUNING_RATE, seed + index)
        tuned = _trained(family, base, *course)
        vectors.append([new - old for new, old in zip(tuned, base, strict=True)])
    return World(base, vectors, images[TRAINED:], labels[TRAINED:])


class Digits(Merging):
    """One problem on a world.

    Args:
        models: the first so many specialists, each with a task.
        groups: of blocks.
        goals, densities, margins: see `Merging`.
        seed: which images are searched on.
        family: one of `FAMILIES`.
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
        family: str = "mlp",
    ) -> None:
        super().__init__(models, groups, goals, densities=densities, margins=margins)
        self.family, self.world = FAMILIES[family], world(family)
        order = generator(seed, "items").permutation(len(self.world.images))
        self._search = self._tasks(order[:SEARCHED])
        self._unseen = self._tasks(order[SEARCHED:])
        places = range(len(self.world.base))
        whole = [self.family.block_of(index) is None for index in places]
        groups = [self._group(index) for index in places]
        self._merger = Merger(self.world.base, self.world.vectors[:models], groups, whole)

    def task_margins(self, weights: Array, densities: Array, *, unseen: bool) -> list[Array]:
        """See `Merging`; a logit less the largest other one."""
        merged = [torch.from_numpy(tensor) for tensor in self._merger(weights, densities)]
        images, labels = self._unseen if unseen else self._search
        with torch.inference_mode():
            margins = margins_of(self.family.logits(merged, images).double(), labels)
        return np.split(margins, self.models)

    def _tasks(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images and labels of all tasks, one after the other."""
        images, labels = self.world.images[rows], torch.from_numpy(self.world.labels[rows])
        names = self.family.transforms[: self.models]
        turned = torch.cat([_flat(TRANSFORMS[name](images)) for name in names])
        return turned, labels.repeat(self.models)

    def _group(self, index: int) -> int:
        """Of a tensor; what lies outside of the blocks follows the nearest one."""
        block, last = self.family.block_of(index), self.family.blocks - 1
        near = block if block is not None else (0 if index < 2 else last)
        return near * self.groups // self.family.blocks


def _flat(images: Images) -> Tensor:
    return torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))


def _augmented(images: Images, seed: int) -> Images:
    """Each image in `_COPIES` slightly turned and moved ones, one after the other."""
    rng, copies = generator(seed, "augment"), []
    for image in images:
        for _ in range(_COPIES):
            shift = tuple(rng.uniform(-0.7, 0.7, size=2))
            copies.append(_turned(image[None], _rotation(rng.uniform(-10, 10)), shift)[0])
    return np.array(copies)


def _trained(
    family: Family,
    start: Tensors,
    images: Images,
    labels: np.ndarray,
    steps: int,
    rate: float,
    seed: int,
) -> Tensors:
    tensors = [torch.tensor(tensor, requires_grad=True) for tensor in start]
    x, y = _flat(images), torch.tensor(labels)
    optimizer = torch.optim.AdamW(tensors, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    stream = torch_generator(seed, "batches")
    for _ in range(steps):
        rows = torch.randint(len(x), (_BATCH,), generator=stream)
        loss = functional.cross_entropy(family.logits(tensors, x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return [tensor.detach().numpy() for tensor in tensors]


def margins_of(logits: Tensor, labels: Tensor) -> Array:
    """The logit of the right class less the largest wrong one, ``(n,)``."""
    right = logits.gather(1, labels[:, None])
    wrong = logits.scatter(1, labels[:, None], -torch.inf)
    return (right[:, 0] - wrong.amax(dim=1)).numpy()


def _normed(h: Tensor) -> Tensor:
    return h * torch.rsqrt(h.square().mean(dim=-1, keepdim=True) + 1e-6)


def _mlp_start(rng: np.random.Generator) -> list[Array]:
    """Embed, then up and down of every block, then head."""
    blocks = [
        scale * rng.normal(size=(_WIDTH, _WIDTH)) / np.sqrt(_WIDTH)
        for _ in range(_BLOCKS)
        for scale in (1.4, 0.4)
    ]
    head = 0.1 * rng.normal(size=(_WIDTH, CLASSES))
    return [0.3 * rng.normal(size=(64, _WIDTH)), *blocks, head]


def _mlp_logits(tensors: Sequence[Tensor], x: Tensor) -> Tensor:
    h = x @ tensors[0]
    for up, down in zip(tensors[1:-1:2], tensors[2:-1:2], strict=True):
        h = h + torch.relu(_normed(h) @ up) @ down
    return _normed(h) @ tensors[-1]


def _mlp_block(index: int) -> int | None:
    return None if index in (0, 2 * _BLOCKS + 1) else (index - 1) // 2


def _vit_start(rng: np.random.Generator) -> list[Array]:
    """Patches, positions; queries with keys and values, out, up and down of every block; head."""
    d = _VIT_WIDTH
    tensors = [0.25 * rng.normal(size=(16, d)), 0.1 * rng.normal(size=(4, d))]
    for _ in range(_VIT_BLOCKS):
        for rows, columns, scale in (
            (d, 3 * d, 1.0),
            (d, d, 0.4),
            (d, 2 * d, 1.4),
            (2 * d, d, 0.4),
        ):
            tensors.append(scale * rng.normal(size=(rows, columns)) / np.sqrt(rows))
    return [*tensors, 0.1 * rng.normal(size=(d, CLASSES))]


def _vit_logits(tensors: Sequence[Tensor], x: Tensor) -> Tensor:
    """The four quarters of an image are the tokens."""
    patches = x.view(-1, 2, 4, 2, 4).transpose(2, 3).reshape(-1, 4, 16)
    h = patches @ tensors[0] + tensors[1]
    for block in range(_VIT_BLOCKS):
        mixing, out, up, down = tensors[2 + 4 * block : 6 + 4 * block]
        parts = (_normed(h) @ mixing).unflatten(-1, (3, _VIT_HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts)
        h = h + mixed.transpose(1, 2).flatten(2) @ out
        h = h + torch.relu(_normed(h) @ up) @ down
    return _normed(h.mean(dim=1)) @ tensors[-1]


def _vit_block(index: int) -> int | None:
    return None if index in (0, 1, 2 + 4 * _VIT_BLOCKS) else (index - 2) // 4


FAMILIES = {
    "mlp": Family(_mlp_start, _mlp_logits, _BLOCKS, _mlp_block, tuple(TRANSFORMS), 32),
    "vit": Family(_vit_start, _vit_logits, _VIT_BLOCKS, _vit_block, tuple(TRANSFORMS)[4:], 0),
}
