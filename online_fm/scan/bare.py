"""Bare arrays: an address and a shape, without the count of references that Numba keeps of arrays.

Where arrays go in and out of functions with several ways through, Numba counts atomically at each call: that was two
thirds of the time. `bare(array)` is read, written and measured (`len`) like the array, in one or two dimensions, and
keeps nothing alive: the caller's array must. Indices are not checked and never negative.

With `NUMBA_DISABLE_JIT=1` it is the array itself, with NumPy's checks.

Reference: Numba manual, "Low-level extension API".
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model
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
        data = types.CPointer(bare.dtype)
        members = [("data", data), ("rows", types.intp), ("columns", types.intp)]
        super().__init__(manager, bare, members)


def _strip(_typing: Any, array: Any) -> Any:
    kind = Bare(array.dtype, array.ndim)

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        given = arrayobj.make_array(array)(context, builder, args[0])
        shape = cgutils.unpack_tuple(builder, given.shape, array.ndim)
        made = cgutils.create_struct_proxy(kind)(context, builder)
        made.data, made.rows = given.data, shape[0]
        made.columns = shape[1] if array.ndim == 2 else I64(1)
        return made._getvalue()  # noqa: SLF001 Numba's own name

    return kind(array), codegen


@infer_global(operator.getitem)
class _Read(AbstractTemplate):
    def generic(self, args: Any, _kws: Any) -> Any:
        return signature(args[0].dtype, *args) if isinstance(args[0], Bare) else None


@infer_global(operator.setitem)
class _Write(AbstractTemplate):
    def generic(self, args: Any, _kws: Any) -> Any:
        return signature(types.none, args[0], args[1], args[0].dtype) if isinstance(args[0], Bare) else None


@infer_global(len)
class _Measure(AbstractTemplate):
    def generic(self, args: Any, _kws: Any) -> Any:
        return signature(types.intp, *args) if isinstance(args[0], Bare) else None


def _address(context: Any, builder: Any, kinds: Any, bare: Any, at: Any) -> Any:
    """The address of an element: its place is one number, or a row and a column."""
    parts = cgutils.create_struct_proxy(kinds[0])(context, builder, bare)
    if kinds[0].ndim == 1:
        return builder.gep(parts.data, [context.cast(builder, at, kinds[1], types.intp)])
    places = cgutils.unpack_tuple(builder, at, 2)
    row, column = (
        context.cast(builder, place, kind, types.intp) for place, kind in zip(places, kinds[1].types, strict=True)
    )
    return builder.gep(parts.data, [builder.add(builder.mul(row, parts.columns), column)])


@lower_builtin(operator.getitem, Bare, types.Any)
def _read(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return context.unpack_value(builder, sig.args[0].dtype, _address(context, builder, sig.args, *args))


@lower_builtin(operator.setitem, Bare, types.Any, types.Any)
def _write(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    context.pack_value(builder, sig.args[0].dtype, args[2], _address(context, builder, sig.args, *args[:2]))
    return context.get_dummy_value()


@lower_builtin(len, Bare)
def _measure(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return cgutils.create_struct_proxy(sig.args[0])(context, builder, args[0]).rows


if TYPE_CHECKING or numba.config.DISABLE_JIT:

    def bare(array: Any) -> Any:
        """The same array."""
        return array
else:
    bare = intrinsic(_strip)
