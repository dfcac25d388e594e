"""Lanes: a handful of float32 in vector registers, so that a kernel reads like its formula and runs as vector code.

`load(array, at, like)` takes as many consecutive floats as `like` has; `+ - * /` between lanes, or lanes and a
number, work lane by lane, each operation rounded once, in the order written. Left to itself Numba does not
vectorise loops over a few factors (LLVM's SLP pass is off, and not part of the cache's key): a factor of 3 to 4.

Two bodies: LLVM vectors (`lanes_llvm`), and NumPy slices (`lanes_numpy`): with `NUMBA_DISABLE_JIT=1`, and for the
type checker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba

if TYPE_CHECKING or numba.config.DISABLE_JIT:
    from online_fm.model.kernels.lanes_numpy import (
        at_least,
        farther,
        fma,
        largest,
        load,
        load_first,
        prefetch,
        shrink,
        spread,
        sqrt,
        store,
        total,
        total32,
        totals,
        where_nonzero,
        within,
        zeros,
    )
else:
    from online_fm.model.kernels.lanes_llvm import (
        at_least,
        farther,
        fma,
        largest,
        load,
        load_first,
        prefetch,
        shrink,
        spread,
        sqrt,
        store,
        total,
        total32,
        totals,
        where_nonzero,
        within,
        zeros,
    )

__all__ = [
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
