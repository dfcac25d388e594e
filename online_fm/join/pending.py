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
from online_fm.join import kernel
from online_fm.join.facts import CLICK
from online_fm.join.kernel import COUNTERS, ENTRY, GONE, Limits, Out, S, Store
from online_fm.join.merge import Merged

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


_COLUMNS = ("ts", "id0", "id1", "nnz", "p", "weight", "score", "label", "kind", "clicked")
_OPERATIONS = 16_384  # of one batch: large enough that a call costs nothing, small enough to stay in the cache


@dataclass(frozen=True, slots=True)
class Batch:
    """n operations in order: rows to predict as their impressions arrive, rows to learn as they are released.

    learn bool[n]; clicked bool[n] and label f32[n], 0 where not learn; weight f32[n]; score f32[n], NaN where none was
    served; ts i64[n]: event time in ms; entry i64[n] is the join's own.
    """

    rows: Rows
    learn: NDArray[np.bool_]
    clicked: NDArray[np.bool_]
    label: NDArray[np.float32]
    weight: NDArray[np.float32]
    score: NDArray[np.float32]
    ts: NDArray[np.int64]
    entry: NDArray[np.int64]

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
        self._limits = Limits(window, horizon, config.max_pending, config.unclicked == "zero")
        self._store = _new_store(1024, 16_384)
        self._others = np.full((learners - 1, 1024), np.nan, np.float32)

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
        self._reserve(len(facts), rows.nnz)
        out = _new_out(int(np.diff(rows.ptr).max(initial=0)), self._store)
        at = 0
        while at < len(facts):
            at = kernel.join(
                at,
                facts.kind,
                facts.ts,
                merged.key,
                facts.ident,
                facts.weight,
                facts.score,
                facts.label,
                (rows.ptr, rows.fld, rows.key, rows.val),
                self._store,
                self._limits,
                out,
            )
            yield _batch(out)

    def advance(self, stream_time_ms: int) -> Iterator[Batch]:
        """Move stream time on without a record; what is due is released."""
        out = _new_out(0, self._store)
        done = False
        while not done:
            done = kernel.advance(stream_time_ms, self._limits, self._store, out)
            yield _batch(out)

    def drain(self) -> Iterator[Batch]:
        """Close all windows."""
        entries = self._store.entries
        last = int(entries["ts"].max(where=entries["kind"] != GONE, initial=0))
        yield from self.advance(max(self.stream_time_ms, last + self._limits.horizon))

    def predicted(self, batch: Batch, p: NDArray[np.float32], learner: int = 0) -> NDArray[np.float32]:
        """Keep a learner's predictions for arriving rows; give, for each released one, what was kept for it: f32[n]."""
        at_impression = np.full(len(batch), np.nan, np.float32)
        ring = self._others[learner - 1] if learner else self._store.entries["p"]
        kernel.keep(batch.learn, batch.entry, p, ring, at_impression)
        return at_impression

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What waits, in order of arrival, and the counters: all that is needed to go on."""
        entries, live = self._live()
        store = self._store
        places = kernel.feature_places(live, store)
        return {
            "counters": store.state[: len(COUNTERS)].copy(),
            "stream_time_ms": store.state[S.STREAM : S.STREAM + 1].copy(),
            **{name: entries[name][live] for name in _COLUMNS},
            "fld": store.fld[places],
            "key": store.key[places],
            "val": store.val[places],
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Take the place of the one whose `state` this was."""
        self._store = _loaded(_with_clicks(state), 0, 0)
        self._others = np.full((len(self._others), len(self._store.entries)), np.nan, np.float32)

    def _live(self) -> tuple[NDArray[np.void], NDArray[np.int64]]:
        """The entries' array, and the places in it of those that wait, in order of arrival."""
        store = self._store
        ring = np.arange(store.state[S.BASE], store.state[S.NEXT]) & (len(store.entries) - 1)
        return store.entries, ring[store.entries["kind"][ring] != GONE]

    def _reserve(self, n: int, features: int) -> None:
        """Make room for n more entries: where a ring is full, all moves to new ones without what has left."""
        store = self._store
        s = store.state
        if (
            s[S.NEXT] - s[S.BASE] + n > len(store.entries)
            or s[S.HEAP] + n > len(store.heap)
            or s[S.FEATURES_NEXT] - s[S.FEATURES_BASE] + features > len(store.fld)
        ):
            kept = self._others[:, self._live()[1]]
            self._store = _loaded(self.state(), n, features)
            self._others = np.full((len(kept), len(self._store.entries)), np.nan, np.float32)
            self._others[:, : kept.shape[1]] = kept


def _power(n: int) -> int:
    """The next power of two that leaves a fifth free, so that moving house stays rare."""
    return max(1024, 1 << (n + n // 4).bit_length())


def _new_store(entries: int, features: int) -> Store:
    return Store(
        state=np.zeros(len(S), np.int64),
        entries=np.zeros(entries, ENTRY),
        table=np.full(2 * entries, -1, np.int64),
        heap=np.zeros((entries, 2), np.int64),
        fld=np.zeros(features, np.uint16),
        key=np.zeros(features, np.uint32),
        val=np.zeros(features, np.float32),
    )


def _with_clicks(state: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """The state of a version whose clicks brought nothing but themselves, as it would be now."""
    if "clicked" in state:
        return state
    label = np.where(state["kind"] == CLICK, 1, state["label"]).astype(np.float32)
    return {**state, "clicked": state["label"], "label": label}


def _loaded(state: Mapping[str, NDArray[np.generic]], more: int, more_features: int) -> Store:
    """A store that holds this state, with room for more."""
    n, features = len(state["ts"]), len(state["fld"])
    store = _new_store(_power(n + more), _power(features + more_features))
    store.state[: len(COUNTERS)][: len(state["counters"])] = state["counters"]
    store.state[S.STREAM] = state["stream_time_ms"][0]
    store.state[S.FEATURES_NEXT] = features
    for name in _COLUMNS:
        store.entries[name][:n] = state[name]
    lengths = state["nnz"].astype(np.int64)
    store.entries["start"][:n] = np.cumsum(lengths) - lengths
    for name in ("fld", "key", "val"):
        getattr(store, name)[:features] = state[name]
    kernel.enter_all(n, store)
    return store


def _new_out(widest: int, store: Store) -> Out:
    """Room for one call's operations; at least one row of any width fits."""
    widest = max(widest, int(store.state[S.WIDEST]))
    features = max(_OPERATIONS * 8, 4 * widest)
    return Out(
        size=np.zeros(2, np.int64),
        learn=np.zeros(_OPERATIONS, np.bool_),
        clicked=np.zeros(_OPERATIONS, np.bool_),
        entry=np.zeros(_OPERATIONS, np.int64),
        ts=np.zeros(_OPERATIONS, np.int64),
        label=np.zeros(_OPERATIONS, np.float32),
        weight=np.zeros(_OPERATIONS, np.float32),
        score=np.zeros(_OPERATIONS, np.float32),
        ptr=np.zeros(_OPERATIONS + 1, np.int64),
        fld=np.zeros(features, np.uint16),
        key=np.zeros(features, np.uint32),
        val=np.zeros(features, np.float32),
    )


def _batch(out: Out) -> Batch:
    n, nnz = out.size.tolist()
    rows = Rows(out.ptr[: n + 1], out.fld[:nnz], out.key[:nnz], out.val[:nnz])
    columns = (out.learn, out.clicked, out.label, out.weight, out.score, out.ts, out.entry)
    return Batch(rows, *(column[:n] for column in columns))
