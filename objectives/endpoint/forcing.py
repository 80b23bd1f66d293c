"""Log-probabilities of chosen tokens from servers that tell only those of likely next tokens.

llama.cpp's server: a bias of 100 on a token makes the server choose it, and the log-probabilities
that it tells are those before the bias. Where the chosen token is no whole character it tells none
at all, or fails; such tokens are never forced, and the whole vocabulary is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from evomerge.objectives.endpoint.failures import EndpointError

Place = tuple[tuple[int, ...], int]
"""The tokens that are read, and the one whose log-probability is wanted."""
Ask = Callable[[Sequence[Mapping[str, Any]]], Sequence[Any]]
"""Sends bodies of ``/completion``, gives the answers."""

LIKELY = 40
"""How many of the likeliest tokens to ask for where several are wanted at one place."""
ALL = 300_000
"""More than any vocabulary has."""
_BIAS = 100.0


def forced(
    places: Iterable[Place], ask: Ask, *, safe: int, partial: Collection[int] = ()
) -> dict[Place, float]:
    """The log-probability of each place's token, in nats.

    One request for each text that is read, if the other tokens wanted there are among the
    likeliest; one more for each that is not.

    Args:
        safe: a token that is a whole character.
        partial: tokens that are not.

    Raises:
        EndpointError: if the server tells no log-probability of one.
    """
    wanted = dict.fromkeys(places)
    by_text: dict[tuple[int, ...], list[int]] = {}
    for text, token in sorted(wanted, key=lambda place: place[1] in partial):
        by_text.setdefault(text, []).append(token)
    found: dict[Place, float] = {}
    # The first of each text brings the likeliest beside it; the rest are asked one by one.
    firsts = [
        (text, tokens[0], LIKELY if tokens[1:] else 1)
        for text, tokens in by_text.items()
        if tokens[0] not in partial
    ]
    _read(firsts, by_text, ask, found)
    whole = [place for place in wanted if place[1] not in partial]
    left = [(text, token, 1) for text, token in whole if (text, token) not in found]
    _read([one for one in left if one[:2] not in {f[:2] for f in firsts}], by_text, ask, found)
    texts = dict.fromkeys(text for text, token in wanted if (text, token) not in found)
    _read([(text, safe, ALL) for text in texts], by_text, ask, found)
    for text, token in wanted:
        if (text, token) not in found:
            raise EndpointError(f"the server tells no log-probability of the token {token}")
    return found


def _read(
    asked: Sequence[tuple[tuple[int, ...], int, int]],
    wanted: Mapping[tuple[int, ...], Sequence[int]],
    ask: Ask,
    found: dict[Place, float],
) -> None:
    """Ask for each text, forced token and count; keep what is wanted of the answers."""
    bodies = [
        {
            "prompt": list(text),
            "n_predict": 1,
            "n_probs": count,
            "logit_bias": [[token, _BIAS]],
            "post_sampling_probs": False,
        }
        for text, token, count in asked
    ]
    for (text, _, _), answer in zip(asked, ask(bodies), strict=True):
        for token, nats in _told(answer).items():
            if token in wanted[text]:
                found[text, token] = nats


def _told(answer: Any) -> dict[int, float]:
    """Log-probabilities by token; empty where the answer has none."""
    try:
        (one,) = answer.get("completion_probabilities") or [{"top_logprobs": []}]
        told = {int(t["id"]): float(t["logprob"]) for t in one["top_logprobs"]}
        return told | ({int(one["id"]): float(one["logprob"])} if "id" in one else {})
    except (AttributeError, KeyError, TypeError, ValueError):
        raise EndpointError(f"the answer has no log-probabilities: {answer!r:.120}") from None
