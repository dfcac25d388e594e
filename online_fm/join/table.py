"""The table that finds entries by their ids: open addressing, linear probing, deletion by backward shift.

A slot is `tag << 32 | number`: the upper half of the id's first hash with its last bit set, so that 0 is empty, and
the lower half of the entry's number. The tag says where its search begins, so that neighbours shift and all move
without a look at the entries, and what is found is nearly always what was looked for. Searches begin with a cache line,
whose eight slots hold five: there is rarely a second one to wait for. It is asked for some records ahead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from online_fm.join.facts import CLICK
from online_fm.join.prefetch import prefetch
from online_fm.join.store import INLINE, LINE, Array, S, Store

__all__ = ["ask", "ask_entry", "entry_at", "find", "insert", "insert_slot", "remove", "slot_of", "waiting"]

_HALF = np.uint64(32)
_LOWER = np.uint64(0xFFFFFFFF)


@njit(**INLINE)
def _tag(id0: Any) -> Any:
    return (id0 >> _HALF) | np.uint64(1)


@njit(**INLINE)
def _home(tag: Any, table: Array) -> Any:
    """Where the search for a tag begins: as far along the table's lines as the tag is along all tags."""
    return np.int64((tag * np.uint64(len(table) // LINE)) >> _HALF) * LINE


@njit(**INLINE)
def ask(id0: Any, table: Array) -> None:
    """Prefetch where the search for an id begins."""
    prefetch(table, _home(_tag(id0), table))


@njit(**INLINE)
def ask_entry(id0: Any, store: Store) -> None:
    """Prefetch the entry that a search for this id finds, maybe; its slot has been asked for before."""
    tag = _tag(id0)
    slot = _home(tag, store.table)
    for near in range(slot, slot + LINE):
        if store.table[np.uintp(near)] >> _HALF == tag:
            prefetch(store.entries, entry_at(near, store))


@njit(**INLINE)
def entry_at(slot: int, store: Store) -> Any:
    """The place of the entry that this slot names; its number is at most 2^32 past the oldest one's."""
    past = np.int64((store.table[np.uintp(slot)] - np.uint64(store.state[S.BASE])) & _LOWER)
    at = store.state[S.PLACE] + past
    return at - len(store.entries) if at >= len(store.entries) else at


@njit(**INLINE)
def find(kind: int, id0: Any, id1: Any, ts: int, store: Store) -> Any:
    """Slot of an entry of this kind and id, and of this time where `ts >= 0`; -1 where there is none."""
    table, tag = store.table, _tag(id0)
    slot = _home(tag, table)
    while table[np.uintp(slot)] != 0:
        if table[np.uintp(slot)] >> _HALF == tag:
            e = store.entries[np.uintp(entry_at(slot, store))]
            if e.id0 == id0 and e.id1 == id1 and e.kind == kind and (ts < 0 or e.ts == ts):
                return slot
        slot += 1
        if slot == len(table):
            slot = 0
    return -1


@njit(**INLINE)
def waiting(id0: Any, id1: Any, store: Store) -> int:
    """How many clicks of this id wait."""
    table, tag = store.table, _tag(id0)
    slot, found = _home(tag, table), 0
    while table[np.uintp(slot)] != 0:
        if table[np.uintp(slot)] >> _HALF == tag:
            e = store.entries[np.uintp(entry_at(slot, store))]
            if e.id0 == id0 and e.id1 == id1 and e.kind == CLICK:
                found += 1
        slot += 1
        if slot == len(table):
            slot = 0
    return found


@njit(**INLINE)
def _slot(id0: Any, number: int) -> Any:
    return (_tag(id0) << _HALF) | (np.uint64(number) & _LOWER)


@njit(**INLINE)
def slot_of(id0: Any, number: int, table: Array) -> Any:
    """The slot of an entry that is in the table."""
    sought = _slot(id0, number)
    slot = _home(_tag(id0), table)
    while table[np.uintp(slot)] != sought:
        slot += 1
        if slot == len(table):
            slot = 0
    return slot


@njit(**INLINE)
def insert(id0: Any, number: int, table: Array) -> None:
    """Add an entry."""
    insert_slot(_slot(id0, number), table)


@njit(**INLINE)
def insert_slot(content: Any, table: Array) -> None:
    """Add what was a slot of another table, maybe."""
    slot = _home(content >> _HALF, table)
    while table[np.uintp(slot)] != 0:
        slot += 1
        if slot == len(table):
            slot = 0
    table[np.uintp(slot)] = content


@njit(**INLINE)
def remove(slot: int, table: Array) -> None:
    """Empty a slot; those behind it that it kept from their homes move up."""
    hole, at = slot, slot
    while True:
        at += 1
        if at == len(table):
            at = 0
        content = table[np.uintp(at)]
        if content == 0:
            break
        if _distance(_home(content >> _HALF, table), at, table) >= _distance(hole, at, table):
            table[np.uintp(hole)] = content
            hole = at
    table[np.uintp(hole)] = 0


@njit(**INLINE)
def _distance(start: int, end: int, table: Array) -> int:
    """Steps from one slot to another."""
    return end - start if end >= start else end - start + len(table)
