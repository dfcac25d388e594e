"""The join's arrays and the compiled loop over them.

An entry is one 56-byte record in a ring; `entry` is its running number, its place `entry & mask`. It is found by the
128-bit hash of its id through an open-addressing table (linear probing, backward-shift deletion, never more than half
full). Its features lie in a second ring. Entries leave in the order of (event time, arrival): those that came in that
order are met by walking along the ring, the others wait in a binary heap, so the usual case costs a step and the
unusual one a logarithm.

All numbers that the loop and Python share are places (`S`) of one i64 array: counters, then the rings' bounds.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from online_fm.join.facts import CLICK, IMPRESSION

__all__ = [
    "COUNTERS",
    "ENTRY",
    "GONE",
    "Limits",
    "Out",
    "S",
    "Store",
    "advance",
    "enter_all",
    "feature_places",
    "join",
    "keep",
]


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
    CURSOR = 18  # how far the walk along the ring has come
    TAIL = 19  # the event time that an entry must reach to have come in order
    HEAP = 20  # entries in the heap
    FEATURES_BASE = 21
    FEATURES_NEXT = 22
    WIDEST = 23  # the most features of an entry


COUNTERS = tuple(place.name.lower() for place in S if place < S.STREAM)

ENTRY = np.dtype(
    [
        ("ts", np.int64),
        ("id0", np.uint64),
        ("id1", np.uint64),
        ("start", np.int64),  # of its features, in the running numbers of the second ring
        ("nnz", np.int32),
        ("p", np.float32),
        ("weight", np.float32),
        ("score", np.float32),
        ("label", np.float32),  # of an impression: 0 until a click brings another
        ("kind", np.uint8),  # GONE, IMPRESSION or CLICK
        ("clicked", np.uint8),
        ("early", np.uint8),  # came before its turn: waits in the heap
    ],
    align=True,
)
GONE = 0
SAME_ID = 16  # clicks of one id that may wait: more are one broken sender, and each would walk past all others


Array = NDArray[Any]  # kernels read single elements, which numpy's types know only as scalars of their own


class Store(NamedTuple):
    """What waits. Lengths are powers of two; the table is twice as long as the ring.

    state i64[len(S)]; entries ENTRY[c]; table i64[2c], an entry's number or -1; heap i64[c, 2]: (ts, entry); and the
    features' ring: fld u16, key u32, val f32.
    """

    state: Array
    entries: Array
    table: Array
    heap: Array
    fld: Array
    key: Array
    val: Array


class Out(NamedTuple):
    """What one call gives: operations in order, `size[0]` of them, with `size[1]` features.

    size i64[2]; learn, clicked bool, entry, ts i64, label, weight, score f32; rows: ptr i64, fld u16, key u32, val f32.
    """

    size: Array
    learn: Array
    clicked: Array
    entry: Array
    ts: Array
    label: Array
    weight: Array
    score: Array
    ptr: Array
    fld: Array
    key: Array
    val: Array


class Limits(NamedTuple):
    """Window and horizon in ms, how many entries may wait, and whether a row without a click is learned."""

    window: int
    horizon: int
    max_pending: int
    unclicked: bool


@njit(cache=True)
def _home(id0: Any, mask: int) -> Any:
    """Where the search for an id begins in the table."""
    return np.int64(id0 & np.uint64(mask))


@njit(cache=True)
def _find(kind: int, id0: Any, id1: Any, ts: int, store: Store) -> int:
    """Place in the table of an entry of this kind and id, and of this time where `ts >= 0`; -1 where there is none."""
    mask = len(store.table) - 1
    ring = len(store.entries) - 1
    at = _home(id0, mask)
    while store.table[at] >= 0:
        e = store.entries[store.table[at] & ring]
        if e.id0 == id0 and e.id1 == id1 and e.kind == kind and (ts < 0 or e.ts == ts):
            return at
        at = (at + 1) & mask
    return -1


@njit(cache=True)
def _waiting(id0: Any, id1: Any, store: Store) -> int:
    """How many clicks of this id wait."""
    mask = len(store.table) - 1
    ring = len(store.entries) - 1
    at, found = _home(id0, mask), 0
    while store.table[at] >= 0:
        e = store.entries[store.table[at] & ring]
        if e.id0 == id0 and e.id1 == id1 and e.kind == CLICK:
            found += 1
        at = (at + 1) & mask
    return found


@njit(cache=True)
def _enter(entry: int, store: Store) -> None:
    """Make an entry that lies in the ring known: to the table, and to the walk or the heap."""
    s = store.state
    ring = len(store.entries) - 1
    e = store.entries[entry & ring]
    mask = len(store.table) - 1
    at = _home(e.id0, mask)
    while store.table[at] >= 0:
        at = (at + 1) & mask
    store.table[at] = entry
    s[S.PENDING if e.kind == IMPRESSION else S.WAITING_CLICKS] += 1
    s[S.WIDEST] = max(s[S.WIDEST], e.nnz)
    if e.ts >= s[S.TAIL]:
        s[S.TAIL] = e.ts
        e.early = 0
    else:
        e.early = 1
        _push(entry, e.ts, store)


@njit(cache=True)
def _leave(at: int, store: Store) -> None:
    """Take the entry at this place of the table out of everything but the heap, which finds out by itself."""
    s = store.state
    ring = len(store.entries) - 1
    e = store.entries[store.table[at] & ring]
    s[S.PENDING if e.kind == IMPRESSION else S.WAITING_CLICKS] -= 1
    e.kind = GONE
    mask = len(store.table) - 1
    hole = at
    at = (at + 1) & mask
    while store.table[at] >= 0:
        home = _home(store.entries[store.table[at] & ring].id0, mask)
        if ((at - home) & mask) >= ((at - hole) & mask):
            store.table[hole] = store.table[at]
            hole = at
        at = (at + 1) & mask
    store.table[hole] = -1
    while s[S.BASE] < s[S.NEXT] and store.entries[s[S.BASE] & ring].kind == GONE:
        gone = store.entries[s[S.BASE] & ring]
        s[S.FEATURES_BASE] = gone.start + gone.nnz
        s[S.BASE] += 1


@njit(cache=True)
def _push(entry: int, ts: int, store: Store) -> None:
    """Put an entry on the heap, which keeps (ts, entry) itself: the ring's place may be another's by the time."""
    heap, at = store.heap, store.state[S.HEAP]
    store.state[S.HEAP] += 1
    while at > 0:
        above = (at - 1) >> 1
        if heap[above, 0] < ts or (heap[above, 0] == ts and heap[above, 1] < entry):
            break
        heap[at, 0], heap[at, 1] = heap[above, 0], heap[above, 1]
        at = above
    heap[at, 0], heap[at, 1] = ts, entry


@njit(cache=True)
def _pop(store: Store) -> None:
    """Take the first entry off the heap."""
    heap = store.heap
    store.state[S.HEAP] -= 1
    n = store.state[S.HEAP]
    ts, entry, at = heap[n, 0], heap[n, 1], 0
    while 2 * at + 1 < n:
        below = 2 * at + 1
        if below + 1 < n and (
            heap[below + 1, 0] < heap[below, 0]
            or (heap[below + 1, 0] == heap[below, 0] and heap[below + 1, 1] < heap[below, 1])
        ):
            below += 1
        if heap[below, 0] > ts or (heap[below, 0] == ts and heap[below, 1] > entry):
            break
        heap[at, 0], heap[at, 1] = heap[below, 0], heap[below, 1]
        at = below
    heap[at, 0], heap[at, 1] = ts, entry


@njit(cache=True)
def _first(store: Store) -> int:
    """The entry that is to leave first; -1 where nothing waits."""
    s, heap = store.state, store.heap
    ring = len(store.entries) - 1
    while s[S.HEAP] > 0 and (heap[0, 1] < s[S.BASE] or store.entries[heap[0, 1] & ring].kind == GONE):
        _pop(store)
    s[S.CURSOR] = max(s[S.CURSOR], s[S.BASE])
    while s[S.CURSOR] < s[S.NEXT]:
        e = store.entries[s[S.CURSOR] & ring]
        if e.kind != GONE and e.early == 0:
            break
        s[S.CURSOR] += 1
    if s[S.HEAP] == 0:
        return s[S.CURSOR] if s[S.CURSOR] < s[S.NEXT] else -1
    if s[S.CURSOR] < s[S.NEXT]:
        ts = store.entries[s[S.CURSOR] & ring].ts
        if ts < heap[0, 0] or (ts == heap[0, 0] and s[S.CURSOR] < heap[0, 1]):
            return s[S.CURSOR]
    return heap[0, 1]


@njit(cache=True)
def _emit(entry: int, learn: bool, e: Any, out: Out) -> None:
    """Add an operation on an entry; its features have been written already."""
    i = out.size[0]
    out.learn[i], out.entry[i], out.ts[i], out.weight[i], out.score[i] = learn, entry, e.ts, e.weight, e.score
    out.clicked[i], out.label[i] = (e.clicked == 1, e.label) if learn else (False, np.float32(0.0))
    out.size[0] += 1
    out.size[1] += e.nnz
    out.ptr[i + 1] = out.size[1]


@njit(cache=True)
def _full(features: int, out: Out) -> bool:
    return out.size[0] == len(out.learn) or out.size[1] + features > len(out.fld)


@njit(cache=True)
def _release(limits: Limits, store: Store, out: Out) -> bool:
    """Let go all that is due, in order; False where the output is full before that."""
    s = store.state
    ring = len(store.entries) - 1
    mask = len(store.fld) - 1
    while True:
        entry = _first(store)
        if entry < 0:
            return True
        e = store.entries[entry & ring]
        if e.ts + limits.horizon > s[S.STREAM]:
            return True
        if e.kind == CLICK:
            s[S.ORPHANS] += 1
        elif e.clicked == 0 and not limits.unclicked:
            s[S.UNCLICKED] += 1
        else:
            if _full(e.nnz, out):
                return False
            to = out.size[1]
            for j in range(e.nnz):
                place = (e.start + j) & mask
                out.fld[to + j], out.key[to + j], out.val[to + j] = store.fld[place], store.key[place], store.val[place]
            _emit(entry, True, e, out)
            s[S.LEARNED] += 1
            s[S.POSITIVES] += e.clicked
        last = len(store.table) - 1
        at = _home(e.id0, last)
        while store.table[at] != entry:
            at = (at + 1) & last
        _leave(at, store)


@njit(cache=True)
def _click(ts: int, id0: Any, id1: Any, label: float, store: Store, limits: Limits) -> None:
    """One click: it labels its impression, or waits for it, or is counted."""
    s = store.state
    s[S.CLICKS] += 1
    if ts + limits.horizon <= s[S.STREAM]:
        s[S.LATE_CLICKS] += 1
        return
    ring = len(store.entries) - 1
    at = _find(IMPRESSION, id0, id1, -1, store)
    if at >= 0:
        e = store.entries[store.table[at] & ring]
        if not e.ts <= ts <= e.ts + limits.window:
            s[S.OUTSIDE_WINDOW] += 1
        elif e.clicked == 1:
            s[S.DUPLICATE_CLICKS] += 1
        else:
            e.clicked, e.label = 1, label
    elif _find(CLICK, id0, id1, ts, store) >= 0 or _waiting(id0, id1, store) >= SAME_ID:
        s[S.DUPLICATE_CLICKS] += 1
    elif s[S.PENDING] + s[S.WAITING_CLICKS] >= limits.max_pending:
        s[S.DROPPED_CLICKS] += 1
    else:
        e = store.entries[s[S.NEXT] & ring]
        e.ts, e.id0, e.id1, e.kind = ts, id0, id1, CLICK
        e.start, e.nnz, e.clicked, e.label = s[S.FEATURES_NEXT], 0, 0, label
        e.p, e.weight, e.score = 0, 0, 0
        s[S.NEXT] += 1
        _enter(s[S.NEXT] - 1, store)


@njit(cache=True)
def _claim(ts: int, id0: Any, id1: Any, store: Store, window: int) -> tuple[int, float]:
    """Whether clicks that came before their impression count for it, and the first one's label; they leave."""
    s = store.state
    clicked, label = 0, 0.0
    while s[S.WAITING_CLICKS] > 0:
        at = _find(CLICK, id0, id1, -1, store)
        if at < 0:
            break
        e = store.entries[store.table[at] & (len(store.entries) - 1)]
        if not ts <= e.ts <= ts + window:
            s[S.OUTSIDE_WINDOW] += 1
        elif clicked == 1:
            s[S.DUPLICATE_CLICKS] += 1
        else:
            clicked, label = 1, e.label
        _leave(at, store)
    return clicked, label


@njit(cache=True)
def _refused(ts: int, id0: Any, id1: Any, store: Store, limits: Limits) -> bool:
    """Whether an impression is not to be kept; counted by reason."""
    s = store.state
    s[S.IMPRESSIONS] += 1
    if ts + limits.horizon <= s[S.STREAM]:
        s[S.LATE] += 1
    elif _find(IMPRESSION, id0, id1, -1, store) >= 0:
        s[S.DUPLICATES] += 1
    elif s[S.PENDING] + s[S.WAITING_CLICKS] >= limits.max_pending:
        s[S.DROPPED] += 1
    else:
        return False
    return True


@njit(cache=True, nogil=True)
def join(
    at: int,
    kind: Array,
    ts: Array,
    key: Array,
    ident: Array,
    weight: Array,
    score: Array,
    label: Array,
    rows: tuple[Array, Array, Array, Array],
    store: Store,
    limits: Limits,
    out: Out,
) -> int:
    """Join records from `at` on until all are worked off or `out` is full; give the record to go on with."""
    s = store.state
    ring, mask = len(store.entries) - 1, len(store.fld) - 1
    ptr, fld, feature, val = rows
    out.size[:] = 0
    for i in range(at, len(kind)):
        s[S.STREAM] = max(s[S.STREAM], key[i])
        if not _release(limits, store, out):
            return i
        id0, id1 = ident[i, 0], ident[i, 1]
        if kind[i] == CLICK:
            _click(ts[i], id0, id1, label[i], store, limits)
        elif kind[i] == IMPRESSION:
            nnz = ptr[i + 1] - ptr[i]
            if _full(nnz, out):
                return i
            if _refused(ts[i], id0, id1, store, limits):
                continue
            clicked, brought = _claim(ts[i], id0, id1, store, limits.window)
            entry = s[S.NEXT]
            e = store.entries[entry & ring]
            e.ts, e.id0, e.id1, e.kind = ts[i], id0, id1, IMPRESSION
            e.start, e.nnz, e.clicked, e.label = s[S.FEATURES_NEXT], nnz, clicked, brought
            e.p, e.weight, e.score = np.nan, weight[i], score[i]
            to = out.size[1]
            for j in range(nnz):
                place = (e.start + j) & mask
                store.fld[place] = out.fld[to + j] = fld[ptr[i] + j]
                store.key[place] = out.key[to + j] = feature[ptr[i] + j]
                store.val[place] = out.val[to + j] = val[ptr[i] + j]
            _emit(entry, False, e, out)
            s[S.FEATURES_NEXT] += nnz
            s[S.NEXT] += 1
            _enter(entry, store)
    return len(kind)


@njit(cache=True, nogil=True)
def advance(stream: int, limits: Limits, store: Store, out: Out) -> bool:
    """Move stream time on without a record; False where `out` is full before all that is due has left."""
    store.state[S.STREAM] = max(store.state[S.STREAM], stream)
    out.size[:] = 0
    return _release(limits, store, out)


@njit(cache=True, nogil=True)
def keep(learn: Array, entry: Array, p: Array, ring: Array, kept: Array) -> None:
    """Store predictions of arriving rows in `ring`, f32[c] by place; give those of the released ones in `kept`.

    In order, so that a place of the ring that was used again meanwhile is read before it is written.
    """
    mask = len(ring) - 1
    for i in range(len(learn)):
        if learn[i]:
            kept[i] = ring[entry[i] & mask]
        else:
            ring[entry[i] & mask] = p[i]


@njit(cache=True, nogil=True)
def enter_all(n: int, store: Store) -> None:
    """Make the first n entries of a new ring known."""
    store.state[S.NEXT] = n
    for entry in range(n):
        _enter(entry, store)


@njit(cache=True, nogil=True)
def feature_places(places: Array, store: Store) -> Array:
    """Where in the second ring the features of the entries at these places lie, one entry after another."""
    total = 0
    for place in places:
        total += store.entries[place].nnz
    found = np.empty(total, np.int64)
    mask = len(store.fld) - 1
    to = 0
    for place in places:
        e = store.entries[place]
        for j in range(e.nnz):
            found[to] = (e.start + j) & mask
            to += 1
    return found
