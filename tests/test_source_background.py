"""Read ahead by a thread: the same records in the same order, whatever is paused, sought, failing or closed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_fm.errors import OffsetGap, SourceError
from online_fm.source import background
from online_fm.source.background import BackgroundSource
from online_fm.source.memory import CrashError, MemorySource
from online_fm.source.port import RecordBatch, Source, TopicPartition

SIZES = {TopicPartition("impressions", 0): 60, TopicPartition("impressions", 1): 35, TopicPartition("clicks", 0): 9}
BUSY, OTHER, QUIET = SIZES
VALUES = {p: [b"%s/%d" % (str(p).encode(), i) for i in range(n)] for p, n in SIZES.items()}
AHEAD = 20


@pytest.fixture(autouse=True)
def small_steps(monkeypatch) -> None:
    """Few records at once, so that much happens between two of them."""
    monkeypatch.setattr(background, "FETCH_RECORDS", 7)
    monkeypatch.setattr(background, "WAIT_MS", 5)
    monkeypatch.setattr(background, "ROOM_S", 0.002)


@pytest.fixture
def ahead() -> Iterator[Callable[[Source], BackgroundSource]]:
    """Puts sources into the background, and closes them."""
    opened: list[BackgroundSource] = []

    def put(inner: Source) -> BackgroundSource:
        opened.append(BackgroundSource(lambda: inner, ahead_records=AHEAD))
        return opened[-1]

    yield put
    for source in opened:
        source.close()
    assert "source" not in {thread.name for thread in threading.enumerate()}


def flat(batch: RecordBatch) -> list[bytes]:
    return [value for records in batch.records for value in records.values]


def polled(source: Source, times: int = 60, paused: frozenset[TopicPartition] = frozenset()) -> list[bytes]:
    return [value for _ in range(times) for value in flat(source.poll(5, 0, paused))]


def up_to_the_crash(source: Source) -> list[bytes]:
    got: list[bytes] = []
    for _ in range(1000):
        try:
            got += flat(source.poll(4, 0))
        except CrashError:
            return got
    raise AssertionError("it did not come")


def until(what: Callable[[], object]) -> None:
    give_up_s = time.monotonic() + 10
    while not what():
        assert time.monotonic() < give_up_s, "it did not happen in time"
        time.sleep(0.001)


PARTITIONS = st.sampled_from(list(SIZES))
POLLS = st.tuples(st.integers(1, 30), st.frozensets(PARTITIONS))
SEEKS = st.fixed_dictionaries({p: st.integers(0, n) for p, n in SIZES.items()})


@settings(deadline=None, max_examples=60)
@given(st.lists(POLLS | SEEKS, max_size=25), st.booleans())
def test_each_record_comes_once_in_order_under_any_pauses_and_seeks(steps, slow) -> None:
    inner = MemorySource(VALUES)
    source = BackgroundSource(lambda: inner, ahead_records=AHEAD)
    expected = dict.fromkeys(SIZES, 0)
    for step in [*steps, *[(50, frozenset())] * 300]:
        if isinstance(step, dict):
            source.seek(step)
            expected = dict(step)
            assert source.positions() == expected
            continue
        if slow:
            time.sleep(0.001)  # time to read ahead
        batch = source.poll(step[0], 0, step[1])
        assert len(batch) <= step[0]
        for records in batch.records:
            first, n = expected[records.partition], len(records)
            assert records.partition not in step[1]
            assert records.offsets.tolist() == list(range(first, first + n))
            assert records.values == VALUES[records.partition][first : first + n]
            expected[records.partition] += n
        assert all(expected[p] == SIZES[p] for p in batch.at_end)
        assert source.positions() == expected
        assert source.lag() == {p: n - expected[p] for p, n in SIZES.items()}
        if batch.at_end == SIZES.keys():
            break
    assert expected == SIZES
    source.close()


def test_what_waits_is_bounded_and_a_partition_without_any_is_read_on(ahead) -> None:
    inner = MemorySource({BUSY: [b"%d" % i for i in range(1000)], QUIET: []})
    source = ahead(inner)
    flat(source.poll(1, 0))
    until(lambda: inner.positions()[BUSY] >= AHEAD)
    time.sleep(0.02)
    assert inner.positions()[BUSY] <= AHEAD + background.FETCH_RECORDS
    inner.append(QUIET, b"at last")
    until(lambda: inner.positions()[QUIET] == 1)
    assert flat(source.poll(5, 0, frozenset({BUSY}))) == [b"at last"]
    assert polled(source, 300) == [b"%d" % i for i in range(1, 1000)]


def test_large_records_are_bounded_by_their_bytes(ahead, monkeypatch) -> None:
    monkeypatch.setattr(background, "AHEAD_BYTES", 3000)
    inner = MemorySource({BUSY: [b"%1000d" % i for i in range(100)]})
    source = ahead(inner)
    source.poll(1, 0)
    time.sleep(0.02)
    assert inner.positions()[BUSY] <= 1 + 3 + background.FETCH_RECORDS
    assert len(polled(source)) == 99


def test_what_was_read_ahead_of_a_paused_partition_stays_and_keeps_it_from_its_end(ahead) -> None:
    inner = MemorySource(VALUES)
    source = ahead(inner)
    for _ in range(60):
        batch = source.poll(5, 0, frozenset({QUIET}))
        assert QUIET not in batch.at_end
    assert inner.lag()[QUIET] == 0
    assert (source.positions()[QUIET], source.lag()[QUIET]) == (0, SIZES[QUIET])
    assert batch.at_end == {BUSY, OTHER}
    assert polled(source, 3) == VALUES[QUIET]


def test_nothing_is_read_before_the_first_poll_and_nothing_stale_after_a_seek(ahead) -> None:
    inner = MemorySource(VALUES)
    source = ahead(inner)
    time.sleep(0.02)
    assert inner.polled == 0
    source.poll(5, 0)
    until(lambda: inner.polled > 10)
    source.seek({BUSY: 50, OTHER: 35, QUIET: 9})
    so_far = inner.polled
    time.sleep(0.02)
    assert inner.polled == so_far
    assert polled(source) == VALUES[BUSY][50:]


class Failing(MemorySource):
    """Every third poll fails, as it may."""

    polls = 0

    def poll(self, *arguments, **named) -> RecordBatch:
        self.polls += 1
        if self.polls % 3 == 0:
            raise SourceError("away")
        return super().poll(*arguments, **named)


def test_an_error_is_raised_in_its_place_and_reading_goes_on_after_it(ahead) -> None:
    source = ahead(Failing(VALUES))
    got: list[bytes] = []
    errors = 0
    while len(got) < sum(SIZES.values()):
        time.sleep(0.001)
        try:
            got += flat(source.poll(5, 0))
        except SourceError:
            errors += 1
    assert {p: [v for v in got if v.startswith(str(p).encode() + b"/")] for p in SIZES} == VALUES
    assert errors > 2


def test_the_records_before_an_error_are_given_first(ahead) -> None:
    source = ahead(MemorySource(VALUES, crash_at=23))
    assert len(up_to_the_crash(source)) == 23
    with pytest.raises(CrashError):
        source.poll(4, 0)


def test_records_that_stay_do_not_hide_an_error(ahead) -> None:
    source = ahead(MemorySource(VALUES, crash_at=23))
    paused = frozenset({BUSY})
    with pytest.raises(CrashError):
        polled(source, 60, paused)
    assert source.positions()[BUSY] == 0
    rest = up_to_the_crash(source)
    assert rest == VALUES[BUSY][: len(rest)]
    assert rest


def test_a_seek_forgets_an_error_and_its_own_is_raised_where_it_was_sought(ahead) -> None:
    inner = MemorySource(VALUES, crash_at=23)
    source = ahead(inner)
    source.poll(4, 0)
    until(lambda: inner.polled == 23)
    with pytest.raises(OffsetGap):
        source.seek({BUSY: 1000})
    inner._crash_at = None
    source.seek({BUSY: 55, OTHER: 35, QUIET: 9})
    assert polled(source) == VALUES[BUSY][55:]


class Watched:
    """A source that notes which threads touch it."""

    def __init__(self) -> None:
        self._inner, self.threads = MemorySource(VALUES), {threading.current_thread()}

    def __getattr__(self, name: str):
        self.threads.add(threading.current_thread())
        return getattr(self._inner, name)


def test_one_thread_makes_the_source_uses_it_and_closes_it() -> None:
    made = []

    def connect() -> Watched:
        made.append(Watched())
        return made[0]

    source = BackgroundSource(connect, ahead_records=AHEAD)
    polled(source, 5)
    source.seek({})
    polled(source, 5)
    source.commit({BUSY: 3})
    assert (source.partitions(), source.end_offsets(), source.names()) == (SIZES.keys(), SIZES, {})
    assert (source.lost, source.answering) == (0, True)
    source.close()
    assert made[0]._inner.committed == {BUSY: 3}
    assert made[0]._inner.closed
    assert len(made[0].threads) == 1
    assert threading.current_thread() not in made[0].threads


def test_a_source_that_cannot_be_made_is_told_and_leaves_no_thread() -> None:
    def connect() -> Source:
        raise SourceError("nobody is there")

    with pytest.raises(SourceError, match="nobody is there"):
        BackgroundSource(connect, ahead_records=AHEAD)
    until(lambda: "source" not in {thread.name for thread in threading.enumerate()})


@pytest.mark.parametrize("crash_at", [None, 0, 23])
def test_closing_ends_the_thread_whatever_happened_before(ahead, crash_at) -> None:
    inner = MemorySource(VALUES, crash_at=crash_at)
    source = ahead(inner)
    if crash_at != 0:
        source.poll(4, 0)
    source.close()
    assert inner.closed
    assert "source" not in {thread.name for thread in threading.enumerate()}
    for use in (lambda: source.poll(1, 0), lambda: source.seek({}), lambda: source.commit({})):
        with pytest.raises(SourceError, match="closed"):
            use()
    source.close()


def test_an_error_of_closing_is_told_once_and_the_thread_ends_all_the_same(ahead, monkeypatch) -> None:
    source = ahead(inner := MemorySource(VALUES))

    def close() -> None:
        raise SourceError("closing: away")

    monkeypatch.setattr(inner, "close", close)
    with pytest.raises(SourceError, match="away"):
        source.close()
    source.close()


class Blocking(MemorySource):
    """From `block` on, polls wait for `go`."""

    def __init__(self) -> None:
        super().__init__(VALUES)
        self.block, self.go = False, threading.Event()

    def poll(self, *arguments, **named) -> RecordBatch:
        if self.block:
            self.go.wait(10)
        return super().poll(*arguments, **named)


def test_an_end_that_was_seen_too_long_ago_is_no_end(ahead, monkeypatch) -> None:
    monkeypatch.setattr(background, "STALE_S", 0.03)
    inner = Blocking()
    source = ahead(inner)
    source.seek({BUSY: 50, OTHER: 35, QUIET: 9})
    source.poll(1, 0)
    until(lambda: inner.lag()[BUSY] == 0)
    inner.block = True
    assert source.poll(1, 0).at_end == {OTHER, QUIET}
    time.sleep(0.05)
    assert source.poll(1, 0).at_end == frozenset()
    inner.go.set()
    polled(source, 10)
    assert source.poll(1, 0).at_end == SIZES.keys()


def test_an_empty_batch_comes_after_a_look_and_not_before_its_time(ahead) -> None:
    inner = MemorySource({BUSY: []})
    source = ahead(inner)
    began_s = time.monotonic()
    assert source.poll(5, 50) == RecordBatch((), frozenset({BUSY}))
    assert 0.05 <= time.monotonic() - began_s < 1.0
    assert source.poll(5, 0).at_end == {BUSY}


def test_a_wait_that_a_signal_breaks_off_loses_nothing(ahead) -> None:
    inner = MemorySource({BUSY: []})
    source = ahead(inner)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        with pytest.raises(KeyboardInterrupt):
            source.poll(5, 10_000)
    finally:
        signal.signal(signal.SIGALRM, before)
    inner.append(BUSY, b"a", b"b")
    assert polled(source, 10) == [b"a", b"b"]
