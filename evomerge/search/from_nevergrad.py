"""Optimizers of nevergrad, for one goal, rebuilt by replaying the log.

nevergrad's optimizers hold their state in objects, so a fresh one is asked and told again whatever
the log says it was; those in `evomerge.search.registry.NEVERGRAD` then stand where they stood, bit
for bit. Where the replay proposes another point than the log holds (under another version of
nevergrad, say), a new optimizer starts from the data, and its first proposal's note says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.errors import PluginError, UsageError
from evomerge.interfaces import Asked, Log, Observation, Proposal, SearchProblem
from evomerge.search.follower import Follower
from evomerge.search.options import known_options, positive, whole
from evomerge.search.quasirandom import sobol_point
from evomerge.search.quiet import quiet
from evomerge.search.watchdog import StuckError, within

_logger = logging.getLogger("evomerge")

_PATIENCE = 60.0  # seconds for an ask, which takes milliseconds
_REPLAY_PATIENCE = 0.2  # seconds more for each event replayed
_STUCK_LIMIT = 2  # asks without an answer, after which nevergrad is not asked again


class _GivenUpError(Exception):
    """nevergrad did not answer twice, and is not asked again."""


@dataclass
class NevergradSampler:
    """One of nevergrad's optimizers behind our protocol.

    Where nevergrad does not answer within a minute, the trial gets a Sobol point, and the note
    says so; after the second time all do.

    Attributes:
        follower: makes what follows a log with a nevergrad optimizer.
        patience: seconds for one ask.
    """

    name: str
    problem: SearchProblem
    follower: Callable[[], Follower]
    patience: float = _PATIENCE
    _follower: Follower | None = field(default=None, init=False, repr=False)

    def ask(self, log: Log, number: int) -> Proposal:
        """The proposal for trial `number`; see `evomerge.interfaces.Sampler`.

        Raises:
            PluginError: if nevergrad fails.
        """
        follower, self._follower = self._follower, None  # kept only if all goes well
        try:
            with quiet("nevergrad"):
                proposal = None if follower is None else self._asked(follower, log, number)
                if follower is None or proposal is None:
                    follower = self.follower()
                    proposal = self._asked(follower, log, number)
        except _GivenUpError:
            proposal = None
        except StuckError as error:
            _logger.warning("trial %d: nevergrad's %s: %s", number, self.name, error)
            proposal = None
        except Exception as error:
            raise PluginError(f"the sampler {self.name} of nevergrad failed: {error}") from error
        if proposal is None:
            seed, dimensions = self.problem.seed, len(self.problem.space)
            return Proposal(sobol_point(seed, dimensions, number), {"stuck": True})
        self._follower = follower
        return proposal

    def _asked(self, follower: Follower, log: Log, number: int) -> Proposal | None:
        if len(log) < follower.read:
            return None
        events = list(log.events(follower.read))  # here: a log may belong to this thread
        if follower.stuck + _stuck(events) >= _STUCK_LIMIT:
            raise _GivenUpError
        patience = self.patience + _REPLAY_PATIENCE * len(events)
        return within(patience, lambda: follower.ask(events, number))


def cma(problem: SearchProblem, options: Mapping[str, Any]) -> NevergradSampler:
    """The sampler ``cma``: CMA-ES (Hansen (2023), arXiv:1604.00772) as nevergrad wraps pycma.

    It starts at the best point measured so far, once the base, the parents and the warm starts
    have ended; until then it proposes steps around their mean.

    Args:
        options: ``sigma``, the first step size in the unit cube (0.1), and ``population_size``
            (4 + 3 ln d).
    """
    known_options("cma", options, ("sigma", "population_size"))
    size = whole("cma", options, "population_size", low=2)
    sigma = positive("cma", options, "sigma", 0.1)

    def optimizer(parametrization: Any) -> Any:
        from nevergrad.optimization.optimizerlib import ParametrizedCMA

        return ParametrizedCMA(popsize=size)(parametrization)

    return _sampler("cma", problem, optimizer, sigma=sigma, local=True)


def make(name: str, problem: SearchProblem, options: Mapping[str, Any]) -> NevergradSampler:
    """The sampler ``nevergrad:NAME``.

    Args:
        name: one of `evomerge.search.registry.NEVERGRAD`.
        options: ``sigma``, the size of mutations in the unit cube (1/6), and ``num_workers``, how
            many evaluations nevergrad counts on at once (1).
    """
    known_options(f"nevergrad:{name}", options, ("sigma", "num_workers"))
    sigma = positive(name, options, "sigma", 1 / 6)
    workers = whole(name, options, "num_workers", low=1) or 1

    def optimizer(parametrization: Any) -> Any:
        import nevergrad

        return nevergrad.optimizers.registry[name](parametrization, num_workers=workers)

    return _sampler(f"nevergrad:{name}", problem, optimizer, sigma=sigma, local=name == "CMA")


def _sampler(
    name: str,
    problem: SearchProblem,
    optimizer: Callable[[Any], Any],
    *,
    sigma: float,
    local: bool,
) -> NevergradSampler:
    if problem.goals > 1:
        raise UsageError(
            f"the sampler {name} is for one goal, the campaign has {problem.goals}; "
            "take nsga2, tpe or auto"
        )

    def follower() -> Follower:
        return Follower(
            dimensions=len(problem.space),
            optimizer=optimizer,
            seed=problem.seed,
            sigma=sigma,
            local=local,
        )

    return NevergradSampler(name, problem, follower)


def _stuck(events: list[Asked | Observation]) -> int:
    return sum(isinstance(e, Asked) and bool(e.note.get("stuck")) for e in events)
