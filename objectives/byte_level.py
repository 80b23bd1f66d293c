"""Recognises a ``tokenizer.json`` that makes one token of every byte and knows no merges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def byte_letters() -> tuple[str, ...]:
    """The printable letter that stands for each of the 256 bytes.

    Radford et al. (2019), GPT-2: printable Latin-1 stands for itself, the rest follow from U+0100.
    """
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, moved = [], 0
    for byte in range(256):
        letters.append(chr(byte if byte in plain else 0x100 + moved))
        moved += byte not in plain
    return tuple(letters)


def is_byte_level(document: Mapping[str, Any]) -> bool:
    """Whether a ``tokenizer.json`` does just what `ByteTokenizer` does; false if in doubt."""
    try:
        return (
            _plain_vocabulary(document)
            and not any(document.get(key) for key in ("normalizer", "truncation", "padding"))
            and _splits_bytes(document["pre_tokenizer"])
            and document["decoder"]["type"] == "ByteLevel"
            and _template(document) in ([], ["Sequence"], ["SpecialToken", "Sequence"])
        )
    except (AttributeError, IndexError, KeyError, TypeError, StopIteration):
        return False  # laid out otherwise than the format says


def prefix_token(document: Mapping[str, Any]) -> str | None:
    """The special token that a byte-level ``tokenizer.json`` puts first; None if it puts none."""
    if _template(document) != ["SpecialToken", "Sequence"]:
        return None
    name: str = document["post_processor"]["single"][0]["SpecialToken"]["id"]
    return name


def _plain_vocabulary(document: Mapping[str, Any]) -> bool:
    """256 bytes and special tokens, nothing that changes or joins them."""
    model, added = document["model"], document.get("added_tokens") or []
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    changes = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    return (
        model["type"] == "BPE"
        and model["merges"] == []
        and not any(model.get(key) for key in changes)
        and set(model["vocab"]) - {token["content"] for token in added} == set(byte_letters())
        and all(type(token["id"]) is int for token in added)
        and not any(token.get(flag) for token in added for flag in flags)
    )


def _splits_bytes(step: Mapping[str, Any]) -> bool:
    return step["type"] == "ByteLevel" and not step.get("add_prefix_space")


def _template(document: Mapping[str, Any]) -> list[str]:
    """Kinds of parts that a text is put together from; empty without a post-processor."""
    step = document.get("post_processor")
    if step is None:
        return []
    if step["type"] != "TemplateProcessing":
        return [step["type"]]
    return [next(iter(part)) for part in step["single"]]
