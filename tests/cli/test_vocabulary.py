"""Models with more tokens than the base: check, merge and run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from .conftest import EMBEDDING, World, tensors


@pytest.fixture
def grown(world: World) -> World:
    """The model math has two tokens more than the base; one of the shared ones is another."""
    more = tensors("math")
    more[EMBEDDING] = np.concatenate([more[EMBEDDING], np.ones((2, 4), "f4")])
    world.save("math", more, vocab_size=10)
    for name, words in (("base", "abcdefgh"), ("code", "abcdefgh"), ("math", "abcdefgXij")):
        vocab = {word: row for row, word in enumerate(words)}
        world.write(f"{name}/tokenizer.json", json.dumps({"model": {"vocab": vocab}}))
    return world


def test_they_are_refused_with_the_way_out(grown: World) -> None:
    said = grown.run("check", "campaign.yaml")
    assert said.code == 3
    assert "their vocabularies differ; 'vocabulary: common' under merge" in said.text


def test_check_says_what_is_merged_and_which_tokens_differ(grown: World) -> None:
    grown.edit("merge: {", "merge: {vocabulary: base, ")
    said = grown.run("check", "campaign.yaml")
    assert said.code == 0, said
    assert "8 of the 10 rows of 'math' are merged; for 0 rows of the base" in said.text
    assert "differ in 2 entries of their vocabularies" in said.text  # h and X, row 7


def test_a_merge_has_the_bases_rows(grown: World) -> None:
    grown.edit("merge: {", "merge: {vocabulary: common, ", file="recipe.yaml")
    said = grown.run("merge", "recipe.yaml", "out")
    assert said.code == 0, said
    found = load_file(grown / "out" / "model.safetensors")[EMBEDDING]
    base, math, code = (tensors(name)[EMBEDDING] for name in ("base", "math", "code"))
    assert np.allclose(found, base + 0.5 * (math - base) + 0.5 * (code - base), atol=1e-6)
    about = json.loads((grown / "out" / "evomerge.json").read_text())
    assert about["vocabulary"] == "common"
    assert not (grown / "out" / "mergekit_config.yml").exists()


def test_an_unknown_policy_is_an_error(grown: World) -> None:
    grown.edit("merge: {", "merge: {vocabulary: union, ")
    said = grown.run("check", "campaign.yaml")
    assert said.code == 2
    assert "refuse, common, base" in said.text
