"""Names of samplers, and what asking for them wrongly says."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from evomerge.errors import PluginError, UsageError
from evomerge.interfaces import SearchProblem
from evomerge.search.registry import SAMPLERS, check_name, make_sampler, prefixed_names
from evomerge.space import Parameter, Space

ONE = Space((Parameter("x/all/weight", 0.0, 1.0), Parameter("y/all/weight", 0.0, 1.0)))


@pytest.mark.parametrize("name", [*SAMPLERS.own, *prefixed_names()])
def test_every_listed_name_is_accepted_and_made(name: str) -> None:
    check_name(name)
    goals = 2 if name == "nested_map" else 1  # a model for each
    assert make_sampler(name, SearchProblem(ONE, goals, 30, 0), {}).name == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sobl", "did you mean 'sobol'?"),
        ("nsga-2", "did you mean 'nsga2'?"),
        ("TPESampler", "did you mean 'optuna:TPESampler'?"),
        ("optuna:TPESampelr", "did you mean 'optuna:TPESampler'?"),
        ("optuna:tpe", "known: optuna:GPSampler"),
        ("nevergrad:TwoPointDE", "did you mean 'nevergrad:TwoPointsDE'?"),
        ("nevergrad:NGOpt", "threads that never end"),
        ("nevergrad:NGOpt39", "take nevergrad:CMA or auto"),
        ("optuna:GridSampler", "finite number of values"),
        ("optuna:CmaEsSampler", "take 'cma'"),
        ("optuna:PartialFixedSampler", "pin parameters in the campaign file"),
        ("optuna:", "no sampler 'optuna:'"),
        ("optun:TPESampler", "no library 'optun'; did you mean 'optuna'?"),
        ("", "no sampler ''"),
    ],
)
def test_other_names_are_refused_with_advice(name: str, says: str) -> None:
    with pytest.raises(PluginError, match=None) as caught:
        check_name(name)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "goals", "options", "says"),
    [
        ("cma", 2, {}, "take nsga2, tpe or auto"),
        ("nevergrad:PSO", 3, {}, "is for one goal, the campaign has 3"),
        ("auto", 1, {"sigma": 0.1}, "'auto' takes no options, got: sigma"),
        ("sobol", 1, {"scramble": True}, "'sobol' takes no options"),
        ("cma", 1, {"sigam": 0.1}, "did you mean 'sigma'?"),
        ("cma", 1, {"sigma": 0}, "sigma of the sampler cma is 0; it lies in (0, 1]"),
        ("cma", 1, {"sigma": float("nan")}, "it lies in (0, 1]"),
        ("cma", 1, {"sigma": "big"}, "it lies in (0, 1]"),
        ("cma", 1, {"population_size": True}, "it is a whole number from 2"),
        ("cma", 1, {"population_size": 1}, "it is a whole number from 2"),
        ("nsga2", 2, {"population": 20}, "did you mean 'population_size'?"),
        ("nsga2", 2, {"population_size": 1}, "refuses its options"),
        ("tpe", 2, {"seed": 3}, "no option of the sampler tpe 'seed'"),
        ("optuna:TPESampler", 2, {"seed": 3}, "no option of the sampler optuna:TPESampler 'seed'"),
        ("optuna:QMCSampler", 2, {"qmc_type": "latin"}, "refuses its options"),
    ],
)
def test_wrong_problems_and_options_are_refused(
    name: str, goals: int, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        make_sampler(name, SearchProblem(ONE, goals, 30, 0), options)
    assert says in str(caught.value)


def test_a_space_without_parameters_leaves_nothing_to_search() -> None:
    with pytest.raises(UsageError, match="every parameter is fixed or tied"):
        make_sampler("sobol", SearchProblem(Space(()), 1, 30, 0), {})


def test_checking_a_name_imports_no_library() -> None:
    """A campaign file is checked fast; `evomerge status` reads one."""
    program = (
        "import sys; from evomerge.search.registry import check_name\n"
        "for name in ('auto', 'optuna:TPESampler', 'nevergrad:CMA'): check_name(name)\n"
        "print(sorted({'torch', 'optuna', 'nevergrad', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
