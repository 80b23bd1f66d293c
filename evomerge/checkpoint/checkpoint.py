"""A checkpoint on disk, open for reading."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from evomerge.checkpoint.digests import ShardDigest, known_digests, shard_digests
from evomerge.checkpoint.dtypes import DTYPES, torch_dtype
from evomerge.checkpoint.folder import confined, read_json, side_files, weight_files
from evomerge.checkpoint.header import TensorEntry
from evomerge.checkpoint.names import listed, quoted, shown
from evomerge.checkpoint.outline import Outline, is_outline
from evomerge.checkpoint.pipeline import components, is_pipeline, pipeline_side_files
from evomerge.checkpoint.shard import Shard
from evomerge.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from evomerge.checkpoint.memory import Entries

DIFFUSERS_STEM = "diffusion_pytorch_model"
_MOST_PROBLEMS = 10


class Checkpoint:
    """Tensors of a Hugging Face folder, single or sharded, of one .safetensors file, or of all
    components of a pipeline.

    Headers are read and checked when it is opened, tensors when they are asked for. Threads may
    read at the same time; whoever opened it closes it, when no read is under way.

    Attributes:
        path: what was opened.
        shards: the weight files, sorted by name, links resolved.
        tensors: by name, in the order of shards and of bytes within each.
        stems: how the weight files of a copy start, by what the names of their tensors start with:
            ``{"": "model"}``; for a pipeline ``{"unet/": "unet/diffusion_pytorch_model", ...}``.
        outline: what there is instead of weights, where they lie elsewhere; else None.
    """

    def __init__(
        self,
        path: Path,
        shards: Mapping[str, Shard],
        parts: Sequence[str] = ("",),
        outline: Outline | None = None,
    ) -> None:
        self.path = path
        self.outline = outline
        self.shards = tuple(shard.path for shard in shards.values())
        entries = {p: _entries(p, shards) for p in parts}
        self.tensors: Mapping[str, TensorEntry] = MappingProxyType(
            {name: entry for part in entries.values() for name, entry in part.items()}
            if outline is None
            else dict(outline.tensors)
        )
        self.stems = {part: part + _stem(part, shards) for part in parts}
        self._shards = dict(shards)
        self._by_path = {shard.path: shard for shard in shards.values()}
        self._digests: dict[Path, str] = {}

    @classmethod
    def open(cls, path: Path | str) -> Checkpoint:
        """Open a folder, a file, or the outline of a model whose weights lie elsewhere.

        Raises:
            CheckpointError: it is not there, damaged, hostile, or in a format that is not read.
        """
        place = Path(path)
        if place.is_dir() and is_pipeline(place):
            return _open_pipeline(place)
        if place.is_dir():
            return cls(place, _open_folder(place))
        if place.is_file() and is_outline(place):
            return cls(place, {}, outline=Outline.read(place))
        if place.is_file() and place.suffix == ".safetensors":
            return cls(place, {place.name: Shard(place.resolve())})
        raise _unreadable(place, str(path))

    @classmethod
    def arranged(cls, path: Path, tensors: Mapping[str, tuple[Checkpoint, str]]) -> Checkpoint:
        """Tensors of open checkpoints, under other names, as if they were one checkpoint.

        Closing it closes nothing; it lasts as long as the checkpoints that it is made of.

        Args:
            path: whose config and side files it has.
            tensors: the name here to the checkpoint with the tensor and its name there.
        """
        made = cls(path, {})
        entries = {name: replace(c.entry(own), name=name) for name, (c, own) in tensors.items()}
        made.tensors = MappingProxyType(entries)
        made._by_path = {p: shard for c, _ in tensors.values() for p, shard in c._by_path.items()}
        made._digests = {p: found for c, _ in tensors.values() for p, found in c._digests.items()}
        made.shards = tuple(sorted({entry.shard for entry in entries.values()}))
        return made

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        """What each shard's header says about itself, by shard name."""
        return {name: shard.header.metadata for name, shard in self._shards.items()}

    def read(
        self, name: str, start: int = 0, stop: int | None = None, *, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Entries start to stop of the flattened tensor, as stored, on the CPU.

        Args:
            name: of the tensor.
            start: first entry.
            stop: behind the last entry; None for all.
            out: one-dimensional, contiguous, of the stored dtype, with room for the entries; a
                buffer to use again. What is returned is then its first ``stop - start`` entries.

        Raises:
            CheckpointError: there is no such tensor or range, `out` does not fit, or the file
                changed.
        """
        import torch

        entry = self.entry(name)
        stop = entry.count if stop is None else stop
        offset = self._offset(name, start, stop)
        dtype = torch_dtype(entry.dtype)
        if out is None:
            out = torch.empty(stop - start, dtype=dtype)
        elif not _fits(out, dtype, stop - start):
            raise self._unfit(name, stop - start)
        result = out[: stop - start]
        self._shard(entry).read_into(bytes_of(result), offset)
        return result

    def read_into(self, name: str, start: int, out: Entries, *, once: bool = False) -> None:
        """Fill with the entries from ``start`` on, as stored.

        Args:
            name, start, out: of the tensor, of its entries, and where to.
            once: as `evomerge.checkpoint.shard.Shard.read_into`.

        Raises:
            CheckpointError: as `read`.
        """
        offset = self._offset(name, start, start + len(out))
        if out.word != self.entry(name).dtype:
            raise self._unfit(name, len(out))
        self._shard(self.entry(name)).read_into(out.data.data, offset, once=once)

    def address(self, name: str) -> int | None:
        """Where the tensor's first byte lies in memory that is the file's; None if misaligned.

        For those who read a tensor again and again: it costs no copy, but a process that reads
        there after the file has become shorter is killed, and reading elsewhere than in the tensor
        is nobody's promise. It lasts until the checkpoint is closed.

        Raises:
            CheckpointError: there is no such tensor, or the file changed or cannot be mapped.
        """
        entry = self.entry(name)
        if entry.start % DTYPES[entry.dtype].size:
            return None
        return self._shard(entry).address(entry.start)

    def tensor(self, name: str) -> torch.Tensor:
        """The whole tensor in its shape and stored dtype, on the CPU."""
        return self.read(name).reshape(self.entry(name).shape)

    def entry(self, name: str) -> TensorEntry:
        """Where the tensor lies, or CheckpointError."""
        if name not in self.tensors:
            raise self._refused(f"there is no tensor {quoted(name)}")
        return self.tensors[name]

    def config(self) -> dict[str, Any] | None:
        """What config.json says; None for a bare file, and for a folder without one."""
        if not self.path.is_dir() or not (self.path / "config.json").exists():
            return None
        return read_json(self.path, "config.json")

    def side_files(self) -> tuple[Path, ...]:
        """Configs, tokenizer, templates and licences beside the weights; none of a bare file."""
        if is_pipeline(self.path):
            return pipeline_side_files(self.path)
        return side_files(self.path) if self.path.is_dir() else ()

    def digests(self, cache: Path | None = None) -> Mapping[str, ShardDigest]:
        """Size and digest of each shard by its name within the folder.

        Args:
            cache: a JSON file that remembers digests of unchanged files; safe to delete.
        """
        files = {name: shard.path for name, shard in self._shards.items()}
        if self.outline is not None:
            files[self.path.name] = self.path
        return shard_digests(files, cache)

    def recall(self, cache: Path) -> None:
        """Take over what a cache of `digests` has of these very files; nothing is computed."""
        states = {path: shard.state for path, shard in self._by_path.items()}
        self._digests = known_digests(states, cache)

    def identity(self, name: str) -> str | None:
        """Dtype and place of the tensor, and its shard's digest: what decides its content.

        None where `recall` did not find the digest.
        """
        entry = self.entry(name)
        digest = self._digests.get(entry.shard)
        return None if digest is None else f"{entry.dtype} {entry.start} {entry.size} {digest}"

    def close(self) -> None:
        """Close all files."""
        for shard in self._shards.values():
            shard.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _offset(self, name: str, start: int, stop: int) -> int:
        """Of the entry ``start`` in its file; `CheckpointError` where there are none up to stop."""
        entry = self.entry(name)
        if not 0 <= start <= stop <= entry.count:
            raise self._refused(
                f"entries {start} to {stop} of tensor {quoted(name)}, which has {entry.count}"
            )
        return entry.start + start * DTYPES[entry.dtype].size

    def _unfit(self, name: str, count: int) -> CheckpointError:
        return self._refused(
            f"the buffer has no room for {count} entries in {self.entry(name).dtype} "
            f"of {quoted(name)}"
        )

    def _shard(self, entry: TensorEntry) -> Shard:
        if self.outline is not None:
            raise self._refused("is an outline; the weights are where the server is")
        return self._by_path[entry.shard]

    def _refused(self, cause: str) -> CheckpointError:
        return CheckpointError(cause, place=shown(self.path))


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    import torch

    flat = tensor.as_strided((tensor.numel(),), (1,))  # a single entry may have any stride
    return flat.view(torch.uint8).numpy().data


def _fits(out: torch.Tensor, dtype: torch.dtype, count: int) -> bool:
    return (
        out.dim() == 1
        and out.is_contiguous()
        and out.device.type == "cpu"
        and out.dtype == dtype
        and out.numel() >= count
    )


def _open_pipeline(folder: Path) -> Checkpoint:
    """All components, or none: what is open when one is refused is closed again."""
    parts = components(folder)
    shards: dict[str, Shard] = {}
    try:
        for part in parts:
            shards |= {f"{part}/{name}": s for name, s in _open_folder(folder / part).items()}
    except CheckpointError:
        for shard in shards.values():
            shard.close()
        raise
    return Checkpoint(folder, shards, [f"{part}/" for part in parts])


def _entries(part: str, shards: Mapping[str, Shard]) -> dict[str, TensorEntry]:
    """The tensors of the files in a component, under their names in the whole."""
    found = {
        name: entry
        for shard_name, shard in shards.items()
        if shard_name.startswith(part)
        for name, entry in shard.header.entries.items()
    }
    return {part + n: replace(e, name=part + n) for n, e in found.items()} if part else found


def _stem(part: str, shards: Mapping[str, Shard]) -> str:
    diffusers = any(name.startswith(part + DIFFUSERS_STEM) for name in shards)
    return DIFFUSERS_STEM if diffusers else "model"


def _open_folder(folder: Path) -> dict[str, Shard]:
    single, index = weight_files(folder)
    if single is not None:
        return {single.name: Shard(confined(folder, single.name))}
    shards: dict[str, Shard] = {}
    problems: list[str] = []
    for name in sorted(set((index or {}).values())):
        try:
            shards[name] = Shard(confined(folder, name))
        except CheckpointError as error:
            problems.append(str(error))
    problems += _index_problems(index or {}, shards)
    if problems:
        for shard in shards.values():
            shard.close()
        raise CheckpointError(_joined(problems), place=shown(folder))
    return shards


def _index_problems(index: Mapping[str, str], shards: Mapping[str, Shard]) -> list[str]:
    """All differences between the index and the tensors that the shards hold."""
    expected: dict[str, set[str]] = {name: set() for name in shards}
    for tensor, name in index.items():
        expected.get(name, set()).add(tensor)
    problems = []
    for name, shard in shards.items():
        held = shard.header.entries.keys()
        if missing := sorted(expected[name] - held):
            problems.append(f"{quoted(name)} lacks {listed(missing)}, which the index puts there")
        if extra := sorted(held - expected[name]):
            problems.append(
                f"{quoted(name)} holds {listed(extra)}, which the index does not put there"
            )
    return problems


def _joined(problems: list[str]) -> str:
    rest = len(problems) - _MOST_PROBLEMS
    shown_ones = "; ".join(problems[:_MOST_PROBLEMS])
    return shown_ones if rest <= 0 else f"{shown_ones}; and {rest} more problems"


def _unreadable(place: Path, spoken: str) -> CheckpointError:
    if place.exists():
        return CheckpointError(
            "is neither a folder nor a .safetensors file; no other format is read",
            place=shown(place),
        )
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", spoken) and not spoken.startswith("."):
        name, _, revision = spoken.partition("@")
        return CheckpointError(
            f"there is no folder {quoted(spoken)}; a model of the Hugging Face hub is written with "
            f"its revision, {name}@{revision or 'main'}",
            place=shown(place),
        )
    return CheckpointError("there is no such folder or file", place=shown(place))
