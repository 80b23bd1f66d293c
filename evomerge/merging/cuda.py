"""Merges into the memory of a CUDA device, by one Triton kernel over copies that are there.

Sums and elections of whole checkpoints in float32, bfloat16 and float16, with the plain or the
smooth mask; the rest is computed on the CPU and copied. Both ways give the same bits; what is
not finite is so both ways, but may be NaN in one and infinite in the other.

This was run by Triton's interpreter and compiled for devices, never run on one. So the first merge
of each form is compared with torch's on the CPU, and the kernel is given up where they differ.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import EvomergeError
from evomerge.merging.cuda_copies import CHUNK, DeviceCopies
from evomerge.merging.entries import TensorMerge, merged
from evomerge.merging.fused import WORDS, Formula, formula
from evomerge.merging.scratch import Scratch
from evomerge.merging.sources import Stored

MOST = 16
"""Models that the kernel takes: each has its registers and its own compilation."""

PROVED = 2**16
"""Entries of the first merge of each form that are compared with torch's."""

_BITS = {4: torch.int32, 2: torch.int16}
_log = logging.getLogger("evomerge")


@cache
def kernels() -> Any:
    """The module of the kernel; None where triton is absent."""
    try:
        from evomerge.merging import cuda_kernels
    except ImportError:
        return None
    return cuda_kernels


def takes(target: Tensor) -> bool:
    """Whether the kernel can write to a tensor."""
    return target.is_cuda and kernels() is not None


@dataclass(frozen=True)
class DeviceMerge:
    """One tensor's merge into memory of a device.

    Attributes:
        merge: with nothing left to decide.
        form: what the kernel is told.
        sources: base and the formula's models.
    """

    merge: TensorMerge
    form: Formula
    sources: tuple[Stored, ...]

    @classmethod
    def of(cls, merge: TensorMerge, word: str) -> DeviceMerge | None:
        """As the kernel does it; None if it cannot.

        Args:
            merge: to be done.
            word: safetensors dtype of the output.
        """
        used, inputs = merge.method.used(merge.settings), merge.inputs
        by_lot = any(threshold.lot is not None for threshold in merge.thresholds.values())
        if by_lot or inputs.adapted(used) or not 0 < len(used) <= MOST:
            return None
        sources = tuple(inputs.stored(used))
        form = formula(merge.method, merge.settings, merge.thresholds)
        words = {word, *(source.entry(inputs.name).dtype for source in sources)}
        return None if form is None or not words <= WORDS else cls(merge, form, sources)

    def fill(self, target: Tensor, copies: DeviceCopies) -> None:
        """Write the merge to ``(n,)``; returns before the device is done."""
        name, count = self.merge.inputs.name, len(target)
        kept = [copies.whole(source, name) for source in self.sources]
        step = CHUNK if any(tensor is None for tensor in kept) else count
        for start in range(0, count, max(step, 1)):
            stop = min(start + step, count)
            entries = [
                copies.passing(i, self.sources[i], name, (start, stop))
                if tensor is None
                else tensor[start:stop]
                for i, tensor in enumerate(kept)
            ]
            launch(self.form, target[start:stop], entries)

    def agrees(self, target: Tensor) -> bool:
        """Whether the first finite entries of what was filled are torch's, bit for bit."""
        merge = replace(self.merge, formula=None, products=None)
        within, kind = (0, min(len(target), PROVED)), _BITS[target.dtype.itemsize]
        for start, piece in merged(merge, target.dtype, Scratch(), within=within):
            found = target[start : start + len(piece)].cpu()
            same = found.view(kind) == piece.view(kind)
            if not (same | ~(found.isfinite() | piece.isfinite())).all():
                return False
        return True

    @property
    def shape(self) -> object:
        """Equal for merges that are one compilation of the kernel, alignment aside."""
        words = tuple(source.entry(self.merge.inputs.name).dtype for source in self.sources)
        return words, self.form.rules.shape, self.form.scaling is None


class DeviceMerger:
    """Merges on one device, as long as they prove right.

    Args:
        device: the targets'.
        copies: on that device.
    """

    def __init__(self, device: torch.device, copies: DeviceCopies | None = None) -> None:
        self._copies = DeviceCopies(device) if copies is None else copies
        self._proved: set[object] = set()
        self._given_up = False

    def fill(self, merge: DeviceMerge, target: Tensor, otherwise: Callable[[Tensor], None]) -> None:
        """Write a merge to ``(n,)`` of this device: by the kernel, or else otherwise."""
        key = (target.dtype, merge.shape)
        if not self._given_up and key in self._proved:
            merge.fill(target, self._copies)
        elif self._given_up or not self._proves(merge, target):
            otherwise(target)
        else:
            self._proved.add(key)

    def _proves(self, merge: DeviceMerge, target: Tensor) -> bool:
        """Whether the first merge of its shape is what it must be; else the kernel is given up."""
        try:
            merge.fill(target, self._copies)
            reason = None if merge.agrees(target) else "its result is not torch's"
        except EvomergeError:
            raise
        except Exception as error:  # no C compiler on this machine, a device that is too old
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        if reason is not None:
            self._given_up = True
            _log.warning("merges are computed on the CPU, not by the Triton kernel: %s", reason)
        return reason is None


def launch(form: Formula, out: Tensor, sources: list[Tensor]) -> None:
    """Have the device fill ``out`` with the merge of the sources, all ``(n,)`` and there."""
    module, count = kernels(), len(out)
    models, columns = form.rules.shape
    if count == 0:
        return
    with torch.cuda.device(out.get_device()):  # -1, of the CPU, is none
        module.merge[(-(-count // module.BLOCK),)](
            out,
            tuple(sources),
            tuple(form.rules.ravel().tolist()),
            float(form.scaling or 0.0),
            count,
            MODELS=models,
            COLUMNS=columns,
            ELECT=form.scaling is not None,
            BLOCK=module.BLOCK,
            enable_fp_fusion=False,  # products are rounded before they are added
        )
