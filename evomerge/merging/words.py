"""What compiled loops need of the machine and numba does not give: addresses, bits, prefetching.

Numba keeps compiled loops on disk until the file that they stand in changes, and does not look
here: after a change here, delete ``evomerge/merging/__pycache__``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba.core.cgutils
import numba.extending
from llvmlite import ir

types: Any = numba.core.types
cgutils: Any = numba.core.cgutils
intrinsic: Any = numba.extending.intrinsic

_HALF, _WORD, _LONG, _BYTE = (ir.IntType(bits) for bits in (16, 32, 64, 8))
_FLOAT = ir.FloatType()


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


def _apart(builder: Any, access: Any, side: str) -> Any:
    """Says that what is read and what is written never overlap, or nothing would vectorise."""
    add = builder.module.add_metadata
    domain = add(["evomerge"])
    scopes = {name: add([add([f"evomerge {name}", domain])]) for name in ("read", "written")}
    other = "written" if side == "read" else "read"
    access.set_metadata("alias.scope", scopes[side])
    access.set_metadata("noalias", scopes[other])
    return access


def _gathering(kind: Any, widened: Callable[[Any, Any], Any]) -> Any:
    """A function that reads one entry from each of several arrays, as a tuple of float32.

    Written out for every array. The entries may start at any even address.
    """

    def typed(typingctx: Any, addresses: Any, index: Any) -> Any:
        whole = types.UniTuple(types.float32, addresses.count)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            found = []
            for address in cgutils.unpack_tuple(builder, args[0]):
                where = _pointer(builder, kind, address, args[1])
                stored = _apart(builder, builder.load(where, align=2), "read")
                found.append(builder.bitcast(widened(builder, stored), _FLOAT))
            return context.make_tuple(builder, whole, found)

        return whole(addresses, types.int64), generate

    return intrinsic(typed)


def _shifted(builder: Any, stored: Any) -> Any:
    return builder.shl(builder.zext(stored, _WORD), _WORD(16))


half_of = _gathering(_HALF, _shifted)
"""The bfloat16 numbers with this index."""
lower_of = _gathering(_WORD, lambda builder, word: builder.shl(word, _WORD(16)))
"""The first of the two bfloat16 numbers in the words with this index."""
upper_of = _gathering(_WORD, lambda builder, word: builder.and_(word, _WORD(0xFFFF0000)))
"""The second one."""


def _putting(kind: Any, argument: Any) -> Any:
    """A function that writes one entry of an array."""

    def typed(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            where = _pointer(builder, kind, args[0], args[1])
            _apart(builder, builder.store(args[2], where, align=2), "written")
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, argument), generate

    return intrinsic(typed)


put_half = _putting(_HALF, types.uint16)
put_word = _putting(_WORD, types.uint32)


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


def _fetching(locality: int, lines: int) -> Any:
    """A function that asks for cache lines of several arrays ahead of their use.

    Processors stop fetching ahead by themselves at the end of a page. An address that does not
    exist is no error.

    Args:
        locality: 3 for the nearest cache, 2 for the one behind it.
        lines: of 64 bytes, from the address on.
    """

    def typed(typingctx: Any, addresses: Any, offset: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _BYTE.as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [pointer, _WORD, _WORD, _WORD])
            fetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
            how = [_WORD(number) for number in (0, locality, 1)]
            for address in cgutils.unpack_tuple(builder, args[0]):
                for line in range(lines):
                    ahead = builder.add(args[1], _LONG(64 * line))
                    builder.call(fetch, [_pointer(builder, _BYTE, address, ahead), *how])
            return context.get_dummy_value()

        return types.void(addresses, types.int64), generate

    return intrinsic(typed)


FETCHED_LINES = 2
fetch_near = _fetching(3, FETCHED_LINES)
fetch_far = _fetching(2, FETCHED_LINES)
