"""Causal language models through transformers; the only module that imports it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import CheckpointError, UsageError


@dataclass
class CachedReader:
    """`evomerge.objectives.subject.Reader` over a transformers model."""

    module: Any
    past: Any = None

    def read(self, ids: Tensor, *, rows: Collection[int] | None = None) -> Tensor:
        """Logits after the last token, ``(rows, vocabulary)``."""
        answer = self.module(
            input_ids=ids, past_key_values=self.past, use_cache=True, **_keep(self.module, 1)
        )
        self.past = answer.past_key_values
        logits: Tensor = answer.logits[:, -1]
        return logits


@dataclass(frozen=True)
class CachedPrefix:
    """`evomerge.objectives.subject.Prefix` over a transformers model with full attention."""

    module: Any
    past: Any

    def logits(self, rows: Sequence[int], ids: Tensor, *, keep: int) -> Tensor:
        """Logits of the last `keep` new tokens, ``(n, keep, vocabulary)``."""
        picked = torch.tensor(rows, device=ids.device)
        past = type(self.past)()
        for index, layer in enumerate(self.past.layers):
            past.update(layer.keys[picked], layer.values[picked], index)
        answer = self.module(
            input_ids=ids, past_key_values=past, use_cache=True, **_keep(self.module, keep)
        )
        logits: Tensor = answer.logits[:, -keep:]
        return logits


@dataclass(frozen=True)
class TransformersLanguageModel:
    """`evomerge.objectives.subject.LanguageModel` over a transformers model."""

    module: Any
    tokenizer: Any
    ends: frozenset[int]
    vocabulary: int = field(init=False)

    def __post_init__(self) -> None:
        size = self.module.get_output_embeddings().weight.shape[0]
        object.__setattr__(self, "vocabulary", size)

    @property
    def context(self) -> int | None:
        """The longest sequence in tokens."""
        config = self.module.config.get_text_config()
        longest: int | None = getattr(config, "max_position_embeddings", None)
        return longest

    @property
    def start(self) -> int | None:
        """The beginning-of-text token, else the end-of-text token."""
        token: int | None = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if token is None else token

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids, with the special tokens that the tokenizer adds, unless told otherwise."""
        found = self.tokenizer(text, verbose=False, add_special_tokens=special)
        return list(found["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text that the chat template makes of turns, up to the assistant's next.

        Raises:
            UsageError: if there is no template, or it refuses these turns.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise UsageError(
                "the tokenizer has no chat template (chat_template.jinja, or chat_template in "
                "tokenizer_config.json); leave off `chat`, or use an instruction-tuned base"
            )
        try:
            text: str = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # jinja2's own errors, and whatever a template raises
            raise UsageError(f"the chat template refuses the prompt: {error}") from error
        return text

    def logits(self, ids: Tensor, *, keep: int, places: Sequence[range] | None = None) -> Tensor:
        """Logits of the last `keep` tokens, ``(rows, keep, vocabulary)``."""
        answer = self.module(input_ids=ids, use_cache=False, **_keep(self.module, keep))
        logits: Tensor = answer.logits[:, -keep:]
        return logits

    def reader(self, *, rows: int, length: int) -> CachedReader:
        """A reader with an empty cache."""
        return CachedReader(self.module)

    def prefix(self, ids: Tensor) -> CachedPrefix | None:
        """Read ``(rows, tokens)`` once; None unless every layer keeps all keys and values."""
        answer = self.module(input_ids=ids, use_cache=True, **_keep(self.module, 1))
        past = answer.past_key_values
        plain = type(past).__name__ == "DynamicCache" and {
            type(layer).__name__ for layer in getattr(past, "layers", ())
        } == {"DynamicLayer"}
        return CachedPrefix(self.module, past) if plain else None


def load_transformers(folder: Path, *, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, from local safetensors only, running no code from it.

    Raises:
        UsageError: if the extra ``hf`` is not installed.
        CheckpointError: if transformers cannot load the folder.
    """
    transformers = _transformers(folder)
    with _loading(folder):
        module = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            **{"dtype" if _major(transformers) >= 5 else "torch_dtype": dtype},
        )
    return module.to(device).eval().requires_grad_(False), load_tokenizer(folder)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder.

    Raises:
        UsageError: if the extra ``hf`` is not installed.
        CheckpointError: if transformers cannot load it.
    """
    make = _transformers(folder).AutoTokenizer.from_pretrained
    with _loading(folder):
        return make(folder, local_files_only=True, trust_remote_code=False)


def is_causal_model(module: torch.nn.Module) -> bool:
    """Whether a module is one of transformers' models with a language model's head."""
    return hasattr(module, "get_output_embeddings") and hasattr(module, "generation_config")


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """Turn transformers' complaints into ours.

    Loading draws from torch's global generator for tensors that the file then overwrites; the
    generator is put back.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        except (OSError, ValueError, TypeError, ImportError, RuntimeError, LookupError) as error:
            cause = f"transformers cannot load it: {error}"
            raise CheckpointError(cause, place=str(folder)) from error


def _transformers(folder: Path) -> Any:
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise UsageError(
            f"this model needs the extra hf, which is not installed ({error})",
            place=str(folder),
            command="pip install 'evomerge[hf]'",
        ) from error
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _major(transformers: Any) -> int:
    return int(transformers.__version__.split(".")[0])


def _keep(module: Any, keep: int) -> dict[str, int]:
    """The argument that limits logits to the last tokens, where the model has it."""
    known = inspect.signature(module.forward).parameters
    names = [name for name in ("logits_to_keep", "num_logits_to_keep") if name in known]
    return {names[0]: keep} if names else {}
