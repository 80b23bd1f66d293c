"""A PEFT LoRA adapter on disk, open for reading: what it does to which tensor of its base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, NamedTuple

from evomerge.checkpoint.adapter_config import AdapterConfig, parse_config
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.digests import ShardDigest, shard_digests
from evomerge.checkpoint.folder import confined, read_json, side_files
from evomerge.checkpoint.header import TensorEntry
from evomerge.checkpoint.names import listed, quoted, shown
from evomerge.checkpoint.shard import Shard
from evomerge.errors import CheckpointError

if TYPE_CHECKING:
    import torch

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before every tensor name of an adapter, then the name that the model has for the module."""

_DOWN, _UP, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
_EMBEDDING_DOWN, _EMBEDDING_UP = ".lora_embedding_A", ".lora_embedding_B"
_UP_BIAS, _WRAPPED = ".lora_B.bias", ".base_layer."
_PARTS = (_DOWN, _UP, _EMBEDDING_DOWN, _EMBEDDING_UP, _UP_BIAS, _MAGNITUDE)


class LowRank(NamedTuple):
    """Names of the factors of one module's weights in the adapter's file.

    The module's weights change by ``scale * up @ down``, ``(out, in)``.

    Attributes:
        down: ``(rank, in)``, or with further dimensions that count as ``in`` (convolutions).
        up: ``(out, rank)``, or with further dimensions of 1.
        transposed: whether the base stores the weights as ``(in, out)``: embeddings always.
        magnitude: DoRA's, ``(out,)`` or with further dimensions of 1; None without.
    """

    down: str
    up: str
    rank: int
    scale: float
    transposed: bool
    magnitude: str | None

    @property
    def module(self) -> str:
        """Its name in the model that was trained."""
        return self.down.removeprefix(PREFIX).removesuffix(_EMBEDDING_DOWN).removesuffix(_DOWN)

    @property
    def embedding(self) -> bool:
        """Whether the module is one."""
        return self.down.endswith(_EMBEDDING_DOWN)


class Addition(NamedTuple):
    """A stored tensor and its factor."""

    name: str
    factor: float


@dataclass(frozen=True, slots=True)
class Change:
    """What an adapter does to one tensor.

    Attributes:
        replaced: the stored tensor that stands in its place; None leaves the base's.
        low_rank: added to that.
        added: the bias that a LoRA layer has beside its factors, added to the module's.
    """

    replaced: str | None = None
    low_rank: LowRank | None = None
    added: Addition | None = None


class Adapter:
    """A folder with adapter_config.json and adapter_model.safetensors.

    Attributes:
        path: the folder.
        settings: what its config says.
        stored: the tensors of its file, under their names there.
        changes: by the name of the changed tensor in the model that was trained.
    """

    def __init__(self, path: Path, settings: AdapterConfig, stored: Checkpoint) -> None:
        self.path, self.settings, self.stored = path, settings, stored
        self.changes: Mapping[str, Change] = MappingProxyType(_changes(path, settings, stored))

    @classmethod
    def open(cls, path: Path | str) -> Adapter:
        """Open a folder.

        Raises:
            CheckpointError: it is damaged, hostile, or holds an adapter that cannot be honoured.
        """
        folder = Path(path)
        settings = parse_config(read_json(folder, CONFIG), folder / CONFIG)
        if not (folder / WEIGHTS).exists():
            raise CheckpointError(
                f"holds no {WEIGHTS}; save the adapter as safetensors: "
                "model.save_pretrained(folder, safe_serialization=True)",
                place=shown(folder),
            )
        stored = Checkpoint(folder / WEIGHTS, {WEIGHTS: Shard(confined(folder, WEIGHTS))})
        try:
            return cls(folder, settings, stored)
        except BaseException:
            stored.close()
            raise

    @property
    def shards(self) -> tuple[Path, ...]:
        """The weight file, links resolved."""
        return self.stored.shards

    def factors(self, change: LowRank, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """A module's factors: ``scale * up``, ``(out, rank)``, and down, ``(rank, in)``.

        Args:
            kind: of the result; every entry of ``up`` is rounded to it before and after the
                product with the scale.
        """
        up, down = self.plain_factors(change, kind)
        return up.mul_(change.scale), down

    def plain_factors(
        self, change: LowRank, kind: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `factors`, without the scale; memory of the caller's own."""
        down = self.stored.tensor(change.down).to(kind).reshape(change.rank, -1)
        up = self.stored.tensor(change.up).to(kind).reshape(-1, change.rank)
        return up, down

    def side_files(self) -> tuple[Path, ...]:
        """Tokenizer, templates and licences beside the weights."""
        return side_files(self.path)

    def digests(self, cache: Path | None = None) -> Mapping[str, ShardDigest]:
        """Size and digest of weights and config by file name; see `Checkpoint.digests`."""
        files = {WEIGHTS: self.shards[0], CONFIG: confined(self.path, CONFIG)}
        return shard_digests(files, cache)

    def close(self) -> None:
        """Close the file."""
        self.stored.close()

    def __enter__(self) -> Adapter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def is_adapter(path: Path) -> bool:
    """Whether this is the folder of a PEFT adapter, and of no whole model."""
    whole = ("model.safetensors", "model.safetensors.index.json")
    return (path / CONFIG).is_file() and not any((path / name).exists() for name in whole)


def _changes(path: Path, settings: AdapterConfig, stored: Checkpoint) -> dict[str, Change]:
    """The file's tensors, put together module by module; all that is wrong is named."""
    reading = _Reading(settings, stored.tensors)
    for name, entry in stored.tensors.items():
        if not entry.is_float:
            reading.problems.append(f"{quoted(name)} is {entry.dtype}, no float")
        elif not name.startswith(PREFIX):
            reading.problems.append(f"{quoted(name)} does not start with {PREFIX!r}")
        else:
            reading.sort(name.removeprefix(PREFIX))
    changes = reading.changes()
    if not changes and not reading.problems:
        reading.problems.append("it holds no tensor")
    if reading.problems:
        raise CheckpointError(_joined(reading.problems), place=shown(path / WEIGHTS))
    return changes


class _Reading:
    """Tensor names sorted into modules' parts and replaced tensors."""

    def __init__(self, settings: AdapterConfig, tensors: Mapping[str, TensorEntry]) -> None:
        self.settings, self.tensors = settings, tensors
        self.parts: dict[str, dict[str, str]] = {}
        self.replaced: dict[str, str] = {}
        self.problems: list[str] = []

    def sort(self, name: str) -> None:
        stored = PREFIX + name
        part = next((part for part in _PARTS if name.endswith(part)), None)
        if part is not None:
            self.parts.setdefault(name.removesuffix(part), {})[part] = stored
        elif ".lora_" in name:
            self.problems.append(f"{quoted(stored)} is no part of a LoRA adapter that is known")
        else:
            plain = name.replace(_WRAPPED, ".")
            if plain in self.replaced:
                self.problems.append(f"{quoted(plain)} is stored twice")
            self.replaced[plain] = stored

    def changes(self) -> dict[str, Change]:
        found = {name: Change(replaced=stored) for name, stored in self.replaced.items()}
        for module, parts in self.parts.items():
            weights = self._low_rank(module, parts)
            if weights is None:
                continue
            name = f"{module}.weight"
            found[name] = Change(self.replaced.get(name), weights)
            if _UP_BIAS in parts:
                bias = f"{module}.bias"
                addition = Addition(parts[_UP_BIAS], weights.scale)
                found[bias] = Change(self.replaced.get(bias), added=addition)
        return found

    def _low_rank(self, module: str, parts: Mapping[str, str]) -> LowRank | None:
        embedding = _EMBEDDING_DOWN in parts or _EMBEDDING_UP in parts
        wanted = (_EMBEDDING_DOWN, _EMBEDDING_UP) if embedding else (_DOWN, _UP)
        missing = [part for part in wanted if part not in parts]
        if self.settings.dora and _MAGNITUDE not in parts:
            missing.append(_MAGNITUDE)
        if missing:
            problem = f"lacks {listed([part[1:] for part in missing])}"
        elif _MAGNITUDE in parts and not self.settings.dora:
            problem = "has a magnitude, but use_dora is not set"
        elif embedding and len(parts) > 2 + self.settings.dora:
            problem = "has the parts of two kinds of layer"
        elif not self.settings.adapts(module):
            problem = "is none of the modules that the config targets"
        else:
            problem = self._misfit(parts[wanted[0]], parts[wanted[1]], module)
        if problem:
            self.problems.append(f"{quoted(module)} {problem}")
            return None
        return LowRank(
            down=parts[wanted[0]],
            up=parts[wanted[1]],
            rank=self.settings.rank_of(module),
            scale=self.settings.scale_of(module),
            transposed=embedding or self.settings.transposed,
            magnitude=parts.get(_MAGNITUDE),
        )

    def _misfit(self, down: str, up: str, module: str) -> str:
        """What is wrong with the factors' shapes: two dimensions, or those of a convolution."""
        low, high = self.tensors[down].shape, self.tensors[up].shape
        rank = self.settings.rank_of(module)
        if len(low) < 2 or len(high) != len(low) or any(size != 1 for size in high[2:]):
            return f"has factors of the shapes {list(high)} and {list(low)}"
        if (low[0], high[1]) != (rank, rank):
            return f"has factors of rank {high[1]} and {low[0]}; the config says {rank}"
        return ""


def _joined(problems: Iterable[str], most: int = 5) -> str:
    texts = list(problems)
    rest = len(texts) - most
    return "; ".join(texts[:most]) + (f"; and {rest} more problems" if rest > 0 else "")
