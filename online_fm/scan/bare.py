"""Bare arrays: an address and a shape, without the count of references that Numba keeps of arrays.

Where arrays go in and out of functions with several ways through, Numba counts atomically at each call: that was two
thirds of the time. `bare(array)` is read, written and measured (`len`) like the array, in one or two dimensions, and
keeps nothing alive: the caller's array must. Indices are not checked and never negative.

With `NUMBA_DISABLE_JIT=1` it is the array itself, with NumPy's checks.

Reference: Numba manual, "Low-level extension API".
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, cast

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model
from numba.np import arrayobj

__all__ = ["bare"]

I64 = ir.IntType(64)


class Bare(types.Type):
    """Elements of one type in rows without gaps."""

    def __init__(self, dtype: Any, ndim: int) -> None:
        self.dtype, self.ndim = dtype, ndim
        super().__init__(name=f"Bare({dtype}, {ndim})")


@register_model(Bare)
class _BareModel(models.StructModel):
    def __init__(self, manager: Any, bare: Bare) -> None:
        data = types.CPointer(bare.dtype)  # type: ignore[no-untyped-call]
        members = [("data", data), ("rows", types.intp), ("columns", types.intp)]
        super().__init__(manager, bare, members)  # type: ignore[no-untyped-call]


def _strip(_typing: Any, array: Any) -> Any:
    kind = Bare(array.dtype, array.ndim)

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        given = arrayobj.make_array(array)(context, builder, args[0])  # type: ignore[no-untyped-call]
        shape = cgutils.unpack_tuple(builder, given.shape, array.ndim)  # type: ignore[no-untyped-call]
        made = cgutils.create_struct_proxy(kind)(context, builder)  # type: ignore[no-untyped-call]
        made.data, made.rows = given.data, shape[0]
        made.columns = shape[1] if array.ndim == 2 else I64(1)
        return made._getvalue()  # noqa: SLF001 Numba's own name

    return kind(array), codegen


def _address(context: Any, builder: Any, kind: Bare, bare: Any, row: Any, column: Any) -> Any:
    """The address of an element."""
    parts = cgutils.create_struct_proxy(kind)(context, builder, bare)  # type: ignore[no-untyped-call]
    return builder.gep(parts.data, [builder.add(builder.mul(row, parts.columns), column)])


def _load(_typing: Any, bare: Any, _row: Any, _column: Any) -> Any:
    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return context.unpack_value(builder, bare.dtype, _address(context, builder, bare, *args))

    return bare.dtype(bare, types.intp, types.intp), codegen


def _store(_typing: Any, bare: Any, _row: Any, _column: Any, _value: Any) -> Any:
    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        context.pack_value(builder, bare.dtype, args[3], _address(context, builder, bare, *args[:3]))
        return context.get_dummy_value()

    return types.void(bare, types.intp, types.intp, bare.dtype), codegen


def _count(_typing: Any, bare: Any) -> Any:
    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return cgutils.create_struct_proxy(bare)(context, builder, args[0]).rows  # type: ignore[no-untyped-call]

    return types.intp(bare), codegen


_bare, _get, _set, _rows = (cast("Any", intrinsic(each)) for each in (_strip, _load, _store, _count))


@overload(operator.getitem, strict=False)
def _read_element(array: Any, at: Any) -> Any:  # noqa: ARG001 Numba reads its argument names
    if not isinstance(array, Bare):
        return None
    if array.ndim == 2:
        return lambda array, at: _get(array, at[0], at[1])
    return lambda array, at: _get(array, at, 0)


@overload(operator.setitem, strict=False)
def _write_element(array: Any, at: Any, value: Any) -> Any:  # noqa: ARG001 Numba reads its argument names
    if not isinstance(array, Bare):
        return None
    if array.ndim == 2:
        return lambda array, at, value: _set(array, at[0], at[1], value)
    return lambda array, at, value: _set(array, at, 0, value)


@overload(len, strict=False)
def _length(array: Any) -> Any:
    if isinstance(array, Bare):
        return lambda array: _rows(array)  # noqa: PLW0108 as above
    return None


if TYPE_CHECKING or numba.config.DISABLE_JIT:

    def bare(array: Any) -> Any:
        """The same array."""
        return array
else:
    bare = _bare
