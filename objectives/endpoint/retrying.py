"""When to try again, and how long to wait before that."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from evomerge.randomness import generator

_TRANSIENT = frozenset({408, 409, 425, 429})
_SECONDS = re.compile(r"\d+(\.\d*)?|\.\d+")


def is_transient(status: int) -> bool:
    """Whether the same request may fare better later: 408, 409, 425, 429 and 5xx."""
    return status in _TRANSIENT or 500 <= status <= 599


def wait_asked(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a reply asks for by ``Retry-After-Ms`` or ``Retry-After``; None if it does not.

    Args:
        headers: by lower-case name. A date is compared with the reply's own ``Date``, where there
            is one: the server's clock against itself.
        now: in place of a missing ``Date``; by default this machine's clock.
    """
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _SECONDS.fullmatch(milliseconds):
        return float(milliseconds) / 1000
    said = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(said):
        return float(said)
    until = _date(said)
    if until is None:
        return None
    since = _date(headers.get("date", "")) or now or datetime.now(UTC)
    return max(0.0, (until - since).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def jittered(address: str, number: int, *, first: float, longest: float) -> float:
    """Full jitter: uniform in [0, min(longest, first * 2^number)].

    M. Brooker (2015), Exponential Backoff And Jitter, AWS Architecture Blog.

    Args:
        address: of the query, so that queries that failed together do not come back together.
        number: of the failed try, from 0.
    """
    ceiling = min(longest, first * math.ldexp(1.0, min(number, 64)))
    return float(generator(0, "retry", address, number).uniform(0.0, ceiling))
