"""What a study's endpoints have cost: the workers' file, and the study's own record of it.

Workers count each request in the file of endpoints before they send it
(`evomerge.objectives.endpoint.store`), for they may be killed at any instant; only the
coordinator writes the study's database. So sums by attempt are copied from the one to the other
after every attempt, and at the start of a run in both directions: the larger sum is the true one,
whichever of the two files was lost or restored.
"""

from __future__ import annotations

from evomerge.objectives.endpoint.store import Charge
from evomerge.study.folder import ENDPOINTS, SCRATCH, SELF_TEST
from evomerge.study.study import Study
from evomerge.study.workers.evaluator import endpoints_of, limits_of, measures_of, open_store
from evomerge.study.workers.messages import NOBODY, Job

PROBED = 4
"""Items of each objective that a self-test asks."""


def probe_job(study: Study) -> Job:
    """The job in which a worker tests the endpoints; see `evomerge.study.workers.probes`."""
    base = study.recipe.references()[0]
    folder = study.folder.resolve()
    asked = {goal.metric: study.items(goal.metric, "search") for goal in study.goals}
    return Job(
        attempt=NOBODY,
        token=SELF_TEST,
        trial=-1,
        folder=folder / SELF_TEST,
        scratch=folder / SCRATCH,
        method=base.method,
        parameters=base.parameters,
        splits={"search": {metric: items and items[:PROBED] for metric, items in asked.items()}},
        probe=True,
    )


class Costs:
    """The coordinator's side of the endpoints' file; opens it only if the campaign has endpoints.

    Attributes:
        tested: whether the servers are to be tested before the first evaluation.
    """

    def __init__(self, study: Study) -> None:
        """Both records brought to the larger sums."""
        endpoints = endpoints_of(measures_of(study.campaign))
        self.tested = any(e.client.options.self_test != "off" for e in endpoints.values())
        self._study = study
        self._limits = limits_of(study.campaign)
        self._known = study.costs()
        fusion = study.campaign.logit_fusion
        asks = bool(endpoints) or (fusion is not None and fusion.server is not None)
        self._store = open_store(study.folder.resolve() / ENDPOINTS) if asks else None
        if self._store is not None:
            for attempt, charge in self._known.items():
                self._store.carry(attempt, charge)
            self.settle()

    @property
    def spent(self) -> Charge:
        """All of it, as last settled."""
        return sum(self._known.values(), Charge())

    def settle(self) -> bool:
        """Copy what has changed into the study's database; whether anything had."""
        if self._store is None:
            return False
        found = self._store.spent_by_owner()
        changed = {key: charge for key, charge in found.items() if self._known.get(key) != charge}
        if changed:
            self._study.settle_costs(changed)
            self._known |= changed
        return bool(changed)

    def exhausted(self) -> str | None:
        """The budget that is used up, in words; None while a request can still be sent."""
        if self._store is None:
            return None
        limit = self._limits.exceeded(self.spent + Charge(requests=1))
        return None if limit is None else f"{limit} is used up"

    def close(self) -> None:
        """Settle, and let go of the file."""
        if self._store is not None:
            self.settle()
            self._store.close()
