"""Greedy generation in batches that cannot be felt.

Prompts of different lengths go through together without padding: the part that all of a group
have is read at once, the rest of each prompt token by token beside the rows that already write.
Groups and batch sizes follow from each prompt alone, as in `evomerge.objectives.likelihood`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from evomerge.objectives.batches import Batches
from evomerge.objectives.subject import LanguageModel

STEP = 8
"""Prompts are read at once up to the last multiple of this."""


@dataclass(frozen=True)
class Prompt:
    """A text to be continued.

    Attributes:
        tokens: one or more ids.
        limit: the most tokens to write, 1 or more.
        enough: told what was written so far, whether more could change anything.
    """

    tokens: tuple[int, ...]
    limit: int
    enough: Callable[[Sequence[int]], bool]

    @property
    def together(self) -> int:
        """How many tokens are read at once."""
        return max(1, (len(self.tokens) - 1) // STEP * STEP)


def greedy(
    language: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    batches: Batches,
    device: torch.device,
) -> list[list[int]]:
    """What the model writes after each prompt, most probable token by token.

    Args:
        prompts: whose tokens and limit fit the model's context together.
        batches: rows at a time, always a full batch.
        device: of the model.

    Returns:
        token ids without the end-of-text token, as many as `enough` and `limit` let through.
    """
    groups: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt.together, []).append(index)
    written: list[list[int]] = [[] for _ in prompts]

    def work(chunk: Sequence[int], size: int) -> None:
        texts = _write(language, [prompts[k] for k in chunk], size, device)
        for index, text in zip(chunk, texts, strict=True):
            written[index] = text

    for indices in groups.values():
        batches.run(indices, work)
    return written


def _write(
    language: LanguageModel, prompts: Sequence[Prompt], rows: int, device: torch.device
) -> list[list[int]]:
    """Continue up to `rows` prompts that are read together up to the same token."""
    filling = [prompts[0]] * (rows - len(prompts))
    read = prompts[0].together
    ids = torch.tensor([prompt.tokens[:read] for prompt in (*prompts, *filling)])
    length = max(len(prompt.tokens) + prompt.limit for prompt in prompts)
    reader = language.reader(rows=rows, length=length)
    written: list[list[int]] = [[] for _ in prompts]
    writing = set(range(len(prompts)))
    while writing:
        choosing = {row for row in writing if read >= len(prompts[row].tokens)}
        tokens = reader.read(ids.to(device), rows=choosing).argmax(dim=-1).tolist()
        for row, prompt in enumerate(prompts):
            if read < len(prompt.tokens):
                tokens[row] = prompt.tokens[read]
            elif row in writing and _closes(written[row], tokens[row], prompt, language.ends):
                writing.discard(row)
        ids = torch.tensor(tokens).unsqueeze(1)
        read += 1
    return written


def _closes(text: list[int], token: int, prompt: Prompt, ends: frozenset[int]) -> bool:
    """Take one more token, or the end of text; whether the text is over."""
    if token in ends:
        return True
    text.append(token)
    return len(text) >= prompt.limit or prompt.enough(text)
