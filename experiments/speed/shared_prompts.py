"""What reading a prompt once for all its choices saves, and what it changes.

``python experiments/speed/shared_prompts.py``: a random Llama of 3 M parameters in float32, one
thread, 60 multiple-choice items with four choices of 6 tokens. Both ways in turn, five rounds, CPU
time;
prints the ratio of the medians for each length of prompt, and the largest difference in nats.
"""

from __future__ import annotations

import random
import statistics
import time

import torch

from evomerge.objectives.batches import Batches
from evomerge.objectives.builtin import BuiltinLanguageModel
from evomerge.objectives.likelihood import Answers, Likelihoods
from evomerge.objectives.llama import Llama, initialise
from evomerge.objectives.llama_config import LlamaConfig
from evomerge.objectives.request import Request
from evomerge.objectives.tokens import ByteTokenizer

ITEMS, CHOICES, LENGTH, ROUNDS = 60, 4, 6, 5


def model() -> BuiltinLanguageModel:
    tokenizer = ByteTokenizer.new()
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        max_position_embeddings=1024,
    )
    made = Llama(config)
    initialise(made, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)
    return BuiltinLanguageModel(made.eval().requires_grad_(False), tokenizer, frozenset())


def items(prompt: int) -> list[list[Request]]:
    draw = random.Random(prompt)
    found = []
    for _ in range(ITEMS):
        begun = tuple(draw.randrange(256) for _ in range(prompt))
        ends = [tuple(draw.randrange(256) for _ in range(LENGTH)) for _ in range(CHOICES)]
        found.append([Request(begun + end, LENGTH) for end in ends])
    return found


def measure(language: BuiltinLanguageModel, asked: list[list[Request]], share: bool) -> Answers:
    with torch.inference_mode():
        reader = Likelihoods(language, Batches(8), torch.device("cpu"), share=share)
        return reader.of(asked)


def main() -> None:
    torch.set_num_threads(1)
    language = model()
    print("prompt tokens | each choice, s | shared, s | ratio | largest difference, nats")
    for prompt in (24, 64):
        asked = items(prompt)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        answers: dict[bool, Answers] = {}
        for _ in range(ROUNDS):
            for share in (False, True):
                started = time.process_time()
                answers[share] = measure(language, asked, share)
                seconds[share].append(time.process_time() - started)
        plain, shared = (statistics.median(seconds[share]) for share in (False, True))
        pairs = zip(answers[False], answers[True], strict=True)
        most = max(abs(a.total - b.total) for x, y in pairs for a, b in zip(x, y, strict=True))
        print(f"{prompt} | {plain:.2f} | {shared:.2f} | {plain / shared:.2f} | {most:.1e}")


if __name__ == "__main__":
    main()
