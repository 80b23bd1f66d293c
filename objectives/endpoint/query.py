"""One question to a server, what it may cost, and what a study lends to whoever asks it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

from evomerge.objectives.endpoint.store import Limits, Store


@dataclass(frozen=True)
class Query:
    """One question to the server.

    Attributes:
        body: JSON; None sends none.
        path: behind the options' `url`, ``/completions``.
        candidate: JSON that tells this candidate from others where the body does not: for servers
            whose mix is a state. Part of the answer's address.
        address: stands for the body in the answer's address, where that names what differs from
            attempt to attempt, such as a folder.
        tokens: the most that it can cost besides the body's own, which are counted as one for
            each byte until the server says how many they were.
        pure: whether the same query has the same answer, so that it may be kept; False for what
            changes the server or reads its state.
        reads: what the reply is.
    """

    body: Any = None
    path: str = ""
    candidate: Any = None
    address: Any = None
    tokens: int = 0
    method: Literal["POST", "GET"] = "POST"
    pure: bool = True
    reads: Literal["json", "text"] = "json"


@dataclass(frozen=True)
class Usage:
    """Tokens that a server says it has counted."""

    prompt: int
    completion: int


@dataclass
class Desk:
    """What a study lends to an endpoint objective.

    Attributes:
        store: answers and spend; None keeps and counts nothing.
        limits: the budget, over all of the study.
        owner: the attempt that pays; 0 for self-tests.
        fresh: ask again what was answered before, and keep nothing: for self-tests.
    """

    store: Store | None = None
    limits: Limits = field(default_factory=Limits)
    owner: int = 0
    fresh: bool = False


def usage_of(answer: Any) -> Usage | None:
    """``usage`` as OpenAI's servers and their likes have it; None where it is not there."""
    found = answer.get("usage") if isinstance(answer, Mapping) else None
    if not isinstance(found, Mapping):
        return None
    prompt, completion = found.get("prompt_tokens"), found.get("completion_tokens", 0)
    if _is_count(prompt) and _is_count(completion):
        return Usage(prompt, completion)
    return None


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def body_bytes(body: Any) -> int:
    """Bytes of a body as JSON: more than its tokens, those that a chat template adds among them."""
    return 0 if body is None else len(json.dumps(body, ensure_ascii=False).encode())
