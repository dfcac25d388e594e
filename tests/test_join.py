"""The join: a timetable of what each rule means, then equality with the slow twin over random streams."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_join import Join, Record, merge

from online_fm.features.batch import Rows
from online_fm.join.facts import CLICK, IMPRESSION, REJECT, Facts
from online_fm.join.merge import Lane, Merger
from online_fm.join.pending import JoinConfig, Pending

KINDS = {"impression": IMPRESSION, "click": CLICK, "reject": REJECT}


def features_of(ident: str) -> tuple[list[int], list[int], list[float]]:
    """A row that names its impression: some impressions have no feature at all, some values are 1 as most are."""
    number = int(ident)
    width = number % 4
    return (
        list(range(width)),
        [number * 10 + i for i in range(width)],
        [1.0 if (number + i) % 3 else number + 0.5 for i in range(width)],
    )


def facts_of(records: list[Record], first_offset: int = 0) -> Facts:
    rows = [features_of(r.ident) if r.kind == "impression" else ([], [], []) for r in records]
    ptr = np.concatenate(([0], np.cumsum([len(row[0]) for row in rows]))).astype(np.int64)
    n = len(records)
    return Facts(
        np.array([KINDS[r.kind] for r in records], np.uint8),
        np.arange(first_offset, first_offset + n),
        np.array([r.ts for r in records], np.int64),
        np.array([r.ts for r in records], np.int64),
        # few distinct values: neighbours in the table collide all the time
        np.array([[int(r.ident) % 3 << 62, int(r.ident)] for r in records], np.uint64).reshape(-1, 2),
        np.array([1 + int(r.ident) for r in records], np.float32),
        np.array([int(r.ident) / 1000 for r in records], np.float32),
        np.array([r.label if r.kind == "click" else 0 for r in records], np.float32),
        Rows(
            ptr,
            np.array([f for row in rows for f in row[0]], np.uint16),
            np.array([k for row in rows for k in row[1]], np.uint32),
            np.array([v for row in rows for v in row[2]], np.float32),
        ),
    )


class Run:
    """Feeds a merger and pending rows, and reads the operations back as the twin writes them."""

    def __init__(
        self, window: int, grace: int, max_pending: int = 10**6, unclicked: str = "zero", learners: int = 1
    ) -> None:
        self.config = JoinConfig(
            window_s=window / 1000, grace_s=grace / 1000, max_pending=max_pending, unclicked=unclicked
        )
        self.learners = learners
        self.merger, self.pending = Merger(), Pending(self.config, learners)
        self.operations: list[tuple[str, str, float]] = []
        self.kept: dict[str, float] = {}
        self.shown: dict[str, int] = {}
        self.told: dict[str, float] = {}  # what the last learner said, since the last restart

    def take(self, at_end: set[Lane]) -> None:
        merged = self.merger.take(at_end)
        if merged is not None:
            self.use(self.pending.run(merged))

    def use(self, batches) -> None:
        for batch in batches:
            p = np.arange(len(self.operations), len(self.operations) + len(batch)).astype(np.float32) / 7
            at_impression = self.pending.predicted(batch, p)
            told = self.pending.predicted(batch, p + 1, self.learners - 1) if self.learners > 1 else at_impression + 1
            for i in range(len(batch)):
                a, b = batch.rows.ptr[i : i + 2]
                ident = str(round(float(batch.score[i]) * 1000))
                assert (list(batch.rows.fld[a:b]), list(batch.rows.key[a:b]), list(batch.rows.val[a:b])) == features_of(
                    ident
                )
                assert batch.weight[i] == 1 + int(ident)
                if batch.learn[i]:
                    assert at_impression[i] == self.kept.pop(ident)
                    assert told[i] == self.told.pop(ident) if ident in self.told else np.isnan(told[i])
                    assert batch.ts[i] == self.shown.pop(ident)
                    assert batch.clicked[i] or batch.label[i] == 0
                else:
                    self.kept[ident], self.shown[ident] = p[i], int(batch.ts[i])
                    self.told[ident] = p[i] + 1
                    assert (batch.clicked[i], batch.label[i]) == (False, 0)
                self.operations.append(("learn" if batch.learn[i] else "predict", ident, float(batch.label[i])))

    def restart(self) -> None:
        """What a checkpoint and a new process do."""
        offsets, keys, state = self.merger.offsets(), self.merger.keys(), self.pending.state()
        self.merger, self.pending = Merger(), Pending(self.config, self.learners)
        self.told = self.told if self.learners == 1 else {}
        self.merger.restore(offsets, keys)
        self.pending.restore({name: array.copy() for name, array in state.items()})


def run_all(records: list[Record], window: int = 100, grace: int = 10, **more) -> Run:
    """One partition, already in merged order."""
    run = Run(window, grace, **more)
    run.merger.assign({(0, 0): 0, (1, 0): 0})
    if records:
        run.merger.add((0, 0), facts_of(records))
    run.take({(0, 0), (1, 0)})
    return run


def impression(ident: int, ts: int) -> Record:
    return Record("impression", str(ident), ts)


def click(ident: int, ts: int, label: float = 1.0) -> Record:
    return Record("click", str(ident), ts, label)


def test_a_click_within_the_window_makes_a_positive() -> None:
    run = run_all([impression(1, 1000), click(1, 1100), impression(2, 1110)])
    assert run.operations == [("predict", "1", 0), ("learn", "1", 1), ("predict", "2", 0)]


def test_a_click_one_millisecond_after_the_window_does_not() -> None:
    run = run_all([impression(1, 1000), click(1, 1101), impression(2, 1110)])
    assert ("learn", "1", 0) in run.operations
    assert run.pending.counts()["outside_window"] == 1


def test_a_click_before_its_impression_in_event_time_does_not_count() -> None:
    run = run_all([impression(1, 1000), click(1, 999), impression(2, 1110)])
    assert ("learn", "1", 0) in run.operations
    assert run.pending.counts()["outside_window"] == 1


def test_a_click_that_is_read_before_its_impression_waits_for_it() -> None:
    run = run_all([click(1, 1050), impression(1, 1000), impression(2, 1110)])
    assert ("learn", "1", 1) in run.operations
    assert run.pending.waiting_clicks == 0


def test_a_click_without_impression_becomes_an_orphan_when_none_could_claim_it_any_more() -> None:
    run = run_all([click(1, 1000), impression(2, 1109)])
    assert run.pending.waiting_clicks == 1
    run.use(run.pending.advance(1110))
    assert run.pending.waiting_clicks == 0
    assert run.pending.counts()["orphans"] == 1


def test_repeated_impressions_and_clicks_change_nothing_and_are_counted() -> None:
    run = run_all([impression(1, 1000), impression(1, 1000), click(1, 1010), click(1, 1010), impression(2, 1110)])
    assert run.operations == [("predict", "1", 0), ("learn", "1", 1), ("predict", "2", 0)]
    counts = run.pending.counts()
    assert (counts["duplicates"], counts["duplicate_clicks"]) == (1, 1)


def test_what_comes_after_window_and_grace_is_late() -> None:
    run = run_all([impression(1, 2000), impression(2, 1890), click(3, 1890), impression(4, 1891)])
    counts = run.pending.counts()
    assert (counts["late"], counts["late_clicks"]) == (1, 1)
    assert run.operations == [("predict", "1", 0), ("predict", "4", 0)]


def test_the_bound_drops_the_newcomer_and_counts_it() -> None:
    run = run_all([impression(1, 1000), impression(2, 1000), impression(3, 1000), click(9, 1000)], max_pending=2)
    assert run.operations == [("predict", "1", 0), ("predict", "2", 0)]
    counts = run.pending.counts()
    assert (counts["dropped"], counts["dropped_clicks"]) == (1, 1)


def test_rows_that_came_out_of_order_leave_in_the_order_of_event_time() -> None:
    run = run_all([impression(1, 1050), impression(2, 1000), impression(3, 1060), impression(4, 1010)])
    run.use(run.pending.drain())
    assert [ident for kind, ident, _ in run.operations if kind == "learn"] == ["2", "4", "1", "3"]


def test_the_label_is_what_the_first_click_in_merged_order_brings() -> None:
    clicks = [click(1, 1030, 4.5), click(1, 1010, 2.0), click(1, 1105, 3.0)]
    for records in ([impression(1, 1000), *clicks], [*clicks, impression(1, 1000)]):
        run = run_all([*records, impression(2, 1130)])
        assert run.operations[:2] == [("predict", "1", 0), ("learn", "1", 4.5)]
        counts = run.pending.counts()
        assert (counts["positives"], counts["duplicate_clicks"], counts["outside_window"]) == (1, 1, 1)


def test_a_click_that_brings_zero_or_less_is_a_click_all_the_same() -> None:
    run = run_all([impression(1, 1000), click(1, 1010, 0.0), click(1, 1011, 7.0), impression(2, 1000)])
    run.use(run.pending.drain())
    assert run.operations[2:] == [("learn", "1", 0.0), ("learn", "2", 0.0)]
    assert run.pending.counts()["positives"] == 1
    run = run_all([impression(1, 1000), click(1, 1010, -3.0), impression(2, 1110)])
    assert ("learn", "1", -3.0) in run.operations


def test_rows_without_a_click_are_not_learned_where_so_configured() -> None:
    run = run_all([impression(1, 1000), impression(2, 1000), click(2, 1001, 5.0)], unclicked="skip")
    run.use(run.pending.drain())
    assert run.operations == [("predict", "1", 0), ("predict", "2", 0), ("learn", "2", 5.0)]
    counts = run.pending.counts()
    assert (counts["impressions"], counts["learned"], counts["unclicked"], run.pending.pending) == (2, 1, 1, 0)


def test_the_state_of_a_version_without_labels_goes_on() -> None:
    run = run_all([impression(1, 1000), click(1, 1001), impression(2, 1002), click(3, 1003)])
    state = run.pending.state()
    old = {name: array for name, array in state.items() if name != "clicked"}
    old["label"], old["counters"] = state["clicked"], state["counters"][:12]
    run.pending.restore(old)
    now = run.pending.state()
    assert {name: array.tobytes() for name, array in now.items()} == {
        name: array.tobytes() for name, array in state.items()
    }


def test_draining_closes_all_windows() -> None:
    run = run_all([impression(1, 1000), click(1, 1001), impression(2, 1002)])
    run.use(run.pending.drain())
    assert run.pending.pending == 0
    assert run.operations[-2:] == [("learn", "1", 1), ("learn", "2", 0)]


def test_a_jump_of_stream_time_releases_more_rows_than_one_batch_holds() -> None:
    records = [impression(i, 1000) for i in range(40_000)]
    run = run_all([*records, impression(50_000, 10_000)])
    assert Counter(kind for kind, _, _ in run.operations) == {"predict": 40_001, "learn": 40_000}
    assert run.pending.pending == 1


def test_a_partition_that_has_not_spoken_holds_the_others_back() -> None:
    run = Run(100, 10)
    run.merger.assign({(0, 0): 0, (1, 0): 0})
    run.merger.add((0, 0), facts_of([impression(1, 1000)]))
    run.take(set())
    assert run.operations == []
    run.take({(1, 0)})
    assert run.operations == [("predict", "1", 0)]


def test_nothing_leaves_while_a_topic_has_no_partition() -> None:
    run = Run(100, 10)
    run.merger.assign({(0, 0): 0})
    run.merger.add((0, 0), facts_of([impression(1, 1000)]))
    run.take({(0, 0)})
    assert run.operations == []
    run.merger.assign({(1, 0): 0})
    run.take({(0, 0), (1, 0)})
    assert run.operations == [("predict", "1", 0)]


def test_clicks_of_one_broken_sender_do_not_pile_up() -> None:
    run = run_all([click(1, 1000 + i) for i in range(40)])
    assert run.pending.waiting_clicks == 16
    assert run.pending.counts()["duplicate_clicks"] == 24


def test_a_clock_that_runs_ahead_moves_time_no_further_than_its_record() -> None:
    run = Run(100, 10)
    run.merger.assign({(0, 0): 0, (1, 0): 0})
    ahead = facts_of([impression(1, 1000), impression(2, 9000), impression(3, 1020)])
    run.merger.add((0, 0), replace(ahead, moves_to=np.array([1000, 1010, 1020])))
    run.take({(0, 0), (1, 0)})
    assert run.pending.stream_time_ms == 1020
    assert run.pending.counts()["late"] == 0
    run.use(run.pending.advance(9109))
    assert [ident for kind, ident, _ in run.operations if kind == "learn"] == ["1", "3"]
    run.use(run.pending.advance(9110))
    assert run.pending.pending == 0


def test_offsets_are_those_of_merged_records_only() -> None:
    run = Run(100, 10)
    run.merger.assign({(0, 0): 5, (1, 0): 7})
    run.merger.add((0, 0), facts_of([impression(1, 1000), impression(2, 2000)], 5))
    run.merger.add((1, 0), facts_of([click(1, 1500)], 7))
    run.take(set())
    assert run.merger.offsets() == {(0, 0): 6, (1, 0): 8}
    assert run.merger.waiting() == {(0, 0): 1, (1, 0): 0}


def test_memory_is_reused_over_a_long_stream() -> None:
    run = Run(100, 10)
    run.merger.assign({(0, 0): 0, (1, 0): 0})
    for start in range(0, 200_000, 1000):
        run.merger.add((0, 0), facts_of([impression(i, 1000 + i) for i in range(start, start + 1000)], start))
        merged = run.merger.take({(0, 0), (1, 0)})
        assert merged is not None
        for _ in run.pending.run(merged):
            pass
    assert len(run.pending._store.entries) <= 4096
    assert run.pending.pending == 110


records = st.builds(
    Record,
    st.sampled_from(["impression", "impression", "click", "click", "reject"]),
    st.integers(0, 12).map(str),
    st.integers(1000, 1120),
    st.sampled_from([0.0, 1.0, 2.5, -7.0]),
).map(lambda r: r._replace(ts=0) if r.kind == "reject" else r)


@st.composite
def streams(draw) -> dict[Lane, list[Record]]:
    """Impressions in lanes (0, *), clicks in lanes (1, *): out of order, repeated, orphaned."""
    lanes: dict[Lane, list[Record]] = {}
    for lane in ((0, 0), (0, 1), (1, 0), (1, 1)):
        wrong = "click" if lane[0] == 0 else "impression"
        lanes[lane] = [r for r in draw(st.lists(records, max_size=14)) if r.kind != wrong]
    return lanes


@settings(max_examples=400, deadline=None)
@given(
    streams(),
    st.integers(0, 40),
    st.integers(0, 20),
    st.sampled_from([3, 6, 10**6]),
    st.sampled_from(["zero", "skip"]),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.booleans()), max_size=40),
)
def test_any_batches_and_any_restarts_give_what_the_slow_twin_gives(
    lanes, window, grace, most, unclicked, script
) -> None:
    twin = Join(window, grace, most, unclicked == "zero")
    for key, record in merge(lanes):
        twin.record(key, record)

    run = Run(window, grace, most, unclicked)
    names = list(lanes)
    run.merger.assign(dict.fromkeys(names, 0))
    read = dict.fromkeys(names, 0)
    for which, size, restart in [*script, *((i, 99, False) for i in range(4))]:
        lane = names[which]
        part = lanes[lane][read[lane] : read[lane] + size]
        if part:
            run.merger.add(lane, facts_of(part, read[lane]))
            read[lane] += len(part)
        run.take({name for name in names if read[name] == len(lanes[name])})
        if restart:
            run.restart()
            read = dict(run.merger.offsets())
    assert run.operations == twin.operations
    assert {k: v for k, v in run.pending.counts().items() if v} == twin.counts
    assert run.pending.pending == len(twin.impressions)
    assert run.pending.waiting_clicks == len(twin.early)
    for batches, stream in ((run.pending.advance(1130), 1130), (run.pending.drain(), 10**9)):
        run.use(batches)
        twin.advance(stream)
        assert run.operations == twin.operations
