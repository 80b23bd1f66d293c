"""Byte-level tokens: one per byte of UTF-8 and some special ones, as ``tokenizer.json`` files.

The files are the ``tokenizers`` library's format (a BPE model without merges behind a ByteLevel
pre-tokenizer), so transformers' ``AutoTokenizer`` loads them; here they are read and written with
nothing but the standard library. Tokenizers of any other kind need the extra ``hf``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evomerge.checkpoint.folder import read_json
from evomerge.errors import CheckpointError, UsageError
from evomerge.objectives.byte_level import byte_letters, is_byte_level, prefix_token


@dataclass(frozen=True)
class ByteTokenizer:
    """Text to token ids and back.

    Attributes:
        bytes_to_ids: ``(256,)`` distinct ids.
        special: text of each special token to its id.
        bos_token: special token that says a text begins; None if there is none.
        eos_token: special token that says a text is over; None if there is none.
        pad_token: special token that fills; None if there is none.
        add_bos: whether `encode` puts the beginning-of-text token first.
    """

    bytes_to_ids: tuple[int, ...]
    special: Mapping[str, int]
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    add_bos: bool = False

    @classmethod
    def new(
        cls,
        *,
        bos_token: str | None = None,
        eos_token: str | None = "</s>",
        pad_token: str | None = None,
        add_bos: bool = False,
    ) -> ByteTokenizer:
        """Bytes are ids 0 to 255; the special tokens follow in the order of the arguments."""
        named = dict.fromkeys(token for token in (bos_token, eos_token, pad_token) if token)
        special = {token: 256 + i for i, token in enumerate(named)}
        if add_bos and bos_token is None:
            raise UsageError("add_bos needs a bos_token")
        return cls(tuple(range(256)), special, bos_token, eos_token, pad_token, add_bos)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return 1 + max(*self.bytes_to_ids, *self.special.values())

    @property
    def bos_token_id(self) -> int | None:
        """Id of the beginning-of-text token."""
        return None if self.bos_token is None else self.special[self.bos_token]

    @property
    def eos_token_id(self) -> int | None:
        """Id of the end-of-text token."""
        return None if self.eos_token is None else self.special[self.eos_token]

    @property
    def pad_token_id(self) -> int | None:
        """Id of the filling token."""
        return None if self.pad_token is None else self.special[self.pad_token]

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids; the text of a special token becomes that token.

        Args:
            special: whether the beginning-of-text token comes first where `add_bos` says so.
        """
        begun = special and self.add_bos and self.bos_token
        ids = [self.special[self.bos_token]] if begun and self.bos_token else []
        for piece in self._specials.split(text) if self._specials else [text]:
            if piece in self.special:
                ids.append(self.special[piece])
            else:
                ids.extend(self.bytes_to_ids[byte] for byte in piece.encode("utf-8"))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text without the special tokens; bytes that are no UTF-8 become U+FFFD."""
        data = bytes(self._bytes[i] for i in ids if i in self._bytes)
        return data.decode("utf-8", errors="replace")

    @cached_property
    def _bytes(self) -> dict[int, int]:
        return {token: byte for byte, token in enumerate(self.bytes_to_ids)}

    @cached_property
    def _specials(self) -> re.Pattern[str] | None:
        longest_first = sorted(self.special, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})") if self.special else None

    def files(self, *, max_length: int | None = None) -> dict[str, str]:
        """File name to text: ``tokenizer.json`` and ``tokenizer_config.json``.

        Args:
            max_length: tokens that the model was made for.
        """
        settings: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "pad_token": self.pad_token,
        }
        if max_length is not None:
            settings["model_max_length"] = max_length
        return {
            "tokenizer.json": _text(self._document()),
            "tokenizer_config.json": _text(settings),
        }

    def _document(self) -> dict[str, Any]:
        letters = zip(byte_letters(), self.bytes_to_ids, strict=True)
        by_id = sorted(self.special.items(), key=lambda pair: pair[1])
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [_added(text, token) for text, token in by_id],
            "normalizer": None,
            "pre_tokenizer": dict(_BYTE_LEVEL),
            "post_processor": self._prefix() if self.add_bos else None,
            "decoder": dict(_BYTE_LEVEL),
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": dict(letters) | dict(by_id),
                "merges": [],
            },
        }

    def _prefix(self) -> dict[str, Any]:
        bos: Any = {"SpecialToken": {"id": self.bos_token, "type_id": 0}}
        first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
        entry = {"id": self.bos_token, "ids": [self.bos_token_id], "tokens": [self.bos_token]}
        return {
            "type": "TemplateProcessing",
            "single": [bos, first],
            "pair": [bos, first, second],
            "special_tokens": {self.bos_token: entry},
        }

    @classmethod
    def read(cls, folder: Path) -> ByteTokenizer | None:
        """The tokenizer of a checkpoint folder; None if it is missing or of another kind.

        Raises:
            CheckpointError: if a file is not strict JSON, or contradicts itself.
        """
        if not (folder / "tokenizer.json").exists():
            return None
        document = read_json(folder, "tokenizer.json")
        if not is_byte_level(document):
            return None
        has_settings = (folder / "tokenizer_config.json").exists()
        settings = read_json(folder, "tokenizer_config.json") if has_settings else {}
        special = {token["content"]: token["id"] for token in document.get("added_tokens") or []}
        names = {key: _name(settings.get(key)) for key in ("bos_token", "eos_token", "pad_token")}
        for key, name in names.items():
            if name is not None and name not in special:
                raise CheckpointError(f"{key} {name!r} is no added token", place=str(folder))
        prefix = prefix_token(document)
        if prefix not in (None, names["bos_token"]):
            return None
        vocabulary = document["model"]["vocab"]
        return cls(
            bytes_to_ids=tuple(vocabulary[letter] for letter in byte_letters()),
            special=special,
            add_bos=prefix is not None,
            **names,
        )


_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}


def _added(text: str, token: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": text, **flags, "special": True}


def _text(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _name(token: Any) -> str | None:
    """A special token as tokenizer_config.json has it: text, or an object that holds it."""
    return token.get("content") if isinstance(token, dict) else token
