"""The model card: front matter for indexers, scores for people."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evomerge.export.card import common_license, model_card
from evomerge.export.lineage import Lineage, Parent
from evomerge.trial import Measured


def lineage(*licenses: str | None, **changes: object) -> Lineage:
    names = ("base", "math", "code")
    base, *models = (
        Parent(name, Path("/models") / name, f"models/{name}", {}, stated)
        for name, stated in zip(names, licenses or (None, None, None), strict=True)
    )
    fields = {
        "name": "demo-7",
        "base": base,
        "models": tuple(models),
        "method": "sparse_signed",
        "parameters": {"math/0-1/weight": 0.5},
        "groups": {"0-1": 4},
        "dtype": None,
        **changes,
    }
    return Lineage(**fields)  # type: ignore[arg-type]


def test_the_front_matter_lists_all_parents_as_a_merge() -> None:
    matter = yaml.safe_load(model_card(lineage()).split("---")[1])
    assert matter["base_model"] == ["models/base", "models/math", "models/code"]
    assert matter["base_model_relation"] == "merge"
    assert {"merge", "evomerge"} <= set(matter["tags"])
    assert "license" not in matter


@pytest.mark.parametrize(
    ("licenses", "common"),
    [
        (("mit", "mit", "mit"), "mit"),
        (("mit", "apache-2.0", "mit"), None),
        (("mit", None, "mit"), None),
        ((None, None, None), None),
    ],
)
def test_a_licence_is_claimed_only_when_all_parents_state_it(
    licenses: tuple[str | None, ...], common: str | None
) -> None:
    assert common_license(lineage(*licenses)) == common


def test_scores_come_with_their_errors_and_with_what_they_chose() -> None:
    measured = {"gsm8k": Measured(0.5, 0.0433, 120)}
    card = model_card(lineage(trial=7, study="demo", scores={"search": measured, "test": measured}))
    assert "| gsm8k | 0.5000 ± 0.0433 (120) | 0.5000 ± 0.0433 (120) |" in card
    assert "- test: chose nothing" in card
    assert "selection" not in card


def test_a_name_cannot_break_the_table() -> None:
    assert "a\\|b" in model_card(lineage(parameters={"a|b": 1.0}))
