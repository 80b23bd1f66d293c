"""A real merging problem with language models: those of ``evomerge demo``.

The demo's base and its three specialists (sums, code, prose; a Llama of four layers), trained as
the demo trains them. The tasks are its three kinds of items and a fourth one, comments, which only
the base was trained for: what a merge must not forget. An item's margin is the log-likelihood of
the right continuation less that of the best wrong one, both per token. A group is half a layer:
attention or feed-forward, each with its norm; embedding and final norm follow the first group and
keep all entries. Prompts are read once for their four continuations, so that some ten
merges are measured a second.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from kept import kept
from merging import Merger
from problem import Merging
from torch import Tensor

from evomerge.demo import skills, texts, training
from evomerge.demo.skills import Item
from evomerge.objectives.llama import Llama
from evomerge.randomness import generator
from evomerge.space import Array

SEARCHED, UNSEEN = 40, 160  # items per task
TASKS = ("arithmetic", "python", "english", "comments")
HALVES = 2 * training.SHAPE.num_hidden_layers
Tensors = list[np.ndarray]  # float32


@dataclass(frozen=True)
class World:
    """The base's tensors, in the order of its parameters, and the specialists' task vectors."""

    base: Tensors
    vectors: list[Tensors]


@cache
def world() -> World:
    """Trained once per machine, in a minute or two."""
    return kept("language", [training, skills, texts, sys.modules[__name__]], _trained)


def _trained() -> World:
    def told(_: str) -> None: ...

    base = training.train_base(0, told)
    models = training.train_specialists(base, 0, told)
    start, *tuned = (_arrays(one) for one in (base, *models.values()))
    vectors = [[new - old for new, old in zip(one, start, strict=True)] for one in tuned]
    return World(start, vectors)


def _arrays(model: Llama) -> Tensors:
    return [tensor.detach().numpy() for tensor in model.parameters()]


@cache
def items() -> dict[str, tuple[Item, ...]]:
    """By task."""
    count, rng = SEARCHED + UNSEEN, generator(0, "comments items")
    by_skill = {skill.name: skill.items(0, count) for skill in skills.SKILLS}
    return {**by_skill, "comments": skills.text_items(texts.comments(), count, rng)}


@dataclass(frozen=True)
class _Batch:
    """Items whose prompts, and continuations, are equally long.

    Attributes:
        rows: their places among all items of a split.
        prompts: ``(n, tokens)``.
        choices: ``(4 n, tokens)``, the right one first.
    """

    rows: np.ndarray
    prompts: Tensor
    choices: Tensor


class Language(Merging):
    """One problem on the demo's models.

    Args:
        groups: 1, or `HALVES`.
        goals, densities, margins: see `Merging`.
        seed: which items are searched on.
    """

    def __init__(
        self,
        groups: int,
        goals: int,
        *,
        seed: int = 0,
        densities: bool = True,
        margins: bool = True,
    ) -> None:
        torch.set_num_threads(1)
        self.world = world()
        super().__init__(
            len(self.world.vectors), groups, goals, densities=densities, margins=margins
        )
        search, unseen = list[list[Item]](), list[list[Item]]()
        for task in TASKS:
            found = items()[task]
            order = generator(seed, "items", task).permutation(len(found))
            search.append([found[i] for i in order[:SEARCHED]])
            unseen.append([found[i] for i in order[SEARCHED:]])
        self._search, self._unseen = _batches(search), _batches(unseen)
        self._model = Llama(training.SHAPE).requires_grad_(False)
        halves = [_half(name) for name, _ in self._model.named_parameters()]
        near = [0 if half is None else half * groups // HALVES for half in halves]
        whole = [half is None for half in halves]
        self._merger = Merger(self.world.base, self.world.vectors, near, whole)

    def task_margins(self, weights: Array, densities: Array, *, unseen: bool) -> list[Array]:
        """See `Merging`; nats per token."""
        merged = self._merger(weights, densities)
        with torch.inference_mode():
            for parameter, tensor in zip(self._model.parameters(), merged, strict=True):
                parameter.copy_(torch.from_numpy(tensor))
            batches, ends = self._unseen if unseen else self._search
            margins = np.empty(ends[-1])
            for batch in batches:
                margins[batch.rows] = self._margins(batch)
        return np.split(margins, ends[:-1])

    def _margins(self, batch: _Batch) -> Array:
        rows, length = batch.prompts.shape
        count = batch.choices.shape[1]
        read = self._model.cache(rows=rows, length=length)
        first = self._model(batch.prompts, cache=read, keep=1)
        each = [row for row in range(rows) for _ in range(4)]
        chosen = read.chosen(each, room=count)
        later = self._model(batch.choices[:, :-1], cache=chosen)
        logits = torch.cat([first[each], later], dim=1).log_softmax(-1)
        told = logits.gather(2, batch.choices[..., None])[..., 0].mean(1).view(rows, 4).double()
        return (told[:, 0] - told[:, 1:].amax(1)).numpy()


def _half(name: str) -> int | None:
    """Attention of layer 0, its feed-forward, attention of layer 1, ...; None outside of them."""
    parts = name.split(".")
    if parts[1] != "layers":
        return None
    return 2 * int(parts[2]) + (parts[3] in ("mlp", "post_attention_layernorm"))


def _batches(tasks: Sequence[Sequence[Item]]) -> tuple[list[_Batch], np.ndarray]:
    """Batches of all tasks' items, and where each task ends."""
    alike = defaultdict(list)
    ends = np.cumsum([len(task) for task in tasks])
    for row, item in enumerate(item for task in tasks for item in task):
        right = item.choices[item.answer]
        wrong = [choice for choice in item.choices if choice is not right]
        prompt, *choices = map(training.TOKENIZER.encode, (item.prompt, right, *wrong))
        alike[len(prompt), len(choices[0])].append((row, prompt, choices))
    made = []
    for found in alike.values():
        rows, prompts, choices = zip(*found, strict=True)
        flat = [choice for four in choices for choice in four]
        made.append(_Batch(np.array(rows), torch.tensor(prompts), torch.tensor(flat)))
    return made, ends
