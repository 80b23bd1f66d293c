"""The client: queries in, checked answers out, each counted before it is sent."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Sequence
from hashlib import sha256
from typing import Any, TypeVar

from evomerge.objectives.endpoint.options import EndpointOptions
from evomerge.objectives.endpoint.query import Desk, Query, Usage, body_bytes, usage_of
from evomerge.objectives.endpoint.secrets import secret_from
from evomerge.objectives.endpoint.store import Charge

T = TypeVar("T")


class Client:
    """Asks one endpoint. Made once per objective; opens connections only while it asks.

    Attributes:
        desk: the study's; set by the worker before each evaluation.
        build: what the server says it is (version, model); part of every answer's address, so an
            objective that can find out sets it before it asks.
        known_good: the last query that was answered in this process.
    """

    def __init__(
        self, options: EndpointOptions, *, usage: Callable[[Any], Usage | None] = usage_of
    ) -> None:
        """Nothing is sent, and no key is read, before the first question.

        Args:
            usage: the tokens that an answer says it has cost; None where it does not say.
        """
        self.options = options
        self.desk = Desk()
        self.build = ""
        self.known_good: Query | None = None
        self._usage = usage

    def ask(self, queries: Sequence[Query]) -> list[Any]:
        """The answers, in order: kept ones, and those of the server; equal queries are sent once.

        When one fails, no further one is sent; those under way are finished and kept first.

        Raises:
            SpendError: if the next request could exceed the budget.
            EndpointDownError: if the endpoint fails everything, or refuses us.
            EndpointError: if it fails one query: a 4xx, too long an answer, or every retry, while
                it still answers what it answered before.
            UsageError: if the environment variable of the key is not set.
        """
        if not queries:
            return []
        from evomerge.objectives.endpoint.batch import Batch  # and with it the HTTP library

        options = self.options
        secret = secret_from(options.api_key_env) if options.api_key_env else None
        return _finished(Batch(self, secret).answers(queries))

    @property
    def place(self) -> str:
        """The endpoint as errors name it."""
        return self.options.url

    def charge(self, usage: Usage, *, requests: int = 1) -> Charge:
        """What a request with so many tokens costs."""
        total = usage.prompt + usage.completion
        money = self.options.prices.money(usage.prompt, usage.completion) if requests else 0.0
        return Charge(requests, total, money)

    def most(self, query: Query) -> Charge:
        """The most that a request can cost: a token for each byte, and those it may add."""
        return self.charge(Usage(body_bytes(query.body), query.tokens))

    def true_charge(self, answer: Any) -> Charge | None:
        """What an answer says it has cost; None where it does not say."""
        usage = self._usage(answer)
        return None if usage is None else self.charge(usage)

    def key(self, query: Query) -> str:
        """The address of an answer: endpoint, build, candidate, item and decoding, digested."""
        what = [
            self.options.url,
            dict(self.options.headers),
            self.build,
            query.method,
            query.path,
            query.candidate,
            query.body if query.address is None else query.address,
        ]
        text = json.dumps(what, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return sha256(text.encode()).hexdigest()


def _finished(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; in a thread of its own where this one has a running loop, as in notebooks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(asyncio.run(work))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
