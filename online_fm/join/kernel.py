"""The compiled loop over the join's arrays: records come, entries leave, operations are written out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from online_fm.join.facts import CLICK, IMPRESSION
from online_fm.join.order import FULL, NONE, arrive, first
from online_fm.join.row import MOST_WORDS, forget, put, size_of, start_of, take
from online_fm.join.store import FINGERPRINT, GONE, INLINE, KERNEL, OWN, Array, Limits, S, Store, place_of, word_place
from online_fm.join.table import ask, ask_entry, entry_at, find, insert, insert_slot, remove, slot_of, waiting

__all__ = ["Kernels", "Out", "Records", "make_kernels"]

SAME_ID = 16  # clicks of one id that may wait: more are one broken sender, and each would walk past all others
AHEAD = 8  # records, and entries, whose slots are asked for before their turn


class Records(NamedTuple):
    """n records in merged order, the columns of `Facts` and `Merged`; bits u32[nnz]: those of the values."""

    kind: Array
    ts: Array
    key: Array
    ident: Array
    weight: Array
    score: Array
    label: Array
    ptr: Array
    fld: Array
    feature: Array
    bits: Array


class Out(NamedTuple):
    """What one call gives: operations in order, `size[0]` of them, with `size[1]` features.

    size i64[2]; learn, clicked bool; place, ts i64; label, weight, score f32; rows: ptr i64, fld u16, key u32, and the
    values' bits u32. place: where the entry lies, or lay.
    """

    size: Array
    learn: Array
    clicked: Array
    place: Array
    ts: Array
    label: Array
    weight: Array
    score: Array
    ptr: Array
    fld: Array
    key: Array
    bits: Array


@njit(**INLINE)
def _enter(number: int, store: Store, limits: Limits) -> None:
    """Make the entry with this number, the last one, known to the table and to the order."""
    s = store.state
    e = store.entries[place_of(number, store)]
    s[S.PENDING if e.kind == IMPRESSION else S.WAITING_CLICKS] += 1
    s[S.WIDEST] = max(s[S.WIDEST], e.nnz)
    insert(e.id0, number, store.table)
    arrive(number, store, limits)


@njit(**INLINE)
def _leave(slot: int, store: Store) -> None:
    """Take the entry of this slot out of everything but the heap, which finds out by itself."""
    s, entries = store.state, store.entries
    place = entry_at(slot, store)
    e = entries[place]
    remove(slot, store.table)
    s[S.PENDING if e.kind == IMPRESSION else S.WAITING_CLICKS] -= 1
    forget(e, store)
    if s[S.PLACE] != place:
        e.kind = GONE
        return
    s[S.BASE] += 1
    s[S.PLACE] = s[S.PLACE] + 1 if s[S.PLACE] + 1 < len(entries) else 0
    while s[S.BASE] < s[S.NEXT] and entries[s[S.PLACE]].kind == GONE:
        s[S.BASE] += 1
        s[S.PLACE] = s[S.PLACE] + 1 if s[S.PLACE] + 1 < len(entries) else 0
    start = entries[s[S.PLACE]].start if s[S.BASE] < s[S.NEXT] else s[S.WORDS_NEXT]
    s[S.WORDS_PLACE] = word_place(start, store)
    s[S.WORDS_BASE] = start


@njit(**INLINE)
def _emit(place: int, learn: bool, e: Any, out: Out) -> None:
    """Add an operation on an entry; its features have been written already."""
    i = out.size[0]
    out.learn[i], out.place[i], out.ts[i], out.weight[i], out.score[i] = learn, place, e.ts, e.weight, e.score
    clicked = learn and not np.isnan(e.label)
    out.clicked[i], out.label[i] = clicked, e.label if clicked else np.float32(0)
    out.size[0] += 1
    out.size[1] += e.nnz
    out.ptr[i + 1] = out.size[1]


@njit(**INLINE)
def _full(features: int, out: Out) -> bool:
    return out.size[0] == len(out.learn) or out.size[1] + features > len(out.fld)


@njit(**INLINE)
def _release(limits: Limits, store: Store, out: Out) -> bool:
    """Let go all that is due, in order; False where the output, or the heap, is full before that."""
    s, entries = store.state, store.entries
    while True:
        number = first(store, limits)
        if number == NONE:
            return True
        if number == FULL:
            return False
        place = place_of(number, store)
        e = entries[place]
        if e.ts + limits.horizon > s[S.STREAM]:
            return True
        if number + AHEAD < s[S.NEXT]:
            ask(entries[place_of(number + AHEAD, store)].id0, store.table)
        clicked = not np.isnan(e.label)
        if e.kind == CLICK:
            s[S.ORPHANS] += 1
        elif not clicked and not limits.unclicked:
            s[S.UNCLICKED] += 1
        else:
            if _full(e.nnz, out):
                return False
            take(e, store, out.size[1], out.fld, out.key, out.bits)
            _emit(place, True, e, out)
            s[S.LEARNED] += 1
            s[S.POSITIVES] += clicked
        _leave(slot_of(e.id0, number, store.table), store)


@njit(error_model="numpy")
def _click(ts: int, id0: Any, id1: Any, label: float, store: Store, limits: Limits) -> None:
    """One click: it labels its impression, or waits for it, or is counted."""
    s = store.state
    s[S.CLICKS] += 1
    if ts + limits.horizon <= s[S.STREAM]:
        s[S.LATE_CLICKS] += 1
        return
    slot = find(IMPRESSION, id0, id1, -1, store)
    if slot >= 0:
        e = store.entries[entry_at(slot, store)]
        if not e.ts <= ts <= e.ts + limits.window:
            s[S.OUTSIDE_WINDOW] += 1
        elif not np.isnan(e.label):
            s[S.DUPLICATE_CLICKS] += 1
        else:
            e.label = label
    elif find(CLICK, id0, id1, ts, store) >= 0 or waiting(id0, id1, store) >= SAME_ID:
        s[S.DUPLICATE_CLICKS] += 1
    elif s[S.PENDING] + s[S.WAITING_CLICKS] >= limits.max_pending:
        s[S.DROPPED_CLICKS] += 1
    else:
        e = store.entries[place_of(s[S.NEXT], store)]
        e.ts, e.id0, e.id1, e.kind = ts, id0, id1, CLICK
        e.start, e.nnz, e.shape, e.label = s[S.WORDS_NEXT], 0, OWN, label
        e.p, e.weight, e.score = 0, 0, 0
        s[S.NEXT] += 1
        _enter(s[S.NEXT] - 1, store, limits)


@njit(**INLINE)
def _claim(ts: int, id0: Any, id1: Any, store: Store, window: int) -> Any:
    """The label that clicks which came before their impression bring it, NaN for none; they leave."""
    s = store.state
    label = np.float32(np.nan)
    while s[S.WAITING_CLICKS] > 0:
        slot = find(CLICK, id0, id1, -1, store)
        if slot < 0:
            break
        e = store.entries[entry_at(slot, store)]
        if not ts <= e.ts <= ts + window:
            s[S.OUTSIDE_WINDOW] += 1
        elif not np.isnan(label):
            s[S.DUPLICATE_CLICKS] += 1
        else:
            label = e.label
        _leave(slot, store)
    return label


@njit(**INLINE)
def _refused(ts: int, id0: Any, id1: Any, store: Store, limits: Limits) -> bool:
    """Whether an impression is not to be kept; counted by reason."""
    s = store.state
    s[S.IMPRESSIONS] += 1
    if ts + limits.horizon <= s[S.STREAM]:
        s[S.LATE] += 1
    elif find(IMPRESSION, id0, id1, -1, store) >= 0:
        s[S.DUPLICATES] += 1
    elif s[S.PENDING] + s[S.WAITING_CLICKS] >= limits.max_pending:
        s[S.DROPPED] += 1
    else:
        return False
    return True


@njit(**INLINE)
def _impression(i: int, records: Records, store: Store, limits: Limits, out: Out) -> None:
    """One impression that is kept: a new entry, and an operation that predicts it."""
    s = store.state
    id0, id1 = records.ident[i, 0], records.ident[i, 1]
    row = records.ptr[i]
    nnz = records.ptr[i + 1] - row
    label = _claim(records.ts[i], id0, id1, store, limits.window)
    number = s[S.NEXT]
    place = place_of(number, store)
    e = store.entries[place]
    e.ts, e.id0, e.id1, e.kind, e.nnz = records.ts[i], id0, id1, IMPRESSION, nnz
    e.p, e.weight, e.score, e.label = np.nan, records.weight[i], records.score[i], label
    e.start = start_of(MOST_WORDS * nnz, store)
    e.shape = put(e.start, row, nnz, records.fld, records.feature, records.bits, store)
    to = out.size[1]
    for j in range(nnz):
        out.fld[np.uintp(to + j)] = records.fld[np.uintp(row + j)]
    for j in range(nnz):
        out.key[np.uintp(to + j)] = records.feature[np.uintp(row + j)]
    for j in range(nnz):
        out.bits[np.uintp(to + j)] = records.bits[np.uintp(row + j)]
    _emit(place, False, e, out)
    s[S.NEXT] += 1
    _enter(number, store, limits)


class Kernels(NamedTuple):
    """What `make_kernels` makes."""

    join: Callable[..., int]
    advance: Callable[..., bool]
    keep: Callable[..., None]
    load: Callable[..., int]
    features: Callable[..., None]
    compact: Callable[..., None]
    enter: Callable[..., int]
    rehash: Callable[..., None]


@cache
def make_kernels(fingerprint: int = FINGERPRINT) -> Kernels:
    """Compile all, or read it from Numba's cache."""

    @njit(**KERNEL)
    def join(at: int, records: Records, store: Store, limits: Limits, out: Out) -> int:
        """Join records from `at` on until all are worked off, or `out` or the heap is full; give where to go on."""
        _ = fingerprint
        s = store.state
        out.size[:] = 0
        n = len(records.kind)
        for i in range(at, n):
            s[S.STREAM] = max(s[S.STREAM], records.key[i])
            if not _release(limits, store, out) or s[S.HEAP] == len(store.heap):
                return i
            ask(records.ident[min(i + AHEAD, n - 1), 0], store.table)
            soon = min(i + AHEAD // 2, n - 1)
            if records.kind[soon] == CLICK:
                ask_entry(records.ident[soon, 0], store)
            ts, id0, id1 = records.ts[i], records.ident[i, 0], records.ident[i, 1]
            if records.kind[i] == CLICK:
                _click(ts, id0, id1, records.label[i], store, limits)
            elif records.kind[i] == IMPRESSION:
                if _full(records.ptr[i + 1] - records.ptr[i], out):
                    return i
                if not _refused(ts, id0, id1, store, limits):
                    _impression(i, records, store, limits, out)
        return n

    @njit(**KERNEL)
    def advance(stream: int, limits: Limits, store: Store, out: Out) -> bool:
        """Move stream time on without a record; False where more is due than `out` or the heap has room for."""
        _ = fingerprint
        store.state[S.STREAM] = max(store.state[S.STREAM], stream)
        out.size[:] = 0
        return _release(limits, store, out)

    @njit(**KERNEL)
    def keep(learn: Array, place: Array, p: Array, ring: Array, kept: Array) -> None:
        """Store predictions of arriving rows in `ring`, f32[c] by place; give those of the released ones in `kept`.

        In order, so that a place of the ring that was used again meanwhile is read before it is written.
        """
        _ = fingerprint
        for i in range(len(learn)):
            if learn[i]:
                kept[i] = ring[place[i]]
            else:
                ring[place[i]] = p[i]

    @njit(**KERNEL)
    def load(fld: Array, key: Array, bits: Array, n: int, store: Store) -> None:
        """Give the first n entries of a new store their features, which follow each other."""
        _ = fingerprint
        row = 0
        for number in range(n):
            e = store.entries[number]
            e.start = store.state[S.WORDS_NEXT]
            e.shape = put(e.start, row, np.int64(e.nnz), fld, key, bits, store) if e.kind == IMPRESSION else OWN
            row += e.nnz
        store.state[S.NEXT] = n

    @njit(**KERNEL)
    def features(places: Array, store: Store, fld: Array, key: Array, bits: Array) -> None:
        """Write out the features of the entries at these places, one entry after another."""
        _ = fingerprint
        to = 0
        for place in places:
            e = store.entries[place]
            take(e, store, to, fld, key, bits)
            to += e.nnz

    @njit(**KERNEL)
    def compact(store: Store) -> None:
        """Close the gaps that entries left in the rings; what remains is known to nothing until it enters again.

        It moves towards the oldest, never past what it comes from: a row that fits where it lies fits further back.
        """
        _ = fingerprint
        s, entries, words = store.state, store.entries, store.words
        end, last = s[S.BASE], s[S.NEXT]
        s[S.WORDS_NEXT] = s[S.WORDS_BASE]
        for number in range(end, last):
            e = entries[place_of(number, store)]
            if e.kind == GONE:
                continue
            size = size_of(e, store)
            start = start_of(size, store)
            at, to = word_place(e.start, store), word_place(start, store)
            for j in range(size):
                words[np.uintp(to + j)] = words[np.uintp(at + j)]
            entries[place_of(end, store)] = e
            entries[place_of(end, store)].start = start
            s[S.WORDS_NEXT] = start + size
            end += 1
        s[S.NEXT] = end

    @njit(**KERNEL)
    def enter(number: int, store: Store, limits: Limits) -> int:
        """Make the entries from this one on known until the heap is full; give where to go on."""
        _ = fingerprint
        while number < store.state[S.NEXT] and store.state[S.HEAP] < len(store.heap):
            _enter(number, store, limits)
            number += 1
        return number

    @njit(**KERNEL)
    def rehash(old: Array, new: Array) -> None:
        """Put what an old table holds into a new one."""
        _ = fingerprint
        for content in old:
            if content != 0:
                insert_slot(content, new)

    return Kernels(join, advance, keep, load, features, compact, enter, rehash)
