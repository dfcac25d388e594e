"""The join's arrays, and how they grow.

An entry is one 56-byte record in a ring, its features are words in a second ring (`row`), its number is found by the
128-bit hash of its id through a hash table (`table`), and what came out of order is sorted by a heap (`order`).

Rings have any length. Entries and words have running numbers; a ring knows the oldest number that it holds and the
place where that lies, so a number's place is an addition and a comparison away, and a ring can grow without a change
of any number: it is lengthened where it lies, and the part from the oldest to its former end moves to the new end.
That takes no second copy, and while the ring has not come round yet nothing moves at all.

All numbers that the loop and Python share are places (`S`) of one i64 array: counters, then the rings' bounds.
"""

from __future__ import annotations

import zlib
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "COUNTERS",
    "ENTRIES",
    "ENTRY",
    "FINGERPRINT",
    "GONE",
    "INLINE",
    "KERNEL",
    "OWN",
    "SHAPES",
    "WIDTH",
    "WORDS",
    "Array",
    "Limits",
    "S",
    "Store",
    "fit",
    "new_store",
    "new_table",
    "place_of",
    "table_lines",
    "word_place",
]

Array = NDArray[Any]  # kernels read single elements, which numpy's types know only as scalars of their own

# nothing here allocates, so that arrays need no counting of references: in the loops it took nine tenths of the time
KERNEL: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}
INLINE: dict[str, Any] = {"forceinline": True, "error_model": "numpy"}


def _fingerprint() -> int:
    """Of all sources in this folder: Numba's cache looks at the file of the outermost function only."""
    return zlib.crc32(b"".join(source.read_bytes() for source in sorted(Path(__file__).parent.glob("*.py"))))


FINGERPRINT = _fingerprint()


class S(IntEnum):
    """Places in the state: counters, then stream time (ms), what waits, and the rings' bounds."""

    IMPRESSIONS = 0
    CLICKS = 1
    LEARNED = 2
    POSITIVES = 3
    DUPLICATES = 4
    LATE = 5
    DROPPED = 6
    ORPHANS = 7
    DUPLICATE_CLICKS = 8
    LATE_CLICKS = 9
    OUTSIDE_WINDOW = 10
    DROPPED_CLICKS = 11
    UNCLICKED = 12  # released and, by configuration, not learned; counters of older checkpoints end before it
    STREAM = 13
    PENDING = 14
    WAITING_CLICKS = 15
    BASE = 16  # the ring's oldest entry
    NEXT = 17  # the number of the entry that comes next
    PLACE = 18  # where the oldest entry lies
    WORDS_BASE = 19
    WORDS_NEXT = 20
    WORDS_PLACE = 21
    CURSOR = 22  # how far the walk along the ring has come
    SCOUT = 23  # how far what came out of order is on the heap
    BEYOND = 24  # how much, at the most, came out of order beyond that
    TAIL = 25  # the event time that an entry must reach to have come in order
    HEAP = 26  # entries on the heap
    WIDEST = 27  # the most features of an entry


COUNTERS = tuple(place.name.lower() for place in S if place < S.STREAM)

ENTRY = np.dtype(
    [
        ("ts", np.int64),
        ("id0", np.uint64),
        ("id1", np.uint64),
        ("start", np.int64),  # the running number of its first word
        ("nnz", np.int32),
        ("p", np.float32),
        ("weight", np.float32),
        ("score", np.float32),
        ("label", np.float32),  # of an impression: NaN until a click brings one
        ("shape", np.uint16),  # the number of its row's shape; OWN, also of a click
        ("kind", np.uint8),  # GONE, IMPRESSION or CLICK
        ("order", np.uint8),  # IN_ORDER, OUT_OF_ORDER or ON_HEAP
    ],
    align=True,
)
GONE = 0

SHAPE = np.dtype([("hash", np.uint64), ("uses", np.int64), ("nnz", np.int32), ("others", np.int32)], align=True)
SHAPES = 4096
WIDTH = 256  # features; a wider row's shape is its own
OWN = 0xFFFF
LINE = 8  # slots of the table in a cache line
_LEAST = 1024  # entries, and words, that a ring has room for


class Store(NamedTuple):
    """What waits.

    state i64[len(S)]; entries ENTRY[c]; words u32[w]; table u64[t] with t >= 1.4 c; heap i64[h, 2]: (ts, entry);
    shapes SHAPE[SHAPES]; their features u32[SHAPES * WIDTH].
    """

    state: Array
    entries: Array
    words: Array
    table: Array
    heap: Array
    shapes: Array
    shape_words: Array


class Limits(NamedTuple):
    """Window, horizon and slack in ms, how many may wait, and whether a row without a click is learned.

    slack: see `order`.
    """

    window: int
    horizon: int
    slack: int
    max_pending: int
    unclicked: bool


def new_store(entries: int, words: int) -> Store:
    """An empty one with room for so much."""
    entries, words = max(entries, _LEAST), max(words, _LEAST)
    shapes = np.zeros(SHAPES, SHAPE)
    shapes["nnz"] = -1
    return Store(
        state=np.zeros(len(S), np.int64),
        entries=np.zeros(entries, ENTRY),
        words=np.zeros(words, np.uint32),
        table=new_table(table_lines(entries)),
        heap=np.zeros((_LEAST, 2), np.int64),
        shapes=shapes,
        shape_words=np.zeros(SHAPES * WIDTH, np.uint32),
    )


def table_lines(entries: int) -> int:
    """Of a table for so many: a line of eight slots holds five."""
    return entries // 5 + 1


def new_table(lines: int) -> Array:
    """An empty one that begins with a cache line."""
    raw = np.zeros((lines + 1) * LINE, np.uint64)
    start = -raw.ctypes.data // raw.itemsize % LINE
    return raw[start : start + lines * LINE]


class Ring(NamedTuple):
    """Where the state holds a ring's oldest number, its next one, and the place of the oldest."""

    base: S
    next: S
    place: S


ENTRIES = Ring(S.BASE, S.NEXT, S.PLACE)
WORDS = Ring(S.WORDS_BASE, S.WORDS_NEXT, S.WORDS_PLACE)


def fit(arrays: list[Array], ring: Ring, more: int, state: Array) -> None:
    """Make room for `more` in parallel arrays of one ring, or less where three quarters are free.

    A sixteenth is left free beyond that, so that memory follows what waits. Arrays are lengthened where they lie: the C
    library moves pages, not bytes. Nobody else may look at them meanwhile.
    """
    room, at, used = len(arrays[0]), int(state[ring.place]), int(state[ring.next] - state[ring.base])
    least = max(used + more, _LEAST)
    come_round = at + used > room
    if least > room:
        length = least + least // 16
        for array in arrays:
            array.resize((length, *array.shape[1:]), refcheck=False)
            if come_round:
                _move(array, at, room, length - room)
        if come_round:
            state[ring.place] += length - room
    elif 4 * least < room and not come_round:
        for array in arrays:
            _move(array, at, at + used, -at)
            array.resize((least + least // 16, *array.shape[1:]), refcheck=False)
        state[ring.place] = 0


_PIECE = 65_536


def _move(array: Array, start: int, end: int, by: int) -> None:
    """Move array[start:end] to start + by, in pieces, since NumPy copies what overlaps aside."""
    pieces = range(start, end, _PIECE)
    for at in reversed(pieces) if by > 0 else pieces:
        until = min(at + _PIECE, end)
        array[at + by : until + by] = array[at:until]


@njit(**INLINE)
def place_of(number: int, store: Store) -> int:
    """Where the entry with this number lies."""
    at = store.state[S.PLACE] + number - store.state[S.BASE]
    return at - len(store.entries) if at >= len(store.entries) else at


@njit(**INLINE)
def word_place(number: int, store: Store) -> int:
    """Where the word with this number lies."""
    at = store.state[S.WORDS_PLACE] + number - store.state[S.WORDS_BASE]
    return at - len(store.words) if at >= len(store.words) else at
