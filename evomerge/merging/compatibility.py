"""Whether checkpoints can be merged: tensor by tensor, all problems at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.checkpoint import Checkpoint, bytes_of
from evomerge.checkpoint.header import TensorEntry
from evomerge.checkpoint.models import Model
from evomerge.checkpoint.names import listed, quoted
from evomerge.merging.bound_adapter import base_names, misfits
from evomerge.merging.entries import read, spans
from evomerge.merging.scratch import Scratch

Severity = Literal["error", "warning"]

RECOMPUTED = ("rotary_emb.inv_freq", "attn.masked_bias")
"""Endings of buffers that old checkpoints hold and every model computes anew; never merged."""

_HEAD = "lm_head.weight"
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
ROWS_OF_TOKENS = (_HEAD, *_EMBEDDINGS)
"""Endings of the tensors that have a row for each token."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; an error forbids the merge."""

    text: str
    severity: Severity


def problems(base: Checkpoint, models: Mapping[str, Model]) -> list[Problem]:
    """All differences between the base's and the models' tensors that matter.

    Headers are enough, but for a head that only one side stores: whether it is a copy of the
    embeddings is seen by reading both.
    """
    found = _of_the_base(base)
    for name, model in models.items():
        if isinstance(model, Adapter):
            found += _of_an_adapter(name, base, model)
            continue
        found += _missing(name, base, model)
        found += _extra(name, base, model)
        found += _unlike(name, base, model)
    return found


def merges(entry: TensorEntry) -> bool:
    """Whether a tensor of the base takes part; the others stay the base's bytes."""
    return entry.is_float and not entry.name.endswith(RECOMPUTED)


def is_embedding(name: str) -> bool:
    """Whether a tensor of this name holds the input embeddings."""
    return name.endswith(_EMBEDDINGS)


def same_bytes(checkpoint: Checkpoint, first: str, second: str) -> bool:
    """Whether two tensors of a checkpoint have the same dtype, shape and bytes."""
    one, other = checkpoint.entry(first), checkpoint.entry(second)
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    left, right = Scratch(), Scratch()
    return all(
        bytes_of(read(checkpoint, first, span, left))
        == bytes_of(read(checkpoint, second, span, right))
        for span in spans(one.count)
    )


def stored_twice(base: Checkpoint, models: Mapping[str, Model]) -> dict[str, str]:
    """A head that the base stores although it is tied, and the embeddings that it is.

    Libraries load one of the two for both, so a merge must keep them the same.

    Returns:
        the head's name to the embeddings'; empty unless config.json ties them and they are the
        same bytes in the base and in all models that are whole checkpoints.
    """
    pair = _tied_pair(base)
    if pair is None:
        return {}
    sources = [base, *(model for model in models.values() if isinstance(model, Checkpoint))]
    return {pair[0]: pair[1]} if all(same_bytes(source, *pair) for source in sources) else {}


def scan_non_finite(checkpoint: Checkpoint) -> dict[str, int]:
    """How many entries of each float tensor are NaN or infinite, by name; reads every tensor."""
    import torch

    scratch = Scratch()
    found: dict[str, int] = {}
    for name, entry in checkpoint.tensors.items():
        if not entry.is_float:
            continue
        for span in spans(entry.count):
            entries = read(checkpoint, name, span, scratch)
            bad = len(entries) - int(torch.isfinite(entries).sum())
            if bad:
                found[name] = found.get(name, 0) + bad
    return found


def _tied_pair(base: Checkpoint) -> tuple[str, str] | None:
    """A head that is stored although config.json ties it, and the embeddings."""
    if not (base.config() or {}).get("tie_word_embeddings"):
        return None
    heads = [name for name in base.tensors if name.endswith(_HEAD)]
    embeddings = [name for name in base.tensors if is_embedding(name)]
    return (heads[0], embeddings[0]) if len(heads) == len(embeddings) == 1 else None


def _of_an_adapter(name: str, base: Checkpoint, adapter: Adapter) -> list[Problem]:
    found = [Problem(f"adapter {quoted(name)} {text}", "error") for text in misfits(adapter, base)]
    changed = set(base_names(adapter, base).values()).intersection(_tied_pair(base) or ())
    if changed:
        text = (
            f"adapter {quoted(name)} changes {listed(sorted(changed))}, but the base stores its "
            "embeddings twice although they are tied; remove the head from the base's file"
        )
        found.append(Problem(text, "error"))
    return found


def _of_the_base(base: Checkpoint) -> list[Problem]:
    quantised = [
        name for name, entry in base.tensors.items() if entry.dtype.startswith(("F8", "C64"))
    ]
    if not any(merges(entry) for entry in base.tensors.values()):
        return [Problem("the base has no tensor that can be merged", "error")]
    if quantised:
        text = f"the base holds 8-bit floats, which are not merged: {listed(quantised)}"
        return [Problem(text, "error")]
    return []


def _missing(name: str, base: Checkpoint, model: Checkpoint) -> list[Problem]:
    missing = [
        tensor
        for tensor, entry in base.tensors.items()
        if merges(entry) and tensor not in model.tensors
    ]
    if not missing:
        return []
    hint = (
        f"; it ties {quoted(_HEAD)} to its embeddings and the base does not"
        if missing == [_HEAD]
        else ""
    )
    return [Problem(f"model {quoted(name)} lacks {listed(missing)}{hint}", "error")]


def _extra(name: str, base: Checkpoint, model: Checkpoint) -> list[Problem]:
    extra = [
        tensor
        for tensor, entry in model.tensors.items()
        if merges(entry) and tensor not in base.tensors
    ]
    if extra == [_HEAD] and _is_tied_copy(model):
        text = f"model {quoted(name)} stores {quoted(_HEAD)}, a copy of its embeddings; left out"
        return [Problem(text, "warning")]
    if not extra:
        return []
    text = f"model {quoted(name)} has tensors that the base has not: {listed(extra)}"
    return [Problem(text, "error")]


def _is_tied_copy(model: Checkpoint) -> bool:
    embeddings = [name for name in model.tensors if is_embedding(name)]
    return any(same_bytes(model, _HEAD, name) for name in embeddings)


def _unlike(name: str, base: Checkpoint, model: Checkpoint) -> list[Problem]:
    """Shapes and dtypes of the tensors that both have."""
    shapes, words = [], []
    for tensor, entry in base.tensors.items():
        other = model.tensors.get(tensor)
        if other is None or not merges(entry):
            continue
        if other.shape != entry.shape:
            shapes.append((entry, other))
        elif not other.is_float:
            words.append(f"{quoted(tensor)} is {other.dtype}")
    found = [Problem(_shape_text(name, entry, other), "error") for entry, other in shapes[:5]]
    if len(shapes) > 5:
        text = f"model {quoted(name)} has {len(shapes) - 5} more tensors of another shape"
        found.append(Problem(text, "error"))
    if words:
        text = f"model {quoted(name)} holds numbers that are not merged: {_joined(words)}"
        found.append(Problem(text, "error"))
    return found


def _shape_text(name: str, entry: TensorEntry, other: TensorEntry) -> str:
    text = (
        f"tensor {quoted(entry.name)} has the shape {list(entry.shape)} in the base "
        f"and {list(other.shape)} in model {quoted(name)}"
    )
    vocabulary = entry.name.endswith(ROWS_OF_TOKENS) and entry.shape[1:] == other.shape[1:]
    if not vocabulary:
        return text
    return (
        f"{text}: their vocabularies differ; 'vocabulary: common' under merge merges what is shared"
    )


def _joined(words: Iterable[str], most: int = 5) -> str:
    listed_words = list(words)
    rest = len(listed_words) - most
    return ", ".join(listed_words[:most]) + (f" and {rest} more" if rest > 0 else "")
