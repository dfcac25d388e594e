"""Rows: many impressions' features as numbers, in compressed sparse rows.

Row `i` has the features `ptr[i]:ptr[i+1]`; feature `j` is the pair (field `fld[j]`, key `key[j]`) with value
`val[j]`. Within a row, features lie in the order of the spec's fields.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rows"]


@dataclass(frozen=True, slots=True)
class Rows:
    """n rows with nnz features: ptr i64[n+1], fld u16[nnz], key u32[nnz], val f32[nnz]."""

    ptr: NDArray[np.int64]
    fld: NDArray[np.uint16]
    key: NDArray[np.uint32]
    val: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ptr) - 1

    @property
    def nnz(self) -> int:
        return int(self.ptr[-1])

    def part(self, start: int, end: int) -> Rows:
        """The rows start:end; their features are views."""
        lo, hi = int(self.ptr[start]), int(self.ptr[end])
        return Rows(self.ptr[start : end + 1] - lo, self.fld[lo:hi], self.key[lo:hi], self.val[lo:hi])

    @staticmethod
    def empty(n: int = 0) -> Rows:
        """Rows without a feature."""
        return Rows(np.zeros(n + 1, np.int64), np.empty(0, np.uint16), np.empty(0, np.uint32), np.empty(0, np.float32))
