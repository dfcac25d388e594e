"""The order in which entries leave: by event time, then by arrival, whatever order they came in.

Those that came in order are met by walking along the ring. The others wait on a binary heap of (ts, number). It is
kept small, since its cost grows with its size: a scout walks `slack` of event time ahead of those that leave, and puts
on the heap what came out of order when it gets there. What came later than by `slack` the scout would meet too late,
and what is ahead of stream time would make all others look late: these go on the heap when they come.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from online_fm.join.store import GONE, INLINE, Limits, S, Store, place_of

__all__ = ["FULL", "NONE", "arrive", "first"]

IN_ORDER, OUT_OF_ORDER, ON_HEAP = 0, 1, 2
NONE, FULL = -1, -2
_NEVER = np.iinfo(np.int64).max


@njit(**INLINE)
def arrive(number: int, store: Store, limits: Limits) -> None:
    """Note the order of the entry that came last. The heap must not be full."""
    s = store.state
    e = store.entries[place_of(number, store)]
    if s[S.TAIL] <= e.ts <= s[S.STREAM]:
        s[S.TAIL] = e.ts
        e.order = IN_ORDER
    elif s[S.TAIL] - limits.slack <= e.ts < s[S.TAIL]:
        e.order = OUT_OF_ORDER
        if s[S.BEYOND] == 0:
            s[S.SCOUT] = number
        s[S.BEYOND] += 1
    else:
        e.order = ON_HEAP
        _push(e.ts, number, store)


@njit(**INLINE)
def first(store: Store, limits: Limits) -> int:
    """The number of the entry that is to leave first; NONE where nothing waits, FULL where the heap is too small."""
    s, heap, entries = store.state, store.heap, store.entries
    while s[S.HEAP] > 0 and (heap[0, 1] < s[S.BASE] or entries[place_of(heap[0, 1], store)].kind == GONE):
        _pop(store)
    s[S.CURSOR] = max(s[S.CURSOR], s[S.BASE])
    while s[S.CURSOR] < s[S.NEXT]:
        e = entries[place_of(s[S.CURSOR], store)]
        if e.order == IN_ORDER and e.kind != GONE:
            break
        s[S.CURSOR] += 1
    ts = entries[place_of(s[S.CURSOR], store)].ts if s[S.CURSOR] < s[S.NEXT] else _NEVER
    if not _scout((min(ts, heap[0, 0]) if s[S.HEAP] > 0 else ts), store, limits):
        return FULL
    if s[S.HEAP] > 0 and (heap[0, 0] < ts or (heap[0, 0] == ts and heap[0, 1] < s[S.CURSOR])):
        return heap[0, 1]
    return s[S.CURSOR] if ts < _NEVER else NONE


@njit(**INLINE)
def _scout(ts: int, store: Store, limits: Limits) -> bool:
    """Put on the heap what came out of order and could leave before `ts` or with it; False where it is full."""
    s = store.state
    s[S.SCOUT] = max(s[S.SCOUT], s[S.BASE])
    while s[S.BEYOND] > 0 and s[S.SCOUT] < s[S.NEXT]:
        e = store.entries[place_of(s[S.SCOUT], store)]
        if e.order != ON_HEAP and e.ts - limits.slack > ts:  # so is TAIL since it came
            return True
        if e.order == OUT_OF_ORDER:
            if s[S.HEAP] == len(store.heap):
                return False
            if e.kind != GONE:
                _push(e.ts, s[S.SCOUT], store)
            s[S.BEYOND] -= 1
        s[S.SCOUT] += 1
    s[S.BEYOND] = 0
    return True


@njit(error_model="numpy")
def _push(ts: int, number: int, store: Store) -> None:
    """Put an entry on the heap, which keeps its time: the ring's place may be another's by the time."""
    heap, at = store.heap, store.state[S.HEAP]
    store.state[S.HEAP] += 1
    while at > 0:
        above = (at - 1) >> 1
        if heap[above, 0] < ts or (heap[above, 0] == ts and heap[above, 1] < number):
            break
        heap[at, 0], heap[at, 1] = heap[above, 0], heap[above, 1]
        at = above
    heap[at, 0], heap[at, 1] = ts, number


@njit(error_model="numpy")
def _pop(store: Store) -> None:
    """Take the first entry off the heap."""
    heap = store.heap
    store.state[S.HEAP] -= 1
    n = store.state[S.HEAP]
    ts, number, at = heap[n, 0], heap[n, 1], 0
    while 2 * at + 1 < n:
        below = 2 * at + 1
        if below + 1 < n and (
            heap[below + 1, 0] < heap[below, 0]
            or (heap[below + 1, 0] == heap[below, 0] and heap[below + 1, 1] < heap[below, 1])
        ):
            below += 1
        if heap[below, 0] > ts or (heap[below, 0] == ts and heap[below, 1] > number):
            break
        heap[at, 0], heap[at, 1] = heap[below, 0], heap[below, 1]
        at = below
    heap[at, 0], heap[at, 1] = ts, number
