"""What every endpoint objective can be told of its server, as the campaign file has it.

::

    objective:
      type: openai
      url: https://api.example.com/v1
      api_key_env: EXAMPLE_KEY
      prices: {prompt: 0.15, completion: 0.60}      # money per million tokens
      connection: {concurrency: 8, retries: 8, total: 10m}

`url`, `api_key_env` and `connection` may be edited between runs; the rest is what the study is.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, urlsplit

from evomerge.errors import UsageError
from evomerge.objectives import options as read

OPTIONS = (
    "url",
    "api_key_env",
    "api_key_header",
    "headers",
    "prices",
    "connection",
    "self_test",
    "tolerance",
    "check_every",
)
"""Names that `EndpointOptions.read` takes; an objective adds its own."""

SelfTest = Literal["strict", "warn", "off"]

_KEYS = re.compile(
    r"api[_-]?key|token|secret|password|authorization|bearer|cookie|(?<![a-z])auth(?![a-z])",
    re.IGNORECASE,
)
_TOKEN = re.compile("token", re.IGNORECASE)
_OF_TEXTS = re.compile(r"(?:bos|eos|pad|stop|unk)_?tokens?|token_?ids?|tokeniz", re.IGNORECASE)
"""Names of tokens that are no secrets."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True)
class Prices:
    """What an endpoint costs, in the currency of the budget.

    Attributes:
        request: each, whatever comes of it.
        prompt, completion: per million tokens.
    """

    request: float = 0.0
    prompt: float = 0.0
    completion: float = 0.0

    @property
    def known(self) -> bool:
        """Whether anything costs anything."""
        return bool(self.request or self.prompt or self.completion)

    def money(self, prompt: int, completion: int) -> float:
        """The price of one request with so many tokens."""
        return self.request + (prompt * self.prompt + completion * self.completion) / 1e6


@dataclass(frozen=True)
class Connection:
    """How the server is talked to; seconds, unless said otherwise. Decides no result.

    Attributes:
        connect, read, write, pool: to open a connection, and between two bytes of a reply, of a
            request, and for a free connection.
        total: for one try, from the first byte sent to the last received: a server that drips
            never trips `read`.
        concurrency: requests at once, of each worker.
        retries: tries after the first.
        first_wait, longest_wait: what the waits between tries grow from and to.
        longest_asked: the longest wait that a server may ask for by Retry-After.
        largest: bytes of an answer, after decompression.
    """

    connect: float = 5.0
    read: float = 120.0
    write: float = 30.0
    pool: float = 30.0
    total: float = 600.0
    concurrency: int = 8
    retries: int = 8
    first_wait: float = 0.5
    longest_wait: float = 60.0
    longest_asked: float = 600.0
    largest: int = 10_000_000


_COUNTS = {"concurrency": 1, "retries": 0, "largest": 1}


@dataclass(frozen=True)
class EndpointOptions:
    """See the module's docstring.

    Attributes:
        url: where relative paths of queries start; without a slash at its end.
        api_key_env: environment variable with the key; None sends none.
        api_key_header: what carries the key; ``Authorization`` gets ``Bearer`` before it.
        headers: sent with every request; never secret.
        self_test: what a failed self-test or drift does: ends the campaign, warns, or none is
            made.
        tolerance: by how much numbers may differ when the same thing is asked again, in the
            answers' unit (nats for log-probabilities).
        check_every: evaluations of a worker between two checks for drift.
    """

    url: str
    api_key_env: str | None = None
    api_key_header: str = "Authorization"
    headers: Mapping[str, str] = field(default_factory=dict)
    prices: Prices = Prices()
    connection: Connection = Connection()
    self_test: SelfTest = "strict"
    tolerance: float = 1e-3
    check_every: int = 25

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> EndpointOptions:
        """The part of an objective's options that is about its endpoint.

        Raises:
            UsageError: on a senseless value, or a key where only its variable's name belongs.
        """
        refuse_keys(options)
        variable = read.text(options, "api_key_env")
        if variable is not None and not _VARIABLE.fullmatch(variable):
            raise UsageError(
                "api_key_env is not the name of an environment variable; "
                "the key itself never stands in a campaign file"
            )
        return cls(
            url=_url(read.required_text(options, "url", "http://127.0.0.1:8080/v1")),
            api_key_env=variable,
            api_key_header=_header(read.text(options, "api_key_header") or "Authorization"),
            headers=_headers(options.get("headers", {})),
            prices=_prices(options.get("prices", {})),
            connection=_connection(options.get("connection", {})),
            self_test=cast(SelfTest, read.choice(options, "self_test", ("strict", "warn", "off"))),
            tolerance=_number("tolerance", options.get("tolerance", cls.tolerance)),
            check_every=read.count(options, "check_every") or cls.check_every,
        )


def refuse_keys(options: Any, path: str = "") -> None:
    """Refuse an option, or a field at any depth of one, that would hold a secret.

    Args:
        path: before the names in the message, which repeats no value.

    Raises:
        UsageError: naming the option.
    """
    if isinstance(options, list | tuple):
        for one in options:
            refuse_keys(one, path)
    if not isinstance(options, Mapping):
        return
    for name, value in options.items():
        if name not in OPTIONS and _secret(name, value):
            raise UsageError(
                f"{path}{name}: secrets never stand in a campaign file; put the key into an "
                "environment variable and say `api_key_env: ITS_NAME`"
            )
        if path or name != "headers":  # those have a sentence of their own
            refuse_keys(value, f"{path}{name}.")


def _secret(name: str, value: Any) -> bool:
    """By the name; a token is one only as a text, for counts and flags are called so too."""
    rest = _OF_TEXTS.sub("", name)
    if not _KEYS.search(rest):
        return False
    return bool(_KEYS.search(_TOKEN.sub("", rest))) or _has_text(value)


def _has_text(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_text, value.values()))
    return isinstance(value, str) or (
        isinstance(value, list | tuple) and any(map(_has_text, value))
    )


def _url(given: str) -> str:
    """An http(s) URL that holds no secret; ``$NAME`` is looked up in the environment."""
    if given.startswith("$"):
        found = os.environ.get(given[1:])
        if not found:
            raise UsageError(f"url: the environment variable {given[1:]} is not set")
        given = found
    try:
        parts = urlsplit(given)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"url is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"url is {given.split('@')[-1]!r:.100}; http://... or https://... is wanted"
        )
    if parts.username or parts.password:
        raise UsageError("url holds a user name or a password; say `api_key_env: ITS_NAME`")
    if any(_KEYS.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise UsageError("url holds a key; say `api_key_env` and `api_key_header` instead")
    return given.rstrip("/")


def _headers(given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping) or not all(isinstance(v, str) for v in given.values()):
        raise UsageError("headers: a mapping of names to texts is wanted")
    for name, value in given.items():
        if _KEYS.search(name):
            raise UsageError(f"headers: {name} is for secrets; say `api_key_env: ITS_NAME`")
        if not _HEADER.fullmatch(name) or not value.isprintable() or not value.isascii():
            raise UsageError(f"headers: {name!r:.60} is no header")
    return dict(given)


def _header(name: str) -> str:
    if not _HEADER.fullmatch(name):
        raise UsageError("api_key_header is no header's name; the key itself never stands here")
    return name


def _prices(given: Any) -> Prices:
    values = _numbers("prices", given, tuple(f.name for f in fields(Prices)))
    return Prices(**values)


def _connection(given: Any) -> Connection:
    values: dict[str, Any] = dict(
        _numbers("connection", given, tuple(f.name for f in fields(Connection)))
    )
    for name in values:
        least = _COUNTS.get(name)
        if least is None and values[name] <= 0:
            raise UsageError(f"connection.{name} is 0; seconds above 0 are wanted")
        if least is not None:
            if values[name] != int(values[name]) or values[name] < least:
                raise UsageError(f"connection.{name}: a whole number, {least} or more, is wanted")
            values[name] = int(values[name])
    return Connection(**values)


def _numbers(what: str, given: Any, known: tuple[str, ...]) -> dict[str, float]:
    if not isinstance(given, Mapping):
        raise UsageError(f"{what}: a mapping of {', '.join(known)} is wanted")
    read.check_names(given, known)
    return {name: _number(f"{what}.{name}", value) for name, value in given.items()}


def _number(what: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{what} is {value!r:.40}; a number, 0 or more, is wanted")
    return float(value)
