"""What mergekit can say of a merge, and what is left unsaid."""

from __future__ import annotations

from typing import Any

import yaml

from evomerge.export.mergekit import mergekit_config
from evomerge.merging.plan import MergePlan

BASE, MODELS = "models/base", {"math": "models/math", "code": "models/code"}
LAYER = ("self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight")
TENSORS = (
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{name}" for i in range(2) for name in LAYER),
    "model.norm.weight",
)


def config(method: str, settings: dict[str, Any]) -> dict[str, Any] | None:
    plan = MergePlan(method, ("math", "code"), settings)
    text = mergekit_config(plan, BASE, MODELS, tensors=TENSORS, dtype="bfloat16")
    return None if text is None else yaml.safe_load(text)


def whole(*weights: float) -> dict[str, Any]:
    return {"weight": weights, "density": (1.0, 1.0)}


def test_one_weight_everywhere_is_one_number_per_slice() -> None:
    said = config("sparse_signed", dict.fromkeys(TENSORS, whole(0.25, -0.5)))
    assert said is not None
    assert said["merge_method"] == "task_arithmetic"
    assert said["parameters"] == {"normalize": False}
    assert (said["dtype"], said["out_dtype"]) == ("float32", "bfloat16")
    assert [source["model"] for source in said["slices"][1]["sources"]] == [
        "models/base",
        "models/math",
        "models/code",
    ]
    assert said["slices"][1]["sources"][2]["parameters"]["weight"] == -0.5


def test_weights_by_module_are_filters_and_the_ends_ride_with_the_outer_slices() -> None:
    settings = {
        name: whole(0.9 if "self_attn" in name else 0.1, 0.0)
        for name in TENSORS
        if "embed" not in name
    }
    said = config("sparse_signed", settings)
    assert said is not None
    first = said["slices"][0]["sources"][1]["parameters"]["weight"]
    assert {"filter": "self_attn", "value": 0.9} in first
    assert {"filter": "mlp", "value": 0.1} in first
    assert {"filter": "model.embed_tokens.weight", "value": 0.0} in first
    last = said["slices"][1]["sources"][1]["parameters"]["weight"]
    assert {"filter": "model.norm.weight", "value": 0.1} in last


def test_the_scaling_of_task_arithmetic_is_multiplied_into_the_weights() -> None:
    settings = {key: {"weight": (1.0, 0.5), "scaling": 0.4} for key in TENSORS}
    said = config("task_arithmetic", settings)
    assert said is not None
    weights = [s["parameters"]["weight"] for s in said["slices"][0]["sources"][1:]]
    assert weights == [0.4, 0.2]


def test_a_sparse_merge_is_left_unsaid() -> None:
    sparse = {"weight": (0.5, 0.5), "density": (0.2, 1.0)}
    assert config("sparse_signed", dict.fromkeys(TENSORS, sparse)) is None
    assert config("ties", {key: {**sparse, "scaling": 1.0} for key in TENSORS}) is None


def test_a_density_without_weight_does_not_count() -> None:
    settings = {key: {"weight": (0.0, 0.5), "density": (0.2, 1.0)} for key in TENSORS}
    assert config("sparse_signed", settings) is not None


def test_shares_are_weights_of_task_vectors() -> None:
    said = config("linear", {key: {"weight": (1.0, 3.0)} for key in TENSORS})
    assert said is not None
    assert said["merge_method"] == "task_arithmetic"
    assert [s["parameters"]["weight"] for s in said["slices"][1]["sources"][1:]] == [0.25, 0.75]


def test_the_first_model_of_a_slerp_is_mergekit_s_base() -> None:
    said = config("slerp", {key: {"t": 0.75 if "mlp" in key else 0.5} for key in TENSORS})
    assert said is not None
    assert (said["merge_method"], said["base_model"]) == ("slerp", "models/math")
    last = said["slices"][1]
    assert [source["model"] for source in last["sources"]] == ["models/math", "models/code"]
    assert {"filter": "mlp", "value": 0.75} in last["parameters"]["t"]


def test_a_method_that_is_not_at_work_everywhere_is_left_unsaid() -> None:
    settings = {key: {"t": 0.5} for key in TENSORS[1:]}
    assert config("slerp", settings) is None
    nothing = {key: {"weight": (0.0, 0.0)} for key in TENSORS}
    assert config("nuslerp", nothing) is None
