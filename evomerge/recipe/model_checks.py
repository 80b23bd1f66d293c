"""What the files of base and models say about a merge: do they fit, and what gets lost."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import DTYPES
from evomerge.checkpoint.folder import read_json
from evomerge.checkpoint.models import Model, own_tensors
from evomerge.checkpoint.names import listed, quoted
from evomerge.errors import CheckpointError
from evomerge.merging.plan import Vocabulary
from evomerge.recipe.findings import Finding, failure, info, refusal, warning

CARD_HEAD_BYTES = 16_384
_LICENSE = re.compile(r"^license:\s*['\"]?([^\s'\"#]+)", re.MULTILINE)
_LICENSE_FILES = ("LICENSE*", "LICENCE*")
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
# Keys of config.json that say nothing about what a model computes.
_IDLE_KEYS = re.compile(
    r"_name_or_path|architectures|auto_map|(torch_)?dtype|transformers_version|use_cache"
    r"|_?attn_implementation(_autoset)?|model_max_length|.*token_id"
)
_BROKEN_MODEL = CheckpointError.exit_code


def check_models(
    base: Checkpoint, models: Mapping[str, Model], vocabulary: Vocabulary = "refuse"
) -> Iterator[Finding]:
    """All findings that need the files of base and models; tensors are read for NaN alone."""
    yield from _shapes(base, models, vocabulary)
    yield from _configs(base, models)
    yield from _tokenizers(base, models, vocabulary)
    yield from _dtypes(base, models)
    yield from _licenses(base, models)
    yield from _not_finite({"base": base, **models})


def stated_license(path: Path) -> str | None:
    """The ``license`` in the front matter of a model card; None where none is stated."""
    card = path / "README.md"
    if not card.is_file():
        return None
    with card.open("rb") as file:
        head = file.read(CARD_HEAD_BYTES).decode("utf-8", "replace")
    parts = head.split("---", 2)
    found = _LICENSE.search(parts[1]) if head.startswith("---") and len(parts) > 2 else None
    return found[1] if found else None


def _shapes(
    base: Checkpoint, models: Mapping[str, Model], vocabulary: Vocabulary
) -> Iterator[Finding]:
    from evomerge.merging.compatibility import problems
    from evomerge.merging.vocabulary import refitted, rows_used

    for name, rows in rows_used(base, models, vocabulary).items():
        for tensor, used in rows.items():
            own, rest = own_tensors(models[name]).entry(tensor), base.entry(tensor).shape[0] - used
            text = (
                f"{quoted(tensor)}: {used} of the {own.shape[0]} rows of {quoted(name)} are merged"
            )
            yield info("vocabulary", f"{text}; for {rest} rows of the base it counts as unchanged")
    for problem in problems(base, refitted(base, models, vocabulary)):
        code = _BROKEN_MODEL if problem.severity == "error" else 0
        yield Finding(problem.severity, "tensors", problem.text, code)


def _configs(base: Checkpoint, models: Mapping[str, Model]) -> Iterator[Finding]:
    own = _config(base)
    if "auto_map" in own:
        text = "the base's config asks for code of its own (auto_map), which evomerge never runs"
        yield warning("config", f"{text}; name a loader if no library knows the architecture")
    for name, model in models.items():
        other = _config(model)
        if not own or not other:
            continue
        differ = sorted(
            key
            for key in own.keys() | other.keys()
            if not _IDLE_KEYS.fullmatch(key) and own.get(key) != other.get(key)
        )
        if differ:
            text = f"{quoted(name)} and the base differ in {listed(differ)}; merges get the base's"
            yield warning("config", text)
    yield from _tied(base, own)


def _tied(base: Checkpoint, config: Mapping[str, Any]) -> Iterator[Finding]:
    """A head that is stored although it is tied is not what a library will load."""
    tied = bool(config.get("tie_word_embeddings"))
    head = [name for name in base.tensors if name.endswith("lm_head.weight")]
    if tied and head:
        yield warning(
            "tied weights",
            f"the base stores {quoted(head[0])} although its config ties it to the embeddings; "
            "give embeddings and head the same rule, or the loaded head is not the merged one",
        )
    elif tied:
        yield info("tied weights", "the head is the embeddings; their rule holds for both")


def _tokenizers(
    base: Checkpoint, models: Mapping[str, Model], vocabulary: Vocabulary
) -> Iterator[Finding]:
    own_tokens, own_template = _vocabulary(base.path), _chat_template(base.path)
    for name, model in models.items():
        tokens, template = _vocabulary(model.path), _chat_template(model.path)
        count = _differences(own_tokens, tokens, shared=vocabulary != "refuse")
        if count:
            text = f"{quoted(name)} and the base differ in {count} entries of their vocabularies"
            yield warning("tokenizer", f"{text}; the same row then means different tokens")
        if template and template != own_template:
            text = f"{quoted(name)} has a chat template that the base has not"
            yield warning("chat template", f"{text}; merges carry the base's")


def _dtypes(base: Checkpoint, models: Mapping[str, Model]) -> Iterator[Finding]:
    found = {"base": _floats(base), **{name: _floats(model) for name, model in models.items()}}
    if len(set(found.values())) > 1:
        each = ", ".join(f"{name} {'/'.join(sorted(d))}" for name, d in found.items())
        yield info("dtypes", f"{each}; sums are float32 and stored as the base unless dtype says")
    if "F64" in frozenset().union(*found.values()):
        yield info("dtypes", "float64 tensors are summed in float64")


def _licenses(base: Checkpoint, models: Mapping[str, Model]) -> Iterator[Finding]:
    stated = {"base": stated_license(base.path)}
    stated |= {name: stated_license(model.path) for name, model in models.items()}
    silent = [
        name
        for name, model in {"base": base, **models}.items()
        if stated[name] is None and not _license_files(model.path)
    ]
    if len({license for license in stated.values() if license}) > 1:
        each = ", ".join(f"{name} {license}" for name, license in stated.items() if license)
        yield warning("licences", f"{each}; a merge has to meet them all")
    if silent:
        yield info("licences", f"none is stated by {', '.join(silent)}")


def _not_finite(checkpoints: Mapping[str, Model]) -> Iterator[Finding]:
    from evomerge.merging.compatibility import scan_non_finite

    for name, checkpoint in checkpoints.items():
        try:
            found = scan_non_finite(own_tensors(checkpoint))
        except CheckpointError as error:
            yield failure("numbers", error)
            continue
        if found:
            count = sum(found.values())
            text = f"{quoted(name)} has {count} NaN or infinite entries in {listed(list(found))}"
            yield refusal("numbers", text, _BROKEN_MODEL)


def merged_bytes(base: Checkpoint, dtype: str | None) -> int:
    """The size of one merge's tensors; `dtype` is a safetensors word, None keeps the base's."""
    return sum(
        entry.count * DTYPES[dtype].size if dtype and entry.is_float else entry.size
        for entry in base.tensors.values()
    )


def _floats(model: Model) -> frozenset[str]:
    return frozenset(e.dtype for e in own_tensors(model).tensors.values() if e.is_float)


def _config(model: Model) -> Mapping[str, Any]:
    return {} if isinstance(model, Adapter) else model.config() or {}


def _differences(own: Mapping[str, int], other: Mapping[str, int], *, shared: bool) -> int:
    """Tokens whose rows differ; where rows that only one has are no matter, of the shared rows."""
    if not own or not other:
        return 0
    rows = min(max(own.values()), max(other.values())) + 1 if shared else math.inf
    return sum(row < rows for _, row in own.items() ^ other.items())


def same_vocabulary(first: Path, second: Path) -> bool:
    """Whether rows of embeddings mean the same tokens, as far as tokenizer.json says."""
    one, other = _vocabulary(first), _vocabulary(second)
    return not one or not other or one == other


def _vocabulary(folder: Path) -> dict[str, int]:
    """Token to row, by tokenizer.json; empty where that does not list them."""
    if not (folder / "tokenizer.json").is_file():
        return {}
    document = read_json(folder, "tokenizer.json", longest=200_000_000)
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    tokens = dict(vocabulary) if isinstance(vocabulary, dict) else {}
    if isinstance(vocabulary, list):
        pieces = [piece[0] for piece in vocabulary if isinstance(piece, list) and piece]
        tokens = {str(piece): row for row, piece in enumerate(pieces)}
    for added in document.get("added_tokens") or []:
        if isinstance(added, dict) and "content" in added:
            tokens[str(added["content"])] = added.get("id")
    return tokens


def _chat_template(folder: Path) -> str | None:
    for name in _TEMPLATES:
        if (folder / name).is_file():
            return (folder / name).read_text("utf-8", "replace")
    if not (folder / "tokenizer_config.json").is_file():
        return None
    template = read_json(folder, "tokenizer_config.json").get("chat_template")
    return None if template is None else json.dumps(template, sort_keys=True)


def _license_files(folder: Path) -> list[Path]:
    return [path for pattern in _LICENSE_FILES for path in folder.glob(pattern)]
