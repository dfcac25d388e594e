"""`KafkaSource`: all partitions of both topics, whichever client talks to the brokers.

Invariant: between two seeks each record is given once, in the order of its partition; a partition is named in
`at_end` only while the brokers answer, and only up to an end offset that they gave at most `FRESH_S` ago.

- Partitions are assigned by hand: one worker reads all of them, so nothing is ever rebalanced. The group serves
  commits only. New partitions are looked for every `LOOK_S`, and begin at their first offset.
- What a client has fetched waits in queues here, so that batches are fair and exact in number, and pausing costs
  nothing. A queue of more than `QUEUE_BYTES` pauses its partition at the client.
- An outage is silence: `poll` gives empty batches without `at_end`, so event time stands still until the brokers
  are back. Without that, windows would close while their clicks wait in the producers. Whatever `poll` asks of the
  client may fail so; it is asked again later, and `answering` tells.
- A partition that answering brokers do not know for `GONE_S` was deleted: an error, for nobody is told otherwise.
- End offsets are those of the isolation level (the last stable ones for `read_committed`). A client passes over
  the control records of transactions, so a partition that ends in them is read to its end all the same.
- A client that gives nothing for `STALL_S` of polling although records wait is replaced by a new one.
- A gap that is accepted goes on at the first offset. `lost` counts the offsets between; of a topic that was made
  anew, whose old records cannot be known, it counts none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress

from online_fm.errors import OffsetGap, SourceError
from online_fm.source.client import Client, OutOfRangeError
from online_fm.source.config import KafkaConfig
from online_fm.source.port import RecordBatch, Records, TopicPartition
from online_fm.source.prefetch import Prefetch

__all__ = ["KafkaSource"]

FETCH_RECORDS = 2000  # kafka-python gives 500 to 2000 at once up to twice as fast as 5000
FETCH_MS = 500  # a signal does not cut a client's wait short
FRESH_S = 0.02  # at most 50 questions a second for end offsets, 2 % of a core
ENDS_S = 1.0  # how old end offsets may get for the lag, and the pause after a failed question
LOOK_S = 30.0  # for new partitions
LOOK_MISSING_S = 1.0  # for a topic that does not exist yet
STALL_S = 30.0
GONE_S = 10.0  # a broker that has just started may not know all of its topics yet
BACKOFF_S = 0.05
QUEUE_BYTES = 4 << 20  # some 7,000 events of 600 bytes per partition


class KafkaSource:
    """The port `Source` on Kafka; `connect` makes a client, and does so again when one has to be replaced."""

    def __init__(self, config: KafkaConfig, connect: Callable[[], Client], *, stall_s: float = STALL_S) -> None:
        self._config, self._connect, self._stall_s = config, connect, stall_s
        self._topics = (config.impressions, config.clicks)
        self._queues = Prefetch()
        self._fetched: dict[TopicPartition, int] = {}  # the next offset to fetch
        self._ends: dict[TopicPartition, int] = {}
        self._parked: set[TopicPartition] = set()  # paused at the client: their queue is full
        self._gone: dict[TopicPartition, float] = {}  # unknown to the brokers since
        self._gap: TopicPartition | None = None  # reached, and not understood yet
        self._assigned = self._fetch_failed = False
        self._failed_at = self._answered_at = self._looked_at = self._passed_at = float("-inf")
        self._stalled_s, self._lost, self._replaced, self._closed = 0.0, 0, 0, False
        self._client = connect()
        try:
            self.seek({})
        except BaseException:
            self.close()
            raise

    @property
    def lost(self) -> int:
        return self._lost

    @property
    def answering(self) -> bool:
        return not (self._unanswered or self._fetch_failed)

    @property
    def replaced(self) -> int:
        """How often a client that had stalled was replaced."""
        return self._replaced

    def partitions(self) -> frozenset[TopicPartition]:
        return frozenset(self._fetched)

    def names(self) -> dict[TopicPartition, str]:
        return {}

    def poll(self, max_records: int, timeout_ms: int, paused: AbstractSet[TopicPartition] = frozenset()) -> RecordBatch:
        self._check_open()
        self._look_for_partitions()
        self._fill(max_records, timeout_ms, paused)
        records = self._queues.take(max_records, paused)
        self._unpark()
        return RecordBatch(records, self._at_end())

    def positions(self) -> dict[TopicPartition, int]:
        return {p: self._position(p) for p in self._fetched}

    def end_offsets(self) -> dict[TopicPartition, int]:
        return {p: max(self._ends.get(p, 0), fetched) for p, fetched in self._fetched.items()}

    def lag(self) -> dict[TopicPartition, int]:
        return {p: end - self._position(p) for p, end in self.end_offsets().items()}

    def seek(self, offsets: Mapping[TopicPartition, int], names: Mapping[TopicPartition, str] = {}) -> None:  # noqa: ARG002 - a topic's partitions are its numbers
        self._check_open()
        first, end = self._bounds(self._client.partitions(self._topics))
        self._looked_at = self._answered_at = time.monotonic()
        known = first.keys() & end.keys()
        for partition in sorted(offsets.keys() - known):
            if offsets[partition] > 0 and self._config.on_gap == "stop":
                raise OffsetGap(str(partition), offsets[partition], 0, 0)
        begin = end if self._config.start == "latest" and not offsets else first
        self._fetched = {p: self._inside(p, offsets.get(p, begin[p]), first[p], end[p]) for p in known}
        self._queues.clear()
        self._gone.clear()
        self._gap, self._fetch_failed = None, False
        self._assign()

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._check_open()
        if offsets:
            self._client.commit(offsets)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._client.close()

    @property
    def _unanswered(self) -> bool:
        """Whether a question failed after the last answer about end offsets: the brokers are away."""
        return self._failed_at > self._answered_at

    @contextmanager
    def _silence(self) -> Iterator[None]:
        """Within `poll` a failure that may pass ends the block, and nothing else."""
        try:
            yield
        except SourceError as exc:
            if not exc.retriable:
                raise
            self._failed_at = time.monotonic()

    def _check_open(self) -> None:
        if self._closed:
            raise SourceError("the source is closed")

    def _position(self, partition: TopicPartition) -> int:
        head = self._queues.head(partition)
        return self._fetched[partition] if head is None else head

    def _bounds(
        self, partitions: AbstractSet[TopicPartition]
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        first, end = self._client.first_offsets(partitions), self._client.end_offsets(partitions)
        self._ends.update(end)
        return first, end

    def _inside(self, partition: TopicPartition, offset: int, first: int, end: int) -> int:
        if first <= offset <= end:
            return offset
        if self._config.on_gap == "stop":
            raise OffsetGap(str(partition), offset, first, end)
        self._lost += max(0, first - offset)
        return first

    def _assign(self) -> None:
        self._assigned = False
        self._parked.clear()
        self._stalled_s = 0.0
        self._client.assign(self._fetched)
        self._assigned = True

    def _look_for_partitions(self) -> None:
        there = {p.topic for p in self._fetched}
        every_s = LOOK_S if there.issuperset(self._topics) else LOOK_MISSING_S
        if time.monotonic() - self._looked_at < every_s or self._unanswered:
            return
        self._looked_at = time.monotonic()
        with self._silence():
            new = self._client.partitions(self._topics) - self._fetched.keys()
            if new:
                self._fetched.update(self._bounds(new)[0])
                self._assigned = False

    def _fill(self, max_records: int, timeout_ms: int, paused: AbstractSet[TopicPartition]) -> None:
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            available = self._queues.available(paused)
            left_s = deadline - time.monotonic()
            if available >= max_records:
                return
            came = self._fetch(0.0 if available else max(0.0, left_s))
            if not came and (available or left_s <= 0):
                return

    def _fetch(self, wait_s: float) -> bool:
        if not self._fetched:
            time.sleep(min(wait_s, LOOK_MISSING_S))
            return False
        started = time.monotonic()
        chunks = self._chunks(wait_s)
        for chunk in chunks:
            self._queues.add(chunk)
            self._fetched[chunk.partition] = int(chunk.offsets[-1]) + 1
            self._park(chunk.partition)
        self._watch(bool(chunks), time.monotonic() - started)
        return bool(chunks)

    def _chunks(self, wait_s: float) -> list[Records]:
        """What the client gives; nothing, after a short wait, where it cannot."""
        if self._ready():
            try:
                chunks = self._client.fetch(FETCH_RECORDS, min(FETCH_MS, round(wait_s * 1000)))
            except OutOfRangeError as exc:
                self._gap = exc.partition
            except SourceError as exc:
                if not exc.retriable:
                    raise
                self._fetch_failed = True
            else:
                self._fetch_failed = False
                return chunks
        time.sleep(min(wait_s, BACKOFF_S))
        return []

    def _ready(self) -> bool:
        """Do what an outage may have left undone; say whether the client can be asked for records."""
        with self._silence():
            if self._gap is not None:
                self._go_on_from_gap(self._gap)
            if not self._assigned:
                self._assign()
        return self._gap is None and self._assigned

    def _go_on_from_gap(self, partition: TopicPartition) -> None:
        first, end = self._bounds({partition})
        if partition in first and partition in end:
            offset = self._fetched[partition]
            self._fetched[partition] = self._inside(partition, offset, first[partition], end[partition])
            self._gap, self._assigned = None, False

    def _park(self, partition: TopicPartition) -> None:
        if partition not in self._parked and self._queues.size_bytes(partition) > QUEUE_BYTES:
            with self._silence():
                self._client.pause(partition)
                self._parked.add(partition)

    def _unpark(self) -> None:
        for partition in [p for p in self._parked if self._queues.size_bytes(p) <= QUEUE_BYTES // 2]:
            with self._silence():
                self._client.resume(partition)
                self._parked.discard(partition)

    def _at_end(self) -> frozenset[TopicPartition]:
        self._pass_over()
        age_s = time.monotonic() - self._answered_at
        if age_s > ENDS_S or (age_s > FRESH_S and self._caught_up()):
            self._ask_for_ends()
        if time.monotonic() - self._answered_at > FRESH_S:
            return frozenset()
        return frozenset(self._caught_up())

    def _caught_up(self) -> list[TopicPartition]:
        return [p for p in self._fetched if not self._queues.count(p) and not self._behind(p)]

    def _behind(self, partition: TopicPartition) -> bool:
        end = self._ends.get(partition)
        return end is None or self._fetched[partition] < end

    def _pass_over(self) -> None:
        """Learn from the client where it has come to behind records that are never given."""
        now = time.monotonic()
        if now - self._passed_at < FRESH_S or self._unanswered or not self._assigned:
            return
        self._passed_at = now
        with self._silence():
            for partition, fetched in self._fetched.items():
                if self._behind(partition) and not self._queues.count(partition):
                    self._fetched[partition] = max(fetched, self._client.position(partition))

    def _ask_for_ends(self) -> None:
        """Ask the brokers where the partitions end; after a failure, not again for `ENDS_S`."""
        if not self._fetched or (self._unanswered and time.monotonic() - self._failed_at < ENDS_S):
            return
        with self._silence():
            ends = self._client.end_offsets(self._fetched)
            self._answered_at = time.monotonic()
            self._ends.update(ends)
            self._mind_the_gone(self._fetched.keys() - ends.keys())

    def _mind_the_gone(self, gone: AbstractSet[TopicPartition]) -> None:
        now = time.monotonic()
        self._gone = {p: self._gone.get(p, now) for p in gone}
        for partition, since in self._gone.items():
            self._ends.pop(partition, None)  # so that it is not at its end
            if now - since >= GONE_S:
                error = SourceError(
                    f"{partition}: is gone, for the brokers know it no more",
                    hint="was its topic deleted? With source.on_gap 'accept' a restart goes on without it",
                )
                error.retriable = False
                raise error

    def _watch(self, came: bool, elapsed_s: float) -> None:
        """Replace the client when records wait at the brokers, which answer, and none has come for long."""
        waiting = any(self._behind(p) for p in self._fetched if p not in self._parked)
        if came or not waiting:
            self._stalled_s = 0.0
        if came or not waiting or self._unanswered:
            return
        self._stalled_s += elapsed_s
        if self._stalled_s < self._stall_s:
            return
        self._stalled_s = 0.0
        self._replace_client()

    def _replace_client(self) -> None:
        with self._silence():
            fresh = self._connect()
            try:
                fresh.partitions(self._topics)  # so that it has met the brokers before the old one goes
            except BaseException:
                _let_go(fresh)
                raise
            stalled, self._client = self._client, fresh
            self._replaced += 1
            self._assigned = False
            _let_go(stalled)


def _let_go(client: Client) -> None:
    with suppress(SourceError):
        client.close()
