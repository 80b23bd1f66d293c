"""Samplers by name: our own table, plug-ins, and two prefixes that name a library's optimizers.

``optuna:TPESampler`` is any sampler of Optuna that can work in a continuous space;
``nevergrad:CMA`` is one of the optimizers of nevergrad that replay bit for bit. Nothing here
imports either library.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evomerge.errors import PluginError, UsageError
from evomerge.interfaces import Sampler, SamplerFactory, SearchProblem
from evomerge.registry import Registry, unknown

SAMPLERS = Registry(
    "sampler",
    {
        "auto": "evomerge.search.auto:make",
        "random": "evomerge.search.quasirandom:random",
        "sobol": "evomerge.search.quasirandom:sobol",
        "greedy_soup": "evomerge.search.soup:make",
        "kinship": "evomerge.search.kin:make",
        "bayesian": "evomerge.search.bayesian:make",
        "bayesian_map": "evomerge.search.quadratic_map:bayesian",
        "cma": "evomerge.search.from_nevergrad:cma",
        "evo_merging": "evomerge.search.evo_merging:make",
        "lorahub": "evomerge.search.coefficients:lorahub",
        "map": "evomerge.search.quadratic_map:make",
        "margin": "evomerge.search.margin:make",
        "margin_evolution": "evomerge.search.margin_evolution:make",
        "nested_map": "evomerge.search.nested_map:make",
        "nsga2": "evomerge.search.from_optuna:nsga2",
        "nsga3": "evomerge.search.from_optuna:nsga3",
        "pcb_es": "evomerge.search.coefficients:pcb_es",
        "tpe": "evomerge.search.from_optuna:tpe",
    },
)

# Those that replay bit for bit (measured); all the others are refused rather than half trusted.
NEVERGRAD = ("CMA", "DE", "OnePlusOne", "PSO", "TwoPointsDE")

_NOT_OPTUNA = {
    "BaseSampler": "it is only a base class",
    "BaseGASampler": "it is only a base class",
    "BruteForceSampler": "it needs parameters with a finite number of values",
    "CmaEsSampler": "it keeps its state as pickles in its trials; take 'cma'",
    "GridSampler": "it needs parameters with a finite number of values",
    "PartialFixedSampler": "pin parameters in the campaign file instead ('fixed: 0.3')",
}


def check_name(name: str) -> None:
    """Says whether `make_sampler` knows a name; imports neither Optuna nor nevergrad.

    Raises:
        PluginError: if it does not, with the nearest name or the reason of a refusal.
    """
    if name in SAMPLERS.own:  # without a look at what is installed, which takes its time
        return
    prefix, colon, rest = name.partition(":")
    if not colon:
        names = SAMPLERS.names()
        if name not in names:
            raise PluginError(unknown("sampler", name, [*names, *prefixed_names()]))
    elif prefix == "nevergrad":
        _check_nevergrad(rest)
    elif prefix == "optuna":
        _check_optuna(rest)
    else:
        raise PluginError(unknown("library", prefix, ["nevergrad", "optuna"]))


def make_sampler(name: str, problem: SearchProblem, options: Mapping[str, Any]) -> Sampler:
    """The sampler of that name, for one problem.

    Args:
        name: see `check_name`.
        options: of that sampler; each factory says which it takes.

    Raises:
        PluginError: if nothing has this name, or its library cannot be loaded.
        UsageError: if it cannot work on this problem, or an option is wrong.
    """
    check_name(name)
    if not len(problem.space):
        raise UsageError("nothing to search: every parameter is fixed or tied")
    return _factory(name)(problem, options)


def _factory(name: str) -> SamplerFactory:
    prefix, colon, rest = name.partition(":")
    if not colon:
        factory: SamplerFactory = SAMPLERS.load(name)
        return factory
    if prefix == "nevergrad":
        from evomerge.search.from_nevergrad import make as make_nevergrad

        return partial(make_nevergrad, rest)
    from evomerge.search.from_optuna import make as make_optuna

    return partial(make_optuna, rest)


def prefixed_names() -> tuple[str, ...]:
    """All names with a prefix that `check_name` accepts, for listings."""
    ours = [f"nevergrad:{name}" for name in NEVERGRAD]
    return (*ours, *(f"optuna:{name}" for name in _optuna_names()))


def _check_nevergrad(name: str) -> None:
    if name.startswith(("NGOpt", "NgIoh", "NGO")):
        raise PluginError(
            f"nevergrad:{name} is refused: that family fails with numpy 2.3 or newer, may start "
            "threads that never end and can stall on parallel asks; take nevergrad:CMA or auto"
        )
    if name not in NEVERGRAD:
        raise PluginError(unknown("sampler", f"nevergrad:{name}", _with("nevergrad", NEVERGRAD)))


def _check_optuna(name: str) -> None:
    if name in _NOT_OPTUNA:
        raise PluginError(f"optuna:{name} is refused: {_NOT_OPTUNA[name]}")
    known = _optuna_names()
    if name not in known:
        raise PluginError(unknown("sampler", f"optuna:{name}", _with("optuna", known)))


def _with(prefix: str, names: tuple[str, ...]) -> list[str]:
    return [f"{prefix}:{name}" for name in names]


def _optuna_names() -> tuple[str, ...]:
    """What ``optuna.samplers`` lists in ``__all__``, read without importing it (0.5 s saved)."""
    spec = find_spec("optuna")
    if spec is None or spec.origin is None:
        raise PluginError("optuna is not installed; pip install optuna")
    source = (Path(spec.origin).parent / "samplers" / "__init__.py").read_text(encoding="utf-8")
    listed = next(
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return tuple(
        sorted(name for name in listed if name.endswith("Sampler") and name not in _NOT_OPTUNA)
    )
