"""Which tensor goes into which shard, and at which byte: decided before anything is written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from evomerge.checkpoint.dtypes import DTYPES
from evomerge.checkpoint.header import LONGEST_HEADER
from evomerge.checkpoint.names import quoted
from evomerge.errors import CheckpointError

SHARD_SIZE = 5_000_000_000
"""Bytes of tensors per shard unless asked otherwise."""

MODEL: Mapping[str, str] = MappingProxyType({"": "model"})
"""Files called ``model``, for the tensors whose names start with nothing in particular: all."""

_ALIGNMENT = 8


class TensorPlan(NamedTuple):
    """A tensor to be written: its name, safetensors dtype word and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def entries(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.entries * DTYPES[self.dtype].size


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One file to be written.

    Attributes:
        name: of the file, with the folder of its component.
        stem: what the file and the index of its like start with.
        head: the bytes before the first tensor.
        offsets: of each tensor's first byte, from the start of the file.
        size: of the whole file, in bytes.
    """

    name: str
    stem: str
    head: bytes
    offsets: Mapping[str, int]
    size: int


def checked_layout(layout: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[TensorPlan, ...]:
    """The tensors of a layout: name, dtype word and shape of each.

    Raises:
        CheckpointError: a name comes twice or is reserved, or a dtype is unknown.
    """
    plans: dict[str, TensorPlan] = {}
    for name, dtype, shape in layout:
        if name in plans or name == "__metadata__":
            raise CheckpointError(f"two tensors cannot have the name {quoted(name)}")
        if dtype not in DTYPES:
            raise CheckpointError(f"tensor {quoted(name)} has the unknown dtype {quoted(dtype)}")
        plans[name] = TensorPlan(name, dtype, tuple(shape))
    return tuple(plans.values())


def plan_shards(
    tensors: Sequence[TensorPlan],
    *,
    shard_size: int = SHARD_SIZE,
    metadata: Mapping[str, str] | None = None,
    stems: Mapping[str, str] = MODEL,
) -> tuple[ShardPlan, ...]:
    """Fill shards with the tensors in their order; at least one shard, even without tensors.

    Args:
        tensors: a checked layout.
        shard_size: bytes of tensors per shard; a larger tensor has a shard of its own.
        metadata: for each header, beside ``{"format": "pt"}``.
        stems: how files start, by what their tensors' names start with; that part of the name is
            the component and does not stand in the file.

    Raises:
        CheckpointError: a header would be longer than the format allows.
    """
    words = {"format": "pt", **(metadata or {})}
    found: list[ShardPlan] = []
    for part, stem in stems.items():
        groups = _split([plan for plan in tensors if plan.name.startswith(part)], shard_size)
        names = [shard_name(number, len(groups), stem) for number in range(len(groups))]
        found += [
            _plan(n, stem, part, group, words) for n, group in zip(names, groups, strict=True)
        ]
    return tuple(found)


def shard_name(number: int, count: int, stem: str = "model") -> str:
    """The name that Hugging Face libraries expect; `number` counts from 0."""
    if count == 1:
        return f"{stem}.safetensors"
    return f"{stem}-{number + 1:05d}-of-{count:05d}.safetensors"


def index_files(shards: Sequence[ShardPlan], stems: Mapping[str, str] = MODEL) -> dict[str, bytes]:
    """The indexes that are needed, by their places: one for each component of several shards."""
    found = {}
    for part, stem in stems.items():
        own = [shard for shard in shards if shard.stem == stem]
        if len(own) > 1:
            found[f"{stem}.safetensors.index.json"] = _index_json(own, part)
    return found


def _index_json(shards: Sequence[ShardPlan], part: str) -> bytes:
    """The tensors' total size in bytes, and the shard of each."""
    total = sum(shard.size - len(shard.head) for shard in shards)
    places = {
        name.removeprefix(part): shard.name.rpartition("/")[2]
        for shard in shards
        for name in shard.offsets
    }
    document = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    return (json.dumps(document, indent=2) + "\n").encode()


def _split(plans: Sequence[TensorPlan], shard_size: int) -> list[list[TensorPlan]]:
    groups: list[list[TensorPlan]] = [[]]
    room = shard_size
    for plan in plans:
        if groups[-1] and plan.size > room:
            groups.append([])
            room = shard_size
        groups[-1].append(plan)
        room -= plan.size
    return groups


def _plan(
    name: str, stem: str, part: str, group: Sequence[TensorPlan], metadata: Mapping[str, str]
) -> ShardPlan:
    """Wide dtypes come first, as in the safetensors library: every tensor is then aligned."""
    ordered = sorted(group, key=lambda plan: -DTYPES[plan.dtype].size)
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    begins: dict[str, int] = {}
    end = 0
    for plan in ordered:
        begins[plan.name], end = end, end + plan.size
        offsets = [begins[plan.name], end]
        own = plan.name.removeprefix(part)
        header[own] = {"dtype": plan.dtype, "shape": plan.shape, "data_offsets": offsets}
    head = _head(header)
    offsets_in_file = {tensor: len(head) + begin for tensor, begin in begins.items()}
    return ShardPlan(name, stem, head, offsets_in_file, len(head) + end)


def _head(header: Mapping[str, object]) -> bytes:
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > LONGEST_HEADER:
        raise CheckpointError(f"the header of a shard would be {len(text)} bytes long")
    return len(text).to_bytes(8, "little") + text
