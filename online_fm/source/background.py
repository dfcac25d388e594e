"""`BackgroundSource`: a source that a thread of its own reads ahead, while what it gave before is learned.

Invariant: one thread touches the inner source, from making it to closing it; clients need not be safe for several.
Whoever polls gets the same records in the same order as from the inner source, each once, and sees none of the rest:

- Positions and lag are those of what was given, not of what was read ahead. After `seek` nothing comes that was read
  before it; reading ahead begins with the first poll after it, so that a start reads nothing twice.
- What was read ahead of a paused partition stays. It is then not named in `at_end`, as nothing is that waits here.
- `at_end` is what the inner source said when it was last looked at. Where that was over `STALE_S` ago, as when the
  brokers have gone, no partition is named. An empty batch is given right after a look, never later.
- An error of the inner poll is raised once the records before it were given; then reading goes on, as the inner
  source does.
- `seek` and `commit` are carried to the thread, and wait for the poll that is in flight, at most some `WAIT_MS`.
- What waits is bounded over all partitions, in records and in bytes. Where the bound is reached, a partition with more
  than its share is not read on; one that nothing waits of always is, since the merge may wait for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from threading import Condition, Thread
from typing import NamedTuple

from online_fm.errors import SourceError
from online_fm.source.port import RecordBatch, Source, TopicPartition
from online_fm.source.prefetch import Prefetch

__all__ = ["BackgroundSource"]

FETCH_RECORDS = 2000  # what is read at once: the first records are learned while more are read
WAIT_MS = 100  # how long a poll of the inner source waits for records, and a call for that poll
ROOM_S = 0.02  # between looks at the other partitions while one waits for room
STALE_S = 0.1
AHEAD_BYTES = 64 << 20


class Seen(NamedTuple):
    """What the inner source said after it was last asked."""

    partitions: frozenset[TopicPartition]
    names: dict[TopicPartition, str]
    positions: dict[TopicPartition, int]
    ends: dict[TopicPartition, int]
    answering: bool
    lost: int


class BackgroundSource:
    """The port `Source` around another one, which `connect` makes; what `connect` raises is raised here.

    ahead_records: how many records may wait, about; somewhat more where they are of many partitions.
    """

    def __init__(self, connect: Callable[[], Source], *, ahead_records: int) -> None:
        self._ahead_records = ahead_records
        self._changed = Condition()  # guards all that follows
        self._queues = Prefetch()
        self._at_end: frozenset[TopicPartition] = frozenset()
        self._looked_s, self._looks, self._came = float("-inf"), 0, False
        self._calls: list[Callable[[Source], None]] = []
        self._error: BaseException | None = None
        self._reading = self._closed = False
        connected: Future[Seen] = Future()
        self._thread = Thread(target=self._run, args=(connect, connected), name="source", daemon=True)
        self._thread.start()
        self._seen = connected.result()

    @property
    def lost(self) -> int:
        return self._seen.lost

    @property
    def answering(self) -> bool:
        return self._seen.answering

    def partitions(self) -> frozenset[TopicPartition]:
        return self._seen.partitions

    def names(self) -> dict[TopicPartition, str]:
        return dict(self._seen.names)

    def poll(self, max_records: int, timeout_ms: int, paused: AbstractSet[TopicPartition] = frozenset()) -> RecordBatch:
        deadline_s = time.monotonic() + timeout_ms / 1000
        with self._changed:
            self._reading = True
            self._changed.notify_all()
            looks = self._looks
            while not self._available(paused):
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 and self._looks > looks:
                    break
                self._changed.wait(left_s if left_s > 0 else None)
            records = self._queues.take(max_records, paused)
            self._changed.notify_all()
            return RecordBatch(records, self._ended())

    def positions(self) -> dict[TopicPartition, int]:
        with self._changed:
            heads = {p: self._queues.head(p) for p in self._seen.positions}
            return {p: at if (head := heads[p]) is None else head for p, at in self._seen.positions.items()}

    def end_offsets(self) -> dict[TopicPartition, int]:
        return dict(self._seen.ends)

    def lag(self) -> dict[TopicPartition, int]:
        with self._changed:
            positions = self.positions()
            return {p: end - positions[p] for p, end in self._seen.ends.items()}

    def seek(self, offsets: Mapping[TopicPartition, int], names: Mapping[TopicPartition, str] = {}) -> None:
        self._ask(lambda inner: self._seek(inner, offsets, names))

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._ask(lambda inner: inner.commit(offsets))

    def close(self) -> None:
        if self._closed:
            return
        try:
            self._ask(lambda inner: inner.close())
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            self._thread.join()

    def _check_open(self) -> None:
        if self._closed:
            raise SourceError("the source is closed")

    def _available(self, paused: AbstractSet[TopicPartition]) -> int:
        """How many records can be given now; raises the error that follows them once there are none."""
        self._check_open()
        n = self._queues.available(paused)
        if not n and self._error is not None:
            error, self._error = self._error, None
            raise error
        return n

    def _ended(self) -> frozenset[TopicPartition]:
        if time.monotonic() - self._looked_s > STALE_S:
            return frozenset()
        return frozenset(p for p in self._at_end if not self._queues.count(p))

    def _ask(self, question: Callable[[Source], None]) -> None:
        """Have the thread do something between two polls, and wait until it is done."""
        answer: Future[None] = Future()

        def call(inner: Source) -> None:
            try:
                question(inner)
            except BaseException as problem:  # noqa: BLE001 - raised where it was asked
                answer.set_exception(problem)
            else:
                answer.set_result(None)

        with self._changed:
            self._check_open()
            self._calls.append(call)
            self._changed.notify_all()
        answer.result()

    # The thread's own: nothing below is called by another one.

    def _run(self, connect: Callable[[], Source], connected: Future[Seen]) -> None:
        try:
            inner = connect()
            connected.set_result(_seen(inner))
        except BaseException as problem:  # noqa: BLE001 - raised where the source is made
            connected.set_exception(problem)
            return
        while self._turn(inner):
            pass

    def _turn(self, inner: Source) -> bool:
        """Do what was asked, or else read on; false once the source is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._called or (self._reading and self._error is None))
            if not self._came and self._full():
                self._changed.wait_for(lambda: self._called or not self._full(), ROOM_S)
            calls, self._calls = self._calls, []
            closed, full = self._closed, self._full()
        for call in calls:
            call(inner)
        if not calls and not closed:
            self._look(inner, full)
        return not closed

    @property
    def _called(self) -> bool:
        return self._closed or bool(self._calls)

    def _full(self) -> frozenset[TopicPartition]:
        """Partitions that wait for room: what waits is too much, and they have more than their share of it."""
        loads = {p: self._load(p) for p in self._seen.partitions}
        return frozenset(p for p, load in loads.items() if load * len(loads) >= 1.0 <= sum(loads.values()))

    def _load(self, partition: TopicPartition) -> float:
        """The part of the bound that waits of a partition: of records or of bytes, whichever is more."""
        queues = self._queues
        return max(queues.count(partition) / self._ahead_records, queues.size_bytes(partition) / AHEAD_BYTES)

    def _look(self, inner: Source, full: frozenset[TopicPartition]) -> None:
        """Read on, and make known what came."""
        error: BaseException | None = None
        try:
            batch = inner.poll(FETCH_RECORDS, 0 if full else WAIT_MS, full)
            seen = _seen(inner)
        except BaseException as problem:  # noqa: BLE001 - raised where it is polled
            batch, seen, error = RecordBatch((), frozenset()), self._seen, problem
        with self._changed:
            for records in batch.records:
                self._queues.add(records)
            self._seen, self._at_end, self._came = seen, batch.at_end, bool(batch.records)
            self._error = error
            self._looked_s, self._looks = time.monotonic(), self._looks + 1
            self._changed.notify_all()

    def _seek(self, inner: Source, offsets: Mapping[TopicPartition, int], names: Mapping[TopicPartition, str]) -> None:
        inner.seek(offsets, names)
        with self._changed:
            self._queues.clear()
            self._seen, self._at_end = _seen(inner), frozenset()
            self._reading, self._error = False, None


def _seen(inner: Source) -> Seen:
    return Seen(inner.partitions(), inner.names(), inner.positions(), inner.end_offsets(), inner.answering, inner.lost)
