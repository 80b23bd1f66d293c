"""Which tensors share parameters: bands, kinds, patterns, and the rules for the rest."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import CampaignError, UsageError
from evomerge.recipe.anatomy import Part, anatomy, depths
from evomerge.recipe.groups import Grouping
from evomerge.recipe.strict_yaml import Place


def llama(layers: int) -> list[str]:
    """The tensor names of a small decoder."""
    inner = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "input_layernorm")
    blocks = [f"model.layers.{i}.{part}.weight" for i in range(layers) for part in inner]
    return ["model.embed_tokens.weight", *blocks, "model.norm.weight", "lm_head.weight"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.layers.3.self_attn.k_proj.weight", Part("attention", 3)),
        ("model.layers.3.self_attn.q_norm.weight", Part("norm", 3)),
        ("model.layers.3.mlp.gate_proj.weight", Part("mlp", 3)),
        ("model.layers.3.block_sparse_moe.experts.5.w1.weight", Part("mlp", 3)),
        ("model.layers.3.mamba.in_proj.weight", Part("other", 3)),
        ("model.layers.3.post_attention_layernorm.weight", Part("norm", 3)),
        ("transformer.h.3.ln_1.bias", Part("norm", 3)),
        ("transformer.h.3.attn.c_proj.weight", Part("attention", 3)),
        ("bert.encoder.layer.3.attention.output.dense.weight", Part("attention", 3)),
        ("bert.encoder.layer.3.output.dense.weight", Part("mlp", 3)),
        ("bert.encoder.layer.3.attention.output.LayerNorm.weight", Part("norm", 3)),
        ("encoder.block.3.layer.0.SelfAttention.q.weight", Part("attention", 3)),
        ("encoder.block.3.layer.1.DenseReluDense.wi_0.weight", Part("mlp", 3)),
        ("model.embed_tokens.weight", Part("embedding", None, first=True)),
        ("transformer.wte.weight", Part("embedding", None, first=True)),
        ("shared.weight", Part("embedding", None, first=True)),
        ("bert.embeddings.LayerNorm.weight", Part("norm", None, first=True)),
        ("model.norm.weight", Part("norm", None)),
        ("transformer.ln_f.weight", Part("norm", None)),
        ("lm_head.weight", Part("head", None)),
        ("embed_out.weight", Part("head", None)),
        ("output.weight", Part("head", None)),
        ("classifier.0.weight", Part("head", None)),
        ("fc1.weight", Part("mlp", None)),
        ("scale", Part("other", None)),
        ("3.weight", Part("other", 3)),
    ],
)
def test_a_name_tells_what_a_tensor_is(name: str, part: Part) -> None:
    assert anatomy([name]) == {name: part}


def test_the_layers_of_several_stacks_are_numbered_through() -> None:
    parts = anatomy(
        ["decoder.block.0.x", "decoder.block.1.x", "encoder.block.10.x", "encoder.block.2.x"]
    )
    assert {name: part.layer for name, part in parts.items()} == {
        "encoder.block.2.x": 0,
        "encoder.block.10.x": 1,
        "decoder.block.0.x": 2,
        "decoder.block.1.x": 3,
    }


@pytest.mark.parametrize(
    ("layers", "bands", "names"),
    [
        (8, 4, ["0-1", "2-3", "4-5", "6-7"]),
        (7, 3, ["0-1", "2-3", "4-6"]),
        (5, 5, ["0", "1", "2", "3", "4"]),
        (3, 1, ["0-2"]),
        (1, 1, ["0"]),
        (3, "each", ["0", "1", "2"]),
        (3, "all", ["all"]),
        (12, ((0, 0), (1, 10), (11, 11)), ["0", "1-10", "11"]),
    ],
)
def test_layers_are_cut_into_bands(layers: int, bands: object, names: list[str]) -> None:
    groups = Grouping(layers=bands).assign(llama(layers))  # type: ignore[arg-type]
    assert list(groups.members) == names


@given(st.integers(1, 40), st.data())
def test_equal_bands_differ_by_one_layer_at_most(layers: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, layers))
    sizes = [len(m) for m in Grouping(layers=count).assign(llama(layers)).members.values()]
    assert len(sizes) == count
    assert sum(sizes) == 3 * layers  # two of attention, one of the mlp
    assert max(sizes) - min(sizes) <= 3


def test_modules_split_each_band_and_what_is_neither_is_other() -> None:
    names = [*llama(2), "model.layers.1.mamba.x"]
    groups = Grouping(layers="each", modules=("attention", "mlp")).assign(names)
    assert list(groups.members) == ["0.attention", "0.mlp", "1.attention", "1.mlp", "1.other"]
    assert groups.members["1.other"] == ("model.layers.1.mamba.x",)
    alone = Grouping(layers="all", modules=("mlp",)).assign(llama(2))
    assert list(alone.members) == ["all.mlp", "all.other"]


def test_what_follows_takes_its_own_band_the_first_or_the_last() -> None:
    groups = Grouping(layers=2, modules=("attention", "mlp")).assign(llama(4))
    assert groups.follows == {
        "lm_head.weight": ("2-3.attention", "2-3.mlp"),
        "model.embed_tokens.weight": ("0-1.attention", "0-1.mlp"),
        "model.layers.0.input_layernorm.weight": ("0-1.attention", "0-1.mlp"),
        "model.layers.1.input_layernorm.weight": ("0-1.attention", "0-1.mlp"),
        "model.layers.2.input_layernorm.weight": ("2-3.attention", "2-3.mlp"),
        "model.layers.3.input_layernorm.weight": ("2-3.attention", "2-3.mlp"),
        "model.norm.weight": ("2-3.attention", "2-3.mlp"),
    }


def test_each_rule_does_what_it_says() -> None:
    groups = Grouping(embeddings="own", norms="base", head="average").assign(llama(1))
    assert list(groups.members) == ["embeddings", "all"]
    assert groups.averaged == ("lm_head.weight",)
    assert not groups.follows
    own = Grouping(norms="own", head="own").assign(llama(1))
    assert list(own.members) == ["all", "norms", "head"]
    assert own.dense == {"norms"}
    assert own.members["norms"] == ("model.layers.0.input_layernorm.weight", "model.norm.weight")


def test_the_first_pattern_wins_and_comes_before_bands_and_rules() -> None:
    grouping = Grouping(layers=2, regex={"first": r"layers\.0\.", "q": "q_proj", "n": r"\.norm"})
    groups = grouping.assign(llama(2))
    assert list(groups.members) == ["first", "q", "n", "1"]
    assert len(groups.members["first"]) == 4
    assert groups.members["q"] == ("model.layers.1.self_attn.q_proj.weight",)
    assert groups.members["n"] == ("model.norm.weight",)
    # The band that patterns have emptied has no groups to follow, so all of them are.
    assert groups.follows["model.embed_tokens.weight"] == ("first", "q", "n", "1")


def test_the_order_of_tensors_changes_nothing() -> None:
    names = llama(12)
    grouping = Grouping(layers=3, modules=("attention",), regex={"up": r"layers\.1\.mlp"})
    shuffled = random.Random(0).sample(names, len(names))
    assert grouping.assign(shuffled) == grouping.assign(names)
    assert list(grouping.assign(shuffled).members) == list(grouping.assign(names).members)


def test_a_model_without_layers_is_one_group() -> None:
    names = ["fc1.weight", "fc1.bias", "fc2.weight", "norm.weight"]
    groups = Grouping().assign(names)
    assert groups.members == {"all": ("fc1.bias", "fc1.weight", "fc2.weight")}
    assert groups.follows == {"norm.weight": ("all",)}


def test_tensors_that_are_nothing_special_follow_the_last_band() -> None:
    groups = Grouping(layers="each").assign([*llama(2), "model.scale"])
    assert groups.follows["model.scale"] == ("1",)


PLACES = {"layers": Place("c.yaml", 8, 20), "x": Place("c.yaml", 9, 5), "y": Place("c.yaml", 9, 9)}


@pytest.mark.parametrize(
    ("grouping", "place", "words"),
    [
        (Grouping(layers=5, places=PLACES), "c.yaml:8:20", "5 bands are asked of 4 layers"),
        (
            Grouping(layers=((0, 1), (2, 9)), places=PLACES),
            "c.yaml:8:20",
            "the band [2, 9] reaches beyond the base's layers, 0 to 3",
        ),
        (
            Grouping(layers=((0, 1), (3, 3)), places=PLACES),
            "c.yaml:8:20",
            "layers in no band: 2; every layer needs one",
        ),
        (
            Grouping(regex={"x": "visual"}, places=PLACES),
            "c.yaml:9:5",
            "the pattern 'visual' of 'x' matches no tensor; the base has lm_head.weight",
        ),
        (
            Grouping(regex={"x": "mlp", "y": "mlp.up"}, places=PLACES),
            "c.yaml:9:9",
            "all that the pattern of 'y' matches is taken",
        ),
        (
            Grouping(layers="each", regex={"x": "q_proj", "2": "o_proj"}, places=PLACES),
            None,
            "'2' is also the name of a group",
        ),
    ],
)
def test_a_grouping_that_does_not_fit_is_refused(
    grouping: Grouping, place: str | None, words: str
) -> None:
    with pytest.raises(CampaignError) as caught:
        grouping.assign(llama(4))
    assert caught.value.place == place
    assert words in caught.value.cause


def test_bands_need_layers() -> None:
    with pytest.raises(CampaignError, match="no numbered layers"):
        Grouping(layers=2).assign(["fc.weight"])


@pytest.mark.parametrize("names", [[], ["model.norm.weight"]])
def test_a_model_without_tensors_to_merge_has_nothing_to_search(names: list[str]) -> None:
    with pytest.raises(UsageError, match="nothing to search"):
        Grouping().assign(names)


def test_every_tensor_can_be_a_group() -> None:
    """The space of aTLAS; a norm is kept whole, and rules still take their tensors out."""
    names = [*llama(1), "scale"]
    groups = Grouping(each=True, embeddings="base", norms="own", head="average").assign(names)
    blocks = [name for name in names if "layers" in name]
    assert sorted(groups.members) == sorted([*blocks, "model.norm.weight", "scale"])
    assert all(tensors == (group,) for group, tensors in groups.members.items())
    assert groups.averaged == ("lm_head.weight",)
    assert groups.follows == {}
    assert groups.dense == {"model.layers.0.input_layernorm.weight", "model.norm.weight"}


def test_patterns_come_before_groups_of_one_tensor() -> None:
    grouping = Grouping(
        each=True, regex={"up": "up_proj"}, embeddings="own", norms="own", head="own"
    )
    groups = grouping.assign(llama(2))
    assert groups.members["up"] == tuple(f"model.layers.{i}.mlp.up_proj.weight" for i in range(2))
    assert len(groups.members) == len(llama(2)) - 1


def test_a_tensor_whose_name_has_a_slash_can_be_no_group() -> None:
    with pytest.raises(UsageError, match="slash"):
        Grouping(each=True, embeddings="own", norms="own", head="own").assign(["a/b"])


def test_depths_rise_from_the_first_layer_to_the_last() -> None:
    found = depths([*llama(3), "scale"])
    assert [found[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(3)] == [0.0, 0.5, 1.0]
    outside = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "scale")
    assert {found[name] for name in outside} == {0.0}
    assert set(depths(llama(1)).values()) == {0.0}
