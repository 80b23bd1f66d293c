"""GGUF files of tests' tiny models: the base, as llama.cpp's converter writes it; adapters read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from evomerge.objectives.byte_level import byte_letters


def interleaved(rows: int, heads: int) -> list[int]:
    """The row of a checkpoint that each row of llama.cpp's queries and keys is.

    transformers turns entry i of a head together with entry i + half, llama.cpp with its neighbour.
    """
    head = rows // heads
    return [h * head + half * head // 2 + i
            for h in range(heads) for i in range(head // 2) for half in (0, 1)]  # fmt: skip


def heads_of(config: Mapping[str, int], name: str) -> int | None:
    """Of a tensor whose rows llama.cpp reorders."""
    words = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    key = words.get(name.split(".")[-2])
    return None if key is None else config[key]


def write_base(folder: Path, path: Path) -> None:
    """A Llama with a `ByteTokenizer`, as llama.cpp's converter would write it in float32."""
    config = json.loads((folder / "config.json").read_text())
    layers = config["num_hidden_layers"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    for add in (writer.add_rope_dimension_count, writer.add_key_length, writer.add_value_length):
        add(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    tokens = [*byte_letters(), "<s>", "</s>", "<pad>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 3)
    writer.add_token_merges([f"{tokens[0]} {tokens[1]}"])  # one is wanted; it makes no token
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(True)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    for name, values in load_file(folder / "model.safetensors").items():
        heads = heads_of(config, name)
        rows = values if heads is None else values[interleaved(len(values), heads)]
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(rows)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def deltas(path: Path, folder: Path) -> dict[str, np.ndarray]:
    """What llama.cpp adds to each tensor of a base at scale 1, under its name in the checkpoint.

    By llama-adapter.h: ``alpha / rank * B A``, and ``B A`` alone at alpha 0.
    """
    config = json.loads((folder / "config.json").read_text())
    read = gguf.GGUFReader(path)
    alpha = float(read.fields["adapter.lora.alpha"].contents())
    stored = {tensor.name: np.array(tensor.data) for tensor in read.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    found = {}
    with safe_open(folder / "model.safetensors", framework="np") as base:
        originals = list(base.keys())
    for name in originals:
        known = names.get_name(name, try_suffixes=(".weight",))
        if f"{known}.lora_a" not in stored:
            continue
        down, up = stored.pop(f"{known}.lora_a"), stored.pop(f"{known}.lora_b")
        # Embeddings are looked up by rows: their factors stand the other way round.
        change = down @ up.T if known == "token_embd.weight" else up @ down
        heads = heads_of(config, name)
        if heads is not None:
            change[interleaved(len(change), heads)] = change.copy()
        found[name] = (alpha / up.shape[1] if alpha else 1.0) * change
    assert not stored, "the server refuses tensors that the base does not have"
    return found
