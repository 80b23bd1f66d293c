"""The recipe file of one merge."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.errors import UsageError
from evomerge.recipe.merge_recipe import MergeRecipe
from evomerge.recipe.pins import Pin


def load(folder: Path, text: str) -> MergeRecipe:
    file = folder / "merge.yaml"
    file.write_text(text)
    return MergeRecipe.load(file)


def test_numbers_are_for_all_models_each_model_or_one_group(tmp_path: Path) -> None:
    merge = load(
        tmp_path,
        "base: base\nmodels: {math: m, code: c}\ndtype: bf16\nshard_size: 1GB\n"
        "merge:\n  method: ties\n  density: 0.3\n"
        "  parameters: {weight: {math: 0.3, code: 1}, scaling: 0.7, code/0-1/weight: 0.5}\n",
    )
    assert merge.recipe.base == tmp_path / "base"
    assert merge.recipe.method == "ties"
    assert merge.recipe.pins["math/density"] == Pin(fixed=0.3)
    assert merge.parameters == {
        "math/*/weight": 0.3,
        "code/*/weight": 1.0,
        "*/scaling": 0.7,
        "code/0-1/weight": 0.5,
    }
    assert (merge.dtype, merge.shard_size) == ("BF16", 1_000_000_000)


def test_without_numbers_the_method_has_its_defaults(tmp_path: Path) -> None:
    merge = load(tmp_path, "base: b\nmodels: {math: m}\n")
    assert (merge.recipe.method, merge.parameters) == ("sparse_signed", {})
    assert (merge.dtype, merge.shard_size) == (None, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("merge_method: ties\nbase_model: b", "merge.yaml:1:1: this is a mergekit file"),
        ("base: b\nmodels: {m: m}\ngoals: []", "merge.yaml:3:1: 'goals' belongs to a campaign"),
        ("base: b\nmodels: {m: m}\nmrege: {}", "merge.yaml:3:1: unknown key 'mrege'; did you mean"),
        (
            "base: b\nmodels: {m: m}\nmerge: {parameters: {scaling: 1}}",
            "merge.yaml:3:22: merge.parameters: unknown parameter 'scaling'",
        ),
        (
            "base: b\nmodels: {m: m}\nmerge: {parameters: 1}",
            "merge.yaml:3:21: merge.parameters: 1 stands here; a mapping",
        ),
        ("base: b\nmodels: {m: m}\ndtype: int8", "merge.yaml:3:8: dtype: 'int8' stands here"),
    ],
)
def test_a_bad_recipe_is_refused_at_its_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(words)
