"""Reading PEFT adapters: which tensor changes by what, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.checkpoint.adapter import Adapter, Addition, Change, LowRank, is_adapter
from evomerge.checkpoint.adapter_config import parse_config
from evomerge.checkpoint.models import open_model, own_tensors
from evomerge.errors import CheckpointError

Adapt = Callable[..., Path]


def pair(module: str, rank: int = 2, rows: int = 3, columns: int = 4) -> dict[str, torch.Tensor]:
    """The two factors of a linear layer."""
    return {
        f"{module}.lora_A.weight": torch.ones(rank, columns),
        f"{module}.lora_B.weight": torch.ones(rows, rank),
    }


def cause(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        Adapter.open(folder)
    return str(error.value)


def config(**settings: Any) -> Any:
    return parse_config({"peft_type": "LORA", "r": 8, "lora_alpha": 16, **settings}, "here")


def test_an_adapter_says_what_it_does_to_each_tensor(adapt: Adapt) -> None:
    folder = adapt(
        {
            **pair("layers.0.q"),
            "layers.0.q.lora_B.bias": torch.ones(3),
            "emb.lora_embedding_A": torch.ones(2, 9),
            "emb.lora_embedding_B": torch.ones(4, 2),
            "emb.base_layer.weight": torch.ones(9, 4),
            "norm.weight": torch.ones(4),
        }
    )
    prefix = "base_model.model."
    factors = LowRank(
        f"{prefix}layers.0.q.lora_A.weight",
        f"{prefix}layers.0.q.lora_B.weight",
        rank=2,
        scale=2.0,
        transposed=False,
        magnitude=None,
    )
    embedding = LowRank(
        f"{prefix}emb.lora_embedding_A", f"{prefix}emb.lora_embedding_B", 2, 2.0, True, None
    )
    with Adapter.open(folder) as adapter:
        assert adapter.changes == {
            "layers.0.q.weight": Change(low_rank=factors),
            "layers.0.q.bias": Change(added=Addition(f"{prefix}layers.0.q.lora_B.bias", 2.0)),
            "emb.weight": Change(f"{prefix}emb.base_layer.weight", embedding),
            "norm.weight": Change(f"{prefix}norm.weight"),
        }
        assert set(adapter.digests()) == {"adapter_config.json", "adapter_model.safetensors"}
        up, down = adapter.factors(factors, torch.float32)
        assert up.tolist() == [[2.0, 2.0]] * 3
        assert down.shape == (2, 4)


def test_a_folder_is_opened_as_what_it_is(adapt: Adapt, tmp_path: Path) -> None:
    folder = adapt(pair("q"))
    with open_model(folder) as adapter:
        assert isinstance(adapter, Adapter)
        assert "base_model.model.q.lora_A.weight" in own_tensors(adapter).tensors
    assert is_adapter(folder)
    (folder / "adapter_model.safetensors").rename(folder / "model.safetensors")
    assert not is_adapter(folder)
    with open_model(folder) as whole:
        assert own_tensors(whole) is whole


def test_the_scale_is_alpha_by_rank_or_by_its_root() -> None:
    assert config().scale_of("q") == 2.0
    assert config(use_rslora=True).scale_of("q") == 16 / math.sqrt(8)


@pytest.mark.parametrize(
    ("pattern", "module", "matches"),
    [
        ("q_proj", "layers.0.q_proj", True),
        ("q_proj", "q_proj", True),
        ("q_proj", "layers.0.eq_proj", False),
        ("q_proj", "layers.0.q_proj.x", False),
        (r"layers\.[01]\.q", "model.layers.1.q", True),
        (r"layers\.[01]\.q", "model.layers.2.q", False),
        ("^model.layers.1.q", "model.layers.1.q", True),
        ("^layers.1.q", "model.layers.1.q", False),
    ],
)
def test_patterns_match_the_end_of_a_name_at_a_dot(
    pattern: str, module: str, matches: bool
) -> None:
    made = config(rank_pattern={pattern: 4}, alpha_pattern={pattern: 2})
    assert made.rank_of(module) == (4 if matches else 8)
    assert made.scale_of(module) == (0.5 if matches else 2.0)


def test_the_first_pattern_that_matches_counts() -> None:
    made = config(rank_pattern={"q": 2, "layers.1.q": 3}, alpha_pattern={"layers.1.q": 3, "q": 2})
    assert made.rank_of("layers.1.q") == 2
    assert made.scale_of("layers.1.q") == 1.5


@pytest.mark.parametrize(
    ("settings", "module", "adapted"),
    [
        ({"target_modules": ["q"]}, "layers.0.q", True),
        ({"target_modules": ["q"]}, "layers.0.aq", False),
        ({"target_modules": r".*\.(q|v)"}, "layers.0.v", True),
        ({"target_modules": r".*\.(q|v)"}, "layers.0.k", False),
        ({"target_modules": "all-linear"}, "layers.0.k", True),
        ({"target_modules": ["q"], "exclude_modules": ["0.q"]}, "layers.0.q", False),
        ({"target_modules": ["q"], "layers_to_transform": 1}, "layers.1.q", True),
        ({"target_modules": ["q"], "layers_to_transform": [1, 2]}, "layers.0.q", False),
        (
            {"target_modules": ["q"], "layers_to_transform": [1], "layers_pattern": "h"},
            "x.0.h.1.q",
            True,
        ),
    ],
)
def test_targets_are_those_of_peft(settings: dict[str, Any], module: str, adapted: bool) -> None:
    assert config(**settings).adapts(module) is adapted


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "IA3"}, "only LORA"),
        ({"peft_type": None}, "only LORA"),
        ({"r": 0}, "r is '0'"),
        ({"r": True}, "r is 'True'"),
        ({"lora_alpha": "2"}, "lora_alpha is '2'"),
        ({"use_dora": 1}, "use_dora is '1'"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"target_parameters": ["experts.w"]}, "sets 'target_parameters'"),
        ({"trainable_token_indices": [1]}, "sets 'trainable_token_indices'"),
        ({"alora_invocation_tokens": [1, 2]}, "sets 'alora_invocation_tokens'"),
        ({"layer_replication": [[0, 2]]}, "sets 'layer_replication'"),
        ({"use_qalora": True}, "sets 'use_qalora'"),
        ({"something_new": 0.5}, "sets 'something_new'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
        ({"rank_pattern": ["q"]}, "a mapping of modules"),
        ({"rank_pattern": {"q": -1}}, "rank_pattern of 'q' is '-1'"),
        ({"alpha_pattern": {"q": "x"}}, "alpha_pattern of 'q' is 'x'"),
        ({"rank_pattern": {"(a+)+b": 2}}, "no pattern that is safe"),
        ({"rank_pattern": {"(": 2}}, "no pattern that is safe"),
        ({"layers_to_transform": ["1"]}, "numbers of layers"),
        ({"target_modules": [1]}, "names of modules"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused_by_name(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckpointError, match="here") as error:
        config(**settings)
    assert words in str(error.value)


def test_empty_settings_of_other_variants_are_nothing() -> None:
    nothing = {"target_parameters": None, "layer_replication": [], "use_qalora": False}
    assert config(**nothing, task_type="CAUSAL_LM").rank == 8


@pytest.mark.parametrize(
    ("tensors", "settings", "words"),
    [
        ({}, {}, "holds no tensor"),
        ({"q.lora_A.weight": torch.ones(2, 4)}, {}, "'q' lacks 'lora_B.weight'"),
        (pair("q", rank=3), {}, "of rank 3 and 3; the config says 2"),
        (pair("q"), {"use_dora": True}, "'q' lacks 'lora_magnitude_vector'"),
        ({**pair("q"), "q.lora_magnitude_vector": torch.ones(3)}, {}, "use_dora is not set"),
        (pair("k"), {}, "'k' is none of the modules that the config targets"),
        ({**pair("q"), "q.lora_embedding_A": torch.ones(2, 9)}, {}, "lacks 'lora_embedding_B'"),
        ({**pair("q"), "q.lora_diag": torch.ones(2)}, {}, "no part of a LoRA adapter"),
        ({**pair("q"), "norm.weight": torch.ones(4, dtype=torch.int64)}, {}, "I64, no float"),
        (
            {"q.lora_A.weight": torch.ones(2), "q.lora_B.weight": torch.ones(3, 2)},
            {},
            "factors of the shapes [3, 2] and [2]",
        ),
        (
            {"q.weight": torch.ones(1), "q.base_layer.weight": torch.ones(1)},
            {},
            "'q.weight' is stored twice",
        ),
    ],
)
def test_files_that_make_no_sense_are_refused(
    adapt: Adapt, tensors: dict[str, torch.Tensor], settings: dict[str, Any], words: str
) -> None:
    message = cause(adapt(tensors, **settings))
    assert words in message
    assert "adapter_model.safetensors" in message


def test_names_without_the_prefix_pickles_and_broken_json_are_refused(adapt: Adapt) -> None:
    folder = adapt(pair("q"))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "safe_serialization=True" in cause(folder)
    (folder / "adapter_config.json").write_text("[]")
    assert "JSON object" in cause(folder)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": math.inf}))
    assert "Infinity is not JSON" in cause(folder)


def test_weights_may_not_leave_the_folder(adapt: Adapt, tmp_path: Path) -> None:
    folder = adapt(pair("q"))
    (folder / "adapter_model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (folder / "adapter_model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    assert "a link that leaves the folder" in cause(folder)
