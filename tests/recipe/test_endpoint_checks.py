"""A space is checked against what a server can mix, before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.coefficients import Coefficients, Mixing
from evomerge.recipe.campaign import Campaign
from evomerge.recipe.preflight import preflight

from .conftest import Make, said

TEXT = """
base: base
models: {math: math, code: code}
merge:
  method: task_arithmetic
  groups: {layers: each}
  scaling: {fixed: 1.0}
goals:
  - metric: m
    objective:
      type: template
      url: http://127.0.0.1:1
      items: 10
      request: {mix: "{weights}"}
      score: $.score
      mixes: {per: layer}
budget: {trials: 100, requests: 5k}
"""


def errors(make: Make, folder: Path, *edits: tuple[str, str]) -> list[str]:
    for name in ("base", "math", "code"):
        make(name)
    text = TEXT
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return said(preflight(Campaign.parse(text, folder / "c.yaml")), "error")


def test_a_space_that_the_server_can_mix_is_sound(make: Make, tmp_path: Path) -> None:
    assert errors(make, tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("per: layer", "per: model", "one weight per model; let groups share theirs"),
        ("per: layer", "per: layer, signed: false", "is negative; it takes none below 0"),
        ("per: layer", "per: layer, most: 1.2", "a weight of 1.5 for math is above its 1.2"),
        ("layers: each", "layers: each, modules: [mlp, attention]", "layer 0 is split"),
        ("layers: each", "layers: each, embeddings: own", "lies outside the layers"),
        (
            "task_arithmetic",
            "sparse_signed",
            "a density of 0.05: it keeps task vectors whole; fix density at 1",
        ),
        ("task_arithmetic", "ties", "it does not do ties; it does sparse_signed, task_arithmetic"),
        ("requests: 5k", "money: 5", "no objective has prices"),
        ("items: 10", "items: 10\n      api_key_env: NOT_SET_AT_ALL", "NOT_SET_AT_ALL is not set"),
    ],
)
def test_what_the_server_cannot_mix_is_found_before_anything_is_sent(
    old: str, new: str, words: str, make: Make, tmp_path: Path
) -> None:
    edits = [(old, new)]
    if new == "sparse_signed":
        edits.append(("  scaling: {fixed: 1.0}\n", ""))
    (found,) = errors(make, tmp_path, *edits)
    assert words in found


def test_a_budget_for_endpoints_needs_one(make: Make, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def f(model, items): ...\n")
    text = TEXT[: TEXT.index("goals:")] + (
        "goals: [{metric: m, objective: {type: python, function: f.py:f, items: 10}}]\n"
        "budget: {requests: 100}\n"
    )
    for name in ("base", "math", "code"):
        make(name)
    (found,) = said(preflight(Campaign.parse(text, tmp_path / "c.yaml")), "error")
    assert "no objective asks an endpoint" in found


HALF = {"weight": (0.5, -0.25), "density": (1.0, 0.5), "scaling": 2.0}


def test_coefficients_are_a_dictionary_of_every_number_and_weights_with_their_scaling() -> None:
    numbers = Coefficients(
        "sparse_signed", ("math", "code"), {"0-1": HALF, "2": HALF}, {"0-1": (0, 1), "2": (2,)}
    )
    assert numbers == {
        "math/0-1/weight": 0.5, "math/0-1/density": 1.0,
        "math/2/weight": 0.5, "math/2/density": 1.0,
        "code/0-1/weight": -0.25, "code/0-1/density": 0.5,
        "code/2/weight": -0.25, "code/2/density": 0.5,
        "0-1/scaling": 2.0, "2/scaling": 2.0,
    }  # fmt: skip
    assert numbers.weights_by_model() == {"math": 1.0, "code": -0.5}
    assert numbers.weights_by_layer()["code"] == {0: -0.5, 1: -0.5, 2: -0.5}
    assert numbers.weights_by_group()["math"] == {"0-1": 1.0, "2": 1.0}
    assert Mixing(density="model").problem(numbers) is None
    assert Mixing(density="all").problem(numbers) is not None
    assert Mixing(density="model", models=frozenset({"math"})).problem(numbers) == (
        "it does not know the model 'code'"
    )
