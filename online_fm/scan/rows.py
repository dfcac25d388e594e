"""From the values of one record to its features, as the encoder makes them, in the order of the spec.

A value is a row of `values`: first those of the slots, then the elements of all lists. Features are written behind `at`
into the batch's columns; the place behind them comes back, or -1 where a value is unusual.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from online_fm.features.encode import FLOAT32_MAX
from online_fm.features.hashing import xxh64
from online_fm.features.words import Text
from online_fm.scan.lexing import INLINE, INTEGER, LIST, NULL, PLAIN, REAL, TEXT
from online_fm.scan.quantities import amount, bucket_among, log_bucket, narrow
from online_fm.scan.shape import F, Kind, Spec

__all__ = ["MOST_ELEMENTS", "Features", "Scratch", "V", "emit", "is_category", "is_number", "room_for", "scratch_for"]

MOST_ELEMENTS = 4096  # of all lists of a record; with more it is unusual
_MOST_PARTS = 8  # of a cross
_ONE = np.float32(1.0)
_32 = np.uint64(32)

Array = NDArray[Any]  # kernels read single elements, which numpy's types know only as scalars of their own


class V(IntEnum):
    """Columns of `values`: kind of lexeme, its text (of a list: its elements) `START:END`, and its number."""

    KIND = 0
    START = 1
    END = 2
    MANTISSA = 3
    EXPONENT = 4


class Features(NamedTuple):
    """All rows' features, as far as they are written: fld u16, key u32, val f32."""

    fld: Array
    key: Array
    val: Array


def room_for(n: int) -> Features:
    """Room for n features."""
    return Features(np.empty(n, np.uint16), np.empty(n, np.uint32), np.empty(n, np.float32))


class Scratch(NamedTuple):
    """What one record needs.

    values i64[slots + elements, len(V)]; places i64[fields, 2]: where each field has its features; open i64: the
    key that was last in each open object; chosen i64[8]: features that are combined; block u32[8]: their keys, and
    block_bytes u8[32] the same.
    """

    values: Array
    places: Array
    open: Array
    chosen: Array
    block: Array
    block_bytes: Array


def scratch_for(spec: Spec, nodes: int) -> Scratch:
    """Room for one record."""
    elements, block = MOST_ELEMENTS if spec.lists.any() else 0, np.empty(_MOST_PARTS, np.uint32)
    return Scratch(
        np.empty((len(spec.lists) + elements, len(V)), np.int64),
        np.empty((len(spec.fields), 2), np.int64),
        np.empty(nodes, np.int64),
        np.empty(_MOST_PARTS, np.int64),
        block,
        block.view(np.uint8),
    )


@njit(**INLINE)
def is_category(kind: int) -> bool:
    """Whether the lexeme's text is a category."""
    return TEXT <= kind <= INTEGER


@njit(**INLINE)
def is_number(kind: int) -> bool:
    """Whether the lexeme is a number."""
    return INTEGER <= kind <= REAL


@njit(**INLINE)
def _hashed(text: Text, start: int, end: int, seed: np.uint64) -> np.uint32:
    """The key of a category."""
    return np.uint32(xxh64(text, start, end, seed) >> _32)


@njit(**INLINE)
def emit(text: Text, spec: Spec, sorts: bool, scratch: Scratch, out: Features, begin: int) -> tuple[int, int, int]:
    """Write one record's features: (the place behind them or -1, missing fields, truncated values)."""
    fields, values, places = spec.fields, scratch.values, scratch.places
    at, missing, truncated = begin, 0, 0
    for t in range(len(fields)):
        f, kind, slot, first = fields[t, F.FIELD], fields[t, F.KIND], fields[t, F.SLOT], at
        if kind == Kind.CROSS:
            at, cut = _cross(spec, t, scratch, out, at)
            truncated += cut
        else:
            lexeme = values[slot, V.KIND]
            if lexeme <= NULL:
                missing += 1
            elif kind == Kind.CATEGORY:
                out.fld[at] = f
                out.key[at] = _hashed(text, values[slot, V.START], values[slot, V.END], spec.seeds[t])
                out.val[at] = _ONE
                at = at + 1 if is_category(lexeme) else -1
            elif kind == Kind.MULTI:
                at, cut = _several(text, spec, t, values, out, at)
                truncated += cut
            else:
                bucket, x = _bucket(spec, t, values[slot, V.MANTISSA], values[slot, V.EXPONENT])
                if bucket >= 0 and is_number(lexeme):
                    out.fld[at] = f
                    out.key[at] = spec.ready[bucket]
                    out.val[at] = x
                    at += 1
                else:
                    at = -1
        if at < 0:
            break
        places[f, 0] = first
        places[f, 1] = at
    if sorts and at >= 0:
        _sort(out, begin, at)
    return at, missing, truncated


@njit(**PLAIN)
def _bucket(spec: Spec, t: int, mantissa: int, exponent: int) -> tuple[int, np.float32]:
    """The place in `ready` of a number's key, -1 where it is not sure, and the feature's value."""
    fields, x = spec.fields, _ONE
    kind, n = fields[t, F.KIND], fields[t, F.COUNT]
    low, high = amount(mantissa, exponent)
    if kind == Kind.NUMBER:
        bucket, factor = -1, spec.factors[t]
        if abs(low) <= FLOAT32_MAX and abs(high) <= FLOAT32_MAX:
            usable, x = narrow(low * factor, high * factor)
            bucket = 0 if usable else -1
    elif kind == Kind.BOUNDS:
        bucket = bucket_among(spec.bounds, fields[t, F.BOUNDS], n, low, high)
    else:
        bucket = log_bucket(low, high, spec.factors[t])
        if bucket >= n:
            bucket = -1
        elif bucket >= 0 and low < 0.0:
            bucket += n
    return bucket + fields[t, F.BEGIN] if bucket >= 0 else -1, x


@njit(**PLAIN)
def _several(text: Text, spec: Spec, t: int, values: Array, out: Features, at: int) -> tuple[int, int]:
    """Write the features of a list, or of one value as if it were one: (the place behind them or -1, values cut)."""
    fields = spec.fields
    slot, weighting = fields[t, F.SLOT], fields[t, F.WEIGHTING]
    listed = values[slot, V.KIND] == LIST
    first = values[slot, V.START] if listed else slot
    last = values[slot, V.END] if listed else slot + 1
    n = min(last - first, fields[t, F.MOST])
    x = 1.0
    if weighting == 1 and n > 0:
        x = 1.0 / n
    elif weighting == 2 and n > 0:
        x = 1.0 / np.sqrt(np.float64(n))
    for i in range(first, first + n):
        if not is_category(values[i, V.KIND]):
            return -1, 0
        out.fld[at] = fields[t, F.FIELD]
        out.key[at] = _hashed(text, values[i, V.START], values[i, V.END], spec.seeds[t])
        out.val[at] = np.float32(x)
        at += 1
    return at, last - first - n


@njit(**PLAIN)
def _cross(spec: Spec, t: int, scratch: Scratch, out: Features, at: int) -> tuple[int, int]:
    """Write every combination of the parts' features, the last part turning fastest, cut part by part.

    The c-th combination, counted from 0: its digits, where part p has as many as features, say which ones.
    """
    fields, parts, places = spec.fields, spec.parts, scratch.places
    begin, m, most = fields[t, F.BEGIN], fields[t, F.COUNT], fields[t, F.MOST]
    kept, cut = places[parts[begin], 1] - places[parts[begin], 0], 0
    for p in range(begin + 1, begin + m):
        found = kept * (places[parts[p], 1] - places[parts[p], 0])
        kept = min(found, most)
        cut += found - kept
    block = scratch.block_bytes
    for c in range(kept):
        rest = c
        for p in range(m - 1, -1, -1):
            part = parts[begin + p]
            first, n = places[part, 0], places[part, 1] - places[part, 0]
            if p == 0:
                n = kept
            scratch.chosen[p] = first + rest % n
            scratch.block[p] = out.key[first + rest % n]
            rest //= n
        x = out.val[scratch.chosen[0]]
        for p in range(1, m):
            x = np.float32(x * out.val[scratch.chosen[p]])
        out.fld[at] = fields[t, F.FIELD]
        out.key[at] = _hashed(block, 0, 4 * m, spec.seeds[t])
        out.val[at] = x
        at += 1
    return at, cut


@njit(**PLAIN)
def _sort(out: Features, start: int, end: int) -> None:
    """Put a row's features into the order of their fields; those of a field keep theirs."""
    for i in range(start + 1, end):
        fld, key, val = out.fld[i], out.key[i], out.val[i]
        j = i
        while j > start and out.fld[j - 1] > fld:
            out.fld[j] = out.fld[j - 1]
            out.key[j] = out.key[j - 1]
            out.val[j] = out.val[j - 1]
            j -= 1
        out.fld[j] = fld
        out.key[j] = key
        out.val[j] = val
