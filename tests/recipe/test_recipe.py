"""A recipe bound to a base: its space, its plans, its references."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.checkpoint.header import TensorEntry
from evomerge.errors import CampaignError, UsageError
from evomerge.merging.method import check_settings
from evomerge.merging.registry import METHODS, method_named
from evomerge.recipe.campaign import Campaign
from evomerge.recipe.recipe import BoundRecipe
from evomerge.space import Parameter

Q, UP, NORM = (f"layers.0.{part}.weight" for part in ("self_attn.q_proj", "mlp.up_proj", "norm"))
EMBED, HEAD, IDS = "embed_tokens.weight", "lm_head.weight", "position_ids"


def entries(*names: str) -> dict[str, TensorEntry]:
    """Tensors of a base model; the one of whole numbers takes no part."""
    return {
        name: TensorEntry(name, "I64" if name == IDS else "F32", (2,), Path("x"), 0, 8)
        for name in names
    }


def bound(merge: str = "", models: str = "{a: a, b: b}", more: str = "") -> BoundRecipe:
    text = (
        f"base: base\nmodels: {models}\nmerge: {{{merge}}}\nbudget: {{trials: 9}}\n"
        f"goals: [{{metric: m, objective: {{type: python, function: f.py:f}}}}]\n{more}"
    )
    return Campaign.parse(text, "c.yaml").recipe.bind(entries(EMBED, Q, UP, NORM, HEAD, IDS))


def weights(recipe: BoundRecipe, values: Mapping[str, float]) -> dict[str, object]:
    """The weights that a plan gives to each tensor."""
    tensors = recipe.plan(recipe.recipe.method, values).tensors
    return {name: settings["weight"] for name, settings in tensors.items()}


def test_the_space_has_a_number_for_each_model_group_and_field() -> None:
    recipe = bound("groups: {modules: [attention, mlp]}, density: [0.1, 1]", "{a: a}")
    assert recipe.space.parameters == (
        Parameter("a/all.attention/weight", -0.5, 1.5, "linear"),
        Parameter("a/all.attention/density", 0.1, 1.0, "log"),
        Parameter("a/all.mlp/weight", -0.5, 1.5, "linear"),
        Parameter("a/all.mlp/density", 0.1, 1.0, "log"),
    )


def test_numbers_that_belong_to_no_model_come_last() -> None:
    assert bound("method: task_arithmetic").space.names == (
        "a/all/weight",
        "b/all/weight",
        "all/scaling",
    )


def test_pins_take_numbers_out_of_the_space() -> None:
    models = "{a: {path: a, weight: {shared: true}}, b: {path: b, weight: {tie: a}, density: 0.5}}"
    recipe = bound("groups: {modules: [attention, mlp]}, density: 1", models)
    assert recipe.space.names == ("a/*/weight",)
    plan = recipe.plan("sparse_signed", {"a/*/weight": 0.25})
    assert plan.tensors[Q] == {"weight": (0.25, 0.25), "density": (1.0, 0.5)}


def test_a_tie_holds_group_by_group() -> None:
    models = "{a: a, b: {path: b, weight: {tie: a}}, c: {path: c, weight: {tie: b}}}"
    recipe = bound("groups: {modules: [attention, mlp]}, density: 1", models)
    values = {"a/all.attention/weight": 0.5, "a/all.mlp/weight": -0.25}
    assert weights(recipe, values)[Q] == (0.5, 0.5, 0.5)
    assert weights(recipe, values)[UP] == (-0.25, -0.25, -0.25)
    assert weights(recipe, values)[NORM] == (0.125, 0.125, 0.125)


def test_norms_embeddings_and_head_follow_at_density_1() -> None:
    recipe = bound("groups: {modules: [attention, mlp]}")
    values = recipe.space.values(np.full(len(recipe.space), 0.5))
    values |= {"a/all.attention/weight": 1.0, "a/all.mlp/weight": 0.0}
    plan = recipe.plan("sparse_signed", values)
    for name in (EMBED, NORM, HEAD):
        assert plan.tensors[name] == {"weight": (0.5, 0.5), "density": (1.0, 1.0)}
    assert plan.tensors[Q]["density"] == (values["a/all.attention/density"],) * 2
    assert IDS not in plan.tensors


def test_rules_of_their_own() -> None:
    recipe = bound("groups: {embeddings: own, norms: own, head: average}, density: 0.5")
    assert recipe.space.names[:2] == ("a/embeddings/weight", "a/all/weight")
    values = {"a/embeddings/weight": 0.25, "a/norms/weight": 0.75}
    plan = recipe.plan("sparse_signed", values)
    assert plan.tensors[EMBED] == {"weight": (0.25, 1.0), "density": (0.5, 0.5)}
    assert plan.tensors[NORM] == {"weight": (0.75, 1.0), "density": (1.0, 1.0)}
    assert plan.tensors[HEAD] == {"weight": (0.5, 0.5), "density": (1.0, 1.0)}
    base = bound("groups: {embeddings: base, norms: base, head: base}")
    assert set(base.plan("sparse_signed", {}).tensors) == {Q, UP}


def test_a_missing_number_is_what_the_method_says() -> None:
    plan = bound("method: ties").plan("ties", {"a/*/weight": 0.5, "all/scaling": 2.0})
    assert plan.tensors[Q] == {"weight": (0.5, 1.0), "density": (0.2, 0.2), "scaling": 2.0}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"a/al/weight": 1.0}, "no parameter 'a/al/weight'; did you mean 'a/all/weight'?"),
        ({"all/weight": 1.0}, "no parameter"),
        ({"weight": 1.0}, "no parameter"),
        ({"c/all/weight": 1.0}, "no parameter"),
        ({"a/norms/density": 1.0}, "no parameter"),
        ({"a/all/weight": float("nan")}, "finite"),
        ({"a/all/density": 0.0}, "fraction kept, in (0, 1]"),
        ({"a/all/density": 1.5}, "fraction kept, in (0, 1]"),
        ({"a/**/weight": 1.0, "b/*/weight": 1.0}, "exclude"),
    ],
)
def test_what_is_no_parameter_is_refused(parameters: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        bound("groups: {norms: own}").plan("sparse_signed", parameters)
    assert words in str(caught.value)


def test_references_are_the_base_the_parents_and_their_average() -> None:
    recipe = bound("groups: {embeddings: base, head: average}", "{a: {path: a, weight: 0.7}, b: b}")
    plans = {r.origin: recipe.plan(r.method, r.parameters).tensors for r in recipe.references()}
    assert list(plans) == ["base", "parent a", "parent b", "uniform"]
    assert [r.origin for r in recipe.references(parents=False)] == ["base", "uniform"]
    wanted = {"base": (0.0, 0.0), "parent a": (1.0, 0.0), "parent b": (0.0, 1.0)}
    for origin, pair in {**wanted, "uniform": (0.5, 0.5)}.items():
        # Neither the pinned weight nor the rules stand in the way.
        assert set(plans[origin]) == {EMBED, Q, UP, NORM, HEAD}
        for settings in plans[origin].values():
            assert settings == {"weight": pair, "density": (1.0, 1.0)}


@pytest.mark.parametrize("method", [*METHODS.own, "lines:ties", "lines:linear"])
def test_references_are_plans_that_their_method_takes(method: str) -> None:
    recipe = bound(f"method: {method}")
    for reference in recipe.references():
        plan = recipe.plan(reference.method, reference.parameters)
        for settings in plan.tensors.values():
            check_settings(method_named(plan.method), settings, 2)


def test_lines_has_two_numbers_for_all_groups_and_knows_every_tensors_depth() -> None:
    recipe = bound("method: lines:sparse_signed, groups: {layers: each}, deep_scaling: 1.0")
    names = [name for name in recipe.space.names if name.endswith("_scaling")]
    assert names == ["*/shallow_scaling"]
    plan = recipe.plan("lines:sparse_signed", {"*/shallow_scaling": 0.4})
    assert {name: s["depth"] for name, s in plan.tensors.items()} == dict.fromkeys(
        recipe.floating, 0.0
    )
    assert {s["deep_scaling"] for s in plan.tensors.values()} == {1.0}
    with pytest.raises(UsageError, match="no parameter"):
        recipe.plan("lines:sparse_signed", {"0/shallow_scaling": 0.4})


def test_ties_of_shares_is_no_average_so_the_average_is_a_plain_sum() -> None:
    *_, uniform = bound("method: ties").references()
    assert uniform.method == "sparse_signed"
    assert bound("method: ties").point_of(uniform.parameters, method=uniform.method) is None


def test_references_that_the_space_can_hold_have_a_point() -> None:
    recipe = bound("groups: {modules: [attention, mlp]}")
    for reference in recipe.references():
        point = recipe.point_of(reference.parameters, method=reference.method)
        assert point is not None
        again = recipe.plan("sparse_signed", recipe.space.values(point)).tensors
        for name, settings in recipe.plan(reference.method, reference.parameters).tensors.items():
            assert again[name]["weight"] == pytest.approx(settings["weight"])


@pytest.mark.parametrize(
    ("merge", "models", "without"),
    [
        ("weight: [0.1, 1]", "{a: a, b: b}", {"base", "parent a", "parent b"}),
        ("weight: [0, 0.9]", "{a: a, b: b}", {"parent a", "parent b"}),
        ("density: [0.1, 0.9]", "{a: a, b: b}", {"parent a", "parent b", "uniform"}),
        ("", "{a: {path: a, weight: 0}, b: b}", {"parent a", "uniform"}),
        ("", "{a: a, b: {path: b, weight: {tie: a}}}", {"parent a", "parent b"}),
        ("groups: {norms: base}", "{a: a, b: b}", {"parent a", "parent b", "uniform"}),
        ("groups: {norms: average}", "{a: a, b: b}", {"base", "parent a", "parent b"}),
        ("weight: {shared: true}", "{a: a, b: b}", set()),
        ("method: task_arithmetic", "{a: a, b: b}", set()),
        ("method: linear", "{a: a, b: b}", set()),
        ("method: ties", "{a: a, b: b}", {"uniform"}),
    ],
)
def test_references_that_the_space_cannot_hold_have_none(
    merge: str, models: str, without: set[str]
) -> None:
    recipe = bound(merge, models)
    points = {r.origin: recipe.point_of(r.parameters, method=r.method) for r in recipe.references()}
    assert {origin for origin, point in points.items() if point is None} == without


RECIPE = bound("groups: {modules: [attention, mlp], norms: own}, weight: {shared: true}")


@given(st.lists(st.floats(0, 1), min_size=len(RECIPE.space), max_size=len(RECIPE.space)))
def test_a_point_is_found_again_from_its_values(point: list[float]) -> None:
    values = RECIPE.space.values(point)
    found = RECIPE.point_of(values)
    assert found is not None
    assert found == pytest.approx(RECIPE.space.point(values))


def test_warm_starts_follow_the_references() -> None:
    more = "warm_start: [{weight: 0.5}, {method: ties, weight: {a: 1, b: 0}}, {a/all/weight: 0.2}]"
    *_, first, second, third = bound(more=more).references()
    assert first == ("warm start 0", "sparse_signed", {"a/*/weight": 0.5, "b/*/weight": 0.5})
    assert second == ("warm start 1", "ties", {"a/*/weight": 1.0, "b/*/weight": 0.0})
    assert third == ("warm start 2", "sparse_signed", {"a/all/weight": 0.2})


@pytest.mark.parametrize(
    ("warm", "words"),
    [
        ("a/none/weight: 1", "c.yaml:6:14: warm start: no parameter 'a/none/weight'"),
        ("wieght: 1", "c.yaml:6:15: warm_start: unknown parameter 'wieght'; did you mean 'weight'"),
        ("weight: {a: 1}", "c.yaml:6:23: warm_start: weight has no number for b"),
        ("weight: {a: 1, c: 1}", "c.yaml:6:30: warm_start: no model 'c'"),
        ("density: 0", "c.yaml:6:24: warm_start: 0 stands here"),
    ],
)
def test_a_warm_start_that_does_not_fit_is_refused_at_its_place(warm: str, words: str) -> None:
    with pytest.raises(CampaignError) as caught:
        bound(more=f"warm_start: [{{{warm}}}]")
    assert str(caught.value).startswith(words)


def test_a_recipe_with_every_number_pinned_has_an_empty_space() -> None:
    recipe = bound("weight: 0.5, density: 1")
    assert len(recipe.space) == 0
    assert weights(recipe, {})[Q] == (0.5, 0.5)
    point = recipe.point_of({"a/*/weight": 0.5, "b/*/weight": 0.5})
    assert point is not None
    assert point.shape == (0,)


def test_signs_apart_have_numbers_of_their_own_and_keep_the_references() -> None:
    recipe = bound("split_signs: true, positive_density: {fixed: 0.5}")
    assert recipe.recipe.method == "sparse_split"
    assert [p.name for p in recipe.space.parameters if p.name.startswith("a/")] == [
        "a/all/positive_weight",
        "a/all/negative_weight",
        "a/all/negative_density",
    ]
    for reference in recipe.references():
        settings = recipe.plan(reference.method, reference.parameters).tensors[Q]
        assert settings["positive_weight"] == settings["negative_weight"]
        assert settings["positive_density"] == settings["negative_density"] == (1.0, 1.0)


def test_the_mask_goes_into_plans_and_identity() -> None:
    recipe = bound("mask: exact")
    assert recipe.plan("sparse_signed", {}).mask == "exact"
    assert recipe.recipe.identity() != bound("mask: plain").recipe.identity()
    assert bound("weight: 1").plan("sparse_signed", {}).mask == "smooth"


def test_the_seed_of_masks_goes_into_plans_and_identity() -> None:
    one, other = bound("method: dare_ties"), bound("method: dare_ties, seed: 7")
    assert [r.plan("dare_ties", {}).seed for r in (one, other)] == [0, 7]
    assert one.recipe.identity() != other.recipe.identity()


def test_methods_of_two_models_refuse_three() -> None:
    with pytest.raises(CampaignError, match="slerp takes exactly 2 models; here are 3"):
        bound("method: slerp", "{a: a, b: b, c: c}")


def test_methods_without_weights_have_references_of_the_plain_kind() -> None:
    recipe = bound("method: slerp")
    assert [p.name for p in recipe.space.parameters] == ["all/t"]
    assert {r.method for r in recipe.references()} == {"sparse_signed"}
