"""Keys of objects: which one is it? Those of the configuration, and new ones as a batch brings them.

That a key comes after the one that it came after last time is right nearly always, and costs a comparison of bytes.
Where it is wrong, an open-addressing table has the answer (linear probing, never more than half full).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from online_fm.features.hashing import xxh64
from online_fm.features.words import Text
from online_fm.scan.lexing import PLAIN, same, text_end
from online_fm.scan.shape import ELSEWHERE, NEW_KEYS, K

__all__ = ["Keys", "copied", "find", "know"]

_TRIES = 32  # probes: more keys that fall together are somebody's intention
_FREE = -1

Array = NDArray[Any]  # kernels read single elements, which numpy's types know only as scalars of their own


class Keys(NamedTuple):
    """Keys of one batch: rows i64[c, len(K)]; counts i64[2]: rows in use, objects read; table i64: rows or -1."""

    rows: Array
    counts: Array
    table: Array


def copied(known: NDArray[np.int64]) -> Keys:
    """Room for a batch's keys, with the known ones in their rows, not yet in the table."""
    rows = np.empty((len(known) + NEW_KEYS, len(K)), np.int64)
    rows[: len(known)] = known
    table = np.full(2 << (len(rows) - 1).bit_length(), _FREE, np.int64)
    return Keys(rows, np.array([len(known), 0], np.int64), table)


@njit(**PLAIN)
def know(text: Text, keys: Keys) -> None:
    """Put the rows in use into the table; those that begin an object have no name."""
    rows = keys.rows
    for k in range(keys.counts[0]):
        if rows[k, K.LEADS] != ELSEWHERE:
            place = _place(text, rows[k, K.START], rows[k, K.LENGTH], rows[k, K.NODE], keys)
            if place >= 0:
                keys.table[place] = k


@njit(**PLAIN)
def _place(text: Text, start: int, n: int, node: int, keys: Keys) -> int:
    """The place in the table of a key or, where it is new, for it; -1 where there is none near."""
    mask = len(keys.table) - 1
    place: Any = np.int64(xxh64(text, start, start + n, np.uint64(node)) & np.uint64(mask))
    for _ in range(_TRIES):
        k = keys.table[place]
        if k == _FREE:
            return place
        if keys.rows[k, K.NODE] == node and keys.rows[k, K.LENGTH] == n and same(text, start, keys.rows[k, K.START], n):
            return place
        place = (place + 1) & mask
    return -1


@njit(**PLAIN)
def find(text: Text, start: int, node: int, features: int, keys: Keys) -> int:
    """The row of the key whose first byte is here, a new one if need be; -1 where the key is unusual."""
    end = text_end(text, start)
    if end < 0:
        return -1
    place = _place(text, start, end - start, node, keys)
    if place < 0:
        return -1
    k = keys.table[place]
    if k == _FREE:
        k = keys.counts[0]
        if k == len(keys.rows):
            return -1
        keys.counts[0] += 1
        keys.table[place] = k
        keys.rows[k, K.START] = start
        keys.rows[k, K.LENGTH] = end - start
        keys.rows[k, K.NODE] = node
        keys.rows[k, K.LEADS] = ELSEWHERE
        keys.rows[k, K.UNKNOWN] = 1 if node == features else 0
        keys.rows[k, K.AFTER] = k
        keys.rows[k, K.SEEN] = -1
    return k
