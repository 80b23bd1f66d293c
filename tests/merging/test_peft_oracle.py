"""PEFT as the oracle: merging an adapter alone gives what its merge_and_unload gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.merger import Merger

pytest.importorskip("peft")
pytest.importorskip("transformers")

ALONE = {"weight": (1.0,), "scaling": 1.0}
TARGETS = ["q_proj", "v_proj", "down_proj"]


def llama(*, tie: bool = False, bias: bool = False) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tie,
        attention_bias=bias,
    )
    return LlamaForCausalLM(config)


def biased() -> Any:
    return llama(bias=True)


def tied() -> Any:
    return llama(tie=True)


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    words = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, **words)
    )


VARIANTS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "plain": (llama, {}),
    "rsLoRA": (llama, {"use_rslora": True}),
    "patterns": (
        llama,
        {
            "rank_pattern": {"q_proj": 2, r"layers\.[01]\.mlp\.down_proj": 7},
            "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 3, "v_proj": 5},
        },
    ),
    "DoRA": (llama, {"use_dora": True}),
    "DoRA with rsLoRA": (llama, {"use_dora": True, "use_rslora": True}),
    "embeddings": (llama, {"target_modules": [*TARGETS, "embed_tokens"]}),
    "embeddings and head by DoRA": (
        llama,
        {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True},
    ),
    "tied embeddings": (tied, {"target_modules": ["embed_tokens"]}),
    "modules saved whole": (llama, {"modules_to_save": ["lm_head", "norm"]}),
    "all biases": (biased, {"bias": "all"}),
    "biases of adapted layers": (biased, {"bias": "lora_only"}),
    "biases of B": (biased, {"target_modules": ["q_proj"], "lora_bias": True}),
    "some layers": (llama, {"layers_to_transform": [1, 2]}),
    "targets by pattern": (llama, {"target_modules": r".*\.(q|k)_proj"}),
    "all linear layers": (llama, {"target_modules": "all-linear"}),
    "transposed layers": (gpt2, {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "transposed layers by DoRA": (
        gpt2,
        {"target_modules": ["c_attn", "wte"], "fan_in_fan_out": True, "use_dora": True},
    ),
}


def trained(make: Callable[[], Any], settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write base and adapter; returns the tensors of the two merged by PEFT."""
    from peft import LoraConfig, PeftModel, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        model.save_pretrained(folder / "base")
        config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS, **settings})
        adapted = get_peft_model(model, config)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
        adapted.save_pretrained(folder / "adapter")
        fresh = type(model).from_pretrained(folder / "base")
        merged = PeftModel.from_pretrained(fresh, folder / "adapter").merge_and_unload()
    return dict(merged.state_dict())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", VARIANTS)
def test_effective_weights_are_those_of_peft(variant: str, tmp_path: Path) -> None:
    expected = trained(*VARIANTS[variant], tmp_path)
    with (
        Checkpoint.open(tmp_path / "base") as base,
        Adapter.open(tmp_path / "adapter") as adapter,
    ):
        merger = Merger(base, {"alone": adapter})
        for name in base.tensors:
            found = merger.tensor(name, ALONE, "task_arithmetic")
            wanted = expected.get(name, expected.get(f"transformer.{name}"))
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
        assert adapter.changes
