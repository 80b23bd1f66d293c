"""Loads the model that a worker keeps and whose parameters candidates replace in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import FLOATS, parse_dtype, torch_dtype
from evomerge.checkpoint.folder import read_json
from evomerge.errors import CheckpointError, UsageError
from evomerge.objectives.builtin import BuiltinLanguageModel, load_llama
from evomerge.objectives.functions import load_function
from evomerge.objectives.hf import (
    TransformersLanguageModel,
    is_causal_model,
    load_tokenizer,
    load_transformers,
)
from evomerge.objectives.llama_config import LlamaConfig, obstacles
from evomerge.objectives.subject import LanguageModel, LiveModel
from evomerge.objectives.tokens import ByteTokenizer


def load_model(
    folder: Path,
    *,
    device: torch.device | str | None = None,
    dtype: str | None = None,
    loader: str | None = None,
    root: Path | None = None,
) -> LiveModel:
    """The model of a checkpoint folder, in evaluation mode, without gradients.

    A plain Llama with byte-level tokens is loaded by evomerge itself; any other causal language
    model by transformers (extra ``hf``); anything else by the user's loader.

    Args:
        folder: a Hugging Face folder of safetensors; with a loader, whatever that reads.
        device: None for the first GPU if there is one, else the CPU.
        dtype: of the parameters, as people write it; None for the widest float that the
            checkpoint stores.
        loader: ``file.py:function`` or ``package.module:function``, called with the folder, that
            returns a `torch.nn.Module`; its attribute ``tokenizer``, if it has one, is passed on.
        root: what the loader's path starts from; None for the working directory.

    Raises:
        CheckpointError: if the files are broken or do not fit their config.
        UsageError: if the extra ``hf`` is needed and missing, or the loader is at fault.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if loader is not None:
        return _by_loader(loader, root or Path.cwd(), folder, place, dtype)
    with Checkpoint.open(folder) as checkpoint:
        config = _config(checkpoint)
        words = (entry.dtype for entry in checkpoint.tensors.values())
        kind = _torch_dtype(dtype) or _widest(words)
        tokenizer = ByteTokenizer.read(folder)
        if tokenizer is not None and not obstacles(config):
            return _by_itself(checkpoint, config, tokenizer, place, kind)
    module, hf_tokenizer = load_transformers(folder, device=place, dtype=kind)
    language = _transformers_language(module, hf_tokenizer)
    return LiveModel(module, hf_tokenizer, place, folder, language)


def _config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    config = checkpoint.config()
    if config is None:
        raise CheckpointError(
            "there is no config.json; name a `loader` for a model that is not a folder of "
            "Hugging Face's kind",
            place=str(checkpoint.path),
        )
    return config


def _by_itself(
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    tokenizer: ByteTokenizer,
    device: torch.device,
    dtype: torch.dtype,
) -> LiveModel:
    folder = checkpoint.path
    shape = LlamaConfig.from_json(config, place=str(folder / "config.json"))
    if tokenizer.vocab_size > shape.vocab_size:
        raise CheckpointError(
            f"the tokenizer has the token {tokenizer.vocab_size - 1}, "
            f"but the model's vocabulary ends at {shape.vocab_size - 1}",
            place=str(folder),
        )
    module = load_llama(checkpoint, shape, device=device, dtype=dtype)
    ends = _ends(folder, config, tokenizer.eos_token_id)
    language = BuiltinLanguageModel(module, tokenizer, ends)
    return LiveModel(module, tokenizer, device, folder, language)


def _by_loader(
    loader: str, root: Path, folder: Path, device: torch.device, dtype: str | None
) -> LiveModel:
    make: Callable[[Path], Any] = load_function(loader, root)
    if not callable(make):
        raise UsageError(f"the loader {loader} is a {type(make).__name__}; a function is wanted")
    module = make(folder)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"the loader {loader} returned a {type(module).__name__}; a torch.nn.Module is wanted"
        )
    module = module.to(device, dtype=_torch_dtype(dtype)).eval().requires_grad_(False)
    tokenizer = getattr(module, "tokenizer", None)
    language: LanguageModel | None = None
    if is_causal_model(module):
        tokenizer = tokenizer or load_tokenizer(folder)
        language = _transformers_language(module, tokenizer)
    return LiveModel(module, tokenizer, device, folder, language)


def _transformers_language(module: Any, tokenizer: Any) -> TransformersLanguageModel:
    generation = {"eos_token_id": module.generation_config.eos_token_id}
    config = {"eos_token_id": getattr(module.config.get_text_config(), "eos_token_id", None)}
    ends = _end_ids(generation, config, {"eos_token_id": tokenizer.eos_token_id})
    return TransformersLanguageModel(module, tokenizer, ends)


def _ends(folder: Path, config: Mapping[str, Any], token: int | None) -> frozenset[int]:
    """Ends of text by generation_config.json, config.json and the tokenizer together."""
    name = "generation_config.json"
    generation = read_json(folder, name) if (folder / name).exists() else {}
    return _end_ids(generation, config, {"eos_token_id": token})


def _end_ids(*sources: Mapping[str, Any]) -> frozenset[int]:
    found = [source.get("eos_token_id") for source in sources]
    lists = [value if isinstance(value, list) else [value] for value in found]
    return frozenset(token for values in lists for token in values if isinstance(token, int))


def _torch_dtype(spoken: str | None) -> torch.dtype | None:
    return None if spoken is None else torch_dtype(parse_dtype(spoken))


def _widest(words: Iterable[str]) -> torch.dtype:
    """The narrowest dtype that holds every stored float exactly; float32 if there is none."""
    floats = {word for word in words if word in FLOATS}
    if floats == {"F16", "BF16"} or not floats:
        return torch.float32
    return torch_dtype(max(floats, key=["F16", "BF16", "F32", "F64"].index))
