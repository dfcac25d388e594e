"""The compiled pass over a batch: each record's bytes are read once, its values where they lie.

A record that is unusual in any way is left alone: `ok` stays False, and the general decoder has the word. So nothing
here gives a reason. A record's features are written behind those of the record before it; one for which there may be
no room ends the pass, which then goes on from there.

What the profile taught, in order of worth (39 fields in 620 bytes):
1. Arrays go in as bare addresses (`bare`), or Numba counts references at each call: 2.9x.
2. The key that comes after a key is guessed, and only compared: 1.9x against looking up each one.
3. Nothing is copied or decoded on the way: a category is hashed where it lies, a bucket's key is known beforehand.
4. Reading strings by words of eight bytes gains nothing where values are as short as these, and much where not.
Of what is left, reading is a little more than half, hashing and writing features the rest.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from online_fm.events import EARLIEST_MS, LARGEST, LATEST_MS
from online_fm.features import hashing, words_llvm
from online_fm.features.encode import FLOAT32_MAX
from online_fm.features.hashing import xxh64
from online_fm.features.words import Text, byte, origin
from online_fm.scan.bare import bare
from online_fm.scan.keys import Keys, find, know
from online_fm.scan.lexing import ABSENT, INLINE, INTEGER, LIST, NULL, TEXT, blank, same, scalar, skip
from online_fm.scan.quantities import UNKNOWN_MS, amount, milliseconds, moment, narrow
from online_fm.scan.rows import Features, Scratch, V, emit, is_number
from online_fm.scan.shape import ELSEWHERE, K, Shape, Spec

__all__ = ["IDENT_SEEDS", "Columns", "columns_for", "make_scan", "part_of"]

IDENT_SEEDS = np.array([0, 0x9E3779B97F4A7C15], np.uint64)  # two hashes make 128 bits of an id
_NO_TIMESTAMP = -1
_QUOTE, _COMMA, _COLON, _OPEN_LIST, _CLOSE_LIST, _OPEN, _CLOSE = 0x22, 0x2C, 0x3A, 0x5B, 0x5D, 0x7B, 0x7D
_NONE, _ONE = np.float32(np.nan), np.float32(1.0)

Array = NDArray[Any]  # kernels read single elements, which numpy's types know only as scalars of their own


class Columns(NamedTuple):
    """What is written of n records, where ok: ident u64[n, 2], ts i64[n], weight, score, label f32[n], ptr i64[n + 1].

    flaws i64[3]: unknown, missing and truncated, of all records that are ok.
    """

    ok: Array
    ident: Array
    ts: Array
    weight: Array
    score: Array
    label: Array
    ptr: Array
    flaws: Array


def columns_for(n: int) -> Columns:
    """Room for n records."""
    return Columns(
        np.empty(n, np.bool_),
        np.empty((n, 2), np.uint64),
        np.empty(n, np.int64),
        np.empty(n, np.float32),
        np.empty(n, np.float32),
        np.empty(n, np.float32),
        np.zeros(n + 1, np.int64),
        np.zeros(3, np.int64),
    )


def part_of(columns: Columns, start: int, n: int) -> Columns:
    """Views of n records; what is counted is counted together."""
    *arrays, ptr, flaws = columns
    return Columns._make([*(array[start : start + n] for array in arrays), ptr[start : start + n + 1], flaws])


def _fingerprint() -> int:
    """Of all sources that become the kernel, and of constants: Numba itself looks at this file only."""
    parts = (*Path(__file__).parent.glob("*.py"), Path(hashing.__file__), Path(words_llvm.__file__))
    constants = repr((EARLIEST_MS, LATEST_MS, LARGEST, FLOAT32_MAX))
    return zlib.crc32(b"".join(source.read_bytes() for source in sorted(parts)) + constants.encode())


FINGERPRINT = _fingerprint()


@njit(**INLINE)
def _list(text: Text, at: int, values: Array, used: int) -> tuple[int, int]:
    """Read the list of scalars that begins here into `values[used:]`: behind it or -1, and the end of its elements."""
    at = blank(text, at + 1)
    if byte(text, at) == _CLOSE_LIST:
        return at + 1, used
    while used < len(values):
        at, kind, start, end, _, _ = scalar(text, at)
        if at < 0:
            break
        values[used, V.KIND] = kind
        values[used, V.START] = start
        values[used, V.END] = end
        used += 1
        at = blank(text, at)
        c = byte(text, at)
        if c == _CLOSE_LIST:
            return at + 1, used
        if c != _COMMA:
            break
        at = blank(text, at + 1)
    return -1, used


@njit(**INLINE)
def _key(text: Text, at: int, last: int, record: int, features: int, keys: Keys) -> tuple[int, int]:
    """The place of the value whose key begins here, or -1, and which key it is; `last` came before it."""
    rows = keys.rows
    key = rows[last, K.AFTER]
    begins = byte(text, at) == _QUOTE
    if begins and not same(text, at + 1, rows[key, K.START], rows[key, K.LENGTH] + 1):
        key = find(text, at + 1, rows[last, K.NODE], features, keys)
        if key >= 0:
            rows[last, K.AFTER] = key
    if begins and key >= 0:
        at = blank(text, at + rows[key, K.LENGTH] + 2)
        fresh = rows[key, K.SEEN] != record
        rows[key, K.SEEN] = record
        at = blank(text, at + 1) if fresh and byte(text, at) == _COLON else -1
    else:
        at = -1
    return at, key


@njit(**INLINE)
def _read(text: Text, at: int, shape: Shape, lists: Array, keys: Keys, scratch: Scratch) -> tuple[int, int, int, bool]:
    """Read the object that begins here into `values`.

    Gives the place behind it or -1, the end of its elements in `values`, how many keys no field knows, and whether
    there is an object of features.
    """
    rows, values = keys.rows, scratch.values
    used, unknown, level, key = len(lists), 0, 0, 0
    complete = shape.features <= 0
    for slot in range(used):
        values[slot, V.KIND] = ABSENT
    record = keys.counts[1]
    keys.counts[1] += 1
    at = blank(text, at)
    at = blank(text, at + 1) if byte(text, at) == _OPEN else -1
    wants_key = at >= 0 and byte(text, at) != _CLOSE
    while at >= 0:
        if wants_key:
            at, key = _key(text, at, key, record, shape.features, keys)
            if at < 0:
                break
            unknown += rows[key, K.UNKNOWN]
            leads = rows[key, K.LEADS]
            if leads >= 0:
                if byte(text, at) == _OPEN_LIST and lists[leads]:
                    values[leads, V.KIND] = LIST
                    values[leads, V.START] = used
                    at, used = _list(text, at, values, used)
                    values[leads, V.END] = used
                else:
                    at, kind, start, end, mantissa, exponent = scalar(text, at)
                    values[leads, V.KIND] = kind
                    values[leads, V.START] = start
                    values[leads, V.END] = end
                    values[leads, V.MANTISSA] = mantissa
                    values[leads, V.EXPONENT] = exponent
            elif leads != ELSEWHERE and byte(text, at) == _OPEN:
                scratch.open[level] = key
                level, key = level + 1, -2 - leads
                complete = complete or key == shape.features
                at = blank(text, at + 1)
                wants_key = byte(text, at) != _CLOSE
                continue
            else:
                at = skip(text, at)
            if at < 0:
                break
            at = blank(text, at)
        c = byte(text, at)
        if c == _COMMA:
            at = blank(text, at + 1)
            wants_key = True
        elif c == _CLOSE:
            wants_key = False
            at += 1
            if level == 0:
                break
            at = blank(text, at)
            level -= 1
            key = scratch.open[level]
        else:
            at = -1
    return at, used, unknown, complete


@njit(**INLINE)
def _within(values: Array, slot: int, absent: np.float32, most: float) -> tuple[bool, np.float32]:
    """Whether the number in a slot lies from 0 to `most`, and it; `absent` where there is none."""
    usable, x = True, absent
    if slot >= 0 and values[slot, V.KIND] > NULL:
        low, high = amount(values[slot, V.MANTISSA], values[slot, V.EXPONENT])
        usable, x = narrow(low, high)
        usable = usable and is_number(values[slot, V.KIND]) and low >= 0.0 and high <= most
    return usable, x


@njit(**INLINE)
def _label(values: Array, shape: Shape) -> tuple[bool, np.float32]:
    """The label that a click brings, and whether it is usable."""
    usable, x, slot = True, _ONE, shape.label
    if slot >= 0:
        usable = is_number(values[slot, V.KIND])
        if usable:
            low, high = amount(values[slot, V.MANTISSA], values[slot, V.EXPONENT])
            believed = abs(low) <= LARGEST and abs(high) <= LARGEST
            usable, x = narrow(_clipped(low * shape.scale, shape), _clipped(high * shape.scale, shape))
            usable = usable and believed
    return usable, x


@njit(**INLINE)
def _clipped(x: float, shape: Shape) -> float:
    """`min(max(x, least), most)` as Python does it where zeros or bounds are equal."""
    x = shape.least if shape.least > x else x  # noqa: FURB136
    return shape.most if shape.most < x else x  # noqa: FURB136


@njit(**INLINE)
def _time(text: Text, values: Array, timestamp: int, shape: Shape) -> tuple[bool, int]:
    """The event time in ms, and whether it is believed."""
    slot, ms = shape.time, UNKNOWN_MS
    kind = values[slot, V.KIND]
    if is_number(kind) and shape.per_ms > 0.0:
        ms = milliseconds(values[slot, V.MANTISSA], values[slot, V.EXPONENT], kind != INTEGER, shape.per_ms)
    elif kind == TEXT and shape.per_ms == 0.0:
        ms = moment(text, values[slot, V.START], values[slot, V.END])
    believed = EARLIEST_MS <= ms <= LATEST_MS
    return believed and (timestamp == _NO_TIMESTAMP or ms - shape.ahead <= timestamp), ms


@njit(**INLINE)
def _envelope(text: Text, values: Array, i: int, timestamp: int, shape: Shape, out: Columns) -> bool:
    """Write the columns of record i; whether all that they need is usable."""
    ident = shape.id
    start, end = values[ident, V.START], values[ident, V.END]
    kind = values[ident, V.KIND]
    named = kind == INTEGER or (kind == TEXT and 0 < end - start <= shape.max_id)
    timely, ms = _time(text, values, timestamp, shape)
    weighed, weight = _within(values, shape.weight, _ONE, LARGEST)
    scored, score = _within(values, shape.score, _NONE, 1.0)
    labelled, label = _label(values, shape)
    usable = named and timely and weighed and scored and labelled
    if usable:
        for half in range(2):
            out.ident[i, half] = xxh64(text, start, end, IDENT_SEEDS[half])
        out.ts[i] = ms
        out.weight[i] = weight
        out.score[i] = score
        out.label[i] = label
    return usable


@njit(**INLINE)
def _bare(s: Spec, k: Keys, c: Scratch, o: Columns, f: Features) -> tuple[Spec, Keys, Scratch, Columns, Features]:
    """The same, without counts of references."""
    return (
        Spec(
            bare(s.fields), bare(s.seeds), bare(s.factors), bare(s.lists), bare(s.bounds), bare(s.ready), bare(s.parts)
        ),
        Keys(bare(k.rows), bare(k.counts), bare(k.table)),
        Scratch(bare(c.values), bare(c.places), bare(c.open), bare(c.chosen), bare(c.block), origin(c.block_bytes)),
        Columns(
            bare(o.ok),
            bare(o.ident),
            bare(o.ts),
            bare(o.weight),
            bare(o.score),
            bare(o.label),
            bare(o.ptr),
            bare(o.flaws),
        ),
        Features(bare(f.fld), bare(f.key), bare(f.val)),
    )


@cache
def make_scan(fingerprint: int = FINGERPRINT) -> Callable[..., int]:
    """Compile the pass."""

    @njit(cache=True, nogil=True, error_model="numpy")
    def scan(
        data: Array,
        bounds: Array,
        timestamps: Array,
        first: int,
        shape: Shape,
        spec: Spec,
        keys_of: Keys,
        scratch_of: Scratch,
        columns: Columns,
        features_of: Features,
    ) -> int:
        """Scan records from the `first` on; the first one for whose features there may be no room, else n.

        data u8: the keys' bytes, all records, each with a NUL behind it, and padding of 8; bounds i64[n + 1]: where
        records begin; timestamps i64[n]: the records' own, ms.
        """
        _ = fingerprint
        text, n = origin(data), len(timestamps)
        parts, keys, scratch, out, features = _bare(spec, keys_of, scratch_of, columns, features_of)
        if first == 0:
            know(text, keys)
        filled, reached = out.ptr[first], n
        for i in range(first, n):
            out.ok[i] = False
            out.ptr[i + 1] = filled
            end = bounds[i + 1] - 1
            if end - bounds[i] > shape.max_bytes:
                continue
            behind, used, unknown, complete = _read(text, bounds[i], shape, parts.lists, keys, scratch)
            if behind < 0 or not complete or blank(text, behind) != end:
                continue
            if not _envelope(text, scratch.values, i, timestamps[i], shape, out):
                continue
            wide = shape.inputs + (used - len(parts.lists)) * shape.repeats + shape.crossed
            if filled + wide > len(features.fld):
                reached = i
                break
            at, missing, truncated = emit(text, parts, shape.sorts, scratch, features, filled)
            if at < 0:
                continue
            filled = at
            out.ok[i] = True
            out.ptr[i + 1] = filled
            out.flaws[0] += unknown
            out.flaws[1] += missing
            out.flaws[2] += truncated
        return reached

    return scan
