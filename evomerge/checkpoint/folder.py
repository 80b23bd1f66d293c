"""Which files of a folder make up a checkpoint, and which of them may be opened.

A folder from outside can be hostile: its index can name files elsewhere, its files can be links
that leave it. Nothing is opened before its place is checked, and nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evomerge.checkpoint.header import opened
from evomerge.checkpoint.names import listed, quoted, shard_name_problem, shown
from evomerge.checkpoint.strict_json import JSONProblem, loads
from evomerge.errors import CheckpointError

INDEX_SUFFIX = ".safetensors.index.json"
LONGEST_INDEX = 64_000_000
LONGEST_CONFIG = 8_000_000

_MAIN = "model.safetensors"
_DIFFUSERS = "diffusion_pytorch_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".joblib")
_SIDE_NAMES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "spiece.model",
    "sentencepiece*",
    "*.tiktoken",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
)
_SIDE_SUFFIXES = ("", ".json", ".jinja", ".txt", ".md", ".model", ".tiktoken", ".vocab")


def weight_files(folder: Path) -> tuple[Path | None, dict[str, str] | None]:
    """The single weight file, or the tensors' shard names out of the index: one of the two.

    Raises:
        CheckpointError: there are no safetensors weights, or more than one set of them.
    """
    names = sorted(entry.name for entry in _entries(folder))
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    weights = [name for name in names if name.endswith(".safetensors")]
    main = _DIFFUSERS if _MAIN not in names and f"{_MAIN}.index.json" not in names else _MAIN
    if len(indexes) > 1 and f"{main}.index.json" in indexes:
        indexes = [f"{main}.index.json"]
    if len(indexes) == 1:
        mapping = read_index(folder, indexes[0])
        if main in weights and main not in mapping.values():
            raise _refused(folder, f"holds both {quoted(main)} and {quoted(indexes[0])}; keep one")
        return None, mapping
    if not indexes and (main in weights or len(weights) == 1):
        if weights == ["adapter_model.safetensors"]:
            raise _refused(folder, "is a PEFT adapter, which has no weights of its own")
        return folder / (main if main in weights else weights[0]), None
    raise _refused(folder, _why_not(names, indexes, weights))


def _why_not(names: list[str], indexes: list[str], weights: list[str]) -> str:
    if indexes:
        return f"holds several indexes: {listed(indexes)}; keep one"
    if weights:
        return (
            f"holds {len(weights)} .safetensors files, {listed(weights)}, "
            "but no index that says which tensors they hold"
        )
    pickles = [name for name in names if name.lower().endswith(PICKLES)]
    if pickles:
        return (
            f"holds weights only as {listed(pickles)}, which can run code when read; save them "
            "as safetensors first: model.save_pretrained(folder, safe_serialization=True)"
        )
    return "holds no .safetensors file"


def read_index(folder: Path, name: str) -> dict[str, str]:
    """Shard name by tensor name; the shard names stay inside the folder."""
    document = read_json(folder, name, LONGEST_INDEX)
    mapping = document.get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise _refused(folder / name, "has no weight_map with tensors")
    for tensor, shard in mapping.items():
        problem = "is no name" if not isinstance(shard, str) else shard_name_problem(shard)
        if problem:
            raise _refused(
                folder / name, f"the shard {quoted(shard)} of tensor {quoted(tensor)} {problem}"
            )
    return mapping


def read_json(folder: Path, name: str, longest: int = LONGEST_CONFIG) -> dict[str, Any]:
    """The JSON object in a file of the folder.

    Raises:
        CheckpointError: it is missing, longer than `longest` bytes, or not strict JSON.
    """
    path = confined(folder, name)
    with opened(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
        data = file.read(longest + 1)
    if len(data) > longest:
        raise _refused(path, f"is longer than {longest} bytes")
    try:
        document = loads(data)
    except JSONProblem as problem:
        raise _refused(path, f"is refused: {problem}") from None
    if not isinstance(document, dict):
        raise _refused(path, "does not hold a JSON object")
    return document


def confined(folder: Path, name: str) -> Path:
    """The real path of a file in the folder.

    A link may lead to the folder itself or into the blob store of a Hugging Face cache,
    ``models--*/blobs/``, and nowhere else.

    Raises:
        CheckpointError: the file does not exist, or lies elsewhere.
    """
    try:
        real = (folder / name).resolve(strict=True)
        home = folder.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its links run in a circle"
        raise _refused(folder / name, f"cannot be opened: {reason}") from error
    if not real.is_relative_to(home) and not _is_cache_blob(real):
        raise _refused(
            folder / name,
            f"is a link that leaves the folder, to {quoted(real)}; put the file itself there",
        )
    return real


def side_files(folder: Path) -> tuple[Path, ...]:
    """Files that an export carries over byte for byte: configs, tokenizer, templates, licences.

    Raises:
        CheckpointError: one of them is a link that leaves the folder.
    """
    found = tuple(entry for entry in sorted(_entries(folder)) if is_side_file(entry))
    for entry in found:
        confined(folder, entry.name)
    return found


def is_side_file(entry: Path) -> bool:
    """Whether a file is carried over, by its name."""
    return (
        any(entry.match(pattern) for pattern in _SIDE_NAMES)
        and entry.suffix.lower() in _SIDE_SUFFIXES
        and entry.is_file()
    )


def _is_cache_blob(real: Path) -> bool:
    return real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except OSError as error:
        raise _refused(folder, f"cannot be listed: {error.strerror}") from error


def _refused(place: Path, cause: str) -> CheckpointError:
    return CheckpointError(cause, place=shown(place))
