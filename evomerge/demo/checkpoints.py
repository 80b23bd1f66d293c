"""Writes the demo's models as ordinary Hugging Face folders of the Llama architecture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from evomerge.checkpoint.writer import CheckpointWriter
from evomerge.objectives.llama import Llama
from evomerge.objectives.tokens import ByteTokenizer

SHARD_SIZE = 300_000
"""Bytes; small, so that the demo's checkpoints have several shards as large ones have."""

LICENSE = "psf-2.0"
"""Of the text that the models are trained on: Python's standard library."""

_CARD = """\
---
license: {license}
language: en
tags: [evomerge-demo]
---
# {name}

{meaning} Trained in seconds by `evomerge demo` on text of Python's standard library; a toy.
"""


def write_model(
    model: Llama, tokenizer: ByteTokenizer, folder: Path, *, name: str, meaning: str
) -> None:
    """Shards with index, config, generation config, tokenizer and a card, in float32.

    A tied head is not stored, as transformers has it.

    Args:
        folder: is made; its parent exists.
        name, meaning: for the card.
    """
    folder.mkdir()
    config = replace(model.config, dtype="float32")
    tensors = {key: value.detach() for key, value in model.named_parameters()}
    layout = [(key, "F32", tuple(value.shape)) for key, value in tensors.items()]
    with CheckpointWriter(folder, layout, shard_size=SHARD_SIZE) as writer:
        for key, value in tensors.items():
            writer.write(key, 0, value.flatten())
        writer.finish()
    generation = {"eos_token_id": tokenizer.eos_token_id, "do_sample": False}
    files = {
        "config.json": _json(config.to_json()),
        "generation_config.json": _json(generation),
        "README.md": _CARD.format(license=LICENSE, name=name, meaning=meaning),
        **tokenizer.files(max_length=config.max_position_embeddings),
    }
    for file, text in files.items():
        (folder / file).write_text(text, "utf-8")


def _json(document: object) -> str:
    return json.dumps(document, indent=2) + "\n"
