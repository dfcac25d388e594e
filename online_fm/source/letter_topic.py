"""Dead letters in a topic of the source's cluster, with either client.

Invariant: `deliver` returns when all in-sync replicas have acknowledged each letter; else `UndeliveredError` names
those that were not, and the others need not be sent again.

A letter is a record whose value is the original bytes; topic, partition, offset, timestamp (ms) and reason are its
headers. One that the brokers or the client refuse for what it is, most often its size, is sent with half of its
bytes, and half of those, until it is taken; a header `truncated` then tells its whole size. A refusal that remains
when nothing of the value is left is the topic's, not the letter's, and fails the delivery.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from online_fm.errors import SourceError
from online_fm.source.config import ConfluentConfig, KafkaPythonConfig
from online_fm.source.letter import DeadLetter, RefusedError, UndeliveredError

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

__all__ = ["ConfluentOutlet", "KafkaPythonOutlet"]

FLUSH_S = 10.0
BATCH_BYTES = 16 << 10  # a batch is refused as a whole: one of many letters stays far below any topic's bound
Parcel = tuple[DeadLetter, int]
"""A letter on its way to a topic, and how many bytes of its value go with it."""


class KafkaPythonOutlet:
    """Letters are records of a topic, sent by kafka-python."""

    def __init__(self, config: KafkaPythonConfig, topic: str) -> None:
        import kafka
        from kafka import errors

        from online_fm.source.kafka_python import connected, translated

        self._topic, self._translated = topic, partial(translated, f"writing dead letters to {topic}")
        self._refusals = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError, errors.InvalidRecordError)
        self._producer = connected(
            kafka.KafkaProducer,
            config,
            acks="all",
            linger_ms=20,
            batch_size=BATCH_BYTES,
            enable_idempotence=False,  # after a refusal an idempotent producer refuses everything
            max_block_ms=round(FLUSH_S * 1000),
            delivery_timeout_ms=round(FLUSH_S * 1000),
            request_timeout_ms=round(FLUSH_S * 1000) - 1000,
        )

    def deliver(self, letters: list[DeadLetter]) -> None:
        _deliver(letters, self._send)

    def close(self) -> None:
        with self._translated():
            self._producer.close(timeout=FLUSH_S)

    def _send(self, parcels: list[Parcel]) -> list[SourceError | None]:
        sent = [self._begin(*parcel) for parcel in parcels]
        with suppress(SourceError), self._translated():  # each letter's future tells
            self._producer.flush(timeout=FLUSH_S)
        return [each if isinstance(each, SourceError) else self._end(each) for each in sent]

    def _begin(self, letter: DeadLetter, size: int) -> Any:  # noqa: ANN401 - a client's future, or a refusal
        try:
            with self._translated():
                return self._producer.send(self._topic, value=letter.value[:size], headers=_headers(letter, size))
        except SourceError as exc:
            if not isinstance(exc.__cause__, self._refusals):
                raise
            return RefusedError(exc.args[0])

    def _end(self, future: Any) -> SourceError | None:  # noqa: ANN401
        try:
            with self._translated():
                future.get(timeout=0)
        except SourceError as exc:
            refused = isinstance(exc.__cause__, self._refusals)
            return RefusedError(exc.args[0]) if refused else exc
        return None


class ConfluentOutlet:
    """Letters are records of a topic, sent by librdkafka."""

    def __init__(self, config: ConfluentConfig, topic: str) -> None:
        from confluent_kafka import KafkaError, KafkaException, Producer

        from online_fm.source.confluent import made, settings, source_error

        self._topic, self._doing = topic, f"writing dead letters to {topic}"
        self._source_error, self._client_error = source_error, KafkaException
        self._refusals = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_RECORD}
        ours = {
            "acks": "all",
            "linger.ms": 20,
            "batch.size": BATCH_BYTES,
            "message.timeout.ms": round(FLUSH_S * 1000),
        }
        self._producer = made(Producer, settings(config) | ours)

    def deliver(self, letters: list[DeadLetter]) -> None:
        _deliver(letters, self._send)

    def close(self) -> None:
        self._producer.flush(FLUSH_S)

    def _send(self, parcels: list[Parcel]) -> list[SourceError | None]:
        errors: list[SourceError | None] = [SourceError(f"{self._doing}: no answer from the brokers")] * len(parcels)

        def told(i: int, error: KafkaError | None, _message: object) -> None:
            errors[i] = self._ours(error) if error is not None else None

        for i, (letter, size) in enumerate(parcels):
            try:
                self._produce(letter, size, partial(told, i))
            except self._client_error as exc:
                errors[i] = self._ours(exc.args[0])
        self._producer.flush(2 * FLUSH_S)
        return errors

    def _produce(self, letter: DeadLetter, size: int, told: Callable[[KafkaError | None, object], None]) -> None:
        produce = partial(self._producer.produce, self._topic, headers=_headers(letter, size), on_delivery=told)
        try:
            produce(letter.value[:size])
        except BufferError:  # the client's queue is full
            self._producer.flush(2 * FLUSH_S)
            produce(letter.value[:size])
        self._producer.poll(0)

    def _ours(self, error: KafkaError) -> SourceError:
        ours = self._source_error(self._doing, error)
        return RefusedError(ours.args[0]) if error.code() in self._refusals else ours


def _deliver(letters: list[DeadLetter], send: Callable[[list[Parcel]], list[SourceError | None]]) -> None:
    """Send letters whole; those that are refused with half of their bytes, again and again.

    send: waits until each is acknowledged (None) or has failed; raises where all have.
    """
    parcels = [(letter, len(letter.value)) for letter in letters]
    failed: list[tuple[DeadLetter, SourceError]] = []
    while parcels:
        halves = []
        for (letter, size), error in zip(parcels, _tried(send, parcels), strict=True):
            if isinstance(error, RefusedError) and size:
                halves.append((letter, size // 2))
            elif error is not None:
                failed.append((letter, error))
        parcels = halves
    if failed:
        raise UndeliveredError([letter for letter, _ in failed], failed[0][1])


def _tried(send: Callable[[list[Parcel]], list[SourceError | None]], parcels: list[Parcel]) -> list[SourceError | None]:
    try:
        return send(parcels)
    except SourceError as exc:
        return [exc] * len(parcels)


def _headers(letter: DeadLetter, size: int) -> list[tuple[str, str | bytes | None]]:
    """The letter's coordinates, and its whole size where only `size` bytes of its value are sent."""
    truncated = [("truncated", b"%d" % len(letter.value))] if size < len(letter.value) else []
    return [
        ("topic", letter.topic.encode()),
        ("partition", b"%d" % letter.partition),
        ("offset", b"%d" % letter.offset),
        ("timestamp", b"%d" % letter.timestamp),
        ("reason", letter.reason.encode()),
        *truncated,
    ]
