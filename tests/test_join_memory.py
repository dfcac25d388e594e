"""Where pending rows lie: rings that grow, shrink and close their gaps change nothing, and a row takes few bytes."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_join import Join, Record, merge
from test_join import Run, facts_of

from online_fm.features.batch import Rows
from online_fm.join import pending, store
from online_fm.join.facts import IMPRESSION, Facts
from online_fm.join.merge import Merged
from online_fm.join.pending import JoinConfig, Pending
from online_fm.join.store import ENTRIES, OWN, SHAPES, WIDTH, S, fit


@pytest.fixture
def tight(monkeypatch) -> None:
    """Rings and heap that have no more room than they need."""
    monkeypatch.setattr(store, "_LEAST", 1)
    monkeypatch.setattr(pending, "_LEAST_HEAP", 1)


def facts(ts: np.ndarray, rows: Rows, first: int = 0) -> Facts:
    """Impressions with these rows, numbered from `first` on."""
    n = len(ts)
    number = np.arange(first, first + n).astype(np.uint64)
    ident = np.column_stack([number * np.uint64(0x9E3779B97F4A7C15), number])
    ones = np.ones(n, np.float32)
    return Facts(np.full(n, IMPRESSION, np.uint8), np.arange(n), ts, ts, ident, ones, ones * np.nan, ones * 0, rows)


def one_hot(n: int, fields: int = 39) -> Rows:
    rng = np.random.default_rng(n)
    return Rows(
        np.arange(n + 1) * fields,
        np.tile(np.arange(fields, dtype=np.uint16), n),
        rng.integers(0, 2**32, n * fields, np.uint32),
        np.ones(n * fields, np.float32),
    )


def learned(join: Pending) -> tuple[list[int], Rows]:
    """Drain a join: event times and rows in the order in which they leave."""
    times: list[int] = []
    parts: list[tuple[np.ndarray, ...]] = []
    for batch in join.drain():
        times += batch.ts.tolist()
        parts.append((np.diff(batch.rows.ptr), batch.rows.fld.copy(), batch.rows.key.copy(), batch.rows.val.copy()))
    lengths, *columns = (np.concatenate([part[i] for part in parts]) for i in range(4))
    return times, Rows(np.concatenate(([0], np.cumsum(lengths))), *columns)


def run(join: Pending, merged: Merged) -> None:
    for _ in join.run(merged):
        pass


def assert_same(got: Rows, given: Rows) -> None:
    """To the bit."""
    for name in ("ptr", "fld", "key", "val"):
        assert getattr(got, name).tobytes() == getattr(given, name).astype(getattr(got, name).dtype).tobytes(), name


def traffic(n: int, seed: int) -> dict[tuple[int, int], list[Record]]:
    """Records that come late by a little, late by a lot, ahead of time, twice, and with clicks before and after."""
    rng = np.random.default_rng(seed)
    shown, clicked = [], []
    for i in range(n):
        now = 1000 + i
        late = int(rng.choice([0, 0, rng.integers(0, 8), rng.integers(0, 120), -rng.integers(0, 300)]))
        shown.append(Record("impression", str(i), max(0, now - late)))
        if rng.random() < 0.1:
            shown.append(shown[int(rng.integers(len(shown)))])
        if rng.random() < 0.3:
            clicked.append(Record("click", str(i + int(rng.integers(-60, 20))), now + int(rng.integers(0, 20)), 2.5))
    return {(0, 0): shown, (1, 0): [click for click in clicked if int(click.ident) >= 0]}


@pytest.mark.usefixtures("tight")
@pytest.mark.parametrize("seed", range(4))
def test_rings_that_are_always_too_small_give_what_the_slow_twin_gives(seed: int, monkeypatch) -> None:
    compacted, compact = [], Pending._compact
    monkeypatch.setattr(Pending, "_compact", lambda self: compacted.append(compact(self)))
    lanes = traffic(3000, seed)
    twin = Join(100, 20)
    order = merge(lanes)
    for key, record in order:
        twin.record(key, record)
    rng = np.random.default_rng(seed)
    join, at = Run(100, 20, learners=2), 0
    lengths = set()
    while at < len(order):
        part = order[at : at + int(rng.integers(1, 60))]
        at += len(part)
        keys = np.array([key for key, _ in part])
        join.use(join.pending.run(Merged(facts_of([record for _, record in part]), keys)))
        lengths.add(len(join.pending._store.entries))
        if rng.random() < 0.01:
            join.restart()
    join.use(join.pending.drain())
    twin.advance(10**9)
    assert join.operations == twin.operations
    assert {name: n for name, n in join.pending.counts().items() if n} == twin.counts
    assert len(compacted) > 5
    assert len(lengths) > 5


@pytest.mark.usefixtures("tight")
@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30))
def test_a_ring_keeps_what_it_holds_in_order_however_it_is_fitted(script) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_LEAST", 1)
        patch.setattr(store, "_PIECE", 3)
        ring, state, held = np.zeros(1, np.int64), np.zeros(len(S), np.int64), deque[int]()
        for coming, leaving in script:
            fit([ring], ENTRIES, coming, state)
            for _ in range(coming):
                ring[(state[S.PLACE] + len(held)) % len(ring)] = state[S.NEXT]
                held.append(int(state[S.NEXT]))
                state[S.NEXT] += 1
            for _ in range(min(leaving, len(held))):
                held.popleft()
                state[S.BASE] += 1
                state[S.PLACE] = (state[S.PLACE] + 1) % len(ring)
            assert [ring[(state[S.PLACE] + i) % len(ring)] for i in range(len(held))] == list(held)
            assert len(ring) <= max(5 * (len(held) + leaving), 5 * coming, 2)


def bytes_of(join: Pending) -> int:
    kept = join._store
    return sum(part.nbytes for part in (kept.entries, kept.words, kept.table, kept.heap))


def test_a_row_of_39_one_hot_fields_takes_at_most_250_bytes() -> None:
    join, n, rows = Pending(JoinConfig(window_s=200, grace_s=0)), 5000, one_hot(5000)
    for first in range(0, 600_000, n):
        ts = np.arange(first, first + n)
        run(join, Merged(facts(ts, rows, first), ts))
        if join.pending > 100_000:
            # room for the next records apart: the more rows wait, the less it is
            assert bytes_of(join) - 3 * 4 * 40 * n <= 250 * join.pending
    assert join.pending == 200_000


def test_memory_is_given_back_when_fewer_wait() -> None:
    join, rows = Pending(JoinConfig(window_s=1000, grace_s=0)), one_hot(20_000)
    ts = np.arange(20_000)
    run(join, Merged(facts(ts, rows), ts))
    most = bytes_of(join)
    for _ in join.advance(10**7):
        pass
    for first in range(20_000, 20_100, 10):
        ts = np.arange(10**7 + first, 10**7 + first + 10)
        run(join, Merged(facts(ts, one_hot(10), first), ts))
    assert bytes_of(join) < most / 10
    assert join.pending == 100


def test_a_few_rows_far_ahead_of_time_do_not_hold_the_memory_of_all_that_come_after() -> None:
    join, rows = Pending(JoinConfig(window_s=1, grace_s=0)), one_hot(1000)
    for first in range(0, 200_000, 1000):
        now = np.arange(first, first + 1000)
        ts = now.copy()
        ts[::500] += 60_000
        run(join, Merged(facts(ts, rows, first), now))
    assert join.pending == pytest.approx(1000 + 120, abs=10)
    assert len(join._store.entries) < 4000


def test_only_what_is_due_soon_is_sorted() -> None:
    join, rng = Pending(JoinConfig(window_s=160, grace_s=0)), np.random.default_rng(1)
    most = 0
    for first in range(0, 200_000, 5000):
        now = np.arange(first, first + 5000)
        ts = now - rng.integers(0, np.minimum(now + 1, 5000))  # late by five seconds at the most
        run(join, Merged(facts(ts, one_hot(5000, 1), first), now))
        most = max(most, int(join._store.state[S.HEAP]))
    assert 1000 < most < 16_000 < 155_000 < join.pending
    times, _ = learned(join)
    assert times == sorted(times)


values = st.sampled_from([1.0, 1.0, 1.0, 0.0, -0.0, 0.5, -3.0, float("inf"), float("nan"), 1e-42])
shapes = st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 2**32 - 1), values), max_size=6)


def rows_of(features: list[list[tuple[int, int, float]]]) -> Rows:
    fld, key, val = ([feature[i] for row in features for feature in row] for i in range(3))
    ptr = np.concatenate(([0], np.cumsum([len(row) for row in features])))
    return Rows(
        ptr.astype(np.int64), np.array(fld, np.uint16), np.array(key, np.uint32), np.array(val).astype(np.float32)
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=20))
def test_any_row_comes_back_to_the_bit_from_the_join_and_from_its_state(features) -> None:
    rows, ts = rows_of(features), np.arange(len(features))
    join, again = (Pending(JoinConfig()) for _ in range(2))
    run(join, Merged(facts(ts, rows), ts))
    state = join.state()
    assert_same(Rows(rows.ptr, state["fld"], state["key"], state["val"]), rows)
    again.restore(state)
    for each in (join, again):
        assert_same(learned(each)[1], rows)


def test_more_shapes_than_there_is_room_for_are_kept_all_the_same_and_forgotten_when_their_rows_have_left() -> None:
    rng = np.random.default_rng(5)
    odd = [
        [(int(f), int(rng.integers(2**32)), float(rng.choice([1, 1, 2]))) for f in rng.integers(0, 99, rng.integers(9))]
        for _ in range(3 * SHAPES)
    ]
    wide = [[(f, f, 1.0) for f in range(width)] for width in (WIDTH - 1, WIDTH, WIDTH + 1, 3 * WIDTH)]
    rows = rows_of(odd + wide)
    ts = np.arange(len(odd) + len(wide))
    join = Pending(JoinConfig(window_s=10**6, grace_s=0))
    run(join, Merged(facts(ts, rows), ts))
    kept = join._store
    shape = kept.entries["shape"][: len(ts)]
    assert SHAPES / 2 < len(np.unique(shape)) <= SHAPES + 1
    assert (shape == OWN).sum() > SHAPES
    assert list(shape[-4:] == OWN)[2:] == [True, True]
    assert kept.shapes["uses"].sum() == (shape != OWN).sum()
    assert_same(learned(join)[1], rows)
    assert kept.shapes["uses"].sum() == 0

    later = ts + 10**10
    run(join, Merged(facts(later, rows_of([odd[0]] * len(ts)), len(ts)), later))
    assert join._store.shapes["uses"].max() == len(ts)
