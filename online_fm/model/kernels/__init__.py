"""Kernels: arrays and numbers only, strictly one event after another, the same bits on every machine.

What the profile taught, in order of worth (39 one-hot fields, Zipf, ns per event):
1. All that belongs to a feature lies in one record, `w s1 s2 _ | v... | state of v...`: 1.7x against separate arrays.
2. While a row is worked on, the records of the next ones are prefetched (`ahead`): 1.9x for LR and FM, 4.7x for FFM.
3. Vector code is written as such (`lanes`), not left to the optimiser.
4. Indices are unsigned (`np.uintp`): a signed one is tested for being negative at each access, a sixth of the time.
5. No fast-math flag is set: each operation is rounded once, in the order written, so `predict`, `step` and every
   CPU agree to the bit (the exponential excepted: it is the C library's). Exact roots and divisions cost nothing
   measurable beside memory; reassociation is what the lanes already are.

`KERNEL` holds the options of what Python calls, `INLINE` those of its parts. A factory's closure holds only
integers: Numba pickles these into its cache's key. One of them is `FINGERPRINT`, of all sources in this folder:
Numba itself would look at the file of the outermost function only, and reuse code whose parts have changed.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numba import types
from numpy.typing import NDArray

__all__ = [
    "ADAGRAD",
    "ADAM",
    "F32",
    "F64",
    "FIELD_ROWS",
    "FINGERPRINT",
    "FTRL",
    "HINGE",
    "I32",
    "I64",
    "INLINE",
    "KALMAN",
    "KERNEL",
    "LOG",
    "PANEL",
    "PRECISION",
    "RHO",
    "RHO_SUM",
    "SGD",
    "SQUARED",
    "STATES",
    "TAU",
    "TAU_SUM",
    "U8",
    "U16",
    "U32",
    "U64",
    "Bool",
    "Rates",
    "array_of",
]

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]
U8: TypeAlias = NDArray[np.uint8]
U16: TypeAlias = NDArray[np.uint16]
U32: TypeAlias = NDArray[np.uint32]
U64: TypeAlias = NDArray[np.uint64]
Bool: TypeAlias = NDArray[np.bool_]
Rates: TypeAlias = tuple[np.float32, np.float32, np.float32, np.float32, np.float32]

FTRL, ADAGRAD, KALMAN, ADAM, SGD = range(5)
STATES = {FTRL: 2, ADAGRAD: 1, KALMAN: 3, ADAM: 4, SGD: 1}  # floats that follow a weight
LOG, SQUARED, HINGE = range(3)
TAU, TAU_SUM, RHO, RHO_SUM, PRECISION, FIELD_ROWS = range(6)
PANEL = 16

KERNEL: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": False}
INLINE: dict[str, Any] = {"forceinline": True, "error_model": "numpy", "fastmath": False, "_nrt": False}


def _fingerprint() -> int:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return zlib.crc32(b"".join(source.read_bytes() for source in sources))


FINGERPRINT = _fingerprint()


def array_of(dtype: Any, *, written: bool = False, dims: int = 1) -> types.Array:
    """The type of a C-contiguous array; where it is only read, read-only arrays will do."""
    return types.Array(dtype, dims, "C", readonly=not written)
