"""Likelihoods and texts of a live language model, one query at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from evomerge.errors import UsageError
from evomerge.objectives.batches import Batches
from evomerge.objectives.encoding import Rules, encode
from evomerge.objectives.generation import Prompt, greedy
from evomerge.objectives.jsonl_items import MultipleChoice
from evomerge.objectives.judging import Bench, likelihoods
from evomerge.objectives.subject import LanguageModel
from evomerge.serve.queries import Completion, ScoreItem

ROWS = 4
"""Sequences at a time: a request seldom has more, and filling them up costs little."""

Answer = dict[str, Any]


def score(
    language: LanguageModel, device: torch.device, items: Sequence[ScoreItem]
) -> list[tuple[list[Answer], int]]:
    """Log-likelihoods of continuations after their prompts, by item.

    They are what the objective ``jsonl`` computes from the same texts.

    Returns:
        for each continuation ``log_likelihood`` in nats, ``tokens`` and ``bytes``; and the tokens
        of all that was read.

    Raises:
        UsageError: if an item does not fit the model's context.
    """
    encoded = [
        encode(
            MultipleChoice(item.prompt, item.continuations, 0, f"items[{i}]"),
            language,
            Rules(item.delimiter),
        )
        for i, item in enumerate(items)
    ]
    with torch.inference_mode():
        share = len(items) > 1  # of one item, filling up the rows costs more than it saves
        found = likelihoods(Bench(language, Batches(ROWS), device, share), encoded)
    return [
        (
            [
                {"log_likelihood": one.nats, "tokens": one.tokens, "bytes": one.bytes}
                for one in continuations
            ],
            sum(len(request.tokens) for request in tokens.requests),
        )
        for tokens, continuations in zip(encoded, found, strict=True)
    ]


def complete(language: LanguageModel, device: torch.device, query: Completion) -> Answer:
    """One choice as OpenAI's completions have it, and under ``usage`` the tokens that it took.

    Raises:
        UsageError: if prompt and answer do not fit the model's context, or the prompt is empty
            and there is no token to begin with.
    """
    prompt = language.encode(query.prompt)
    if not prompt:
        if language.start is None:
            raise UsageError("the prompt is empty, and the tokenizer has no token to begin with")
        prompt = [language.start]
    if language.context is not None and len(prompt) + query.max_tokens > language.context:
        needed = f"{len(prompt)} tokens and {query.max_tokens} to write"
        raise UsageError(f"the prompt takes {needed}; the model reads {language.context} at most")
    with torch.inference_mode():
        written = _written(language, device, prompt, query) if query.max_tokens else []
        named = None
        if query.logprobs is not None:
            first = 0 if query.echo else len(prompt)
            named = _named(language, device, prompt + written, first, query.logprobs)
    text, stopped = _cut(language.decode(written), query.stop)
    full = not stopped and len(written) >= query.max_tokens > 0
    return {
        "text": (query.prompt if query.echo else "") + text,
        "finish_reason": "length" if full or not query.max_tokens else "stop",
        "logprobs": named,
        "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(written)},
    }


def _written(
    language: LanguageModel, device: torch.device, prompt: Sequence[int], query: Completion
) -> list[int]:
    def enough(tokens: Sequence[int]) -> bool:
        return bool(query.stop) and _cut(language.decode(tokens), query.stop)[1]

    wanted = Prompt(tuple(prompt), query.max_tokens, enough)
    return greedy(language, [wanted], batches=Batches(1), device=device)[0]


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop, and whether there is one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _named(
    language: LanguageModel, device: torch.device, tokens: Sequence[int], first: int, most: int
) -> Answer:
    """Log-probabilities of the tokens from `first` on; of the very first one there is none."""
    keep = min(len(tokens) - first + 1, len(tokens))
    ids = torch.tensor([tokens], device=device)
    logits = language.logits(ids, keep=keep)[0]
    table = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(dim=-1)
    names = [language.decode([token]) for token in tokens]
    values: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    for place in range(first, len(tokens)):
        if place == 0:
            values.append(None)
            tops.append(None)
            continue
        row = table[place - 1 - (len(tokens) - keep)]
        values.append(float(row[tokens[place]]))
        best = row.topk(most)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        tops.append({language.decode([token]): value for token, value in pairs})
    offsets = [sum(map(len, names[first:place])) for place in range(first, len(tokens))]
    return {
        "tokens": names[first:],
        "token_logprobs": values,
        "top_logprobs": tops if most else None,
        "text_offset": offsets,
    }
