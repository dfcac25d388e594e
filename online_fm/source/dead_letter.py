"""Dead letters: rejected records, kept with their coordinates and the reason.

Invariant: after `flush` every letter that was written is durable (on the disk, or acknowledged by all in-sync
replicas); a flush that fails keeps its letters, and the next one sends them all again: at least once.
At most `BOUND_BYTES` of values wait in memory; then `write` flushes by itself.

In a file a letter is a line of JSON: topic, partition, offset, timestamp (ms), reason, and `value` as text, or
`value_base64` where the bytes are not UTF-8. In a topic its value is the original bytes, the rest are headers.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from online_fm.errors import ConfigError, SourceError
from online_fm.source.config import ConfluentConfig, DeadLetterConfig, KafkaConfig, KafkaPythonConfig, SourceConfig

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

__all__ = ["DeadLetter", "DeadLetters", "open_dead_letters"]

BOUND_BYTES = 8 << 20
LETTER_BYTES = 200  # what a letter weighs beside its value
FLUSH_S = 10.0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that was rejected: its coordinates, its timestamp in ms, why, and its bytes as they came."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    reason: str
    value: bytes


class Outlet(Protocol):
    """Where letters go: `deliver` returns when they are durable, or raises `SourceError`."""

    def deliver(self, letters: list[DeadLetter]) -> None: ...

    def close(self) -> None: ...


class DeadLetters:
    """Letters on their way to an outlet."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet, self._closed = outlet, False
        self._waiting: list[DeadLetter] = []
        self._bytes = 0

    def write(self, letters: Iterable[DeadLetter]) -> None:
        """Take letters in; they are durable after the next `flush`."""
        if self._closed:
            raise SourceError("the dead letters are closed")
        for letter in letters:
            if self._bytes > BOUND_BYTES:
                self.flush()
            self._waiting.append(letter)
            self._bytes += len(letter.value) + LETTER_BYTES

    def flush(self) -> None:
        """Make all letters durable."""
        if self._waiting:
            self._outlet.deliver(self._waiting)
            self._waiting, self._bytes = [], 0

    def close(self) -> None:
        """Flush and let go; twice does no harm."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            self._outlet.close()


class NoOutlet:
    """Letters go nowhere."""

    def deliver(self, letters: list[DeadLetter]) -> None:
        pass

    def close(self) -> None:
        pass


class FileOutlet:
    """Letters are lines at the end of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+", buffering=0)
            self._end_line()
        except OSError as exc:
            raise SourceError(f"{path}: {exc.strerror}") from exc

    def deliver(self, letters: list[DeadLetter]) -> None:
        data = b"".join(_line(letter) for letter in letters)
        try:
            self._end_line()
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as exc:
            raise SourceError(f"{self._path}: {exc.strerror}") from exc

    def close(self) -> None:
        self._file.close()

    def _end_line(self) -> None:
        """End a line that a crash or a full disk has cut."""
        size = os.fstat(self._file.fileno()).st_size
        if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
            self._file.write(b"\n")


class KafkaPythonOutlet:
    """Letters are records of a topic, sent by kafka-python."""

    def __init__(self, config: KafkaPythonConfig, topic: str) -> None:
        import kafka

        from online_fm.source.kafka_python import connected, translated

        self._topic, self._translated = topic, translated
        self._producer = connected(
            kafka.KafkaProducer,
            config,
            acks="all",
            linger_ms=20,
            max_block_ms=round(FLUSH_S * 1000),
            delivery_timeout_ms=round(FLUSH_S * 1000),
            request_timeout_ms=round(FLUSH_S * 1000) - 1000,
        )

    def deliver(self, letters: list[DeadLetter]) -> None:
        with self._translated(f"writing dead letters to {self._topic}"):
            sent = [
                self._producer.send(self._topic, value=letter.value, headers=_headers(letter)) for letter in letters
            ]
            self._producer.flush(timeout=FLUSH_S)
            for future in sent:
                future.get(timeout=0)

    def close(self) -> None:
        with self._translated("closing"):
            self._producer.close(timeout=FLUSH_S)


class ConfluentOutlet:
    """Letters are records of a topic, sent by librdkafka."""

    def __init__(self, config: ConfluentConfig, topic: str) -> None:
        import confluent_kafka

        from online_fm.source.confluent import made, settings, source_error, translated

        self._topic, self._source_error, self._translated = topic, source_error, translated
        ours = {"acks": "all", "linger.ms": 20, "message.timeout.ms": round(FLUSH_S * 1000)}
        self._producer = made(confluent_kafka.Producer, settings(config) | ours)

    def deliver(self, letters: list[DeadLetter]) -> None:
        doing, failed, done = f"writing dead letters to {self._topic}", [], 0

        def delivered(error: KafkaError | None, _message: object) -> None:
            nonlocal done
            done += error is None
            failed.extend([error] if error else [])

        with self._translated(doing):
            for letter in letters:
                self._producer.produce(self._topic, letter.value, headers=_headers(letter), on_delivery=delivered)
                self._producer.poll(0)
            self._producer.flush(2 * FLUSH_S)
        if failed:
            raise self._source_error(doing, failed[0])
        if done < len(letters):
            raise SourceError(f"{doing}: no answer from the brokers")

    def close(self) -> None:
        self._producer.flush(FLUSH_S)


def open_dead_letters(config: DeadLetterConfig, source: SourceConfig) -> DeadLetters:
    """The dead letters' way out; a topic lies in the cluster of `source`, with its client and its options."""
    if config.kind == "none":
        return DeadLetters(NoOutlet())
    if config.kind == "file":
        return DeadLetters(FileOutlet(Path(str(config.path))))
    topic = str(config.topic)
    if not isinstance(source, KafkaConfig):
        raise ConfigError("dead_letters.kind: `kafka` needs a Kafka source", hint="choose `file` instead")
    if topic in {source.impressions, source.clicks}:
        raise ConfigError(f"dead_letters.topic: {topic} is a topic that is read")
    if isinstance(source, ConfluentConfig):
        return DeadLetters(ConfluentOutlet(source, topic))
    return DeadLetters(KafkaPythonOutlet(source, topic))


def _line(letter: DeadLetter) -> bytes:
    where: dict[str, str | int] = {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "timestamp": letter.timestamp,
        "reason": letter.reason,
    }
    try:
        where["value"] = letter.value.decode()
    except UnicodeDecodeError:
        where["value_base64"] = base64.b64encode(letter.value).decode()
    return msgspec.json.encode(where) + b"\n"


def _headers(letter: DeadLetter) -> list[tuple[str, str | bytes | None]]:
    return [
        ("topic", letter.topic.encode()),
        ("partition", b"%d" % letter.partition),
        ("offset", b"%d" % letter.offset),
        ("timestamp", b"%d" % letter.timestamp),
        ("reason", letter.reason.encode()),
    ]
