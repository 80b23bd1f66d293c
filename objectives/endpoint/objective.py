"""What an endpoint objective offers beside `evomerge.interfaces.Objective`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from evomerge.coefficients import Mixing
from evomerge.interfaces import Need, Objective
from evomerge.objectives.endpoint.client import Client
from evomerge.trial import Scores


class EndpointObjective(Protocol):
    """An objective that asks a server through a `Client`.

    Whatever has a `client` that is one, is one. The worker then gives it a desk, tests the server
    before the first evaluation, and looks at its anchor again from time to time.
    """

    @property
    def needs(self) -> Need:
        """As `Objective.needs`: coefficients where the server mixes, else a folder for it."""
        ...

    @property
    def client(self) -> Client:
        """What sends its requests, all of them."""
        ...

    @property
    def mixing(self) -> Mixing | None:
        """What the server can mix; None where it is given a merge that we made."""
        ...

    def observe(self, subject: Any, items: Sequence[int] | None) -> list[Any]:
        """What the server says, item by item, as JSON, before it is judged.

        Log-probabilities and texts rather than right or wrong: a self-test compares them, and a
        mix that changes no verdict on a few items still changes these. No ids, no times.
        """
        ...

    def evaluate(self, subject: Any, items: Sequence[int] | None) -> Scores | Mapping[str, Scores]:
        """As `Objective.evaluate`."""
        ...


def endpoint_of(objective: Objective) -> EndpointObjective | None:
    """The objective as one of an endpoint; None if it is none."""
    if isinstance(getattr(objective, "client", None), Client):
        return cast(EndpointObjective, objective)
    return None


def disagreement(first: Any, second: Any, tolerance: float) -> str | None:
    """Where two observations differ; None if they agree.

    Args:
        tolerance: between numbers; texts and the rest are equal or not.
    """
    if _is_number(first) and _is_number(second):
        far = abs(first - second)
        return None if far <= tolerance else f"{first:.6g} and {second:.6g}"
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = zip(first, second, strict=True)
        found = (disagreement(a, b, tolerance) for a, b in pairs)
        return next((said for said in found if said is not None), None)
    if isinstance(first, dict) and isinstance(second, dict) and set(first) == set(second):
        found = (disagreement(first[key], second[key], tolerance) for key in sorted(first))
        return next((said for said in found if said is not None), None)
    return None if first == second else f"{first!r:.60} and {second!r:.60}"


def is_coarse(seen: Any) -> bool:
    """Whether an observation is whole numbers alone, right or wrong: another mix may share it."""
    if isinstance(seen, list):
        return all(map(is_coarse, seen))
    if isinstance(seen, dict):
        return all(map(is_coarse, seen.values()))
    return isinstance(seen, bool) or (_is_number(seen) and float(seen).is_integer())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
