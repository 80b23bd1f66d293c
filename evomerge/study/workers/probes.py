"""Whether a server mixes what it is told to, and is still the one that it was.

The worst that an endpoint does is silent: a stale cache, an ignored scale, an adapter of another
order give wrong scores and no error. So before the first evaluation of a run the base, a mix and
the base again are asked the same questions, past all that was kept: the third answers must equal
the first, and the second must not. What the base said is the anchor; it is compared with that of
earlier runs, and looked at again every so many evaluations.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from evomerge.objectives.endpoint.failures import EndpointDownError
from evomerge.objectives.endpoint.objective import (
    EndpointObjective,
    disagreement,
    is_coarse,
)
from evomerge.objectives.endpoint.query import Desk
from evomerge.recipe.recipe import Reference
from evomerge.study.workers.messages import NOBODY, Items, Job
from evomerge.study.workers.subjects import Subjects

LOGGER = logging.getLogger("evomerge")

_IGNORED = (
    "the base and a mix of all models get the same answers: the server ignores the coefficients "
    "(unknown names or ids, scales that are not applied), or answers from a cache that does not "
    "know them"
)
_STALE = (
    "after a mix, the base gets the mix's answers: a stale cache; switch the server's prompt or "
    "prefix cache off, or have it cleared at each change"
)
_UNSTEADY = (
    "the same question to the same candidate gets different answers ({}): the server samples, "
    "its arithmetic depends on the load, or somebody else changes its state; ask for temperature "
    "0, or set `tolerance`"
)
_DRIFTED = (
    "the base is answered otherwise than before ({}): another model, build or state stands behind "
    "the URL, and what is measured now does not compare with what was"
)


@dataclass
class Probes:
    """The endpoints of one worker, and the desk that they share.

    Attributes:
        endpoints: metric to objective.
        subjects: makes what they are given.
        desk: all of them pay from it.
    """

    endpoints: Mapping[str, EndpointObjective]
    subjects: Subjects
    desk: Desk
    _items: dict[str, Items] = field(default_factory=dict)
    _since: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for endpoint in self.endpoints.values():
            endpoint.client.desk = self.desk
        if self.subjects.client is not None:
            self.subjects.client.desk = self.desk

    def charge_to(self, attempt: int) -> None:
        """Who pays from now on."""
        self.desk.owner = attempt

    def self_test(self, job: Job) -> None:
        """See the module's docstring.

        Args:
            job: its items are what is asked.

        Raises:
            EndpointDownError: with the server's likely fault.
        """
        items = job.splits["search"]
        base, mix = self._base, self._mix
        with self._past_all_that_was_kept():
            first, second, third = (self._observed(job, one, items) for one in (base, mix, base))
        for metric, endpoint in self._tested():
            before, mixed, after = first[metric], second[metric], third[metric]
            tolerance = endpoint.client.options.tolerance
            same = disagreement(before, mixed, tolerance) is None
            if same and not is_coarse(before):
                self._fail(metric, endpoint, _IGNORED)
            elif (difference := disagreement(before, after, tolerance)) is not None:
                stale = not same and disagreement(mixed, after, tolerance) is None
                self._fail(metric, endpoint, _STALE if stale else _UNSTEADY.format(difference))
            self._compare(metric, endpoint, before, items[metric])

    def check_drift(self, job: Job) -> None:
        """Look at the anchors again, of the endpoints whose time has come.

        Raises:
            EndpointDownError: if one is not what it was.
        """
        due: dict[str, Items] = {}
        for metric, endpoint in self._tested():
            self._since[metric] = self._since.get(metric, 0) + 1
            anchor = self.desk.store and self.desk.store.anchor(metric)
            if self._since[metric] > endpoint.client.options.check_every and anchor:
                due[metric] = None if anchor["items"] is None else tuple(anchor["items"])
        if not due:
            return
        with self._past_all_that_was_kept():
            seen = self._observed(job, self._base, due)
        for metric, items in due.items():
            self._since[metric] = 0
            self._compare(metric, self.endpoints[metric], seen[metric], items)

    @property
    def _base(self) -> Reference:
        return self.subjects.references()[0]

    @property
    def _mix(self) -> Reference:
        """All models at equal weights."""
        return next(one for one in self.subjects.references() if one.origin == "uniform")

    def _tested(self) -> Iterator[tuple[str, EndpointObjective]]:
        for metric, endpoint in self.endpoints.items():
            if endpoint.client.options.self_test != "off":
                yield metric, endpoint

    @contextmanager
    def _past_all_that_was_kept(self) -> Iterator[None]:
        owner, self.desk.owner, self.desk.fresh = self.desk.owner, NOBODY, True
        try:
            yield
        finally:
            self.desk.owner, self.desk.fresh = owner, False

    def _observed(
        self, job: Job, reference: Reference, items: Mapping[str, Items]
    ) -> dict[str, list[Any]]:
        """What each server says of a candidate, on these metrics' items."""
        asked = replace(job, method=reference.method, parameters=reference.parameters)
        with self.subjects.of(asked) as subject:
            return {
                metric: endpoint.observe(subject[endpoint.needs], items[metric])
                for metric, endpoint in self._tested()
                if metric in items
            }

    def _compare(
        self, metric: str, endpoint: EndpointObjective, seen: list[Any], items: Items
    ) -> None:
        """With the anchor, where the same was asked; else this becomes the anchor."""
        store = self.desk.store
        if store is None:
            return
        asked = None if items is None else list(items)
        anchor = store.anchor(metric)
        if anchor is not None and anchor["items"] == asked:
            tolerance = endpoint.client.options.tolerance
            difference = disagreement(anchor["seen"], seen, tolerance)
            if difference is not None:
                self._fail(metric, endpoint, _DRIFTED.format(difference))
            return
        store.keep_anchor(metric, {"items": asked, "seen": seen})

    def _fail(self, metric: str, endpoint: EndpointObjective, fault: str) -> None:
        options = endpoint.client.options
        if options.self_test == "warn":
            LOGGER.warning("%s at %s: %s", metric, options.url, fault)
            return
        raise EndpointDownError(
            f"the self-test of {metric} failed: {fault}",
            place=options.url,
            kept="everything told is kept, and nothing was measured with this server since",
        )
