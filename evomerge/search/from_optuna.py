"""Optuna's samplers, on an in-memory Optuna study rebuilt from the log.

Each ask makes a new Optuna sampler whose seed depends on the study's seed and the trial's number,
so nothing that decides the next point lives outside the log. What such a sampler keeps in the
Optuna study for itself (NSGA-II its generations and parents) is returned as the proposal's note
and put back from there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evomerge.errors import PluginError, UsageError
from evomerge.interfaces import Asked, Log, Observation, Proposal, SearchProblem
from evomerge.randomness import derived_seed, generator
from evomerge.search.options import known_options
from evomerge.search.quasirandom import folded
from evomerge.search.quiet import quiet

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from evomerge.search.replica import Replica

Settings = Mapping[str, Any]
Build = Callable[[int, Settings], "BaseSampler"]

# The study decides the seed, the goals the limits; the others are objects, which YAML has not.
_NOT_OPTIONS = (
    "seed",
    "constraints_func",
    "independent_sampler",
    "elite_population_selection_strategy",
    "child_generation_strategy",
    "after_trial_strategy",
    "crossover",
    "mutation",
    "gamma",
    "weights",
)
_POPULATION = (8, 40)
_JITTER = 0.05  # standard deviation in the unit cube


@dataclass
class OptunaSampler:
    """Any Optuna sampler behind our protocol.

    Attributes:
        build: makes Optuna's sampler from a seed and the settings.
        settings: what the budget decided when the first point was asked for. Later asks take it
            from that point's note, so that a longer budget does not change a study's sampler.
    """

    name: str
    problem: SearchProblem
    build: Build
    settings: Settings = field(default_factory=dict)
    _replica: Replica | None = field(default=None, init=False, repr=False)
    _settings: Settings = field(default_factory=dict, init=False, repr=False)

    def ask(self, log: Log, number: int) -> Proposal:
        """The proposal for trial `number`; see `evomerge.interfaces.Sampler`.

        Raises:
            PluginError: if Optuna's sampler fails.
        """
        replica, self._replica = self._replica, None  # kept only if all goes well
        with quiet("optuna"):
            try:
                if replica is None or not replica.follow(log, number):
                    replica = self._rebuilt(log)
                proposal = replica.propose(number)
            except Exception as error:
                raise PluginError(f"the sampler {self.name} of Optuna failed: {error}") from error
        self._replica = replica
        point = proposal.point
        if replica.has(point):  # a clone, which measures nothing new
            steps = generator(self.problem.seed, "jitter", number).normal(size=point.shape)
            point = folded(point + _JITTER * steps)
        settings = {"settings": dict(self._settings)} if self._settings else {}
        return Proposal(point, {**proposal.note, **settings})

    def _rebuilt(self, log: Log) -> Replica:
        from evomerge.search.replica import Replica

        events = list(log.events())
        first = next((e for e in events if isinstance(e, Asked) and e.own), None)
        settings = self.settings if first is None else first.note.get("settings", {})
        self._settings = settings
        replica = Replica(
            dimensions=len(self.problem.space),
            goals=self.problem.goals,
            constrained=any(isinstance(e, Observation) and bool(e.violation) for e in events),
            sampler_for=lambda number: self.build(self._seed(number), settings),
        )
        replica.feed(events)
        return replica

    def _seed(self, number: int) -> int:
        return derived_seed(self.problem.seed, "ask", number, bits=32)


def nsga2(problem: SearchProblem, options: Mapping[str, Any]) -> OptunaSampler:
    """The sampler ``nsga2``: Deb et al. (2002), IEEE TEC 6(2).

    Args:
        options: ``population_size`` (from 2; by default a sixth of the trials, 8 to 40),
            ``crossover_prob``, ``swapping_prob`` and ``mutation_prob`` as Optuna has them.
    """
    return _genetic("nsga2", "NSGAIISampler", problem, options)


def nsga3(problem: SearchProblem, options: Mapping[str, Any]) -> OptunaSampler:
    """The sampler ``nsga3``: Deb and Jain (2014), IEEE TEC 18(4); options as ``nsga2``."""
    return _genetic("nsga3", "NSGAIIISampler", problem, options)


def tpe(problem: SearchProblem, options: Mapping[str, Any]) -> OptunaSampler:
    """The sampler ``tpe``: Watanabe (2023), arXiv:2304.11127, multivariate.

    Args:
        options: ``n_startup_trials``, ``n_ei_candidates``, ``multivariate``, ``constant_liar``.
    """
    known_options(
        "tpe", options, ("n_startup_trials", "n_ei_candidates", "multivariate", "constant_liar")
    )
    return _sampler("tpe", "TPESampler", problem, {"multivariate": True, **options}, {})


def make(name: str, problem: SearchProblem, options: Mapping[str, Any]) -> OptunaSampler:
    """The sampler ``optuna:NAME``, with Optuna's own defaults.

    Args:
        name: of a class in ``optuna.samplers`` that `evomerge.search.registry.check_name` accepts.
        options: of its constructor, those that are plain values.
    """
    known = inspect.signature(_optuna_class(name)).parameters
    known_options(f"optuna:{name}", options, tuple(set(known) - set(_NOT_OPTIONS)))
    return _sampler(f"optuna:{name}", name, problem, options, {})


def _genetic(
    name: str, class_name: str, problem: SearchProblem, options: Mapping[str, Any]
) -> OptunaSampler:
    known = ("population_size", "crossover_prob", "swapping_prob", "mutation_prob")
    known_options(name, options, known)
    low, high = _POPULATION
    size = high if problem.trials is None else min(max(problem.trials // 6, low), high)
    return _sampler(name, class_name, problem, options, {"population_size": size}, _mutation)


def _mutation() -> Mapping[str, Any]:
    from optuna.samplers.nsgaii import PolynomialMutation

    # Optuna's default draws a mutated value from the stream that decided on the crossover, with
    # the same seed: values above crossover_prob would hardly be reached.
    return {"mutation": PolynomialMutation()}


def _sampler(
    name: str,
    class_name: str,
    problem: SearchProblem,
    options: Mapping[str, Any],
    settings: Settings,
    objects: Callable[[], Mapping[str, Any]] = dict,
) -> OptunaSampler:
    cls = _optuna_class(class_name)

    def build(seed: int, settings: Settings) -> BaseSampler:
        sampler: BaseSampler = cls(**{**settings, **options, **objects()}, seed=seed)
        return sampler

    with quiet("optuna"):
        try:
            build(0, settings)
        except (TypeError, ValueError) as error:
            raise UsageError(f"the sampler {name} refuses its options: {error}") from error
        except ImportError as error:
            raise PluginError(f"the sampler {name} cannot be loaded: {error}") from error
    return OptunaSampler(name, problem, build, settings)


def _optuna_class(name: str) -> Any:
    import optuna

    return getattr(optuna.samplers, name)
