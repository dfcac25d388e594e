"""Words as plain loads: a text is the address of its first byte.

No load is aligned, and none checked. Little-endian machines only, as all that Numba compiles for.

Reference: LLVM language reference, "load", "llvm.cttz"; Numba manual, "Low-level extension API".
"""

from __future__ import annotations

from typing import Any, TypeAlias

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np import arrayobj

__all__ = ["Text", "byte", "first_byte", "half", "origin", "word"]

Text: TypeAlias = int
I1, I8, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))


@intrinsic
def origin(_typing: Any, data: Any) -> Any:
    """The address of the array's first byte."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pointer = arrayobj.make_array(data)(context, builder, args[0]).data  # type: ignore[no-untyped-call]
        return builder.ptrtoint(pointer, I64)

    return types.int64(data), codegen


def _load(builder: Any, args: Any, kind: ir.IntType) -> Any:
    """The unsigned number of this width at `args[0] + args[1]`, in 64 bits."""
    pointer = builder.inttoptr(builder.add(args[0], args[1]), kind.as_pointer())
    found = builder.load(pointer, align=1)
    return found if kind is I64 else builder.zext(found, I64)


@intrinsic
def byte(_typing: Any, _text: Any, _at: Any) -> Any:
    """The byte at `at`."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _load(builder, args, I8)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def half(_typing: Any, _text: Any, _at: Any) -> Any:
    """Four bytes."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _load(builder, args, I32)

    return types.uint64(types.int64, types.int64), codegen


@intrinsic
def word(_typing: Any, _text: Any, _at: Any) -> Any:
    """Eight bytes."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _load(builder, args, I64)

    return types.uint64(types.int64, types.int64), codegen


@intrinsic
def first_byte(_typing: Any, _flags: Any) -> Any:
    """The place, from 0, of the lowest byte that is not 0; there is one."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.lshr(builder.cttz(args[0], I1(1)), I64(3))

    return types.int64(types.uint64), codegen
