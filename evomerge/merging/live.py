"""Merges into a module that is already in memory, recomputing only what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import torch_dtype
from evomerge.checkpoint.names import listed, quoted, shown
from evomerge.errors import CheckpointError, UsageError
from evomerge.merging import cuda
from evomerge.merging.compatibility import RECOMPUTED, same_bytes
from evomerge.merging.cuda import DeviceMerge, DeviceMerger
from evomerge.merging.entries import Source, TensorMerge, mapped_runs
from evomerge.merging.fused import Run, blend
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan
from evomerge.merging.threads import spread

TILE = 2**20
"""Entries that a thread computes at a time: a tensor larger than all others keeps all busy."""

Content = tuple[str, *tuple[object, ...]]
"""All that decides a tensor's bits: dtype; method, models and settings too if it is merged."""


class LiveMerge:
    """A module whose parameters and buffers become merge after merge, in place.

    After `apply` the module holds what it would hold had it loaded the checkpoint that
    `Merger.write` writes for the same plan and dtype: values are rounded to that dtype first, then
    to the parameter's own. Tensors whose settings did not change are left alone, unless somebody
    else wrote to them or moved them meanwhile; the first time, all are written.

    Args:
        merger: its base is the checkpoint that the module is of.
        module: on any device; each parameter has the name and shape of a tensor of the base, or
            shares its memory with one that has (tied).
        dtype: of the checkpoint that is imitated; None for the base's own.

    Raises:
        CheckpointError: module and base do not fit; all differences are named.
    """

    def __init__(self, merger: Merger, module: nn.Module, *, dtype: str | None = None) -> None:
        tensors = _tensors(module)
        stored = _stored_names(merger.base, tensors)
        if problems := _problems(merger, module, tensors, stored):
            most = "; ".join(problems[:10])
            rest = f"; and {len(problems) - 10} more problems" if len(problems) > 10 else ""
            raise CheckpointError(
                f"the module cannot be merged in place: {most}{rest}", place=shown(merger.base.path)
            )
        self._merger, self._module, self._dtype = merger, module, dtype
        self._names = tuple(names[0] for names in stored)
        self._tied = tuple(names for names in stored if len(names) > 1)
        self._held: dict[str, tuple[Content, object]] = {}
        self._devices: dict[torch.device, DeviceMerger] = {}

    def apply(self, plan: MergePlan) -> int:
        """Make the module the merge; returns how many tensors were computed.

        Raises:
            CheckpointError: a file changed, or the plan names a tensor that is not there.
            UsageError: the plan does not fit the models or its method, or gives tensors that are
                tied in the module different settings.
        """
        self._merger.check(plan)
        for names in self._tied:
            self._check_tied(names, plan)
        return self._become({name: self._content(name, plan) for name in self._names}, plan)

    def restore(self) -> int:
        """Make the module the base again; returns how many tensors were written."""
        base = self._merger.base
        return self._become({name: (base.entry(name).dtype,) for name in self._names}, None)

    def _become(self, wanted: Mapping[str, Content], plan: MergePlan | None) -> int:
        tensors = _tensors(self._module)
        changed = [
            name
            for name, content in wanted.items()
            if self._held.get(name) != (content, _state(tensors[name]))
        ]

        for name in changed:
            self._held.pop(name, None)  # whatever happens below, it is no longer that

        def begin(name: str) -> list[_Tile] | _Launch:
            return _begin(tensors[name], _Source(self._merger, name, plan, wanted[name][0]))

        begun = self._merger.spread(begin, changed)
        spread(_Tile.compute, [tile for work in begun if isinstance(work, list) for tile in work])
        for work in begun:  # in this thread, whose stream the caller may have chosen
            if isinstance(work, _Launch):
                self._device(work.target.device).fill(*work)
        self._held |= {name: (wanted[name], _state(tensors[name])) for name in changed}
        return len(changed)

    def _device(self, device: torch.device) -> DeviceMerger:
        if device not in self._devices:
            self._devices[device] = DeviceMerger(device)
        return self._devices[device]

    def _content(self, name: str, plan: MergePlan) -> Content:
        word = self._merger.word(name, self._dtype)
        settings = self._merger.settings(name, plan)
        if settings is None:
            return (word,)
        numbers = tuple(sorted(settings.items()))
        return word, plan.method, plan.models, plan.seed, plan.mask, numbers

    def _check_tied(self, names: tuple[str, ...], plan: MergePlan) -> None:
        if len({self._content(name, plan) for name in names}) > 1:
            raise UsageError(
                f"{listed(names)} are one parameter of the module; they need the same settings"
            )


class _Tile(NamedTuple):
    """Entries of a tensor that the compiled loops compute right where they are wanted."""

    work: Callable[[tuple[int, int]], None]
    span: tuple[int, int]

    def compute(self) -> None:
        self.work(self.span)


class _Launch(NamedTuple):
    """A tensor that its device computes, and how to fill it otherwise."""

    merge: DeviceMerge
    target: Tensor
    otherwise: Callable[[Tensor], None]


@dataclass(frozen=True)
class _Source:
    """A tensor of the output: name, plan (None for the base) and dtype word."""

    merger: Merger
    name: str
    plan: MergePlan | None
    word: str

    def tiles(self, target: Tensor) -> list[_Tile]:
        """What is to be done to fill ``(n,)`` of this dtype, on the CPU; nothing if it cannot."""
        merge = self._merge()
        work = None if merge is None else _work(merge, Run(self.word, target.data_ptr()))
        if work is None:
            return []
        count = len(target)
        return [_Tile(work, (i, min(i + TILE, count))) for i in range(0, count, TILE)]

    def on_device(self) -> DeviceMerge | None:
        """How a CUDA device computes it; None if it cannot."""
        merge = self._merge()
        return None if merge is None else DeviceMerge.of(merge, self.word)

    def _merge(self) -> TensorMerge | None:
        return None if self.plan is None else self.merger.merge(self.name, self.plan, self.word)

    def fill(self, target: Tensor) -> None:
        """Write its entries to ``(n,)``, contiguous."""
        for start, piece in self.merger.pieces(self.name, self.plan, self.word):
            target[start : start + len(piece)].copy_(piece)


def _work(merge: TensorMerge, out: Run) -> Callable[[tuple[int, int]], None] | None:
    """Computes a span where it is wanted, from the mapped files; None if it cannot."""
    runs = mapped_runs(merge.inputs, () if merge.formula is None else merge.formula.models)
    if runs is None:
        return None
    if merge.formula is not None:
        return partial(blend, merge.formula, out, runs)
    if merge.products is None:
        return None
    return partial(merge.products.add_all, out.address, runs[0].address)


def _begin(target: Tensor, source: _Source) -> list[_Tile] | _Launch:
    """Fill a tensor of the module, whatever its device, dtype and strides, or say how."""
    plain = target.detach()
    if target.dtype == torch_dtype(source.word) and plain.is_contiguous():
        if target.device.type == "cpu" and (tiles := source.tiles(plain.view(-1))):
            return tiles
        if cuda.takes(target) and (merge := source.on_device()):
            return _Launch(merge, plain.view(-1), source.fill)
    whole = plain if plain.is_contiguous() else plain.contiguous()
    source.fill(whole.view(-1))
    if whole is not plain:
        plain.copy_(whole)
    return []


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name that they have."""
    parameters, buffers = dict[str, Tensor](), dict[str, Tensor]()
    for path, part in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        parameters |= {f"{prefix}{n}": p for n, p in part._parameters.items() if p is not None}
        buffers |= {f"{prefix}{n}": b for n, b in part._buffers.items() if b is not None}
    return parameters | {n: b for n, b in buffers.items() if not n.endswith(RECOMPUTED)}


def _state(tensor: Tensor) -> object:
    """Another one after anybody's write in place, or a move to other memory.

    The storage is named too, and not kept alive: addresses are used again.
    """
    storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
    return tensor.device, tensor.dtype, storage, tensor.data_ptr(), tensor._version


def _place(tensor: Tensor) -> object:
    """Equal for tensors that are the same memory."""
    if tensor.numel() == 0 or tensor.device.type == "meta":
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _stored_names(base: Checkpoint, tensors: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """For each tensor of the module its names in the checkpoint: several if tied there."""
    names: dict[object, list[str]] = {}
    for name, tensor in tensors.items():
        if name in base.tensors:
            names.setdefault(_place(tensor), []).append(name)
    return [tuple(aliases) for aliases in names.values()]


def _problems(
    merger: Merger,
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    stored: Iterable[tuple[str, ...]],
) -> list[str]:
    found = [problem for names in stored for problem in _misfits(merger, names, tensors)]
    places = {_place(tensors[name]) for names in stored for name in names}
    found += [
        f"the module's parameter {quoted(name)} is not in the checkpoint"
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if _place(parameter) not in places
    ]
    found += [
        f"the checkpoint's tensor {quoted(name)} is not in the module"
        for name in merger.base.tensors
        if name not in tensors and name not in merger.follows and not name.endswith(RECOMPUTED)
    ]
    return found


def _misfits(merger: Merger, names: tuple[str, ...], tensors: Mapping[str, Tensor]) -> list[str]:
    """What keeps one tensor of the module from being that of the checkpoint."""
    name, others = names[0], names[1:]
    entry, tensor = merger.base.entry(name), tensors[name]
    if tensor.device.type == "meta":
        return [f"the module's {quoted(name)} has no memory (device meta)"]
    if tensor.is_inference():
        return [f"the module's {quoted(name)} was made under torch.inference_mode() and is frozen"]
    if tuple(tensor.shape) != entry.shape:
        shapes = f"{list(tensor.shape)} in the module and {list(entry.shape)} in the checkpoint"
        return [f"{quoted(name)} has the shape {shapes}"]
    if tensor.is_floating_point() != entry.is_float:
        return [f"{quoted(name)} is {tensor.dtype} in the module and {entry.dtype} on disk"]
    return [
        f"{quoted(name)} and {quoted(other)} are tied in the module, "
        "but stored with different numbers"
        for other in others
        if not all(_same(source, name, other) for source in (merger.base, *merger.models.values()))
    ]


def _same(source: Source, name: str, other: str) -> bool:
    """Whether a model has the same numbers in two tensors that the base has the same in."""
    if isinstance(source, Checkpoint):
        return other not in source.tensors or same_bytes(source, name, other)
    return name not in source.changes and other not in source.changes
