"""What llama.cpp calls the modules of a model, and how it stores their rows.

Its converter (conversion/, convert_lora_to_gguf.py; read as of October 2026) only renames the
linear layers of the architectures listed here, and reorders the rows of queries and keys of those
whose rotary embedding llama.cpp applies to neighbouring entries. It does more to others, such as
joining experts; those are refused.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.checkpoint.folder import read_json
from evomerge.checkpoint.names import quoted, shown
from evomerge.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.json"
ARCHITECTURES = {
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "GemmaForCausalLM": "gemma",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Olmo2ForCausalLM": "olmo2",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""The first of ``architectures`` in config.json to ``general.architecture``."""

_REORDERED = frozenset({"llama"})
_TIED = frozenset({"gemma", "gemma2", "gemma3"})  # where config.json does not say so either
_EMBEDDINGS = "token_embd.weight"


@dataclass(frozen=True)
class LlamaNames:
    """A base as llama.cpp has it.

    Attributes:
        architecture: llama.cpp's word for it.
        layers: how many.
        heads: by the last word of a module whose rows are reordered: its heads.
        tied: whether the head is the embeddings. llama.cpp has one tensor for both, and an adapter
            of it would be multiplied as the embeddings' by the one and as the head's by the other.
        known: gguf's map of tensors' names.
    """

    architecture: str
    layers: int
    heads: dict[str, int]
    tied: bool
    known: Any

    @classmethod
    def of(cls, base: Path) -> LlamaNames:
        """From the config.json in a base's folder.

        Raises:
            UsageError: if the extra ``gguf`` is missing or too old, or its architecture is none of
                ours.
            CheckpointError: if the file is missing, or lacks what is needed.
        """
        if importlib.util.find_spec("gguf") is None:
            raise UsageError(
                "writing GGUF files needs the extra gguf, which is not installed",
                command="pip install 'evomerge[gguf]'",
            )
        import gguf

        config = read_json(base, CONFIG)
        said = config.get("architectures")
        first = said[0] if isinstance(said, list) and said else None
        architecture = ARCHITECTURES.get(first) if isinstance(first, str) else None
        if architecture is None:
            raise UsageError(
                f"its architecture is {quoted(first)}; {', '.join(ARCHITECTURES)} are known here, "
                "for others there is llama.cpp's convert_lora_to_gguf.py",
                place=shown(base / CONFIG),
            )
        layers = _count(config, "num_hidden_layers", base)
        heads: dict[str, int] = {}
        if architecture in _REORDERED:
            queries = _count(config, "num_attention_heads", base)
            few = config.get("num_key_value_heads") is not None
            keys = _count(config, "num_key_value_heads", base) if few else queries
            heads = {"q_proj": queries, "k_proj": keys}
        words = {word: number for number, word in gguf.MODEL_ARCH_NAMES.items()}
        if architecture not in words:
            raise UsageError(
                f"the installed gguf does not know {architecture}",
                command="pip install --upgrade 'evomerge[gguf]'",
            )
        known = gguf.get_tensor_name_map(words[architecture], layers)
        tied = bool(config.get("tie_word_embeddings", architecture in _TIED))
        return cls(architecture, layers, heads, tied, known)

    def tensor(self, module: str) -> str | None:
        """llama.cpp's name of a module's weights; None where no adapter may change them."""
        found: str | None = self.known.get_name(f"{module}.weight", try_suffixes=(".weight",))
        return None if self.tied and (module == "lm_head" or found == _EMBEDDINGS) else found

    def rows(self, module: str, up: Tensor) -> Tensor:
        """A module's rows in llama.cpp's order: of each head, the halves' entries by turns.

        Args:
            up: ``(out, rank)``.

        Raises:
            CheckpointError: if the rows are not those of whole heads.
        """
        heads = self.heads.get(module.rpartition(".")[2])
        if heads is None:
            return up
        out, rank = up.shape
        if out % (2 * heads):
            raise CheckpointError(
                f"{quoted(module)} has {out} rows, which {heads} heads cannot share; "
                "the adapter belongs to another base"
            )
        return up.reshape(heads, 2, out // heads // 2, rank).swapaxes(1, 2).reshape(out, rank)


def _count(config: dict[str, Any], key: str, base: Path) -> int:
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= 100_000:
        raise CheckpointError(
            f"{key} is {quoted(value)}; a number from 1 on is wanted", place=shown(base / CONFIG)
        )
    return value
