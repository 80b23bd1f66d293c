"""The queries of one call of the client: sent, tried again, paid for and kept."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evomerge.checkpoint import strict_json
from evomerge.objectives.endpoint.failures import EndpointDownError, EndpointError, SpendError
from evomerge.objectives.endpoint.options import EndpointOptions
from evomerge.objectives.endpoint.query import Query, Usage
from evomerge.objectives.endpoint.retrying import is_transient, jittered, wait_asked
from evomerge.objectives.endpoint.secrets import Redactor, Secret
from evomerge.objectives.endpoint.store import Charge
from evomerge.objectives.endpoint.transport import Exchange, NoReplyError, Reply, opened

if TYPE_CHECKING:
    from evomerge.objectives.endpoint.client import Client

SHOWN = 200
"""Characters of a server's own words in an error."""

_REFUSING = frozenset({401, 402, 403, 404, 405, 407, 410})
"""Statuses that every other query would get too."""

_CHECKS = 3
"""Tries at a query that went well before, to tell a fallen server from a query that it cannot."""


class Batch:
    """The queries of one call of `Client.ask`."""

    def __init__(self, client: Client, secret: Secret | None) -> None:
        self._client = client
        self._options = client.options
        self._connection = client.options.connection
        self._desk = client.desk
        self._redactor = Redactor(secret)
        self._headers = _headers(client.options, secret)
        self._slots = asyncio.Semaphore(self._connection.concurrency)
        self._halted = False
        self._not_before = 0.0  # of the clock: a server that asks to wait asks all of us

    async def answers(self, queries: Sequence[Query]) -> list[Any]:
        keys = [self._client.key(query) for query in queries]
        first = dict(zip(keys, queries, strict=True))
        async with opened(self._connection) as exchange:
            tasks = {
                key: asyncio.ensure_future(self._answer(exchange, first[key], key))
                for key in dict.fromkeys(keys)
            }
            done = await asyncio.gather(*tasks.values(), return_exceptions=True)
        if self._desk.store is not None:
            self._desk.store.flush()
        found = dict(zip(tasks, done, strict=True))
        failed = [x for x in done if isinstance(x, BaseException) and not isinstance(x, _Halted)]
        if failed:
            raise min(failed, key=_weight)
        return [found[key] for key in keys]

    async def _answer(self, exchange: Exchange, query: Query, key: str) -> Any:
        kept = self._kept(query, key)
        if kept is not None:
            return _read(kept, query)
        async with self._slots:
            if self._halted:
                raise _Halted
            try:
                return await self._paid(exchange, query, key)
            except BaseException:
                self._halted = True
                raise

    def _kept(self, query: Query, key: str) -> bytes | None:
        store = self._desk.store
        if store is None or self._desk.fresh or not query.pure:
            return None
        return store.answer(key)

    async def _paid(self, exchange: Exchange, query: Query, key: str) -> Any:
        said, status = "", None
        for number in range(self._connection.retries + 1):
            await self._wait_for_turn()
            reserved = self._reserve(query)
            try:
                reply = await self._send(exchange, query)
            except NoReplyError as error:
                self._settle(Charge() if error.sent else Charge() - reserved)
                said, status = self._redactor.text(str(error)), None
                if not error.again:
                    raise self._error(EndpointError, said, query, None) from None
                asked = None
            else:
                try:
                    return self._accept(reply, reserved, query, key)
                except strict_json.JSONProblem as problem:
                    self._settle(Charge())  # it was answered, so it is taken to be paid for
                    said, status = f"the answer is damaged: {problem}", reply.status
                    asked = None
                except _Refused:
                    self._settle(self._client.charge(Usage(0, 0)) - reserved)
                    said, status = self._words(reply), reply.status
                    self._check_final(reply, said, query)
                    asked = self._asked(reply, said, query)
            if number < self._connection.retries:
                await self._pause(key, number, asked)
        tries = self._connection.retries + 1
        kind = EndpointError if await self._answers_others(exchange, query) else EndpointDownError
        raise self._error(kind, f"{said}, {tries} times in a row", query, status)

    async def _answers_others(self, exchange: Exchange, query: Query) -> bool:
        """Whether the server still answers what it answered before."""
        good = self._client.known_good
        if good is None or good == query:
            return False
        for number in range(_CHECKS):
            await self._pause(self._client.key(good), number, None)
            reserved = self._reserve(good)
            try:
                reply = await self._send(exchange, good)
            except NoReplyError as error:
                self._settle(Charge() if error.sent else Charge() - reserved)
                continue
            if 200 <= reply.status <= 299:
                return True
            self._settle(self._client.charge(Usage(0, 0)) - reserved)
        return False

    async def _send(self, exchange: Exchange, query: Query) -> Reply:
        content = None if query.body is None else json.dumps(query.body, allow_nan=False).encode()
        url = self._options.url + query.path
        return await exchange.send(query.method, url, self._headers, content)

    def _reserve(self, query: Query) -> Charge:
        most, store = self._client.most(query), self._desk.store
        limit = store and store.reserve(self._desk.owner, most, self._desk.limits)
        if limit:
            raise SpendError(f"{limit} is used up, or too little of it is left for a request")
        return most

    def _settle(self, change: Charge, key: str | None = None, answer: bytes | None = None) -> None:
        if self._desk.store is not None and (change != Charge() or key is not None):
            self._desk.store.settle(self._desk.owner, change, key=key, answer=answer)

    def _accept(self, reply: Reply, reserved: Charge, query: Query, key: str) -> Any:
        if not 200 <= reply.status <= 299:
            raise _Refused
        body = self._redactor.data(reply.body)
        answer = _read(body, query)
        charge = self._client.true_charge(answer)
        keep = query.pure and not self._desk.fresh
        self._settle(
            Charge() if charge is None else charge - reserved,
            key if keep else None,
            body if keep else None,
        )
        if query.pure:
            self._client.known_good = query
        return answer

    def _check_final(self, reply: Reply, said: str, query: Query) -> None:
        """Raise for a status that a retry would not change."""
        if is_transient(reply.status):
            return
        if 300 <= reply.status <= 399:
            target = self._redactor.text(reply.headers.get("location", "nowhere"))[:SHOWN]
            said = f"it redirects to {target}, which is not followed; set `url` to what is meant"
            raise self._error(EndpointDownError, said, query, reply.status)
        if reply.status in (401, 403) and self._options.api_key_env is None:
            said = f"{said}; no api_key_env is set"
        kind = EndpointDownError if reply.status in _REFUSING else EndpointError
        raise self._error(kind, said, query, reply.status)

    def _asked(self, reply: Reply, said: str, query: Query) -> float | None:
        """How long the server asks to wait, if that is bearable."""
        asked, longest = wait_asked(reply.headers), self._connection.longest_asked
        if asked is not None and asked > longest:
            said = f"{said}; it asks for a wait of {asked:g} s, and {longest:g} s is the longest"
            raise self._error(EndpointDownError, said, query, reply.status)
        return asked

    async def _pause(self, key: str, number: int, asked: float | None) -> None:
        connection = self._connection
        wait = jittered(key, number, first=connection.first_wait, longest=connection.longest_wait)
        if asked is not None:
            self._not_before = max(self._not_before, time.monotonic() + asked)
        await asyncio.sleep(wait + (asked or 0.0))

    async def _wait_for_turn(self) -> None:
        while (left := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def _words(self, reply: Reply) -> str:
        """The status and the beginning of what the server says about it."""
        text = self._redactor.text(reply.body[: 4 * SHOWN].decode(errors="replace"))
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:SHOWN]
        return f"status {reply.status}" + (f": {line}" if line else "")

    def _error(
        self, kind: type[EndpointError], said: str, query: Query, status: int | None
    ) -> EndpointError:
        return kind(
            f"the endpoint fails: {said}",
            place=self._options.url + query.path,
            kept="what was answered is kept, and is not paid for again",
            status=status,
        )


class _Halted(Exception):
    """Not sent, for another query of the batch has failed."""


class _Refused(Exception):
    """A status that is no success."""


def _weight(error: BaseException) -> int:
    """What is raised when several queries failed: the worst."""
    order: tuple[type[BaseException], ...] = (SpendError, EndpointDownError, EndpointError)
    ranks = [i for i, kind in enumerate(order, 1) if isinstance(error, kind)]
    return min(ranks, default=0)  # anything else is a defect, or the disk


def _headers(options: EndpointOptions, secret: Secret | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json", **options.headers}
    if secret is not None:
        name, key = options.api_key_header, secret.reveal()
        headers[name] = f"Bearer {key}" if name.lower() == "authorization" else key
    return headers


def _read(body: bytes, query: Query) -> Any:
    return strict_json.loads(body) if query.reads == "json" else strict_json.decoded(body)
