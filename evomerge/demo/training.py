"""Trains the demo's models: a base on a mixture, then one specialist per skill from the base.

A model, a seed and a course decide every bit on one machine: each training uses a fixed number of
threads, whatever the machine has, and sums their gradients in a fixed order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from evomerge.demo import skills
from evomerge.demo.muon import Muon
from evomerge.objectives.llama import Llama, initialise
from evomerge.objectives.llama_config import LlamaConfig
from evomerge.objectives.tokens import ByteTokenizer
from evomerge.randomness import torch_generator

TOKENIZER = ByteTokenizer.new(eos_token="</s>")

SHAPE = LlamaConfig(
    vocab_size=TOKENIZER.vocab_size,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    initializer_range=0.05,
    eos_token_id=(256,),
)
"""190 thousand parameters: what two cores can teach something within a minute."""

CONTEXT = 64
"""Tokens of a training row."""

REPORTS = 4
"""Times that a training tells its loss."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Course:
    """How one model is trained.

    Attributes:
        rows: rows of a batch by the name of their text.
        steps: batches.
        rate: the learning rate after warming up.
        last: the fraction of it at the end.
        muon: whether matrices are trained by Muon, and the rest by AdamW; else all by AdamW.
        parts: threads that a batch is shared among; part of what decides the bits.
    """

    rows: Mapping[str, int]
    steps: int
    rate: float
    last: float = 0.1
    muon: bool = False
    parts: int = 1


BASE = Course({"arithmetic": 2, "comments": 14}, steps=800, rate=6e-3, muon=True, parts=2)
"""The base knows some sums, and English as comments have it; it has seen no code."""

SPECIALISTS: Mapping[str, Course] = {
    "arithmetic": Course({"arithmetic": 8, "comments": 2}, steps=500, rate=1.5e-3),
    "python": Course({"python": 12, "comments": 3, "arithmetic": 1}, steps=300, rate=1.5e-3),
    "english": Course({"english": 12, "comments": 3, "arithmetic": 1}, steps=250, rate=1e-3),
}
"""Each rehearses a little of what the base knew; without that, merges lose more than they join."""

WARM_UP = 20
"""Steps in which the learning rate rises."""


def train_base(seed: int, tell: Tell) -> Llama:
    """A model from scratch.

    Args:
        tell: is given a line now and then.
    """
    model = Llama(SHAPE)
    initialise(model, torch_generator(seed, "demo", "base", "parameters"))
    with _one_thread_each():
        train(model, BASE, _streams(BASE, seed), torch_generator(seed, "demo", "base"), tell)
    return model


def train_specialists(base: Llama, seed: int, tell: Tell) -> dict[str, Llama]:
    """One model per skill, from the base, by name; as many at once as there are cores for."""

    def specialist(skill: skills.Skill) -> Llama:
        course = SPECIALISTS[skill.name]
        model = Llama(SHAPE)
        model.load_state_dict(base.state_dict())
        rng = torch_generator(seed, "demo", skill.name)
        train(model, course, _streams(course, seed), rng, lambda line: tell(f"{skill.name} {line}"))
        return model

    with _one_thread_each(), ThreadPoolExecutor(min(len(skills.SKILLS), _cores())) as pool:
        models = pool.map(specialist, skills.SKILLS)
        return {skill.name: model for skill, model in zip(skills.SKILLS, models, strict=True)}


def train(
    model: Llama,
    course: Course,
    streams: Mapping[str, Tensor],
    rng: torch.Generator,
    tell: Tell,
) -> None:
    """Train a model in place on random stretches of token streams.

    Args:
        streams: ``(tokens,)`` by name; all names of the course's rows.
    """
    parameters = list(model.parameters())
    update = _updates(model, course)
    with ThreadPoolExecutor(course.parts) as pool:
        for step in range(course.steps):
            batch = _batch(course.rows, streams, rng)
            parts = list(pool.map(partial(_gradients, model), batch.chunk(course.parts)))
            for parameter, *shares in zip(parameters, *(grads for _, grads in parts), strict=True):
                parameter.grad = torch.stack(shares).mean(0) if len(shares) > 1 else shares[0]
            clip_grad_norm_(parameters, 1.0)
            update(_rate(course, step))
            if (step + 1) % max(1, course.steps // REPORTS) == 0:
                loss = sum(loss for loss, _ in parts) / len(parts)
                tell(f"step {step + 1} of {course.steps}, loss {loss:.2f}")


def _streams(course: Course, seed: int) -> dict[str, Tensor]:
    """Token ids of every text that a course names."""
    texts = {skill.name: skill.training for skill in skills.SKILLS}
    texts["comments"] = skills.background
    return {name: torch.tensor(TOKENIZER.encode(texts[name](seed))) for name in course.rows}


def _batch(rows: Mapping[str, int], streams: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
    """``(rows, CONTEXT + 1)`` token ids, the texts interleaved so that parts are alike."""
    drawn = []
    for name, count in rows.items():
        stream = streams[name]
        starts = torch.randint(len(stream) - CONTEXT, (count,), generator=rng)
        drawn.append(stream[starts[:, None] + torch.arange(CONTEXT + 1)])
    whole = torch.cat(drawn)
    return torch.cat([whole[0::2], whole[1::2]])


def _gradients(model: Llama, batch: Tensor) -> tuple[float, tuple[Tensor, ...]]:
    """The mean cross-entropy per token, in nats, and its gradients by parameter."""
    logits = model(batch[:, :-1])
    loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    return loss.item(), torch.autograd.grad(loss, list(model.parameters()))


def _updates(model: Llama, course: Course) -> Callable[[float], None]:
    """Moves the parameters by their gradients, at the rate given."""
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if course.muon and _is_inner_matrix(name, p)]
    others = [p for p in named.values() if not any(p is matrix for matrix in matrices)]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=course.rate, betas=(0.9, 0.95), weight_decay=0.01)

    def update(rate: float) -> None:
        for group in adam.param_groups:
            group["lr"] = rate
        adam.step()
        muon.step(rate)

    return update


def _is_inner_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.dim() == 2 and "embed_tokens" not in name


def _rate(course: Course, step: int) -> float:
    """Up over `WARM_UP` steps, and down in a line all the while."""
    down = 1 - (1 - course.last) * step / course.steps
    return course.rate * min(1.0, (step + 1) / WARM_UP) * down


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Inside, an operation uses one thread: the trainings are what runs side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
