"""The port `Source`: batches of records with their coordinates.

Invariant: within a partition, records come in the order of their offsets, each once between two seeks. A
record is `(topic, partition, offset, timestamp in ms, value bytes)`; a batch holds them as columns, one `Records`
per partition. `at_end` names the partitions that were read up to their end offset when the batch was made: these
do not hold back the merge by event time (KIP-353, KIP-695).
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from online_fm.source.values import Values

__all__ = ["NO_TIMESTAMP", "RecordBatch", "Records", "Source", "TopicPartition"]

NO_TIMESTAMP = -1


class TopicPartition(NamedTuple):
    """A partition's name; `str()` gives `topic-partition`."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


@dataclass(frozen=True, slots=True)
class Records:
    """Consecutive records of one partition.

    offsets i64[n]; timestamps i64[n], ms since the epoch, the record's own (`NO_TIMESTAMP` where it has
    none); values, n of them (a Kafka tombstone is `b""`).
    """

    partition: TopicPartition
    offsets: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    values: Values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: slice) -> Records:
        """Some of them, as views."""
        return Records(self.partition, self.offsets[part], self.timestamps[part], self.values[part])


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """What one poll gave, and which partitions were then read to their end."""

    records: tuple[Records, ...]
    at_end: frozenset[TopicPartition]

    def __len__(self) -> int:
        return sum(map(len, self.records))


class Source(Protocol):
    """A set of partitions of two topics, read by one worker.

    Every method raises `SourceError` for what the outside does; `poll` and `seek` raise `OffsetGap` where the
    next record is gone, unless the configuration accepts the loss, which `lost` then counts.
    """

    @property
    def lost(self) -> int:
        """Records that retention removed before they were read; only where the configuration accepts this."""

    @property
    def answering(self) -> bool:
        """Whether who holds the records answers; while not, polls are empty and name no partition at its end."""

    def partitions(self) -> frozenset[TopicPartition]:
        """All partitions of both topics, as known now; may grow."""

    def names(self) -> dict[TopicPartition, str]:
        """What each partition is called outside, where this can change under its number: a file's name."""

    def poll(self, max_records: int, timeout_ms: int, paused: AbstractSet[TopicPartition] = frozenset()) -> RecordBatch:
        """At most `max_records` records, none of a `paused` partition; empty after `timeout_ms` without one."""

    def positions(self) -> dict[TopicPartition, int]:
        """The offset that the next poll reads, per partition."""

    def end_offsets(self) -> dict[TopicPartition, int]:
        """The offset after the last record that is known of, per partition."""

    def lag(self) -> dict[TopicPartition, int]:
        """Records known of and not polled yet, per partition."""

    def seek(self, offsets: Mapping[TopicPartition, int], names: Mapping[TopicPartition, str] = {}) -> None:
        """Read on from these offsets, as they were stored together with the `names` of that time.

        Without offsets, at a first start, partitions begin as the configuration says. With some, a partition that
        they do not name was made meanwhile and begins at its first record; one that is gone is a gap, unless none of
        it was read. A partition that was read and had another name is an error, unless gaps are accepted: then
        it begins at its first record.
        """

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Tell the outside what has been learned, for its monitoring; a checkpoint's offsets win at start."""

    def close(self) -> None:
        """Let go of files and connections; twice does no harm."""
