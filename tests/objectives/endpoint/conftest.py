"""Clients of loopback servers, with waits that tests can afford."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.options import EndpointOptions
from evomerge.objectives.endpoint.query import Desk
from evomerge.objectives.endpoint.store import Limits, Store
from tests.conftest import Loopback


@pytest.fixture
def store() -> Iterator[Store]:
    """In memory."""
    made = Store(None)
    yield made
    made.close()


QUICK = {"first_wait": 0.001, "longest_wait": 0.01, "total": 20}


@pytest.fixture
def client_of(store: Store) -> Callable[..., Client]:
    """A client of a loopback, with waits that tests can afford."""

    def make(loopback: Loopback, *, limits: Limits | None = None, **options: Any) -> Client:
        connection = QUICK | options.pop("connection", {})
        read = EndpointOptions.read({"url": loopback.url, "connection": connection, **options})
        client = Client(read)
        client.desk = Desk(store, limits or Limits())
        return client

    return make
