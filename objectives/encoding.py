"""Items in tokens: where a continuation starts, what is too long, what is generated."""

from __future__ import annotations

from dataclasses import dataclass, replace

from evomerge.errors import UsageError
from evomerge.objectives.jsonl_items import Item, MultipleChoice, Passage
from evomerge.objectives.prompts import between
from evomerge.objectives.request import Request
from evomerge.objectives.subject import LanguageModel

SPARE = 8
"""Tokens that an answer may take beyond its reference, for a stop text and white space."""


@dataclass(frozen=True)
class Rules:
    """How texts are put together and cut.

    Attributes:
        delimiter: between prompt and continuation; None for one space unless either side has
            white space there or the prompt is empty.
        max_new_tokens: the most tokens of an answer; None for what its longest accepted answer
            needs, and `SPARE` more.
        truncate: whether what is longer than the context loses its beginning; else it is refused.
        special: whether the tokenizer adds its special tokens; not where a chat template did.
    """

    delimiter: str | None = None
    max_new_tokens: int | None = None
    truncate: bool = False
    special: bool = True


@dataclass(frozen=True)
class Encoded:
    """An item in tokens.

    Attributes:
        requests: one per choice, accepted answer or text.
        sizes: UTF-8 bytes of each continuation, as far as it is scored.
        chars: characters of the same.
        prompt: what generation continues; empty where nothing is generated.
        limit: the most tokens to generate.
        cut: whether tokens were left off at the beginning.
    """

    requests: tuple[Request, ...]
    sizes: tuple[int, ...]
    chars: tuple[int, ...]
    prompt: tuple[int, ...] = ()
    limit: int = 0
    cut: bool = False


def encode(item: Item, language: LanguageModel, rules: Rules) -> Encoded:
    """Tokens of an item.

    Raises:
        UsageError: with ``file:line``, if it does not fit the model's context, or has an empty
            prompt and the tokenizer no token to begin with.
    """
    if isinstance(item, Passage):
        return _passage(item, language, rules)
    texts = item.choices if isinstance(item, MultipleChoice) else item.answers
    requests = [_request(item, text, language, rules) for text in texts]
    fitted = tuple(_fitted(request, item, language.context, rules.truncate) for request in requests)
    cut = any(len(a.tokens) > len(b.tokens) for a, b in zip(requests, fitted, strict=True))
    sizes = tuple(len(text.encode()) for text in texts), tuple(map(len, texts))
    if isinstance(item, MultipleChoice):
        return Encoded(fitted, *sizes, cut=cut)
    limit = rules.max_new_tokens or max(request.scored for request in requests) + SPARE
    tokens = _begun(language.encode(item.prompt, special=rules.special), item, language)
    prompt = _fitted_prompt(tokens, limit, item, language.context, rules.truncate)
    return Encoded(fitted, *sizes, prompt, limit, cut or len(prompt) < len(tokens))


def _passage(item: Passage, language: LanguageModel, rules: Rules) -> Encoded:
    whole = _request(item, item.text, language, replace(rules, delimiter=""))
    fitted = _fitted(whole, item, language.context, rules.truncate, keep_all=False)
    text = item.text
    if fitted.scored < whole.scored:
        text = language.decode(fitted.tokens[-fitted.scored :])
    sizes = (max(1, len(text.encode())),), (max(1, len(text)),)
    return Encoded((fitted,), *sizes, cut=len(fitted.tokens) < len(whole.tokens))


def _request(item: Item, continuation: str, language: LanguageModel, rules: Rules) -> Request:
    """The continuation is scored from the first token at which it changes the prompt's tokens."""
    link = between(item.prompt, continuation, rules.delimiter)
    alone = language.encode(item.prompt, special=rules.special)
    whole = language.encode(item.prompt + link + continuation, special=rules.special)
    pairs = zip(alone, whole, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(alone), len(whole)))
    scored = max(1, len(whole) - shared)
    return Request(_begun(whole, item, language, scored), scored)


def _begun(
    tokens: list[int], item: Item, language: LanguageModel, scored: int = 0
) -> tuple[int, ...]:
    """The tokens; behind a first one where otherwise none would precede what is scored."""
    if len(tokens) > scored:
        return tuple(tokens)
    if language.start is None:
        raise UsageError(
            "the prompt is empty, and the tokenizer has no token to begin with", place=item.place
        )
    return (language.start, *tokens)


def _fitted(
    request: Request, item: Item, context: int | None, truncate: bool, *, keep_all: bool = True
) -> Request:
    """The request, cut on the left to what the model reads at once, which is all but the last."""
    if context is None or len(request.tokens) <= context + 1:
        return request
    if not truncate or (keep_all and request.scored > context):
        raise _too_long(len(request.tokens), context, item, truncate)
    return Request(request.tokens[-context - 1 :], min(request.scored, context))


def _fitted_prompt(
    tokens: tuple[int, ...], limit: int, item: Item, context: int | None, truncate: bool
) -> tuple[int, ...]:
    if context is None or len(tokens) + limit <= context:
        return tokens
    if not truncate or limit >= context:
        raise _too_long(len(tokens) + limit, context, item, truncate)
    return tokens[limit - context :]


def _too_long(tokens: int, context: int, item: Item, truncate: bool) -> UsageError:
    advice = (
        "its end alone does not fit" if truncate else "`truncate: true` leaves off its beginning"
    )
    return UsageError(
        f"the item takes {tokens} tokens, and the model reads {context} at most; {advice}",
        place=item.place,
    )
