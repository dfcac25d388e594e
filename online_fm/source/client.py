"""The port `Client`: one connection to a Kafka cluster, by whichever library.

Invariant: a client reads what it was assigned and remembers nothing else; what was fetched, queued and lost is the
business of `KafkaSource`. Times in ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from online_fm.source.port import Records, TopicPartition

__all__ = ["Client", "OutOfRangeError"]


class OutOfRangeError(Exception):
    """A client's word for: the next offset of this partition is not there."""

    def __init__(self, partition: TopicPartition) -> None:
        super().__init__(str(partition))
        self.partition = partition


class Client(Protocol):
    """What a Kafka client must do.

    Whatever goes wrong outside is a `SourceError`, retriable where it may pass; `fetch` also raises `OutOfRangeError`.
    The questions for offsets answer for those partitions that the brokers know.
    """

    def partitions(self, topics: Sequence[str]) -> frozenset[TopicPartition]:
        """The partitions of those topics that exist."""

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Fetch these partitions, and no others, from these offsets on; none is paused."""

    def fetch(self, max_records: int, timeout_ms: int) -> list[Records]:
        """Records as soon as there are some; nothing after the timeout, or while the brokers are away."""

    def position(self, partition: TopicPartition) -> int:
        """The next offset to fetch, behind control records that were passed over."""

    def first_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]: ...

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]: ...

    def pause(self, partition: TopicPartition) -> None: ...

    def resume(self, partition: TopicPartition) -> None: ...

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None: ...

    def close(self) -> None: ...
