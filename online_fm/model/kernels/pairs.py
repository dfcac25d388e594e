"""Rows made of rows: all pairs of features for Poly2 (Chang et al., JMLR 2010), two fields for MF.

Poly2's row is the given one and a feature for every pair of its features i < j: value x_i x_j, field F + the number of
the unordered pair of fields, key a hash of both features in the order of their tags. Keys are 32 bits within a pair of
fields, and compared as all keys are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types

from online_fm.model.kernels import F32, FINGERPRINT, I64, INLINE, KERNEL, U16, U32, array_of
from online_fm.model.kernels.table import mix, tag_of

__all__ = ["make_pairs", "make_select", "pair_number"]

_GIVEN = tuple(array_of(kind) for kind in (types.int64, types.uint16, types.uint32, types.float32))
_MADE = types.Tuple([array_of(kind, written=True) for kind in (types.int64, types.uint16, types.uint32, types.float32)])  # type: ignore[no-untyped-call]


@njit(**INLINE)
def pair_number(f: int, g: int, n: int) -> int:
    """The place of fields f <= g among all pairs of n fields, (0, 0) (0, 1) .. (0, n - 1) (1, 1) .."""
    return f * n - f * (f - 1) // 2 + g - f


@cache
def make_pairs(fingerprint: int = FINGERPRINT) -> Callable[..., Any]:
    """Compile Poly2's rows."""

    @njit(_MADE(*_GIVEN, types.int64), **KERNEL)
    def pairs(ptr: I64, fld: U16, key: U32, val: F32, n_fields: int) -> tuple[I64, U16, U32, F32]:
        """(ptr, fld, key, val) with the pairs."""
        _ = fingerprint
        n = ptr.size - 1
        ends = np.zeros(n + 1, np.int64)
        for i in range(n):
            size = ptr[i + 1] - ptr[i]
            ends[i + 1] = ends[i] + size * (size + 1) // 2
        fields, keys, values = np.empty(ends[n], np.uint16), np.empty(ends[n], np.uint32), np.empty(ends[n], np.float32)
        for i in range(n):
            at = ends[i]
            for j in range(ptr[i], ptr[i + 1]):
                fields[at], keys[at], values[at] = fld[j], key[j], val[j]
                at += 1
            for j in range(ptr[i], ptr[i + 1]):
                for other in range(ptr[i], j):
                    a, b = tag_of(fld[other], key[other]), tag_of(fld[j], key[j])
                    low, high = min(a, b), max(a, b)
                    f, g = int(low >> np.uint64(32)), int(high >> np.uint64(32))
                    fields[at] = n_fields + pair_number(f, g, n_fields)
                    keys[at] = np.uint32(mix(mix(low) ^ high) >> np.uint64(32))
                    values[at] = val[other] * val[j]
                    at += 1
        return ends, fields, keys, values

    return pairs


@cache
def make_select(fingerprint: int = FINGERPRINT) -> Callable[..., Any]:
    """Compile the choice of fields."""

    @njit(_MADE(*_GIVEN, array_of(types.int64)), **KERNEL)
    def select(ptr: I64, fld: U16, key: U32, val: F32, place: I64) -> tuple[I64, U16, U32, F32]:
        """(ptr, fld, key, val) of the features whose field f has place[f] >= 0, which becomes their field."""
        _ = fingerprint
        n = ptr.size - 1
        ends = np.zeros(n + 1, np.int64)
        fields, keys, values = (
            np.empty(fld.size, np.uint16),
            np.empty(fld.size, np.uint32),
            np.empty(fld.size, np.float32),
        )
        at = 0
        for i in range(n):
            for j in range(ptr[i], ptr[i + 1]):
                if place[fld[j]] >= 0:
                    fields[at], keys[at], values[at] = place[fld[j]], key[j], val[j]
                    at += 1
            ends[i + 1] = at
        return ends, fields[:at], keys[:at], values[:at]

    return select
