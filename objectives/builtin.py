"""Causal language models without transformers: a plain Llama with byte-level tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.names import listed
from evomerge.errors import CheckpointError, UsageError
from evomerge.objectives.llama import Cache, Llama
from evomerge.objectives.llama_config import LlamaConfig
from evomerge.objectives.tokens import ByteTokenizer

HEAD = "lm_head.weight"


@dataclass(frozen=True)
class CachedReader:
    """`evomerge.objectives.subject.Reader` over the built-in Llama."""

    model: Llama
    cache: Cache

    def read(self, ids: Tensor, *, rows: Collection[int] | None = None) -> Tensor:
        """Logits after the last token, ``(rows, vocabulary)``."""
        logits: Tensor = self.model(ids, cache=self.cache, keep=1)
        return logits[:, 0]


@dataclass(frozen=True)
class CachedPrefix:
    """`evomerge.objectives.subject.Prefix` over the built-in Llama."""

    model: Llama
    cache: Cache

    def logits(self, rows: Sequence[int], ids: Tensor, *, keep: int) -> Tensor:
        """Logits of the last `keep` new tokens, ``(n, keep, vocabulary)``."""
        cache = self.cache.chosen(rows, room=ids.shape[1])
        logits: Tensor = self.model(ids, cache=cache, keep=keep)
        return logits


@dataclass(frozen=True)
class BuiltinLanguageModel:
    """`evomerge.objectives.subject.LanguageModel` over the built-in Llama."""

    model: Llama
    tokenizer: ByteTokenizer
    ends: frozenset[int]

    @property
    def vocabulary(self) -> int:
        """How many logits there are per token."""
        return self.model.config.vocab_size

    @property
    def context(self) -> int:
        """The longest sequence in tokens."""
        return self.model.config.max_position_embeddings

    @property
    def start(self) -> int | None:
        """The beginning-of-text token, else the end-of-text token."""
        token = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if token is None else token

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids."""
        return self.tokenizer.encode(text, special=special)

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return self.tokenizer.decode(ids)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Refuse: templates are rendered by transformers.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "evomerge's own byte-level tokenizer has no chat template; leave off `chat`, or put "
            "the turns' marks into the prompts"
        )

    def logits(self, ids: Tensor, *, keep: int, places: Sequence[range] | None = None) -> Tensor:
        """Logits of the last `keep` tokens, ``(rows, keep, vocabulary)``."""
        logits: Tensor = self.model(ids, keep=keep)
        return logits

    def reader(self, *, rows: int, length: int) -> CachedReader:
        """A reader with an empty cache."""
        return CachedReader(self.model, self.model.cache(rows=rows, length=length))

    def prefix(self, ids: Tensor) -> CachedPrefix:
        """Read ``(rows, tokens)`` once."""
        cache = self.model.cache(rows=ids.shape[0], length=ids.shape[1])
        self.model(ids, cache=cache, keep=1)
        return CachedPrefix(self.model, cache)


def load_llama(
    checkpoint: Checkpoint, shape: LlamaConfig, *, device: torch.device, dtype: torch.dtype
) -> Llama:
    """The model of a checkpoint, in evaluation mode.

    A head that the file holds although the config ties it stays a parameter of its own, as in
    transformers 5.

    Args:
        shape: as the checkpoint's ``config.json`` says it.
        dtype: of all parameters.

    Raises:
        CheckpointError: if tensors are missing, left over, or of another shape.
    """
    tied = shape.tie_word_embeddings and HEAD not in checkpoint.tensors
    with torch.device(device):
        model = Llama(replace(shape, tie_word_embeddings=tied)).to(dtype)
    parameters = dict(model.named_parameters())
    _check_tensors(checkpoint, {name: tuple(p.shape) for name, p in parameters.items()})
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(checkpoint.tensor(name))
    return model.eval().requires_grad_(False)


def _check_tensors(checkpoint: Checkpoint, wanted: Mapping[str, tuple[int, ...]]) -> None:
    found = {name: entry.shape for name, entry in checkpoint.tensors.items()}
    # Buffers that older versions of transformers saved; they follow from the config.
    left = [name for name in found.keys() - wanted.keys() if not name.endswith(".inv_freq")]
    shared = wanted.keys() & found.keys()
    problems = {
        "missing": sorted(wanted.keys() - found.keys()),
        "not a Llama's": sorted(left),
        "of another shape than config.json says": [n for n in shared if found[n] != wanted[n]],
    }
    said = [f"{listed(names)} {what}" for what, names in problems.items() if names]
    if said:
        raise CheckpointError(f"tensors: {'; '.join(said)}", place=str(checkpoint.path))
