"""The server's pages, as an ASGI application.

    GET  /health            whether it serves; needs no key
    GET  /v1/models         the base and the pool, as OpenAI lists models
    GET  /v1/outline        shapes of the base's tensors and digests: all that a campaign needs
    POST /v1/score          log-likelihoods of continuations
    POST /v1/completions    OpenAI's completions, greedy

Both POSTs take ``merge``, the coefficients (`evomerge.serve.mixes`), and ``models``, the part of
the pool that they are for.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from evomerge.checkpoint.strict_json import JSONProblem, loads
from evomerge.errors import EvomergeError, UsageError
from evomerge.serve.answers import Answer, complete, score
from evomerge.serve.desks import Office
from evomerge.serve.limits import Limits
from evomerge.serve.mixes import Mix, Mixes
from evomerge.serve.queries import Completion, completions, score_items
from evomerge.serve.refusal import Refusal
from evomerge.serve.results import Results

_log = logging.getLogger("evomerge")

CLOSING = {"connection": "close"}
PATIENCE = 8
"""How many times too large a body may be and still be read to its end."""

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Page = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Pool:
    """What is served.

    Attributes:
        name: of the mixes, as OpenAI's ``model``.
        models: names that ``merge`` may speak of.
        outline: answer to ``/v1/outline``; its ``build`` names server, base and models.
    """

    name: str
    models: tuple[str, ...]
    outline: Mapping[str, Any]


class App:
    """An ASGI application over an office of desks.

    Args:
        keys: any of which lets a request in; empty lets everybody in.
    """

    def __init__(
        self, pool: Pool, mixes: Mixes, office: Office, limits: Limits, keys: Sequence[str]
    ) -> None:
        self._pool = pool
        self._mixes = mixes
        self._office = office
        self._limits = limits
        self._keys = [key.encode() for key in keys]
        self._results = Results(limits.remembered)
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="reader")
        self._number = 0
        self._pages: dict[tuple[str, str], Page] = {
            ("GET", "/v1/models"): self._models,
            ("GET", "/v1/outline"): self._outline,
            ("POST", "/v1/score"): self._score,
            ("POST", "/v1/completions"): self._completions,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        assert scope["type"] == "http"
        headers: dict[str, str] = {}
        try:
            status, content = 200, await self._answer(scope, receive)
        except Refusal as refusal:
            status, content, headers = refusal.status, refusal.body(), refusal.headers
        except UsageError as error:
            told = error.cause if error.place in (None, "request:1:1") else f"{error.place}: "
            told = told if told == error.cause else told + error.cause
            status, content = 400, Refusal(400, told).body()
        except EvomergeError as error:
            _log.error("a request failed: %s", error.cause)
            status, content = 500, Refusal(500, "the merge failed", "failed").body()
        except Exception:
            _log.exception("a request failed")
            status, content = 500, Refusal(500, "a defect of the server", "defect").body()
        await _send(send, status, content, headers)

    def close(self) -> None:
        """End the threads."""
        self._readers.shutdown(cancel_futures=True)

    async def _answer(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        path, method = scope["path"], scope["method"]
        if path == "/health":
            return {"status": "ok"}
        self._let_in(scope)
        page = self._pages.get((method, path))
        if page is None:
            allowed = [m for m, p in self._pages if p == path]
            if not allowed:
                raise Refusal(404, f"there is no {path:.80}", "not_found")
            raise Refusal(405, f"{path} takes {allowed[0]}", headers={"allow": allowed[0]})
        if method == "GET":
            return await page({})
        try:
            body = loads(await self._body(receive))
        except JSONProblem as problem:
            raise Refusal(400, f"the body is {problem}"[:300], "not_json") from None
        if not isinstance(body, dict):
            raise Refusal(400, "the body is no JSON object")
        return await page(body)

    def _let_in(self, scope: Scope) -> None:
        if not self._keys:
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        key = given[0].removeprefix(b"Bearer ") if len(given) == 1 else b""
        # All are compared, so that the time says nothing.
        if not max([hmac.compare_digest(key, known) for known in self._keys]):
            headers = {"www-authenticate": "Bearer"}
            raise Refusal(401, "no valid key: Authorization: Bearer KEY", "invalid_key", headers)

    async def _body(self, receive: Receive) -> bytes:
        """The whole body, under the limits of size and time.

        What is too large is read to its end, within reason, for many clients listen for an answer
        only when they have sent everything.
        """
        parts: list[bytes] = []
        size, most = 0, self._limits.body
        try:
            async with asyncio.timeout(self._limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "the client went away")
                    part: bytes = message.get("body", b"")
                    size += len(part)
                    if size <= most:
                        parts.append(part)
                    if size > most * PATIENCE or (size > most and not message.get("more_body")):
                        raise Refusal(
                            413, f"a body of more than {most} bytes", "too_large", CLOSING
                        )
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            text = f"the body took longer than {self._limits.seconds:g} s"
            raise Refusal(408, text, "slow", CLOSING) from None

    async def _models(self, _: Mapping[str, Any]) -> dict[str, Any]:
        names = (self._pool.name, *self._pool.models)
        entries = [
            {"id": n, "object": "model", "created": 0, "owned_by": "evomerge"} for n in names
        ]
        return {"object": "list", "data": entries, "build": self._pool.outline["build"]}

    async def _outline(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self._pool.outline)

    async def _score(self, body: Mapping[str, Any]) -> dict[str, Any]:
        items = score_items(body, self._limits)
        mix = await self._mix(body)
        found: dict[int, Any] = {i: self._results.get((mix.digest, q)) for i, q in enumerate(items)}
        missing = [i for i, answer in found.items() if answer is None]
        if missing:
            wanted = [items[i] for i in missing]
            answers = await self._office.do(mix, lambda model, device: score(model, device, wanted))
            for i, answer in zip(missing, answers, strict=True):
                self._results.keep((mix.digest, items[i]), answer)
                found[i] = answer
        told = list(found.values())
        usage = {"prompt_tokens": sum(tokens for _, tokens in told), "completion_tokens": 0}
        return {**self._identity(mix), "items": [parts for parts, _ in told], "usage": usage}

    async def _completions(self, body: Mapping[str, Any]) -> dict[str, Any]:
        queries = completions(body, self._limits)
        mix = await self._mix(body)
        choices, usage = [], {"prompt_tokens": 0, "completion_tokens": 0}
        for index, query in enumerate(queries):
            answer = await self._completion(mix, query)
            choices.append({"index": index, **{k: v for k, v in answer.items() if k != "usage"}})
            usage = {key: usage[key] + answer["usage"][key] for key in usage}
        self._number += 1
        return {
            "id": f"cmpl-{self._number}",
            "object": "text_completion",
            "created": 0,
            "model": self._pool.name,
            **self._identity(mix),
            "choices": choices,
            "usage": {**usage, "total_tokens": sum(usage.values())},
        }

    async def _completion(self, mix: Mix, query: Completion) -> Answer:
        key = (mix.digest, query)
        answer: Answer | None = self._results.get(key)
        if answer is None:
            answer = await self._office.do(
                mix, lambda model, device: complete(model, device, query)
            )
            self._results.keep(key, answer)
        return answer

    async def _mix(self, body: Mapping[str, Any]) -> Mix:
        model = body.get("model")
        if model is not None and model != self._pool.name:
            known = f"here is {self._pool.name!r}, to be mixed by 'merge'"
            raise Refusal(404, f"no model {model!r:.60}; {known}", "model_not_found")
        loop = asyncio.get_running_loop()
        read = partial(self._mixes.read, body.get("merge"), body.get("models"))
        return await loop.run_in_executor(self._readers, read)

    def _identity(self, mix: Mix) -> dict[str, Any]:
        """By which a client sees that it got what it asked for."""
        return {"mix": mix.digest, "build": self._pool.outline["build"]}


async def _send(send: Send, status: int, content: object, headers: Mapping[str, str]) -> None:
    body = json.dumps(content, allow_nan=False).encode()
    lines = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    pairs = [(name.encode(), value.encode()) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
