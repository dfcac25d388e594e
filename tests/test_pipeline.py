"""The pipeline: a function of the records, whatever the batches, the cuts and the clock."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traffic import START_MS, fingerprint, pipeline, read_all, records, source

from online_fm.source.memory import MemorySource
from online_fm.source.port import TopicPartition
from online_fm.train.replay import replay


@pytest.fixture(scope="module")
def whole():
    learner = pipeline()
    read_all(learner, source())
    return fingerprint(learner)


def test_the_stream_has_every_kind_of_trouble(whole) -> None:
    _, counts, _ = whole
    for name in ("learned", "positives", "rejected", "duplicates", "orphans", "duplicate_clicks", "outside_window"):
        assert counts[name] > 0, name


@pytest.mark.parametrize("batch_records", [1, 7, 100, 100_000])
def test_batches_of_any_size_give_the_same_state_to_the_last_bit(whole, batch_records) -> None:
    learner = pipeline(batch_records=batch_records)
    read_all(learner, source(), batch_records)
    assert fingerprint(learner) == whole


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 300)), min_size=1, max_size=4))
def test_a_restart_at_any_cut_changes_nothing(whole, cuts) -> None:
    stream, learner = source(), pipeline()
    learner.assign(stream.positions())
    for steps, batch_records in cuts:
        for _ in range(steps // batch_records + 1):
            learner.step(stream.poll(batch_records, 0), now_ms=0)
        state = learner.state()
        stream, learner = source(), pipeline()
        learner.restore(state)
        stream.seek(learner.offsets())
    read_all(learner, stream)
    assert fingerprint(learner) == whole


def test_every_record_is_accounted_for(whole) -> None:
    _, n, _ = whole
    learner = pipeline()
    read_all(learner, source())
    read = sum(map(len, records().values()))
    assert n["read"] == read == n["impressions"] + n["clicks"] + n["rejected"]
    gone = n["learned"] + n["quarantined"] + n["duplicates"] + n["late"] + n["dropped"]
    assert n["impressions"] == gone + learner.pending
    learner.drain()
    n = learner.counts()
    assert learner.pending == learner.waiting_clicks == 0
    clicks = ("positives", "duplicate_clicks", "late_clicks", "outside_window", "orphans", "dropped_clicks")
    assert n["clicks"] == sum(n[name] for name in clicks)


def test_a_topic_that_is_read_a_day_behind_leaves_pending_rows_bounded_by_the_window() -> None:
    shown = [impression(i, START_MS + 1000 * i) for i in range(10_000)]
    clicks = [click(i, START_MS + 1000 * i + 500) for i in range(0, 10_000, 10)]
    a, b = TopicPartition("impressions", 0), TopicPartition("clicks", 0)
    stream = MemorySource({a: shown, b: clicks})
    learner = pipeline(batch_records=100)
    learner.assign(stream.positions())
    most = held = turn = 0
    while any(stream.lag().values()) or learner.waiting():
        turn += 1
        slow = {b} if turn % 100 else set()  # the clicks come at every hundredth look
        learner.step(stream.poll(101, 0, learner.ahead() | slow), now_ms=0)
        most, held = max(most, learner.pending), max(held, learner.waiting())
    assert turn > 1000
    assert most <= 26
    assert held <= 2 * (4 * 100 + 101)
    assert learner.counts()["positives"] == 1000 - 2


def test_a_quiet_night_closes_windows_by_the_clock() -> None:
    a, b = TopicPartition("impressions", 0), TopicPartition("clicks", 0)
    stream = MemorySource({a: [impression(1, START_MS)], b: []})
    learner = pipeline()
    learner.assign(stream.positions())
    learner.step(stream.poll(10, 0), now_ms=50_000)
    learner.step(stream.poll(10, 0), now_ms=50_000 + 24_999)
    assert learner.pending == 1
    learner.step(stream.poll(10, 0), now_ms=50_000 + 25_000)
    assert (learner.pending, learner.counts()["learned"]) == (0, 1)
    assert learner.stream_time_ms == START_MS + 25_000


def test_the_clock_moves_nothing_while_a_partition_has_more_to_read() -> None:
    a, b = TopicPartition("impressions", 0), TopicPartition("clicks", 0)
    stream = MemorySource({a: [impression(1, START_MS), impression(2, START_MS + 1)], b: []})
    learner = pipeline()
    learner.assign(stream.positions())
    learner.step(stream.poll(1, 0), now_ms=0)
    learner.step(stream.poll(1, 0, frozenset({a})), now_ms=10**9)
    assert (learner.pending, learner.stream_time_ms) == (1, START_MS)


def test_after_a_restart_the_night_goes_on_from_where_it_was() -> None:
    a, b = TopicPartition("impressions", 0), TopicPartition("clicks", 0)
    stream = MemorySource({a: [impression(1, START_MS)], b: []})
    learner = pipeline()
    learner.assign(stream.positions())
    learner.step(stream.poll(10, 0), now_ms=0)
    learner.step(stream.poll(10, 0), now_ms=20_000)
    state, learner = learner.state(), pipeline()
    learner.restore(state)
    learner.step(stream.poll(10, 0), now_ms=10**9)  # hours later: the first look only sets the clock
    assert learner.pending == 1
    learner.step(stream.poll(10, 0), now_ms=10**9 + 5_000)
    assert learner.pending == 0


def test_predictions_are_kept_from_the_moment_of_the_impression() -> None:
    learner = pipeline("join.window_s=1000000")
    read_all(learner, source())
    learner.drain()
    at_impression = learner.quality["impression"].since_start()
    learned = learner.quality["learning"].since_start()
    assert at_impression.log_loss == pytest.approx(math.log(2), abs=1e-3)  # nothing was learned before the drain
    assert learned.log_loss < at_impression.log_loss
    assert learned.examples == at_impression.examples == learner.counts()["learned"]


def test_the_served_score_is_judged_over_the_same_examples() -> None:
    learner = pipeline()
    read_all(learner, source())
    served, learned = learner.quality["served"].since_start(), learner.quality["learning"].since_start()
    assert served.examples == learned.examples
    assert served.log_loss < learned.log_loss


def test_an_example_that_would_break_the_model_is_quarantined() -> None:
    fields = 'features={"fields": [user, {kind: number, name: n}]}'
    learner = pipeline(fields)
    a, b = TopicPartition("impressions", 0), TopicPartition("clicks", 0)
    shown = [impression(i, START_MS + i, {"user": "u", "n": 1e30 if i == 5 else 1.0}) for i in range(10)]
    stream = MemorySource({a: shown, b: []})
    read_all(learner, stream)
    learner.drain()
    counts = learner.counts()
    assert (counts["learned"], counts["quarantined"]) == (9, 1)
    assert learner.quality["learning"].since_start().examples == 9
    without = pipeline(fields)
    read_all(without, MemorySource({a: shown[:5] + shown[6:], b: []}))
    without.drain()
    assert without.learner.state_hash() == learner.learner.state_hash()


def test_rejects_leave_in_order_with_their_coordinates_and_bytes() -> None:
    a, b = TopicPartition("impressions", 0), TopicPartition("clicks", 0)
    stream = MemorySource({a: [b"?", impression(1, START_MS), b"{}"], b: [b"[]"]}, timestamp_ms=START_MS)
    learner = pipeline()
    learner.assign(stream.positions())
    report = learner.step(stream.poll(10, 0), now_ms=0)
    letters = [(d.topic, d.partition, d.offset, d.timestamp, d.reason, d.value) for d in report.rejects]
    assert letters == [
        ("impressions", 0, 0, START_MS, "not_json", b"?"),
        ("impressions", 0, 2, START_MS, "no_id", b"{}"),
        ("clicks", 0, 0, START_MS, "not_an_object", b"[]"),
    ]
    assert report.read == {"impressions": 3, "clicks": 1}
    assert report.rejected == {
        ("impressions", "not_json"): 1,
        ("impressions", "no_id"): 1,
        ("clicks", "not_an_object"): 1,
    }
    assert learner.offsets() == {a: 3, b: 1}


def test_a_partition_that_appears_with_records_is_read_again_until_they_are_merged() -> None:
    a, b, new = TopicPartition("impressions", 0), TopicPartition("clicks", 0), TopicPartition("impressions", 1)
    stream = MemorySource({a: [impression(1, START_MS)] * 9, b: []})
    learner = pipeline()
    learner.assign(stream.positions())
    stream.append(new, *[impression(i, START_MS + i) for i in range(2, 9)])
    learner.step(stream.poll(4, 0), now_ms=0)  # two of each: `a` has more to come, so `new` waits
    assert stream.positions()[new] > 0
    assert learner.offsets()[new] == 0


def test_a_topic_that_is_neither_is_refused() -> None:
    with pytest.raises(ValueError, match="topic 'other' is neither"):
        pipeline().assign({TopicPartition("other", 0): 0})


def impression(ident: int, ts: int, features: dict[str, object] | None = None) -> bytes:
    return msgspec.json.encode({"impression_id": ident, "ts": ts, "features": features or {"user": f"u{ident % 5}"}})


def click(ident: int, ts: int, **more: object) -> bytes:
    return msgspec.json.encode({"impression_id": ident, "ts": ts, **more})


WATCHED = ("events.click={value: watched_s, scale: 0.01, clip: [0.0, 1.0]}",)


def watched() -> MemorySource:
    """Ten impressions; 0 to 4 were watched for 0, 40, 80, 120 and 160 s, the last one for a time that is not said."""
    a, b = TopicPartition("impressions", 0), TopicPartition("clicks", 0)
    clicks = [click(i, START_MS + i, watched_s=40 * i) for i in range(5)]
    shown = [impression(i, START_MS + i) for i in range(10)]
    return MemorySource({a: shown, b: [*clicks, click(9, START_MS + 9), click(0, START_MS + 9, watched_s=100)]})


def test_the_number_that_a_click_brings_is_the_label() -> None:
    learner = pipeline(*WATCHED)
    read_all(learner, watched())
    learner.drain()
    scores, counts = learner.quality["learning"].since_start(), learner.counts()
    assert scores.ctr == pytest.approx((0 + 0.4 + 0.8 + 1.0 + 1.0) / 10)
    assert (counts["learned"], counts["positives"], counts["duplicate_clicks"]) == (10, 5, 1)
    assert learner.rejected() == {"no_label": 1}


def test_rows_without_a_number_are_neither_learned_nor_judged_where_so_configured() -> None:
    learner = pipeline(*WATCHED, "join.unclicked=skip")
    read_all(learner, watched())
    learner.drain()
    scores, counts = learner.quality["learning"].since_start(), learner.counts()
    assert (scores.examples, scores.ctr) == (5, pytest.approx(3.2 / 5))
    assert (counts["impressions"], counts["learned"], counts["unclicked"], learner.pending) == (10, 5, 5, 0)


@pytest.mark.parametrize("steps", range(1, 17, 3))
def test_numbers_that_wait_survive_a_restart(steps) -> None:
    whole = pipeline(*WATCHED)
    read_all(whole, watched())
    whole.drain()
    stream, learner = watched(), pipeline(*WATCHED)
    learner.assign(stream.positions())
    for _ in range(steps):
        learner.step(stream.poll(1, 0), now_ms=0)
    state, learner, stream = learner.state(), pipeline(*WATCHED), watched()
    learner.restore(state)
    stream.seek(learner.offsets())
    read_all(learner, stream)
    learner.drain()
    assert fingerprint(learner) == fingerprint(whole)


def test_a_replay_of_a_stream_that_never_ends_stops_where_it_ended_at_the_start() -> None:
    class Endless(MemorySource):
        """Every look brings more than it takes."""

        def poll(self, *arguments):
            for partition in self.partitions():
                values = self.end_offsets()[partition]
                kind = impression if partition.topic == "impressions" else click
                self.append(partition, *[kind(values + i, START_MS + 1000 * (values + i)) for i in range(100)])
            return super().poll(*arguments)

    a, b = TopicPartition("impressions", 0), TopicPartition("clicks", 0)
    stream = Endless({a: [impression(i, START_MS + 1000 * i) for i in range(90)], b: [click(5, START_MS + 5000)]})
    result = replay(stream, pipeline(), batch_records=40, until=stream.end_offsets())
    assert (result["read"], result["impressions"], result["clicks"]) == (91, 90, 1)
    assert result["positives"] == 1
