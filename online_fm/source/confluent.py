"""The client of `KafkaSource` on confluent-kafka (librdkafka): several times as fast as kafka-python.

Invariant: no exception of confluent-kafka leaves this module; what librdkafka repairs by itself is not reported.

Four habits of librdkafka shape it. `consume(n)` waits for all n records, so the first is asked for alone. The
end of a partition is an event (`enable.partition.eof`), which also tells that trailing control records of
transactions were passed over. A blocking commit has no time limit, so an asynchronous one is awaited here, and
records that come meanwhile are kept for the next `fetch`. An answer waits behind the fetch that waits for records on
the same connection, so offsets are asked for by an admin client, which has its own (but not topics: an admin client
would have the broker make those that are missing).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from operator import itemgetter, ne
from typing import Any, TypeVar

import confluent_kafka
import numpy as np
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, Message
from confluent_kafka import admin as confluent_admin

from online_fm.errors import ConfigError, SourceError
from online_fm.source.client import OutOfRangeError
from online_fm.source.config import ConfluentConfig, reveal
from online_fm.source.port import Records, TopicPartition
from online_fm.source.values import Values

__all__ = ["ConfluentClient", "settings", "translated"]

C = TypeVar("C")
"""A class of client."""

COMMIT_S = 2.0
ASK_S = 2.0  # for offsets, while records are polled
BEGIN_S = 10.0  # for offsets and metadata, before anything is polled
# exported, though not in a way that mypy sees
EARLIEST: Any = vars(confluent_admin)["OffsetSpec"].earliest()
LATEST: Any = vars(confluent_admin)["OffsetSpec"].latest()
DEFAULTS: dict[str, Any] = {
    "client.id": "online-fm",
    "log_level": 0,  # its errors arrive as events
    "reconnect.backoff.max.ms": 1000,
}
CONSUMER_DEFAULTS: dict[str, Any] = {"fetch.queue.backoff.ms": 10, "fetch.wait.max.ms": 100}
PYTHON_NAMES = {
    "sasl_plain_username": "sasl.username",
    "sasl_plain_password": "sasl.password",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_keyfile": "ssl.key.location",
    "ssl_password": "ssl.key.password",
    "ssl_crlfile": "ssl.crl.location",
    "ssl_ciphers": "ssl.cipher.suites",
}
AWAY = frozenset(
    {
        KafkaError._TRANSPORT,  # noqa: SLF001 - librdkafka's own codes have these public names
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
    }
)
REFUSED = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        KafkaError._FATAL,  # noqa: SLF001
        KafkaError._UNSUPPORTED_FEATURE,  # noqa: SLF001
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)


def source_error(doing: str, error: KafkaError) -> SourceError:
    """Our error for librdkafka's; retriable unless the brokers refuse us or the client is lost."""
    ours = SourceError(f"{doing}: {error.str()}")
    ours.retriable = not (error.fatal() or error.code() in REFUSED)
    return ours


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what confluent-kafka raises into `SourceError`."""
    try:
        yield
    except KafkaException as exc:
        raise source_error(doing, exc.args[0]) from exc
    except (RuntimeError, BufferError) as exc:
        raise SourceError(f"{doing}: {exc}") from exc


def settings(config: ConfluentConfig) -> dict[str, Any]:
    """Settings for any librdkafka client: our defaults, then the user's options under librdkafka's names."""
    named: dict[str, Any] = {}
    for name, value in reveal(config.options).items():
        if name == "ssl_check_hostname":
            named["ssl.endpoint.identification.algorithm"] = "https" if value else "none"
        elif name in PYTHON_NAMES:
            named[PYTHON_NAMES[name]] = value
        else:
            named[name if "." in name or name == "log_level" else name.replace("_", ".")] = value
    return DEFAULTS | named | {"bootstrap.servers": ",".join(config.brokers)}


def made(make: Callable[[dict[str, Any]], C], conf: Mapping[str, Any]) -> C:
    """A client of the class `make`; `ConfigError` for settings that librdkafka refuses."""
    try:
        return make(dict(conf))
    except KafkaException as exc:
        raise ConfigError(f"source.options: {exc.args[0].str()}") from exc
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"source.options: {exc}") from exc


class ConfluentClient:
    """A `Client`: one consumer with partitions assigned by hand."""

    def __init__(self, config: ConfluentConfig) -> None:
        self._wait_s = BEGIN_S
        self._ends: dict[TopicPartition, int] = {}
        self._early: list[Any] = []  # messages that came while a commit was awaited
        self._gaps: list[TopicPartition] = []
        self._refused: KafkaError | None = None
        self._commit_error: KafkaError | None = None
        self._issued = self._answered = 0  # commits
        self._hint = f"is a broker running at {', '.join(config.brokers)}, and do source.options fit it?"
        ours = {
            "group.id": config.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "allow.auto.create.topics": False,
            "error_cb": self._on_error,
            "on_commit": self._on_commit,
        }
        shared = settings(config)
        committed = shared.get("isolation.level") == "read_committed"
        self._isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        self._consumer = made(confluent_kafka.Consumer, CONSUMER_DEFAULTS | shared | ours)
        self._admin = made(confluent_admin.AdminClient, shared | {"error_cb": self._on_error})

    def partitions(self, topics: Sequence[str]) -> frozenset[TopicPartition]:
        return frozenset(TopicPartition(topic, p) for topic in topics for p in self._numbers(topic))

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._early.clear()
        self._gaps.clear()
        self._ends.clear()
        theirs = [confluent_kafka.TopicPartition(*p, o) for p, o in positions.items()]
        with translated("assigning partitions"):
            self._consumer.assign(theirs)
            if theirs:
                self._consumer.resume(theirs)

    def fetch(self, max_records: int, timeout_ms: int) -> list[Records]:
        self._wait_s = ASK_S
        if self._gaps:
            raise OutOfRangeError(self._gaps.pop())
        with translated("reading records"):
            messages = self._early or self._consumer.consume(1, timeout_ms / 1000)
            self._early = []
            if messages:
                messages += self._consumer.consume(max_records, 0)
        if self._refused is not None:
            refused, self._refused = self._refused, None
            raise source_error("reading records", refused)
        if any(map(Message.error, messages)):
            messages = self._without_events(messages)
        return _chunks(messages)

    def position(self, partition: TopicPartition) -> int:
        return self._ends.get(partition, 0)

    def first_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return self._offsets(EARLIEST, partitions)

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return self._offsets(LATEST, partitions)

    def pause(self, partition: TopicPartition) -> None:
        with translated("pausing"):
            self._consumer.pause([confluent_kafka.TopicPartition(*partition)])

    def resume(self, partition: TopicPartition) -> None:
        with translated("resuming"):
            self._consumer.resume([confluent_kafka.TopicPartition(*partition)])

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        theirs = [confluent_kafka.TopicPartition(*p, o) for p, o in offsets.items()]
        deadline = time.monotonic() + COMMIT_S
        with translated("committing offsets"):
            self._consumer.commit(offsets=theirs, asynchronous=True)
            self._issued += 1
            while self._answered < self._issued and time.monotonic() < deadline:
                self._early += self._consumer.consume(1, 0.05)
        if self._answered < self._issued:
            raise SourceError("committing offsets: no answer from the brokers")
        if self._commit_error is not None:
            raise source_error("committing offsets", self._commit_error)

    def close(self) -> None:
        with translated("closing"):
            self._consumer.close()

    def _numbers(self, topic: str) -> list[int]:
        try:
            with translated("asking for partitions"):
                described = self._consumer.list_topics(topic, timeout=self._wait_s).topics[topic]
        except SourceError as exc:
            self._early += self._consumer.consume(1, 0)  # lets librdkafka tell why
            if self._refused is not None:
                raise source_error("asking for partitions", self._refused) from exc
            exc.hint = self._hint
            raise
        if described.error is not None and described.error.code() in REFUSED:
            raise source_error(f"topic {topic}", described.error)
        return list(described.partitions)

    def _without_events(self, messages: list[Any]) -> list[Any]:
        """The messages that are records; the others are noted."""
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
                continue
            partition = TopicPartition(message.topic(), message.partition())
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                self._ends[partition] = message.offset()
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001
                self._gaps.append(partition)
            else:
                self._on_error(error)
        return records

    def _offsets(self, spec: object, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        asked: dict[Any, Any] = {confluent_kafka.TopicPartition(*p): spec for p in partitions}
        if not asked:
            return {}
        with translated("asking for offsets"):
            try:
                return self._answers(asked)
            except KafkaException as exc:
                if exc.args[0].code() in AWAY:
                    raise
            there = self.partitions(sorted({p.topic for p in asked}))
            asked = {p: spec for p in asked if (p.topic, p.partition) in there}
            for topic in {p.topic for p in asked}:  # new partitions and new leaders are not looked for unasked
                self._admin.list_topics(topic, timeout=self._wait_s)
            return self._answers(asked) if asked else {}

    def _answers(self, asked: dict[Any, Any]) -> dict[TopicPartition, int]:
        answers = self._admin.list_offsets(asked, isolation_level=self._isolation, request_timeout=self._wait_s)
        return {TopicPartition(p.topic, p.partition): a.result().offset for p, a in answers.items()}

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() in REFUSED:
            self._refused = error

    def _on_commit(self, error: KafkaError | None, partitions: list[Any]) -> None:
        self._answered += 1
        self._commit_error = error or next((p.error for p in partitions if p.error), None)


def _chunks(messages: list[Any]) -> list[Records]:
    """Records, cut where the partition changes: a client gives many of one partition in a row.

    What is done for each message is done by `map`, in C: half a microsecond a message, as against one in loops.
    """
    n = len(messages)
    topics = list(map(Message.topic, messages))
    numbers = np.fromiter(map(Message.partition, messages), np.int64, n)
    offsets = np.fromiter(map(Message.offset, messages), np.int64, n)
    timestamps = np.fromiter(map(itemgetter(1), map(Message.timestamp, messages)), np.int64, n)
    values = Values.of(value or b"" for value in map(Message.value, messages))
    other_topic = np.fromiter(map(ne, topics, topics[1:]), np.bool_, max(0, n - 1))
    cuts = np.flatnonzero(other_topic | (numbers[1:] != numbers[:-1])) + 1
    bounds = [0, *cuts.tolist(), n] if n else []
    return [
        Records(TopicPartition(str(topics[i]), int(numbers[i])), offsets[i:j], timestamps[i:j], values[i:j])
        for i, j in pairwise(bounds)
    ]
