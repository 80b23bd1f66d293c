"""The merge as one Triton kernel: one pass over base and models, with nothing stored in between.

It does to an entry what the torch code does (`evomerge.merging.entries`,
`evomerge.merging.fusion`), with the same roundings in the same order. Importing this loads triton.
"""

# No postponed annotations here: triton looks for its own among them.

from collections.abc import Callable
from typing import Any, TypeVar, cast

import triton
import triton.language as tl

BLOCK = 1024
"""Entries per program: 16 bytes of a half-width dtype for each thread of four warps."""

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(kernel: Kernel) -> Kernel:
    """The kernel, compiled for the device when it is first launched."""
    return cast(Kernel, triton.jit(kernel))


# To and from bfloat16 by integers: triton's interpreter cuts instead of rounding, and takes
# subnormal numbers for others.


@compiled
def _read(entries: tl.tensor, places: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """As float32; 0 outside."""
    stored = tl.load(entries + places, mask=inside, other=0.0)
    if entries.dtype.element_ty == tl.bfloat16:
        bits = stored.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
        wide = bits.to(tl.float32, bitcast=True)
    else:
        wide = stored.to(tl.float32)
    return wide


@compiled
def _halved(wide: tl.tensor) -> tl.tensor:
    """Rounded to the nearest bfloat16, ties to even."""
    bits = wide.to(tl.uint32, bitcast=True)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    bits = tl.where(wide == wide, bits, 0x7FC0)
    return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)


@compiled
def merge(
    out: tl.tensor,
    sources: tl.tuple,
    rules: tl.tuple,
    scaling: tl.tensor,
    count: tl.tensor,
    MODELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ELECT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """``out = base + sum term``, or with signs elected ``base + scaling * mean of those agreeing``.

    Args:
        out: written to.
        sources: base and models, a tuple.
        rules: by model the ``COLUMNS`` numbers of `evomerge.merging.kernels`, one tuple of all.
        scaling: where signs are elected.
        count: of entries.
        MODELS: how many there are.
        COLUMNS: of the rules: 1, 2 or 4, which is the form of the mask.
        ELECT: whether signs are elected.
        BLOCK: entries per program.
    """
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    base = _read(sources[0], places, inside)
    start = base + 0.0
    nothing = tl.full([BLOCK], 0.0, tl.float32)
    if ELECT:
        total = nothing
        up = nothing
        up_weight = nothing
        down = nothing
        down_weight = nothing
    else:
        total = start
    for i in tl.static_range(MODELS):
        vector = _read(sources[i + 1], places, inside) - base
        factor = rules[COLUMNS * i]
        term = vector * factor
        if COLUMNS == 4:
            thinned = vector * rules[COLUMNS * i + 3]
            thinned = tl.where(tl.abs(vector) < rules[COLUMNS * i + 2], thinned, vector)
            term = thinned * factor
        if COLUMNS > 1:
            term = tl.where(tl.abs(vector) < rules[COLUMNS * i + 1], 0.0, term)
        total += term
        if ELECT:
            size = tl.abs(nothing + factor)
            up = tl.where(term > 0, up + term, up)
            up_weight = tl.where(term > 0, up_weight + size, up_weight)
            down = tl.where(term < 0, down - term, down)
            down_weight = tl.where(term < 0, down_weight + size, down_weight)
    if ELECT:
        positive = total > 0
        mass = tl.where(positive, up, down)
        weight = tl.where(positive, up_weight, down_weight)
        mean = tl.div_rn(mass, tl.where(weight > 0, weight, 1.0))
        mean = tl.where(positive, mean, tl.where(total < 0, -mean, total))
        total = start + mean * scaling
    if out.dtype.element_ty == tl.bfloat16:
        tl.store(out + places, _halved(total), mask=inside)
    else:
        tl.store(out + places, total.to(out.dtype.element_ty), mask=inside)
