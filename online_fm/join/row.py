"""A row's features as words: its keys; its values that are not 1; and its shape, where that is its own.

A shape says what a stream's rows have in common: the field of each feature, and whether its value is another than 1.
Rows of one shape share it, so that a row of one-hot fields takes 4 bytes a feature instead of 10, and one with raw
numbers 4 more for each of these. There is room for `SHAPES` of them: a row whose shape finds none carries its own. A
shape that no row has any more leaves its place to the next that needs one.

A feature of a shape is the word `field | other << 16`. A row's words are never split by the end of their ring.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from online_fm.join.store import INLINE, OWN, SHAPES, WIDTH, Array, S, Store, word_place

__all__ = ["MOST_WORDS", "forget", "put", "size_of", "start_of", "take"]

MOST_WORDS = 3  # of a feature
_PROBES = 8
_ONE = np.uint32(0x3F800000)  # 1.0


@njit(**INLINE)
def start_of(most: int, store: Store) -> int:
    """The running number from which on `most` words lie in one piece."""
    start = store.state[S.WORDS_NEXT]
    left = len(store.words) - word_place(start, store)
    return start + left if most > left else start


@njit(**INLINE)
def put(start: int, row: int, nnz: int, fld: Array, key: Array, bits: Array, store: Store) -> Any:
    """Write the features row:row + nnz from word `start` on; give the row's shape. Room is for three words each.

    key u32, bits u32: the values' bits.
    """
    words = store.words
    at = word_place(start, store)
    for j in range(nnz):
        words[np.uintp(at + j)] = key[np.uintp(row + j)]
    of, others = at + nnz, 0
    hashed = np.uint64(0)
    for j in range(nnz):
        other = bits[np.uintp(row + j)] != _ONE
        word = np.uint32(fld[np.uintp(row + j)]) | (np.uint32(other) << np.uint32(16))
        words[np.uintp(of + j)] = word
        others += other
        mixed = (np.uint64(word) << np.uint64(16) | np.uint64(j)) * np.uint64(0x9E3779B97F4A7C15)
        hashed += mixed ^ (mixed >> np.uint64(32))
    shape = _share(hashed, nnz, others, of, store) if nnz <= WIDTH else OWN
    end = of + nnz if shape == OWN else of
    if others:
        for j in range(nnz):
            if bits[np.uintp(row + j)] != _ONE:
                words[np.uintp(end)] = bits[np.uintp(row + j)]
                end += 1
    store.state[S.WORDS_NEXT] = start + end - at
    return shape


@njit(**INLINE)
def _share(hashed: Any, nnz: int, others: int, at: int, store: Store) -> Any:
    """The number of the shape whose features lie at this place of the words; OWN where there is no room for it."""
    hashed = (hashed ^ (hashed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    first = np.int64(hashed >> np.uint64(40))
    free: Any = OWN
    for probe in range(_PROBES):
        number = (first + probe) & (SHAPES - 1)
        shape = store.shapes[number]
        if shape.hash == hashed and shape.nnz == nnz:
            differing = np.uint32(0)
            for j in range(nnz):
                differing |= store.words[np.uintp(at + j)] ^ store.shape_words[np.uintp(number * WIDTH + j)]
            if differing == 0:
                shape.uses += 1
                return number
        if shape.uses == 0 and free == OWN:
            free = number
    if free != OWN:
        shape = store.shapes[free]
        shape.hash, shape.nnz, shape.others, shape.uses = hashed, nnz, others, 1
        for j in range(nnz):
            store.shape_words[np.uintp(free * WIDTH + j)] = store.words[np.uintp(at + j)]
    return free


@njit(**INLINE)
def forget(entry: Any, store: Store) -> None:
    """Let the entry's shape go."""
    if entry.shape != OWN:
        store.shapes[entry.shape].uses -= 1


@njit(**INLINE)
def take(entry: Any, store: Store, to: int, fld: Array, key: Array, bits: Array) -> None:
    """Write an entry's features to the places from `to` on."""
    at, nnz = word_place(entry.start, store), entry.nnz
    if entry.shape == OWN:
        _read(store.words, at + nnz, at, 1, nnz, 2 * nnz, store, to, fld, key, bits)
    else:
        others = store.shapes[entry.shape].others
        _read(store.shape_words, np.int64(entry.shape) * WIDTH, at, others, nnz, nnz, store, to, fld, key, bits)


@njit(**INLINE)
def _read(
    shape: Array,
    of: int,
    at: int,
    others: int,
    nnz: int,
    values: int,
    store: Store,
    to: int,
    fld: Array,
    key: Array,
    bits: Array,
) -> None:
    """Features whose shape lies at shape[of:], their keys at `at`, and `values` words further on what is not 1."""
    for j in range(nnz):
        fld[np.uintp(to + j)] = np.uint16(shape[np.uintp(of + j)])
    for j in range(nnz):
        key[np.uintp(to + j)] = store.words[np.uintp(at + j)]
    for j in range(nnz):
        bits[np.uintp(to + j)] = _ONE
    if others:
        value = at + values
        for j in range(nnz):
            if shape[np.uintp(of + j)] >> np.uint32(16):
                bits[np.uintp(to + j)] = store.words[np.uintp(value)]
                value += 1


@njit(**INLINE)
def size_of(entry: Any, store: Store) -> Any:
    """How many words an entry's features take."""
    nnz = np.int64(entry.nnz)
    if entry.shape != OWN:
        return nnz + store.shapes[entry.shape].others
    at, others = word_place(entry.start, store) + nnz, 0
    for j in range(nnz):
        others += store.words[at + j] >> np.uint32(16)
    return 2 * nnz + others
