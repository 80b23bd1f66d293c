"""Where groups lie in a model."""

from __future__ import annotations

from evomerge.recipe.coordinates import coordinate_of, group_coordinates
from evomerge.recipe.groups import Grouping
from evomerge.space import Coordinate

TENSORS = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{kind}.weight" for i in range(5) for kind in ("self_attn.q", "mlp.up")),
    "lm_head.weight",
]


def places(grouping: Grouping) -> dict[str, tuple[float | None, str | None]]:
    return group_coordinates(grouping.assign(TENSORS).members, TENSORS)


def test_bands_lie_at_their_mean_depth() -> None:
    bands = places(Grouping(layers=((0, 1), (2, 4)), modules=("attention",)))
    assert bands["0-1.attention"] == (0.125, "attention")
    assert bands["2-4.other"] == (0.75, "mlp")


def test_what_is_outside_the_layers_lies_at_the_ends() -> None:
    own = places(Grouping(embeddings="own", head="own"))
    assert own["embeddings"] == (0.0, "embedding")
    assert own["head"] == (1.0, "head")
    assert own["all"] == (0.5, None)  # both kinds of module


def test_patterns_lie_where_their_tensors_do() -> None:
    assert places(Grouping(regex={"late": r"layers\.4\."}))["late"] == (1.0, None)


def test_without_layers_there_is_no_depth() -> None:
    assert group_coordinates({"all": ("a.weight",)}, ["a.weight"])["all"][0] is None


def test_a_number_shared_by_all_groups_has_no_place() -> None:
    assert coordinate_of("math/*/weight", {}) == Coordinate("math", None, None, "weight")
    assert coordinate_of("0-1/scaling", {"0-1": (0.1, None)}) == Coordinate(
        None, 0.1, None, "scaling"
    )
