"""What is found in the whole model: tables of all tensors together, and methods' surveys.

All tensors that can be merged belong to the pool, tied ones once, whatever a plan does with them:
so a change of one group's numbers changes no other group, and all is found once per model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from threading import Lock
from typing import Any

import numpy as np

from evomerge.merging.entries import Inputs, Stretch, stretches
from evomerge.merging.magnitudes import CODES, MagnitudeTable
from evomerge.merging.method import Surveying
from evomerge.merging.plan import MergePlan
from evomerge.merging.scratch import Scratch


class Pool:
    """Remembers what was found. Threads may ask at the same time; one looks, the others wait.

    Args:
        names: of the tensors.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._lock = Lock()
        self._tables: dict[str, MagnitudeTable] = {}
        self._surveys: dict[tuple[object, ...], tuple[tuple[int, ...], Any]] = {}

    def tables(
        self,
        models: Sequence[str],
        wanted: Sequence[int],
        of_tensor: Callable[[str], Mapping[int, MagnitudeTable]],
    ) -> dict[int, MagnitudeTable]:
        """Tables over all tensors of some models.

        Args:
            models: names; ``wanted`` are places in them.
            of_tensor: one tensor's tables of these models.
        """
        with self._lock:
            if any(models[i] not in self._tables for i in wanted):
                counts, entries = np.zeros((len(wanted), CODES), np.int64), 0
                for name in self._names:
                    found = of_tensor(name)
                    for own, i in zip(counts, wanted, strict=True):
                        found[i].add_to(own)
                    entries += found[wanted[0]].count
                for own, i in zip(counts, wanted, strict=True):
                    self._tables[models[i]] = MagnitudeTable.of(own, entries)
            return {i: self._tables[models[i]] for i in wanted}

    def survey(
        self,
        method: Surveying,
        plan: MergePlan,
        used: tuple[int, ...],
        inputs_of: Callable[[str, MergePlan], Inputs],
        tensor: str | None,
    ) -> Any:
        """What the method found with these models; surveyed once while the set of them is the same.

        Args:
            tensor: the only one that is surveyed; by one thread at a time. None for all.
        """
        names = self._names if tensor is None else (tensor,)

        def chunks() -> Iterator[Stretch]:
            scratch = Scratch()
            for name in names:
                yield from stretches(inputs_of(name, plan), used, scratch)

        key = (plan.method, plan.models, tensor)
        with self._lock if tensor is None else nullcontext():
            known, found = self._surveys.get(key, (None, None))
            if known != used:
                found = method.survey(chunks, used)
                self._surveys[key] = used, found
            return found
