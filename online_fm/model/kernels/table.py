"""The table's kernels: from (field, key) to a slot, with exact keys, and the initial value of a new feature.

A tag is `field << 32 | key`. The index is an open-addressing hash table of pairs (tag, slot), slot 0 where empty,
interleaved so that a probe is one cache line; linear probing at a load of at most one half. The tag is compared,
so two features never share a record: collisions cost more log-loss than any tuning wins back.

`resolve` goes over a batch before it is learned: first all features are looked for, in blocks, then row by row those
that were not found at once. Rows that will be learned insert what they bring; the others only look up, and so see
exactly what an earlier learned row inserted: nothing is ever taken out, so what was found early stays. Slot 0 is that
of features without a record, whose weight is 0: its record is all zeros and stays so, and kernels may read it like any
other. Such a feature contributes its initial value and does not learn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit, types

from online_fm.model.kernels import F32, FINGERPRINT, I32, I64, INLINE, KERNEL, U16, U32, U64, Bool, array_of
from online_fm.model.kernels.lanes import prefetch

__all__ = ["draw", "make_table", "tag_of"]

AHEAD = 32
BLOCK = 64
UNKNOWN = -1
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@njit(**INLINE)
def tag_of(fld: np.uint16, key: np.uint32) -> np.uint64:
    """`field << 32 | key`."""
    return (np.uint64(fld) << np.uint64(32)) | np.uint64(key)


@njit(**INLINE)
def mix(x: np.uint64) -> np.uint64:
    """The finalizer of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection whose bits look random."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(**INLINE)
def draw(tag: np.uint64, seed: np.uint64, sd: float, array: F32, at: int, n: int) -> None:
    """Write a feature's n initial factors to `array[at:]`: a function of (seed, tag, component) and nothing else.

    Component c is the sum of the four 16-bit lanes of mix(mix(tag ^ mix(seed)) + c golden), centred and scaled to
    the standard deviation `sd`: near enough to normal (excess kurtosis -.3), and bounded by 3.5 sd.
    """
    low = np.uint64(0xFFFF)
    x = mix((tag ^ mix(seed + GOLDEN)) + GOLDEN)
    scale = sd / 37837.22
    for c in range(n):
        x += GOLDEN
        y = mix(x)
        lanes = (y & low) + ((y >> np.uint64(16)) & low) + ((y >> np.uint64(32)) & low) + (y >> np.uint64(48))
        array[at + c] = np.float32((np.float64(lanes) - 131070.0) * scale)


@njit(**INLINE)
def _home(tag: np.uint64, index: U64) -> np.uint64:
    """Where a probe for the tag begins: its key is a hash already, so Fibonacci's multiplication does (Knuth, 6.4)."""
    return (tag * GOLDEN >> np.uint64(32)) & np.uint64(index.size // 2 - 1)


@njit(**INLINE)
def _place(tag: np.uint64, index: U64) -> np.uint64:
    """The place of the tag in the index, or the empty one where it belongs."""
    mask = np.uint64(index.size // 2 - 1)
    place = _home(tag, index)
    while index[np.uint64(2) * place + np.uint64(1)] != 0 and index[np.uint64(2) * place] != tag:
        place = (place + np.uint64(1)) & mask
    return np.uint64(2) * place


@njit(**INLINE)
def _ask(tag: np.uint64, index: U64) -> None:
    """Prefetch where a probe for the tag begins."""
    prefetch(index, 2 * int(_home(tag, index)))


@njit(**INLINE)
def _look(fld: U16, key: U32, start: int, index: U64, home: U64, slot: I32) -> None:
    """Fill `slot[start:]` for the features that lie at one of the first two places of their probe, the others UNKNOWN.

    Blocks of features, each asked for while the one before is read, in loops without branches: the CPU cannot foresee
    where a probe ends, and stumbles. home u64[2 BLOCK]: scratch.
    """
    mask = np.uint64(index.size - 1)
    for block in range(start, fld.size + BLOCK, BLOCK):
        here = (block - start) // BLOCK % 2 * BLOCK
        for i in range(min(BLOCK, fld.size - block)):
            j = np.uintp(block + i)
            home[np.uintp(here + i)] = np.uint64(2) * _home(tag_of(fld[j], key[j]), index)
        for i in range(min(BLOCK, fld.size - block)):
            prefetch(index, int(home[np.uintp(here + i)]))
        if block > start:
            for i in range(min(BLOCK, fld.size - block + BLOCK)):
                j, first = np.uintp(block - BLOCK + i), home[np.uintp(BLOCK - here + i)]
                second = (first + np.uint64(2)) & mask
                tag = tag_of(fld[j], key[j])
                place = first if index[first] == tag else second
                found = np.int32(index[place + np.uint64(1)])
                slot[j] = found if index[place] == tag and found > 0 else np.int32(UNKNOWN)


@cache
def make_table(fingerprint: int = FINGERPRINT) -> tuple[Callable[..., int], Callable[..., None], Callable[..., int]]:
    """Compile (resolve, lookup, rehash)."""
    index, tags = array_of(types.uint64), array_of(types.uint64)
    fld, key, slot = array_of(types.uint16), array_of(types.uint32), array_of(types.int32, written=True)

    @njit(
        types.int64(
            array_of(types.int64),
            fld,
            key,
            array_of(types.boolean),
            types.int64,
            array_of(types.uint64, written=True),
            array_of(types.uint64, written=True),
            array_of(types.int64, written=True),
            array_of(types.float32, written=True, dims=2),
            types.int64,
            types.int64,
            types.int64,
            types.int64,
            types.float32,
            types.uint64,
            types.float64,
            slot,
        ),
        **KERNEL,
    )
    def resolve(
        ptr: I64,
        fld: U16,
        key: U32,
        learn: Bool,
        row: int,
        index: U64,
        tags: U64,
        counts: I64,
        records: F32,
        room: int,
        v_at: int,
        n_v: int,
        width: int,
        v_start: np.float32,
        seed: np.uint64,
        sd: float,
        slot: I32,
    ) -> int:
        """Fill `slot` for the rows from `row` on; return the row before which the index must grow, or n.

        room: features that the index takes. counts i64[2]: features, and features of learned rows that found no place.
        records f32[1 + capacity, stride], of which all unused ones are 0; factors lie at `v_at`, `n_v` of them, their
        first state, which begins with `v_start`, `width` further on.
        """
        _ = fingerprint
        flat = records.reshape(records.size)
        capacity, stride = records.shape[0] - 1, records.shape[1]
        _look(fld, key, ptr[row], index, np.empty(2 * BLOCK, np.uint64), slot)
        for i in range(row, ptr.size - 1):
            if learn[i] and min(counts[0] + ptr[i + 1] - ptr[i], capacity) > room:
                return i
            for j in range(ptr[i], ptr[i + 1]):
                if slot[np.uintp(j)] != UNKNOWN:
                    continue
                tag = tag_of(fld[np.uintp(j)], key[np.uintp(j)])
                place = _place(tag, index)
                found = np.int64(index[place + np.uint64(1)])
                if found == 0 and learn[i]:
                    if counts[0] < capacity:
                        tags[counts[0]] = tag
                        counts[0] += 1
                        found = counts[0]
                        index[place] = tag
                        index[place + np.uint64(1)] = np.uint64(found)
                        draw(tag, seed, sd, flat, found * stride + v_at, n_v)
                        if v_start != 0.0:
                            for c in range(n_v):
                                flat[found * stride + v_at + width + c] = v_start
                    else:
                        counts[1] += 1
                slot[np.uintp(j)] = found
        return ptr.size - 1

    @njit(types.void(fld, key, index, slot), **KERNEL)
    def lookup(fld: U16, key: U32, index: U64, slot: I32) -> None:
        """Fill `slot` without inserting anything."""
        _ = fingerprint
        _look(fld, key, 0, index, np.empty(2 * BLOCK, np.uint64), slot)
        for j in range(fld.size):
            if slot[np.uintp(j)] == UNKNOWN:
                tag = tag_of(fld[np.uintp(j)], key[np.uintp(j)])
                slot[np.uintp(j)] = np.int64(index[_place(tag, index) + np.uint64(1)])

    @njit(types.int64(tags, array_of(types.uint64, written=True)), **KERNEL)
    def rehash(tags: U64, index: U64) -> int:
        """Enter `tags` into an empty index in order; return how many came before the first repeated one."""
        _ = fingerprint
        for i in range(tags.size):
            if i + AHEAD < tags.size:
                _ask(tags[i + AHEAD], index)
            place = _place(tags[i], index)
            if index[place + np.uint64(1)] != 0:
                return i
            index[place] = tags[i]
            index[place + np.uint64(1)] = np.uint64(i + 1)
        return tags.size

    return resolve, lookup, rehash
