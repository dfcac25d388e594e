"""Lanes as LLVM vectors: a Numba type whose model is `<n x float>`, and the operations on it.

Nothing is left to the optimiser's mood: each function here emits its vector instructions, for any n; LLVM splits
them into the registers that the CPU has. No fast-math flag is set, so lanes give the same bits on every CPU.

Reference: LLVM language reference, "Vector Operations"; Numba manual, "Low-level extension API".
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model
from numba.np import arrayobj

__all__ = [
    "Lanes",
    "at_least",
    "farther",
    "fma",
    "largest",
    "load",
    "load_first",
    "prefetch",
    "shrink",
    "spread",
    "sqrt",
    "store",
    "total",
    "total32",
    "totals",
    "where_nonzero",
    "within",
    "zeros",
]

F32 = ir.FloatType()
F64 = ir.DoubleType()
I32 = ir.IntType(32)


class Lanes(types.Type):
    """n float32 lanes."""

    def __init__(self, n: int) -> None:
        self.n = n
        super().__init__(name=f"Lanes({n})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, ir.VectorType(F32, lanes.n))  # type: ignore[no-untyped-call]


def _vector(lanes: Lanes) -> ir.VectorType:
    return ir.VectorType(F32, lanes.n)


def _splat(builder: Any, value: Any, lanes: Lanes, kind: Any = F32) -> Any:
    none = ir.Constant(ir.VectorType(kind, lanes.n), ir.Undefined)
    mask = ir.Constant(ir.VectorType(I32, lanes.n), [0] * lanes.n)
    return builder.shuffle_vector(builder.insert_element(none, value, I32(0)), none, mask)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    data = arrayobj.make_array(array_type)(context, builder, array).data  # type: ignore[no-untyped-call]
    return builder.gep(data, [at])


def _call(builder: Any, name: str, vector: Any, *args: Any) -> Any:
    """Call the LLVM intrinsic `llvm.NAME.vNf32`."""
    kind = ir.FunctionType(vector, [vector] * len(args))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{vector.count}f32")  # type: ignore[no-untyped-call]
    return builder.call(function, args)


@intrinsic
def zeros(_typing: Any, n: Any) -> Any:
    """`n` lanes (a constant) of 0."""
    if not isinstance(n, types.IntegerLiteral):
        return None
    lanes = Lanes(n.literal_value)

    def codegen(_context: Any, _builder: Any, _signature: Any, _args: Any) -> Any:
        return ir.Constant(_vector(lanes), [0.0] * lanes.n)

    return lanes(n), codegen


@intrinsic
def load(_typing: Any, array: Any, _at: Any, like: Any) -> Any:
    """The lanes at `array[at:]`, as many as `like` has. Bounds are not checked."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, array, args[0], args[1])
        return builder.load(builder.bitcast(pointer, _vector(like).as_pointer()), align=4)

    return like(array, types.intp, like), codegen


@intrinsic
def load_first(_typing: Any, array: Any, _at: Any, _n: Any, like: Any) -> Any:
    """The lanes at `array[at:]` as `load`, but 0 from the n-th on, of which nothing is read."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        vector, numbers = _vector(like), ir.VectorType(I32, like.n)
        pointer = builder.bitcast(_pointer(context, builder, array, args[0], args[1]), ir.PointerType())
        order = ir.Constant(numbers, list(range(like.n)))
        mask = builder.icmp_signed(">", _splat(builder, builder.trunc(args[2], I32), like, I32), order)
        kind = ir.FunctionType(vector, [ir.PointerType(), I32, mask.type, vector])
        name = f"llvm.masked.load.v{like.n}f32.p0"
        function = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
        return builder.call(function, [pointer, I32(4), mask, ir.Constant(vector, [0.0] * like.n)])

    return like(array, types.intp, types.intp, like), codegen


@intrinsic
def store(_typing: Any, array: Any, _at: Any, lanes: Any) -> Any:
    """`array[at:at + n] = lanes`. Bounds are not checked."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, array, args[0], args[1])
        builder.store(args[2], builder.bitcast(pointer, _vector(lanes).as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), codegen


@intrinsic
def prefetch(_typing: Any, array: Any, _at: Any) -> Any:
    """Ask for the cache line of `array[at]`, for writing; never faults."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, array, args[0], args[1])
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(), I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        builder.call(function, [builder.bitcast(pointer, ir.PointerType()), I32(1), I32(3), I32(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def total(_typing: Any, lanes: Any) -> Any:
    """The sum of the lanes in float64, added as a balanced tree."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _sum(builder, args[0], lanes, F64)

    return types.float64(lanes), codegen


@intrinsic
def total32(_typing: Any, lanes: Any) -> Any:
    """The sum of the lanes in float32, added as a balanced tree."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _sum(builder, args[0], lanes, F32)

    return types.float32(lanes), codegen


@intrinsic
def farther(_typing: Any, lanes: Any, _others: Any) -> Any:
    """The lanes, which are not negative, or the absolute values of the others where these are larger."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _chosen(builder, ">", _call(builder, "fabs", _vector(lanes), args[1]), args[0])

    return lanes(lanes, lanes), codegen


@intrinsic
def largest(_typing: Any, lanes: Any) -> Any:
    """The largest of the lanes, none of which is negative."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _folded(builder, args[0], lanes, partial(_chosen, builder, ">"))

    return types.float32(lanes), codegen


@intrinsic
def totals(_typing: Any, groups: Any, like: Any) -> Any:
    """The sums of as many groups of consecutive lanes as `like` has lanes.

    Neighbours are added, in all groups at once: a quarter of the instructions that one `total32` after another takes.
    """

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        sums, left = args[0], groups.n // like.n
        while left > 1:
            sums, left = _halved(builder, sums, left, like.n), -(-left // 2)
        return sums

    return like(groups, like), codegen


def _halved(builder: Any, sums: Any, left: int, groups: int) -> Any:
    """Each of `groups` groups of `left` lanes as half as many, neighbours added; where one is left over, it stays."""
    pairs, odd = divmod(left, 2)
    starts = [left * group for group in range(groups)]
    first = [start + place for start in starts for place in range(0, left, 2)]
    second = [start + place for start in starts for place in [*range(1, left, 2), *[left * groups] * odd]]
    nothing = ir.Constant(sums.type, [-0.0] * sums.type.count)  # what is added to -0 stays as it is, to the bit
    few = ir.VectorType(I32, groups * (pairs + odd))
    return builder.fadd(
        builder.shuffle_vector(sums, nothing, ir.Constant(few, first)),
        builder.shuffle_vector(sums, nothing, ir.Constant(few, second)),
    )


@intrinsic
def fma(_typing: Any, a: Any, _b: Any, _c: Any) -> Any:
    """The product plus c, lane by lane, rounded once."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _call(builder, "fma", _vector(a), *args)

    return a(a, a, a), codegen


def _sum(builder: Any, value: Any, lanes: Lanes, kind: Any) -> Any:
    return _folded(builder, value, lanes, builder.fadd, kind)


def _folded(builder: Any, value: Any, lanes: Lanes, operation: Callable[..., Any], kind: Any = F32) -> Any:
    """The lanes, as numbers of this kind and zeros up to a power of two, as one: halves are taken together."""
    n = 1 << (lanes.n - 1).bit_length()
    narrow = ir.Constant(_vector(lanes), [0.0] * lanes.n)
    mask = ir.Constant(ir.VectorType(I32, n), [min(i, lanes.n) for i in range(n)])
    found = builder.shuffle_vector(value, narrow, mask)
    if kind is F64:
        found = builder.fpext(found, ir.VectorType(F64, n))
    while n > 1:
        n //= 2
        low = ir.Constant(ir.VectorType(I32, n), list(range(n)))
        high = ir.Constant(ir.VectorType(I32, n), list(range(n, 2 * n)))
        found = operation(builder.shuffle_vector(found, found, low), builder.shuffle_vector(found, found, high))
    return builder.extract_element(found, I32(0))


@intrinsic
def spread(_typing: Any, array: Any, _at: Any, times: Any, like: Any) -> Any:
    """Consecutive floats of `array[at:]`, each `times` (a constant) over, in as many lanes as `like` has."""
    if not isinstance(times, types.IntegerLiteral):
        return None
    each = times.literal_value
    few = Lanes(like.n // each)

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, array, args[0], args[1])
        loaded = builder.load(builder.bitcast(pointer, _vector(few).as_pointer()), align=4)
        mask = ir.Constant(ir.VectorType(I32, like.n), [i // each for i in range(like.n)])
        return builder.shuffle_vector(loaded, ir.Constant(_vector(few), ir.Undefined), mask)

    return like(array, types.intp, times, like), codegen


@intrinsic
def sqrt(_typing: Any, lanes: Any) -> Any:
    """The exact (correctly rounded) square root of each lane."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _call(builder, "sqrt", _vector(lanes), args[0])

    return lanes(lanes), codegen


@intrinsic
def shrink(_typing: Any, lanes: Any, _by: Any) -> Any:
    """sgn(z) max(|z| - by, 0): each lane moved `by` towards 0, and no further."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        vector = _vector(lanes)
        rest = builder.fsub(_call(builder, "fabs", vector, args[0]), _splat(builder, args[1], lanes))
        nothing = ir.Constant(vector, [0.0] * lanes.n)
        rest = builder.select(builder.fcmp_ordered(">", rest, nothing), rest, nothing)
        return _call(builder, "copysign", vector, rest, args[0])

    return lanes(lanes, types.float32), codegen


@intrinsic
def where_nonzero(_typing: Any, test: Any, then: Any, otherwise: Any) -> Any:
    """`then` in the lanes where `test` is not 0, `otherwise` in the rest."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        nothing = ir.Constant(_vector(test), [0.0] * test.n)
        return builder.select(builder.fcmp_unordered("!=", args[0], nothing), args[1], args[2])

    return then(test, then, otherwise), codegen


@intrinsic
def at_least(_typing: Any, lanes: Any, _floor: Any) -> Any:
    """The lanes, or `floor` where they are smaller or no numbers."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _chosen(builder, ">", args[0], _splat(builder, args[1], lanes))

    return lanes(lanes, types.float32), codegen


@intrinsic
def within(_typing: Any, lanes: Any, _bound: Any) -> Any:
    """The lanes cut to [-bound, bound]; what is not a number becomes bound."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        bound = _splat(builder, args[1], lanes)
        return _chosen(builder, ">", _chosen(builder, "<", args[0], bound), builder.fneg(bound))

    return lanes(lanes, types.float32), codegen


def _chosen(builder: Any, relation: str, a: Any, b: Any) -> Any:
    """`a` where it is in relation to b, else b: one instruction, as the CPU's own maximum and minimum are."""
    return builder.select(builder.fcmp_ordered(relation, a, b), a, b)


def _arithmetic(instruction: str) -> Callable[..., Any]:
    """The intrinsic for one operation; a number on either side is spread over all lanes."""

    def typer(_typing: Any, a: Any, b: Any) -> Any:
        lanes = a if isinstance(a, Lanes) else b

        def codegen(_context: Any, builder: Any, signature: Any, args: Any) -> Any:
            left, right = (
                x if isinstance(t, Lanes) else _splat(builder, x, lanes)
                for x, t in zip(args, signature.args, strict=True)
            )
            return getattr(builder, instruction)(left, right)

        return lanes(*(t if isinstance(t, Lanes) else types.float32 for t in (a, b))), codegen

    return intrinsic(typer)


def _overload(symbol: Callable[[Any, Any], Any], instruction: str) -> None:
    operation = _arithmetic(instruction)

    @overload(symbol, strict=False)
    def choose(a: Any, b: Any) -> Any:
        if isinstance(a, Lanes) or isinstance(b, Lanes):
            return lambda a, b: operation(a, b)  # noqa: PLW0108 Numba reads its argument names
        return None


_overload(operator.add, "fadd")
_overload(operator.sub, "fsub")
_overload(operator.mul, "fmul")
_overload(operator.truediv, "fdiv")


@overload(len, strict=False)
def _length(lanes: Any) -> Any:
    if isinstance(lanes, Lanes):
        n = lanes.n
        return lambda lanes: n  # noqa: ARG005 as above
    return None
