"""The client of `KafkaSource` on kafka-python 3: pure Python, always installed.

Invariant: no exception of kafka-python leaves this module. `poll` is called for at most 2,000 records and 500 ms
at a time; it blocks no longer while the brokers are away, and goes on by itself when they are back.

The defaults below are what makes it survive a broker restart: with kafka-python's own, a commit blocks for 20 s
and more, and reconnecting backs off up to 30 s. Topics and offsets are asked for by an admin client: on the
consumer's connection the answer would wait behind a fetch that waits for records. There is one fetch at a time per
broker, so one that waits for an idle topic holds up a busy one too: it waits 100 ms, not 500 (twice the throughput
of a backlog beside an idle topic).

A partition is paused by no longer being assigned, and resumed where it was. kafka-python 3.0's own `pause` sets what it
has fetched of the partition aside, and finds it again only if it happens to hold nothing of any other.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import kafka
import numpy as np
from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient
from kafka.protocol.consumer import OffsetSpec
from kafka.structs import OffsetAndMetadata

from online_fm.errors import ConfigError, SourceError
from online_fm.source.client import OutOfRangeError
from online_fm.source.config import KafkaPythonConfig, reveal
from online_fm.source.port import Records, TopicPartition
from online_fm.source.values import Values

__all__ = ["KafkaPythonClient", "connected", "translated"]

C = TypeVar("C")
"""A class of client."""

COMMIT_MS = 2000
ASK_MS = 2000
DEFAULTS: dict[str, Any] = {
    "bootstrap_timeout_ms": 10_000,
    "fetch_max_wait_ms": 100,
    "reconnect_backoff_max_ms": 1000,
    "metadata_max_age_ms": 30_000,
    "request_timeout_ms": 10_000,
    "client_id": "online-fm",
}


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what kafka-python and its sockets raise into `SourceError`."""
    try:
        yield
    except kafka_errors.KafkaError as exc:
        error = SourceError(f"{doing}: {exc}")
        # a partition has no leader, named -1, while brokers come and go
        error.retriable = exc.retriable or isinstance(exc, kafka_errors.UnknownBrokerIdError)
        raise error from exc
    except OSError as exc:
        raise SourceError(f"{doing}: {exc}") from exc


def connected(make: Callable[..., C], config: KafkaPythonConfig, **ours: object) -> C:
    """A kafka-python client made by its class `make`: our defaults, the user's options, then what is ours.

    Options that this class of client does not know, as a consumer's are not a producer's, are left out, but not
    those that none knows.
    """
    _quiet()
    options = reveal(config.options)
    consumer, producer = kafka.KafkaConsumer.DEFAULT_CONFIG, kafka.KafkaProducer.DEFAULT_CONFIG
    for name in options:
        if name not in consumer and name not in producer:
            raise ConfigError(f"source.options.{name}: kafka-python has no such option")
    known = {k: v for k, v in (DEFAULTS | options).items() if k in vars(make)["DEFAULT_CONFIG"]}
    try:
        with translated(f"connecting to {', '.join(config.brokers)}"):
            return make(bootstrap_servers=list(config.brokers), **(known | ours))
    except SourceError as exc:
        if isinstance(exc.__cause__, kafka_errors.KafkaConfigurationError):
            raise ConfigError(f"source.options: {exc.__cause__}") from exc
        exc.hint = "is a broker running there, and do source.options say how it wants to be spoken to?"
        raise
    except (ValueError, TypeError, AssertionError) as exc:
        raise ConfigError(f"source.options: {exc}") from exc


class KafkaPythonClient:
    """A `Client`: one consumer with partitions assigned by hand, one admin client for metadata."""

    def __init__(self, config: KafkaPythonConfig) -> None:
        self._paused: dict[TopicPartition, int] = {}  # and where to go on
        self._isolation = str(config.options.get("isolation_level", "read_uncommitted"))
        self._consumer = connected(
            kafka.KafkaConsumer,
            config,
            group_id=config.group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            kafka_client=_making_no_topics,
        )
        try:
            self._admin = connected(kafka.KafkaAdminClient, config, request_timeout_ms=ASK_MS)
        except BaseException:
            self._consumer.close(autocommit=False, timeout_ms=0)
            raise

    def partitions(self, topics: Sequence[str]) -> frozenset[TopicPartition]:
        with translated("asking for partitions"):
            described = self._admin.describe_topics(list(topics))
        for topic in described:
            error = kafka_errors.for_code(topic["error_code"])
            if issubclass(error, kafka_errors.AuthorizationError | kafka_errors.InvalidTopicError):
                refused = SourceError(f"topic {topic['name']}: {error.description}")
                refused.retriable = False
                raise refused
        return frozenset(
            TopicPartition(topic["name"], partition["partition_index"])
            for topic in described
            for partition in topic["partitions"]
        )

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        with translated("assigning partitions"):
            self._paused.clear()
            self._consumer.assign([kafka.TopicPartition(*p) for p in positions])
            for partition, offset in positions.items():
                self._consumer.seek(kafka.TopicPartition(*partition), offset)

    def fetch(self, max_records: int, timeout_ms: int) -> list[Records]:
        try:
            polled = self._consumer.poll(timeout_ms=timeout_ms, max_records=max_records)
        except kafka_errors.OffsetOutOfRangeError as exc:
            raise OutOfRangeError(TopicPartition(*next(iter(exc.args[0])))) from exc
        except (kafka_errors.KafkaError, OSError):
            with translated("reading records"):
                raise
        return [_chunk(TopicPartition(*p), records) for p, records in polled.items() if records]

    def position(self, partition: TopicPartition) -> int:
        if partition in self._paused:
            return self._paused[partition]
        with translated("asking for a position"):
            position = self._consumer.position(kafka.TopicPartition(*partition), timeout_ms=ASK_MS)
        return int(position or 0)

    def first_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return self._offsets(OffsetSpec.EARLIEST, partitions)

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return self._offsets(OffsetSpec.LATEST, partitions)

    def pause(self, partition: TopicPartition) -> None:
        position, theirs = self.position(partition), kafka.TopicPartition(*partition)
        with translated("pausing"):
            self._consumer.assign(self._consumer.assignment() - {theirs})
            self._paused[partition] = position

    def resume(self, partition: TopicPartition) -> None:
        theirs = kafka.TopicPartition(*partition)
        with translated("resuming"):
            self._consumer.assign(self._consumer.assignment() | {theirs})
            self._consumer.seek(theirs, self._paused.pop(partition))

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        whole = {kafka.TopicPartition(*p): OffsetAndMetadata(o, "", -1) for p, o in offsets.items()}
        with translated("committing offsets"):
            self._consumer.commit(whole, timeout_ms=COMMIT_MS)

    def close(self) -> None:
        with translated("closing"):
            try:
                self._consumer.close(autocommit=False, timeout_ms=ASK_MS)
            finally:
                self._admin.close()

    def _offsets(self, spec: OffsetSpec, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        asked = {kafka.TopicPartition(*p): spec for p in partitions}
        if not asked:
            return {}
        with translated("asking for offsets"):
            try:
                answered = self._admin.list_partition_offsets(asked, self._isolation, timeout_ms=ASK_MS)
            except kafka_errors.UnknownTopicOrPartitionError:  # of which, it does not tell
                there = self.partitions(sorted({p.topic for p in asked}))
                asked = {p: spec for p in asked if p in there}
                answered = self._admin.list_partition_offsets(asked, self._isolation, timeout_ms=ASK_MS)
        return {TopicPartition(*p): int(answer.offset) for p, answer in answered.items()}


def _making_no_topics(**settings: Any) -> KafkaNetClient:  # noqa: ANN401 - kafka-python's own
    """The consumer's connections; kafka-python 3.0 keeps its `allow_auto_create_topics` from them.

    Without this a topic that was deleted under the consumer is made anew, empty, by its next look for the leader.
    """
    client = KafkaNetClient(**settings)
    client.cluster.config["allow_auto_create_topics"] = False
    return client


def _chunk(partition: TopicPartition, records: list[Any]) -> Records:
    n = len(records)
    return Records(
        partition,
        np.fromiter((r.offset for r in records), np.int64, n),
        np.fromiter((r.timestamp for r in records), np.int64, n),
        Values.of(r.value or b"" for r in records),
    )


def _quiet() -> None:
    """Keep kafka-python's own log, an error per attempt to reconnect, out of ours unless someone asked for it."""
    log = logging.getLogger("kafka")
    if log.level == logging.NOTSET:
        log.setLevel(logging.CRITICAL)
