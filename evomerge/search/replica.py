"""An in-memory Optuna study that follows a log: what Optuna's samplers look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.trial import TrialState, create_trial

from evomerge.interfaces import Asked, Log, Observation, Proposal
from evomerge.space import Array

# A running trial's own point, which Optuna repeats here; the log has it already.
_REPEATED = ("tpe:relative_params", "gp:relative_params")


@dataclass(frozen=True)
class _Guess:
    """A proposal that is in the Optuna study, but that the log has not shown yet."""

    number: int
    proposal: Proposal

    def is_event(self, event: Asked) -> bool:
        same = np.array_equal(event.point, self.proposal.point)
        return event.own and event.number == self.number and same


class Replica:
    """Follows one log, reading each event once.

    Args:
        dimensions: of a point.
        goals: how many losses.
        constrained: whether violations are passed on. Optuna's samplers work otherwise once
            they see limits, so they hear of them only where one was missed.
        sampler_for: the sampler that proposes for a trial number, newly made.
    """

    def __init__(
        self,
        *,
        dimensions: int,
        goals: int,
        constrained: bool,
        sampler_for: Callable[[int], BaseSampler],
    ) -> None:
        # One object for all coordinates: Optuna copies it with every trial that it is given.
        unit: BaseDistribution = FloatDistribution(0, 1)
        self._distributions = dict.fromkeys((f"x{i:05}" for i in range(dimensions)), unit)
        self._constrained = constrained
        self._sampler_for = sampler_for
        sampler = sampler_for(0)
        # Genetic samplers overlook trials without a generation: others' points join the first.
        self._foreign: dict[str, Any] = {}
        if isinstance(sampler, BaseGASampler):
            self._foreign[sampler._get_generation_key()] = 0
        self._storage = optuna.storages.InMemoryStorage()
        self._study = optuna.create_study(
            study_name="log", storage=self._storage, directions=["minimize"] * goals
        )
        self._study_id = self._storage.get_study_id_from_name("log")
        self._trial_ids: dict[int, int] = {}
        self._read = 0
        self._guess: _Guess | None = None
        self._asked_points: set[bytes] = set()

    def follow(self, log: Log, number: int) -> bool:
        """Reads what is new; False where this replica cannot answer for it and must be rebuilt."""
        if len(log) < self._read or not self.feed(log.events(self._read)):
            return False
        return self._guess is None or self._guess.number == number

    def feed(self, events: Iterable[Asked | Observation]) -> bool:
        """Takes events in; False where they contradict what was guessed or left out before."""
        for event in events:
            taken = self._asked(event) if isinstance(event, Asked) else self._ended(event)
            if not taken:
                return False
            self._read += 1
        return True

    def propose(self, number: int) -> Proposal:
        """The sampler's point for that trial, and what it keeps in the study as the note."""
        if self._guess is None:
            self._guess = _Guess(number, self._sample(number))
        return self._guess.proposal

    def has(self, point: Array) -> bool:
        """Whether the log holds an ask for exactly this point."""
        return point.tobytes() in self._asked_points

    def _asked(self, event: Asked) -> bool:
        self._asked_points.add(event.point.tobytes())
        guess, self._guess = self._guess, None
        if guess is not None:
            return guess.is_event(event)
        template = create_trial(
            state=TrialState.RUNNING,
            params=dict(zip(self._distributions, event.point.tolist(), strict=True)),
            distributions=self._distributions,
            system_attrs=dict(event.note.get("trial", {})) if event.own else self._foreign,
        )
        self._trial_ids[event.number] = self._storage.create_new_trial(self._study_id, template)
        for key, value in event.note.get("study", {}).items():
            self._storage.set_study_system_attr(self._study_id, key, value)
        return True

    def _ended(self, event: Observation) -> bool:
        trial_id = self._trial_ids[event.number]
        if event.losses is None or not np.isfinite(event.losses).all():
            return self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        if event.violation and not self._constrained:
            return False
        if self._constrained:
            self._storage.set_trial_system_attr(
                trial_id, "constraints:limits", float(event.violation or 0.0)
            )
        values = event.losses.tolist()
        return self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, values)

    def _sample(self, number: int) -> Proposal:
        self._study.sampler = self._sampler_for(number)
        before = self._storage.get_study_system_attrs(self._study_id)
        trial = self._study.ask(self._distributions)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(
            self._study_id, trial.number
        )
        self._trial_ids[number] = trial_id
        point = np.array([trial.params[name] for name in self._distributions], dtype=float)
        after = self._storage.get_study_system_attrs(self._study_id)
        note = {
            "trial": _without_point(self._storage.get_trial_system_attrs(trial_id)),
            "study": {k: v for k, v in after.items() if k not in before or before[k] != v},
        }
        return Proposal(point, {key: value for key, value in note.items() if value})


def _without_point(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in attributes.items() if not k.startswith(_REPEATED)}
