"""What compiled loops need beside numba itself: addresses, bits, prefetching, a place on disk.

Numba keeps compiled loops on disk until the file that they stand in changes, and does not look at
what they use from elsewhere. Ours are kept until any of `SOURCES` changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numba.core.cgutils
import numba.extending
from llvmlite import ir

types: Any = numba.core.types
cgutils: Any = numba.core.cgutils
intrinsic: Any = numba.extending.intrinsic

_WORD, _LONG, _BYTE = (ir.IntType(bits) for bits in (32, 64, 8))
_FLOAT = ir.FloatType()


Loop = TypeVar("Loop", bound=Callable[..., Any])

SOURCES = (
    "counting",
    "halves",
    "kernels",
    "lanes",
    "merge_words",
    "product_loops",
    "product_words",
    "stored",
    "words",
)
"""The modules that compiled loops are made of."""


@cache
def _digest() -> str:
    folder = Path(__file__).parent
    sources = [(folder / f"{name}.py").read_bytes() for name in SOURCES]
    return hashlib.blake2b(b"".join(sources), digest_size=16).hexdigest()


def compiled(loop: Loop) -> Loop:
    """The loop, compiled when it is first called.

    Kept on disk beside its file, else in the user's cache folder, or where NUMBA_CACHE_DIR says.
    """
    try:
        made: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(loop)
    except RuntimeError:  # no such place can be written to
        return cast(Loop, numba.njit(nogil=True, error_model="numpy")(loop))
    # What a kept loop is compared with is not public; without it numba's own rule stays.
    with suppress(AttributeError, OSError):
        file = made._cache._cache_file
        file._source_stamp = (file._source_stamp, _digest())
    return cast(Loop, made)


def _reinterpreting(result: Any, argument: Any, cast_by: str) -> Any:
    """A function for compiled loops that keeps the bits and changes their type."""

    def typed(typingctx: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, cast_by)(args[0], context.get_value_type(result))

        return result(argument), generate

    return intrinsic(typed)


as_float = _reinterpreting(types.float32, types.uint32, "bitcast")
as_bits = _reinterpreting(types.uint32, types.float32, "bitcast")
halves_at = _reinterpreting(types.CPointer(types.uint16), types.int64, "inttoptr")
floats_at = _reinterpreting(types.CPointer(types.float32), types.int64, "inttoptr")


def _pointer(builder: Any, kind: Any, address: Any, index: Any) -> Any:
    return builder.gep(builder.inttoptr(address, kind.as_pointer()), [index])


def _numbers(typingctx: Any, address: Any, count: Any) -> Any:
    """int64 numbers in a row as a tuple as long as the tuple ``count``."""
    whole = types.UniTuple(types.int64, count.count)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found = [
            builder.load(_pointer(builder, _LONG, args[0], _WORD(i))) for i in range(count.count)
        ]
        return context.make_tuple(builder, whole, found)

    return whole(types.int64, count), generate


def _rows(typingctx: Any, address: Any, rows: Any, columns: Any) -> Any:
    """A float32 table as a tuple of tuples, as many and as long as the two given."""
    row = types.UniTuple(types.float32, columns.count)
    whole = types.UniTuple(row, rows.count)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found = []
        for i in range(rows.count):
            places = range(i * columns.count, (i + 1) * columns.count)
            numbers = [
                builder.load(_pointer(builder, _FLOAT, args[0], _WORD(place))) for place in places
            ]
            found.append(context.make_tuple(builder, row, numbers))
        return context.make_tuple(builder, whole, found)

    return whole(types.int64, rows, columns), generate


numbers_of = intrinsic(_numbers)
rows_of = intrinsic(_rows)


def _fetching(locality: int) -> Any:
    """A function that asks for a cache line of several arrays ahead of their use.

    Processors stop fetching ahead by themselves at the end of a page. An address that does not
    exist is no error.

    Args:
        locality: 3 for the nearest cache, 2 for the one behind it.
    """

    def typed(typingctx: Any, addresses: Any, offset: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _BYTE.as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [pointer, _WORD, _WORD, _WORD])
            fetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
            how = [_WORD(number) for number in (0, locality, 1)]
            for address in cgutils.unpack_tuple(builder, args[0]):
                builder.call(fetch, [_pointer(builder, _BYTE, address, args[1]), *how])
            return context.get_dummy_value()

        return types.void(addresses, types.int64), generate

    return intrinsic(typed)


fetch_near = _fetching(3)
fetch_far = _fetching(2)
