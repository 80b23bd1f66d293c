"""The client against a real server: what it sends, what it counts, and when it gives up."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from evomerge.errors import UsageError
from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.failures import EndpointDownError, EndpointError, SpendError
from evomerge.objectives.endpoint.query import Query
from evomerge.objectives.endpoint.store import Charge, Limits, Store
from tests.conftest import FAULTS, LATE, Loopback, as_json, random_faults, settled

Serve = Callable[..., Loopback]
Make = Callable[..., Client]


def doubled(body: Any, path: str) -> tuple[int, dict[str, str], bytes]:
    return as_json({"twice": 2 * body["n"]})


def numbers(*values: int) -> list[Query]:
    return [Query({"n": n}) for n in values]


def test_answers_come_in_the_order_of_the_queries_and_are_kept(
    serve: Serve, client_of: Make, store: Store
) -> None:
    server = serve(doubled)
    client = client_of(server)
    assert [a["twice"] for a in client.ask(numbers(3, 1, 2, 3))] == [6, 2, 4, 6]
    assert server.requests == 3, "equal queries are sent once"
    assert [a["twice"] for a in client.ask(numbers(1, 4))] == [2, 8]
    assert server.requests == 4, "what was answered is not asked again"
    # {"n": 3} is 8 bytes: at most so many tokens, for the server says nothing else.
    assert store.spent() == Charge(requests=4, tokens=32)


def test_the_address_of_an_answer_is_endpoint_build_candidate_body_and_path(
    serve: Serve, client_of: Make
) -> None:
    client = client_of(serve(doubled))
    base = client.key(Query({"n": 1}))
    others = [Query({"n": 2}), Query({"n": 1}, path="/x"), Query({"n": 1}, candidate=[0.5])]
    keys = {client.key(query) for query in others}
    client.build = "b1234"
    assert len({base, client.key(Query({"n": 1})), *keys}) == 5
    assert client.key(Query({"a": 1, "n": 1})) == client.key(Query({"n": 1, "a": 1}))


def test_a_fifth_of_all_requests_failing_changes_no_answer_and_every_try_is_counted(
    serve: Serve, client_of: Make, store: Store
) -> None:
    faults = random_faults(2, 0.2, *FAULTS)
    assert {faults(number) for number in range(60)} == {None, *FAULTS}
    server = serve(doubled, lambda number: LATE.get(number) or faults(number))
    client = client_of(server, connection={"read": 2, "total": 3, "retries": 12})
    found = client.ask(numbers(*range(60)))
    assert [a["twice"] for a in found] == [2 * n for n in range(60)]
    assert server.requests > 65
    settled(lambda: store.spent().requests == server.requests)


@pytest.mark.parametrize(
    ("said", "tokens", "money"),
    [
        ({"usage": {"prompt_tokens": 7, "completion_tokens": 2}}, 9, 0.5 + 7e-6 + 4e-6),
        # {"text": "abc"} is at most 15 tokens; 10 more were allowed; the server did not say.
        ({"usage": {"prompt_tokens": "many"}}, 25, 0.5 + 15e-6 + 20e-6),
    ],
)
def test_what_a_request_costs_is_what_the_server_counted_else_the_most_it_could(
    said: Any, tokens: int, money: float, serve: Serve, client_of: Make, store: Store
) -> None:
    server = serve(lambda body, path: as_json(said))
    client = client_of(server, prices={"request": 0.5, "prompt": 1, "completion": 2})
    client.ask([Query({"text": "abc"}, tokens=10)])
    assert store.spent().tokens == tokens
    assert store.spent().money == pytest.approx(money, rel=1e-12)


def test_nothing_is_sent_that_could_exceed_the_budget(
    serve: Serve, client_of: Make, store: Store
) -> None:
    server = serve(doubled, lambda number: "500" if number == 1 else None)
    client = client_of(server, limits=Limits(requests=4), connection={"concurrency": 1})
    with pytest.raises(SpendError, match="budget of 4 requests") as caught:
        client.ask(numbers(*range(9)))
    assert caught.value.exit_code == 75
    assert server.requests == 4 and store.spent().requests == 4, "the retry is one of the four"
    assert len(server.seen) == 3
    again = client_of(server, limits=Limits(requests=4))
    assert [a["twice"] for a in again.ask(numbers(0, 1, 2))] == [0, 2, 4], "kept answers are free"


@pytest.mark.parametrize("limits", [Limits(tokens=40), Limits(money=0.25)])
def test_tokens_and_money_are_limited_by_the_most_that_a_request_may_cost(
    limits: Limits, serve: Serve, client_of: Make
) -> None:
    server = serve(doubled)
    client = client_of(server, limits=limits, prices={"completion": 10_000})
    with pytest.raises(SpendError):
        client.ask([Query({"n": n}, tokens=10) for n in range(9)])
    assert server.requests == 2, "each may cost 18 tokens, or 0.1"


def test_a_refusal_that_all_would_get_is_the_endpoints_fault_and_is_not_tried_again(
    serve: Serve, client_of: Make
) -> None:
    server = serve(lambda body, path: as_json({"error": "who are you?"}, 401))
    with pytest.raises(
        EndpointDownError, match=r"status 401.*who are you.*no api_key_env"
    ) as caught:
        client_of(server).ask(numbers(1))
    assert (caught.value.exit_code, caught.value.status, server.requests) == (5, 401, 1)


def test_a_refusal_of_one_query_is_its_own_and_is_not_tried_again(
    serve: Serve, client_of: Make
) -> None:
    def fussy(body: Any, path: str) -> Any:
        return as_json({"error": "too long"}, 400) if body["n"] == 2 else doubled(body, path)

    server = serve(fussy)
    with pytest.raises(EndpointError, match=r"status 400.*too long") as caught:
        client_of(server, connection={"concurrency": 1}).ask(numbers(1, 2, 3))
    assert not isinstance(caught.value, EndpointDownError)
    assert server.requests == 2


def test_a_server_down_for_good_is_told_from_a_query_that_it_cannot_answer(
    serve: Serve, client_of: Make
) -> None:
    down: set[int] = set()

    def reply(body: Any, path: str) -> Any:
        broken = body["n"] in down or -1 in down
        return as_json({}, 500) if broken else doubled(body, path)

    server = serve(reply)
    client = client_of(server, connection={"retries": 2})
    client.ask(numbers(1))
    down.add(2)
    with pytest.raises(EndpointError, match=r"status 500: \{\}, 3 times in a row") as caught:
        client.ask(numbers(2))
    assert type(caught.value) is EndpointError, "it still answers 1"
    down.add(-1)
    with pytest.raises(EndpointDownError):
        client.ask(numbers(3))


def test_nobody_listening_costs_nothing(client_of: Make, store: Store) -> None:
    client = client_of(Loopback(doubled, port=1), connection={"retries": 1})
    with pytest.raises(EndpointDownError, match="ConnectError"):
        client.ask(numbers(1))
    assert store.spent() == Charge()


def test_a_wait_that_is_asked_for_is_kept_and_one_too_long_is_not(
    serve: Serve, client_of: Make
) -> None:
    waits = iter(["0.2", "9999"])

    def reply(body: Any, path: str) -> Any:
        wait = next(waits, None) if body["n"] else None
        return doubled(body, path) if wait is None else as_json({}, 429, Retry_After=wait)

    client, started = client_of(serve(reply)), time.monotonic()
    with pytest.raises(EndpointDownError, match="a wait of 9999 s, and 600 s is the longest"):
        client.ask(numbers(1))
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize("fault", ["drip", "hang", "half", "garbage", "reset"])
def test_a_reply_that_is_not_whole_is_tried_again(
    fault: str, serve: Serve, client_of: Make
) -> None:
    server = serve(doubled, lambda number: fault if number == 0 else None)
    late = {"drip": {"total": 0.5}, "hang": {"read": 0.5}}
    client = client_of(server, connection=late.get(fault, {}))
    assert client.ask(numbers(4)) == [{"twice": 8}]
    assert server.requests >= 2


@pytest.mark.parametrize(
    "body", [b'{"twice": NaN}', b'{"twice": 1, "twice": 2}', b'{"twice": 1e', b"\xff", b""]
)
def test_json_is_read_strictly(body: bytes, serve: Serve, client_of: Make) -> None:
    server = serve(lambda given, path: (200, {}, body))
    with pytest.raises(EndpointDownError, match="the answer is damaged"):
        client_of(server, connection={"retries": 0}).ask(numbers(1))


def test_a_bomb_is_not_unpacked(serve: Serve, client_of: Make) -> None:
    bomb = gzip.compress(b'{"a": "' + b"x" * 50_000_000 + b'"}')
    server = serve(lambda body, path: (200, {"Content-Encoding": "gzip"}, bomb))
    with pytest.raises(EndpointError, match="longer than 1000 bytes"):
        client_of(server, connection={"largest": 1000}).ask(numbers(1))
    assert server.requests == 1


def test_a_packed_answer_is_unpacked(serve: Serve, client_of: Make) -> None:
    packed = gzip.compress(json.dumps({"twice": 1}).encode())
    server = serve(lambda body, path: (200, {"Content-Encoding": "gzip"}, packed))
    assert client_of(server).ask(numbers(1)) == [{"twice": 1}]


def test_a_redirect_is_not_followed(serve: Serve, client_of: Make) -> None:
    server = serve(lambda body, path: as_json({}, 307, Location="http://elsewhere.example/"))
    with pytest.raises(EndpointDownError, match=r"redirects to http://elsewhere.example/"):
        client_of(server).ask(numbers(1))


CANARY = "sk-canary/0123456789"


def test_a_key_goes_into_its_header_and_nowhere_else(
    serve: Serve, client_of: Make, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def echo(body: Any, path: str) -> Any:
        said = {"got": server.headers["X-Key"], "url": "https://a.b/?k=sk-canary%2F0123456789"}
        return as_json(said, 400 if body["n"] == 2 else 200)

    server = serve(echo)
    client = client_of(server, api_key_env="MY_KEY", api_key_header="X-Key")
    with pytest.raises(UsageError, match="MY_KEY is not set"):
        client.ask(numbers(1))
    monkeypatch.setenv("MY_KEY", CANARY)
    assert client.ask(numbers(1)) == [{"got": "***", "url": "https://a.b/?k=***"}]
    assert server.headers["X-Key"] == CANARY
    with pytest.raises(EndpointError) as caught:
        client.ask(numbers(2))
    assert "canary" not in repr(caught.value) + str(caught.value) + repr(vars(client))
    kept = store.answer(client.key(Query({"n": 1})))
    assert kept is not None and b"canary" not in kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key": "sk-1"}, "api_key: secrets never stand in a campaign file"),
        ({"extra": {"api_key": "sk-1"}}, r"extra\.api_key: secrets never stand"),
        ({"extra": {"a": [{"hf_token": "sk-1"}]}}, r"extra\.a\.hf_token: secrets never stand"),
        ({"extra": {"secrets": {"one": ["sk-1"]}}}, r"extra\.secrets: secrets never stand"),
        ({"api_key_header": "X-Key: sk-1"}, "api_key_header is no header's name"),
        ({"api_key_env": "sk-1234"}, "not the name of an environment variable"),
        ({"headers": {"Authorization": "Bearer x"}}, "headers: Authorization is for secrets"),
        ({"headers": {"X-Auth": "sk-1"}}, "headers: X-Auth is for secrets"),
        ({"url": "http://me:pw@host/"}, "user name or a password"),
        ({"url": "http://host/?api_key=1"}, "url holds a key"),
        ({"url": "ftp://host/"}, "http://... or https://... is wanted"),
        ({"connection": {"total": 0}}, "connection.total is 0"),
        ({"connection": {"concurrency": 1.5}}, "connection.concurrency: a whole number, 1 or more"),
        ({"prices": {"promt": 1}}, "did you mean 'prompt'"),
    ],
)
def test_options_that_make_no_sense_are_refused_without_repeating_a_secret(
    options: dict[str, Any], message: str, client_of: Make
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        client_of(Loopback(doubled, port=1), **options)
    assert "sk-1" not in str(caught.value) and "pw" not in str(caught.value)


def test_fields_about_tokens_of_text_are_no_secrets(client_of: Make) -> None:
    flags = {"return_tokens_as_token_ids": True, "max_tokens": 5, "min_tokens": 1}
    texts = {"stop_token_ids": [1], "eos_token": "</s>", "tokenizer": "x", "author": "y"}
    client_of(Loopback(doubled, port=1), tokens=64, extra={"a": [flags, texts]})
