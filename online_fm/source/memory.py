"""`MemorySource`: the fake of the port, records in lists, for the tests of whatever reads a source.

It keeps every promise of the port without a clock: `poll` never waits, its batches are fair between
partitions, `at_end` is exact. Beyond the port a test can append records, forget old ones as retention would,
crash the reader at a chosen record, and look at what was committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal

import numpy as np

from online_fm.errors import OffsetGap, SourceError
from online_fm.source.fair import shares
from online_fm.source.port import NO_TIMESTAMP, RecordBatch, Records, TopicPartition
from online_fm.source.values import Values

__all__ = ["CrashError", "MemorySource"]


class CrashError(Exception):
    """The crash that a test asked for; no part of online_fm's own error tree, so nothing catches it."""


class MemorySource:
    """Records from lists; a record's place in its list is its offset.

    records: the values per partition, all with the timestamp `timestamp_ms`. With `crash_at=n`, the poll
    after the n-th record raises `CrashError`; batches before it are cut so that exactly n records were given.
    `answering` is for a test to set; `committed` is what was last committed, `polled` how many records were given,
    `closed` if it is closed.
    """

    def __init__(
        self,
        records: Mapping[TopicPartition, Sequence[bytes]],
        *,
        timestamp_ms: int = NO_TIMESTAMP,
        crash_at: int | None = None,
        on_gap: Literal["stop", "accept"] = "stop",
    ) -> None:
        self._values: dict[TopicPartition, Values] = {}
        self._timestamps: dict[TopicPartition, list[int]] = {}
        self._first: dict[TopicPartition, int] = {}
        self._position: dict[TopicPartition, int] = {}
        self._crash_at, self._on_gap, self._turn, self._lost = crash_at, on_gap, 0, 0
        self.answering = True
        self.committed: dict[TopicPartition, int] = {}
        self.polled = 0
        self.closed = False
        for partition, values in records.items():
            self.append(partition, *values, timestamp_ms=timestamp_ms)

    def append(self, partition: TopicPartition, *values: bytes, timestamp_ms: int = NO_TIMESTAMP) -> None:
        """Add records to the end of a partition, which may be a new one."""
        self._first.setdefault(partition, 0)
        self._position.setdefault(partition, 0)
        before = self._values.get(partition, Values.of([]))
        self._values[partition] = Values.joined([before, Values.of(values)])
        self._timestamps.setdefault(partition, []).extend([timestamp_ms] * len(values))

    def forget(self, partition: TopicPartition, before: int) -> None:
        """Remove the records before this offset, as retention would."""
        self._first[partition] = max(self._first[partition], min(before, len(self._values[partition])))

    @property
    def lost(self) -> int:
        return self._lost

    def partitions(self) -> frozenset[TopicPartition]:
        return frozenset(self._values)

    def poll(
        self,
        max_records: int,
        timeout_ms: int,  # noqa: ARG002 - the port's; nothing is waited for
        paused: AbstractSet[TopicPartition] = frozenset(),
    ) -> RecordBatch:
        self._check_open()
        if self._crash_at is not None:
            if self.polled >= self._crash_at:
                raise CrashError(f"crash after {self.polled} records, as asked for")
            max_records = min(max_records, self._crash_at - self.polled)
        active = sorted(p for p in self._values if p not in paused)
        active = self._rotated(active)
        for partition in active:
            self._position[partition] = self._mind_the_gap(partition, self._position[partition])
        given = shares([self._remaining(p) for p in active], max_records)
        records = tuple(self._take(p, n) for p, n in zip(active, given, strict=True) if n)
        self.polled += sum(given)
        return RecordBatch(records, frozenset(p for p in self._values if self._remaining(p) == 0))

    def positions(self) -> dict[TopicPartition, int]:
        return dict(self._position)

    def end_offsets(self) -> dict[TopicPartition, int]:
        return {p: len(values) for p, values in self._values.items()}

    def lag(self) -> dict[TopicPartition, int]:
        return {p: self._remaining(p) for p in self._values}

    def names(self) -> dict[TopicPartition, str]:
        return {}

    def seek(self, offsets: Mapping[TopicPartition, int], names: Mapping[TopicPartition, str] = {}) -> None:  # noqa: ARG002 - nothing here can change its name
        self._check_open()
        for partition in sorted(offsets.keys() - self._values.keys()):
            if offsets[partition] > 0 and self._on_gap == "stop":
                raise OffsetGap(str(partition), offsets[partition], 0, 0)
        moved = {p: self._mind_the_gap(p, offsets.get(p, self._first[p])) for p in self._values}
        self._position = moved

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._check_open()
        self.committed.update(offsets)

    def close(self) -> None:
        self.closed = True

    def _check_open(self) -> None:
        if self.closed:
            raise SourceError("the source is closed")

    def _remaining(self, partition: TopicPartition) -> int:
        return len(self._values[partition]) - self._position[partition]

    def _rotated(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        if not partitions:
            return partitions
        turn = self._turn % len(partitions)
        self._turn += 1
        return partitions[turn:] + partitions[:turn]

    def _mind_the_gap(self, partition: TopicPartition, offset: int) -> int:
        first, end = self._first[partition], len(self._values[partition])
        if first <= offset <= end:
            return offset
        if self._on_gap == "stop":
            raise OffsetGap(str(partition), offset, first, end)
        self._lost += max(0, first - offset)
        return first

    def _take(self, partition: TopicPartition, n: int) -> Records:
        start = self._position[partition]
        self._position[partition] = start + n
        return Records(
            partition,
            np.arange(start, start + n, dtype=np.int64),
            np.array(self._timestamps[partition][start : start + n], np.int64),
            self._values[partition][start : start + n],
        )
