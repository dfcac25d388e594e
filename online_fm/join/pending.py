"""Pending rows: impressions whose label is not known yet, and clicks whose impression has not come yet.

A row is positive if a click with `impression.ts <= click.ts <= impression.ts + window` was read before the row was
released, else negative; it is released when stream time reaches `impression.ts + window + grace`. A positive row's
label is what its click brings, 1 unless the events say otherwise: of several clicks the first in merged order counts.
A negative row's label is 0, or it is not learned at all.

An impression is late if its window and grace are over when it comes; it is counted and not kept. A click that finds no
impression waits as an entry of its own until no impression could claim it any more, then it is an orphan. A click
that is late, repeated (of one id at most `SAME_ID` wait), or at the wrong distance is counted. At `max_pending` entries
the newcomer is dropped and counted: to drop the oldest would teach it as a negative.

Records are worked off until the output is full, so that a jump of stream time releases ten million rows in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from online_fm.features.batch import Rows
from online_fm.join.facts import CLICK, IMPRESSION
from online_fm.join.kernel import Out, Records, make_kernels
from online_fm.join.merge import Merged
from online_fm.join.row import MOST_WORDS
from online_fm.join.store import (
    COUNTERS,
    ENTRIES,
    GONE,
    LINE,
    WORDS,
    Limits,
    S,
    fit,
    new_store,
    new_table,
    table_lines,
)

__all__ = ["Batch", "JoinConfig", "Pending"]


class JoinConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How labels are waited for.

    `window_s` after its impression a click still counts; `grace_s` longer records may come late. Both classes are
    released together at the end, because releasing positives at the click teaches a wrong base rate after every start.
    A longer window misses fewer clicks and learns later, and a model that learns later predicts worse: no longer than
    most clicks take. `unclicked`: what a row without a click is: `zero`, an example whose label is 0, or `skip`, none
    at all, as ratings want it: who gave no stars did not give none.
    """

    window_s: Annotated[float, Meta(ge=0, le=1e8)] = 600.0
    grace_s: Annotated[float, Meta(ge=0, le=1e8)] = 10.0
    max_pending: Annotated[int, Meta(ge=1, le=2**31)] = 10_000_000
    unclicked: Literal["zero", "skip"] = "zero"


_COLUMNS = ("ts", "id0", "id1", "nnz", "p", "weight", "score", "kind")
_OPERATIONS = 16_384  # of one batch: large enough that a call costs nothing, small enough to stay in the cache
_SLACK = 16  # what is late by less than a 16th of the horizon costs nothing while it waits


@dataclass(frozen=True, slots=True)
class Batch:
    """n operations in order: rows to predict as their impressions arrive, rows to learn as they are released.

    learn bool[n]; clicked bool[n] and label f32[n], 0 where not learn; weight f32[n]; score f32[n], NaN where none was
    served; ts i64[n]: event time in ms; place i64[n] is the join's own.
    """

    rows: Rows
    learn: NDArray[np.bool_]
    clicked: NDArray[np.bool_]
    label: NDArray[np.float32]
    weight: NDArray[np.float32]
    score: NDArray[np.float32]
    ts: NDArray[np.int64]
    place: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.learn)


class Pending:
    """The join's state and its one operation, `run`.

    learners: how many predict each arriving row. What the first one says of it is part of the state, what the others
    say is kept beside it and not restored.
    """

    def __init__(self, config: JoinConfig, learners: int = 1) -> None:
        window = round(config.window_s * 1000)
        horizon = window + round(config.grace_s * 1000)
        self._limits = Limits(window, horizon, horizon // _SLACK, config.max_pending, config.unclicked == "zero")
        self._kernels = make_kernels()
        self._store = new_store(0, 0)
        self._others = self._unknown(learners)
        self._out = _new_out(0)

    @property
    def stream_time_ms(self) -> int:
        return int(self._store.state[S.STREAM])

    @property
    def pending(self) -> int:
        """Impressions that wait for their label."""
        return int(self._store.state[S.PENDING])

    @property
    def waiting_clicks(self) -> int:
        """Clicks that wait for their impression."""
        return int(self._store.state[S.WAITING_CLICKS])

    def counts(self) -> dict[str, int]:
        """All counters since the first start, by name."""
        return dict(zip(COUNTERS, self._store.state[: len(COUNTERS)].tolist(), strict=True))

    def run(self, merged: Merged) -> Iterator[Batch]:
        """Join records in merged order; batches are valid until the next one is asked for."""
        facts, rows = merged.facts, merged.facts.rows
        widest = int(np.diff(rows.ptr).max(initial=0))
        self._reserve(len(facts), MOST_WORDS * (rows.nnz + widest))
        out = self._room_for(widest)
        records = Records(
            facts.kind,
            facts.ts,
            merged.key,
            facts.ident,
            facts.weight,
            facts.score,
            facts.label,
            rows.ptr,
            rows.fld,
            rows.key,
            rows.val.view(np.uint32),
        )
        at = 0
        while at < len(facts):
            at = self._kernels.join(at, records, self._store, self._limits, out)
            yield _batch(out)
            self._fit_heap()

    def advance(self, stream_time_ms: int) -> Iterator[Batch]:
        """Move stream time on without a record; what is due is released."""
        out = self._room_for(0)
        done = False
        while not done:
            done = self._kernels.advance(stream_time_ms, self._limits, self._store, out)
            yield _batch(out)
            self._fit_heap()

    def drain(self) -> Iterator[Batch]:
        """Close all windows."""
        last = int(self._store.entries["ts"][self._live()].max(initial=0))
        yield from self.advance(max(self.stream_time_ms, last + self._limits.horizon))

    def predicted(self, batch: Batch, p: NDArray[np.float32], learner: int = 0) -> NDArray[np.float32]:
        """Keep a learner's predictions for arriving rows; give, for each released one, what was kept for it: f32[n]."""
        at_impression = np.full(len(batch), np.nan, np.float32)
        ring = self._others[learner - 1] if learner else self._store.entries["p"]
        self._kernels.keep(batch.learn, batch.place, p, ring, at_impression)
        return at_impression

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What waits, in order of arrival, and the counters: all that is needed to go on."""
        store, live = self._store, self._live()
        columns = {name: store.entries[name][live] for name in _COLUMNS}
        label = store.entries["label"][live]
        nnz = int(columns["nnz"].sum())
        fld, key, val = np.empty(nnz, np.uint16), np.empty(nnz, np.uint32), np.empty(nnz, np.float32)
        self._kernels.features(live, store, fld, key, val.view(np.uint32))
        return {
            "counters": store.state[: len(COUNTERS)].copy(),
            "stream_time_ms": store.state[S.STREAM : S.STREAM + 1].copy(),
            **columns,
            "label": np.where(np.isnan(label), np.float32(0), label),
            "clicked": ((columns["kind"] == IMPRESSION) & ~np.isnan(label)).astype(np.uint8),
            "fld": fld,
            "key": key,
            "val": val,
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Take the place of the one whose `state` this was."""
        learners, self._others = 1 + len(self._others), []
        self._store = new_store(0, 0)
        self._load(_with_clicks(state))
        self._others = self._unknown(learners)

    def _load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Fill the empty store."""
        n, widest = len(state["ts"]), int(state["nnz"].max(initial=0))
        self._reserve(n, MOST_WORDS * (len(state["fld"]) + widest))
        store = self._store
        store.state[: len(state["counters"])] = state["counters"]
        store.state[S.STREAM] = state["stream_time_ms"][0]
        for name in _COLUMNS:
            store.entries[name][:n] = state[name]
        unclicked = (state["kind"] == IMPRESSION) & (state["clicked"] == 0)
        store.entries["label"][:n] = np.where(unclicked, np.float32(np.nan), state["label"])
        self._kernels.load(state["fld"], state["key"], state["val"].view(np.uint32), n, store)
        self._enter_all()

    def _unknown(self, learners: int) -> list[NDArray[np.float32]]:
        """What all learners but the first say of each entry, before they have said anything."""
        return [np.full(len(self._store.entries), np.nan, np.float32) for _ in range(learners - 1)]

    def _live(self) -> NDArray[np.int64]:
        """The places of the entries that wait, in order of arrival."""
        entries, s = self._store.entries, self._store.state
        ring = (np.arange(s[S.NEXT] - s[S.BASE]) + s[S.PLACE]) % len(entries)
        return ring[entries["kind"][ring] != GONE]

    def _reserve(self, n: int, words: int) -> None:
        """Make room for n more entries with so many words; gaps of those that left are closed before the rings grow."""
        store = self._store
        s = store.state
        used = s[S.NEXT] - s[S.BASE]
        gaps = used - s[S.PENDING] - s[S.WAITING_CLICKS]
        full = used + n > len(store.entries) or s[S.WORDS_NEXT] - s[S.WORDS_BASE] + words > len(store.words)
        if full and 8 * gaps > used:
            self._compact()
        fit([store.entries, *self._others], ENTRIES, n, s)
        fit([store.words], WORDS, words, s)
        self._fit_heap()
        lines = table_lines(len(store.entries))
        if not 0.9 * lines < len(store.table) // LINE < 1.1 * lines:
            table = new_table(lines)
            self._kernels.rehash(store.table, table)
            self._store = store._replace(table=table)

    def _compact(self) -> None:
        """Close the gaps in the rings."""
        live = self._live()
        kept = [ring[live] for ring in self._others]
        self._kernels.compact(self._store)
        self._store.table[:] = 0
        self._enter_all()
        for ring, values in zip(self._others, kept, strict=True):
            ring[self._live()] = values

    def _enter_all(self) -> None:
        """Make the entries of the ring known, as if they came now."""
        s = self._store.state
        s[[S.PENDING, S.WAITING_CLICKS, S.BEYOND, S.TAIL, S.HEAP, S.WIDEST]] = 0
        s[[S.CURSOR, S.SCOUT]] = at = s[S.BASE]
        while at < s[S.NEXT]:
            at = self._kernels.enter(at, self._store, self._limits)
            self._fit_heap()

    def _fit_heap(self) -> None:
        """Leave the heap some room, and not three quarters of it."""
        heap, used = self._store.heap, int(self._store.state[S.HEAP])
        if used == len(heap) or 4 * used < len(heap) > _LEAST_HEAP:
            heap.resize((max(used + used // 4 + 1, _LEAST_HEAP), 2), refcheck=False)

    def _room_for(self, widest: int) -> Out:
        """An output that holds one row at least."""
        widest = max(widest, int(self._store.state[S.WIDEST]))
        if len(self._out.fld) < widest:
            self._out = _new_out(widest)
        return self._out


_LEAST_HEAP = 1024


def _with_clicks(state: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """The state of a version whose clicks brought nothing but themselves, as it would be now."""
    if "clicked" in state:
        return state
    label = np.where(state["kind"] == CLICK, 1, state["label"]).astype(np.float32)
    return {**state, "clicked": state["label"], "label": label}


def _new_out(widest: int) -> Out:
    """Room for one call's operations; at least one row of any width fits."""
    features = max(_OPERATIONS * 8, 4 * widest)
    return Out(
        size=np.zeros(2, np.int64),
        learn=np.zeros(_OPERATIONS, np.bool_),
        clicked=np.zeros(_OPERATIONS, np.bool_),
        place=np.zeros(_OPERATIONS, np.int64),
        ts=np.zeros(_OPERATIONS, np.int64),
        label=np.zeros(_OPERATIONS, np.float32),
        weight=np.zeros(_OPERATIONS, np.float32),
        score=np.zeros(_OPERATIONS, np.float32),
        ptr=np.zeros(_OPERATIONS + 1, np.int64),
        fld=np.zeros(features, np.uint16),
        key=np.zeros(features, np.uint32),
        bits=np.zeros(features, np.uint32),
    )


def _batch(out: Out) -> Batch:
    n, nnz = out.size.tolist()
    rows = Rows(out.ptr[: n + 1], out.fld[:nnz], out.key[:nnz], out.bits[:nnz].view(np.float32))
    columns = (out.learn, out.clicked, out.label, out.weight, out.score, out.ts, out.place)
    return Batch(rows, *(column[:n] for column in columns))
