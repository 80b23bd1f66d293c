"""Results that were computed before, the least recently used ones forgotten."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class Results:
    """What a mix answered to a query; both decide it wholly, for nothing is sampled.

    Args:
        most: how many are kept; 0 keeps none.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable) -> Any | None:
        """The result; None where it is not known."""
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        return found

    def keep(self, key: Hashable, result: Any) -> None:
        """Remember a result that is not None; nobody changes it afterwards."""
        self._known[key] = result
        self._known.move_to_end(key)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
