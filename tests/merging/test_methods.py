"""Each method against numbers worked by hand, and its fields against its arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import UsageError
from evomerge.merging.merger import Merger
from evomerge.merging.method import MergeMethod, Settings, check_settings
from evomerge.merging.registry import METHODS, method_named

METHOD_NAMES = list(METHODS.own)


def merge(
    store: Callable[..., Checkpoint], method: str, settings: Settings, *models: list[float]
) -> list[float]:
    """Models over a base of 1, 2, 4, ... so that a wrong base shows."""
    base = [2.0**i for i in range(len(models[0]))]
    stored = {f"m{i}": store({"t": torch.tensor(model)}) for i, model in enumerate(models)}
    merger = Merger(store({"t": torch.tensor(base)}), stored)
    found: list[float] = merger.tensor("t", settings, method).tolist()
    return found


def test_sparse_signed(store: Callable[..., Checkpoint]) -> None:
    """Vectors (3, -1) and (0.5, 4): half of each is kept, the second is subtracted twice."""
    settings = {"weight": (1.0, -2.0), "density": (0.5, 0.5)}
    assert merge(store, "sparse_signed", settings, [4.0, 1.0], [1.5, 6.0]) == [4.0, -6.0]


def test_weighted_sum(store: Callable[..., Checkpoint]) -> None:
    """Of the models themselves, the base (1, 2) left out: 2 * (4, 1) - (1.5, 6); nothing is 0."""
    settings = {"weight": (2.0, -1.0)}
    assert merge(store, "weighted_sum", settings, [4.0, 1.0], [1.5, 6.0]) == [6.5, -4.0]
    assert merge(store, "weighted_sum", {"weight": (0.0,)}, [4.0, 1.0]) == [0.0, 0.0]


def test_ties_sum(store: Callable[..., Checkpoint]) -> None:
    """Vectors (3, -1) and (0.5, 4): + is elected twice; 3 + 2 * 0.5 = 4, 2 * 4 = 8, halved."""
    settings = {"weight": (1.0, 2.0), "density": (1.0, 1.0), "scaling": 0.5}
    assert merge(store, "ties_sum", settings, [4.0, 1.0], [1.5, 6.0]) == [3.0, 6.0]


def test_task_arithmetic(store: Callable[..., Checkpoint]) -> None:
    """Vectors (3, -1) and (0.5, 4): 0.5 * (1 * 3 + 2 * 0.5) = 2, 0.5 * (-1 + 8) = 3.5."""
    settings = {"weight": (1.0, 2.0), "scaling": 0.5}
    assert merge(store, "task_arithmetic", settings, [4.0, 1.0], [1.5, 6.0]) == [3.0, 5.5]


def test_linear_is_the_weighted_average_of_the_models_without_the_base(
    store: Callable[..., Checkpoint],
) -> None:
    assert merge(store, "linear", {"weight": (1.0, 1.0)}, [4.0, 1.0], [1.5, 6.0]) == [2.75, 3.5]
    assert merge(store, "linear", {"weight": (1.0, 3.0)}, [4.0, 1.0], [2.0, 5.0]) == [2.5, 4.0]


def test_ties_elects_by_mass_and_averages_those_that_agree(
    store: Callable[..., Checkpoint],
) -> None:
    """Entry by entry: vectors (3, 1, -2) elect + and give their mean 2; (1, -4, -2) elect -, mean
    -3; (1, -1, 0) cancel, nothing; (0, 0, 5) only the third counts, 5."""
    settings = {"weight": (1.0, 1.0, 1.0), "density": (1.0, 1.0, 1.0), "scaling": 1.0}
    models = [4.0, 3.0, 5.0, 8.0], [2.0, -2.0, 3.0, 8.0], [-1.0, 0.0, 4.0, 13.0]
    assert merge(store, "ties", settings, *models) == [3.0, -1.0, 4.0, 13.0]
    assert merge(store, "ties", settings | {"scaling": 2.0}, *models) == [5.0, -4.0, 4.0, 18.0]


def test_ties_divides_by_absolute_weights(store: Callable[..., Checkpoint]) -> None:
    """Vectors 3 and -6 with weights 1 and -0.5 both say +3; the mean over 1.5 is 4, not 12."""
    settings = {"weight": (1.0, -0.5), "density": (1.0, 1.0), "scaling": 1.0}
    assert merge(store, "ties", settings, [4.0], [-5.0]) == [5.0]


def test_ties_trims_first(store: Callable[..., Checkpoint]) -> None:
    """Of (8, 1, 0, 0) a quarter is kept: 8. Of (-2, -4, 1, 2) half: -4, and half of each 2."""
    settings = {"weight": (1.0, 1.0), "density": (0.25, 0.5), "scaling": 1.0}
    models = [9.0, 3.0, 4.0, 8.0], [-1.0, -2.0, 5.0, 10.0]
    assert merge(store, "ties", settings, *models) == [9.0, -2.0, 4.0, 9.0]


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_fields_have_defaults_inside_their_ranges_and_ranges_inside_their_limits(name: str) -> None:
    method: MergeMethod = METHODS.load(name)
    assert method.name == name
    for field in method.fields:
        assert field.limits[0] <= field.low <= field.default <= field.high <= field.limits[1]


@pytest.mark.parametrize("name", METHOD_NAMES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_make_no_sense_are_refused(name: str, bad: float) -> None:
    method = method_named(name)
    good = defaults(method, 2)
    check_settings(method, good, 2)
    for field in method.fields:
        value = bad if field.per == "group" else (1.0, bad)
        with pytest.raises(UsageError, match=f"{field.name} is"):
            check_settings(method, {**good, field.name: value}, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": (1.0,)}, "takes density, weight; weight was given"),
        ({"weight": (1.0,), "density": (1.0,), "gamma": 1.0}, "density, gamma, weight was given"),
        ({}, "nothing was given"),
        ({"weight": (1.0,), "density": 0.5}, "one number per model"),
        ({"weight": (1.0, 2.0), "density": (1.0,)}, "weight has 2 numbers for 1 models"),
        ({"weight": (1.0,), "density": (1.5,)}, r"density is 1.5; allowed is \[0.0, 1.0\]"),
        ({"weight": (1.0,), "density": (-0.1,)}, "density is -0.1"),
    ],
)
def test_settings_are_checked_against_the_fields(settings: Settings, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_settings(method_named("sparse_signed"), settings, 1)


def test_a_number_per_model_is_refused_where_one_is_needed() -> None:
    with pytest.raises(UsageError, match="one number is needed"):
        check_settings(method_named("task_arithmetic"), {"weight": (1.0,), "scaling": (1.0,)}, 1)


def test_linear_refuses_negative_weights_which_could_cancel() -> None:
    with pytest.raises(UsageError, match="weight is -1"):
        check_settings(method_named("linear"), {"weight": (2.0, -1.0)}, 2)


def defaults(method: MergeMethod, models: int) -> Settings:
    return {
        field.name: field.default if field.per == "group" else (field.default,) * models
        for field in method.fields
    }
