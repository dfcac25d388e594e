"""Records that a client has fetched and nobody has polled: one queue per partition.

Invariant: records leave a partition's queue in the order in which they came, each once. `take` is fair between
the partitions that have records, and exact in number. What is queued of a paused partition stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set as AbstractSet

import numpy as np

from online_fm.source.fair import shares
from online_fm.source.port import Records, TopicPartition
from online_fm.source.values import Values

__all__ = ["Prefetch"]


class Prefetch:
    """Queues of records, filled by chunks and emptied by batches."""

    def __init__(self) -> None:
        self._chunks: dict[TopicPartition, deque[Records]] = {}
        self._count: dict[TopicPartition, int] = {}
        self._bytes: dict[TopicPartition, int] = {}
        self._turn = 0

    def add(self, chunk: Records) -> None:
        """Append the chunk, which has at least one record, to its partition's queue."""
        partition = chunk.partition
        self._chunks.setdefault(partition, deque()).append(chunk)
        self._count[partition] = self._count.get(partition, 0) + len(chunk)
        self._bytes[partition] = self._bytes.get(partition, 0) + chunk.values.size_bytes

    def count(self, partition: TopicPartition) -> int:
        """How many records of the partition are queued."""
        return self._count.get(partition, 0)

    def size_bytes(self, partition: TopicPartition) -> int:
        """The values that are queued of the partition, in bytes."""
        return self._bytes.get(partition, 0)

    def available(self, paused: AbstractSet[TopicPartition]) -> int:
        """How many records `take` could give."""
        return sum(n for partition, n in self._count.items() if partition not in paused)

    def head(self, partition: TopicPartition) -> int | None:
        """The offset of the record that leaves next."""
        chunks = self._chunks.get(partition)
        return int(chunks[0].offsets[0]) if chunks else None

    def take(self, max_records: int, paused: AbstractSet[TopicPartition]) -> tuple[Records, ...]:
        """At most `max_records` records of the partitions that are not paused, in fair shares."""
        ready = sorted(p for p, n in self._count.items() if n and p not in paused)
        if not ready:
            return ()
        turn = self._turn % len(ready)
        self._turn += 1
        ready = ready[turn:] + ready[:turn]
        given = shares([self._count[p] for p in ready], max_records)
        return tuple(self._take(p, n) for p, n in zip(ready, given, strict=True) if n)

    def clear(self) -> None:
        """Forget everything that is queued."""
        self._chunks.clear()
        self._count.clear()
        self._bytes.clear()

    def _take(self, partition: TopicPartition, n: int) -> Records:
        chunks, parts, missing = self._chunks[partition], [], n
        while missing:
            chunk = chunks.popleft()
            if len(chunk) > missing:
                chunks.appendleft(chunk[missing:])
                chunk = chunk[:missing]
            parts.append(chunk)
            missing -= len(chunk)
        taken = parts[0] if len(parts) == 1 else _joined(parts)
        self._count[partition] -= n
        self._bytes[partition] -= taken.values.size_bytes
        return taken


def _joined(chunks: list[Records]) -> Records:
    return Records(
        chunks[0].partition,
        np.concatenate([c.offsets for c in chunks]),
        np.concatenate([c.timestamps for c in chunks]),
        Values.joined([c.values for c in chunks]),
    )
