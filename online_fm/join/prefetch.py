"""Asking memory for a cache line before it is needed."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

__all__ = ["prefetch"]

_I32 = ir.IntType(32)


def _prefetch(_typing: Any, array: Any, _at: Any) -> Any:
    """Ask for the cache line of `array[at]`, for writing; never faults."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pointer = builder.gep(arrayobj.make_array(array)(context, builder, args[0]).data, [args[1]])  # type: ignore[no-untyped-call]
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(), _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        builder.call(function, [builder.bitcast(pointer, ir.PointerType()), _I32(1), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


prefetch: Any = intrinsic(_prefetch)
