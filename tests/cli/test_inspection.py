"""``evomerge inspect`` on the small world."""

from __future__ import annotations

import numpy as np

from .conftest import EMBEDDING, MATRIX, NORM, World, tensors


def test_tables_for_people(world: World) -> None:
    said = world.run("inspect", "base", "math", "code")
    assert said.code == 0, said.err
    for words in ("task vectors", "what sparsity costs", "kinship", "layers", "math code"):
        assert words in said.out
    assert "norm of code" in said.text


def test_json_for_scripts(world: World) -> None:
    found = world.run("inspect", "base", "math", "code", "--json").json
    assert list(found) == ["models", "sparsity", "kinship", "layers"]
    base, math, code = (tensors(name) for name in ("base", "math", "code"))
    ours = [np.concatenate([(m[n] - base[n]).ravel() for n in base]) for m in (math, code)]
    assert np.isclose(found["models"][0]["norm"], np.linalg.norm(ours[0]), rtol=1e-6)
    cosine = ours[0] @ ours[1] / np.linalg.norm(ours[0]) / np.linalg.norm(ours[1])
    assert np.isclose(found["kinship"][0]["cosine"], cosine, rtol=1e-5)
    assert np.isclose(found["kinship"][0]["pearson"], np.corrcoef(*ours)[0, 1], rtol=1e-5)
    assert [layer["layer"] for layer in found["layers"]] == ["embedding", "0", "norm"]
    one = found["layers"][1]
    assert np.isclose(one["norms"]["code"], np.linalg.norm(code[MATRIX] - base[MATRIX]), rtol=1e-6)
    assert one["kinship"][0]["models"] == "math code"
    assert [row["density"] for row in found["sparsity"][:4]] == [0.05, 0.1, 0.2, 0.5]


def test_one_model_alone_has_no_kin(world: World) -> None:
    found = world.run("inspect", "base", "math", "--json").json
    assert found["kinship"] == []
    assert world.run("inspect", "base", "math").code == 0


def test_a_model_that_does_not_fit_is_refused(world: World) -> None:
    world.save("odd", {name: t for name, t in tensors("math").items() if name != NORM})
    said = world.run("inspect", "base", "odd")
    assert said.code == 3
    assert NORM in said.err and EMBEDDING not in said.err


def test_another_vocabulary_is_cut_where_that_is_wanted(world: World) -> None:
    """Tokens that were added count for nothing; the rows of the base are measured."""
    math = tensors("math")
    added = np.concatenate([math[EMBEDDING], np.ones_like(math[EMBEDDING][:2])])
    world.save("grown", math | {EMBEDDING: added})
    assert world.run("inspect", "base", "grown").code == 3
    found = world.run("inspect", "base", "grown", "--vocabulary", "base", "--json").json
    plain = world.run("inspect", "base", "math", "--json").json
    assert found["models"][0]["norm"] == plain["models"][0]["norm"]
