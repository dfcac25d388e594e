"""Dead letters: rejected records, kept with their coordinates and the reason.

Invariant: after `flush` every letter that was written is durable (on the disk, or acknowledged by all in-sync
replicas); a flush that fails keeps those letters that are not known to be durable, and the next one sends them again:
at least once. `write` only takes letters in, so an outlet that is down never fails it; who writes flushes when they
are `full`.

In a file a letter is a line of JSON: topic, partition, offset, timestamp (ms), reason, and `value` as text, or
`value_base64` where the bytes are not UTF-8. `letter_topic` says what it is in a topic.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from online_fm.errors import ConfigError, SourceError
from online_fm.source.config import ConfluentConfig, DeadLetterConfig, KafkaConfig, SourceConfig
from online_fm.source.letter import DeadLetter, UndeliveredError
from online_fm.source.letter_topic import ConfluentOutlet, KafkaPythonOutlet

__all__ = ["DeadLetter", "DeadLetters", "open_dead_letters"]

BOUND_BYTES = 8 << 20
LETTER_BYTES = 200  # what a letter weighs beside its value


class Outlet(Protocol):
    """Where letters go.

    `deliver` returns when they are durable; else it raises `UndeliveredError`, or a plain `SourceError` for all.
    """

    def deliver(self, letters: list[DeadLetter]) -> None: ...

    def close(self) -> None: ...


class DeadLetters:
    """Letters on their way to an outlet; without one they go nowhere."""

    def __init__(self, outlet: Outlet | None) -> None:
        self._outlet, self._closed = outlet, False
        self._waiting: list[DeadLetter] = []
        self._bytes = self._kept = 0

    @property
    def full(self) -> bool:
        """Whether as much waits in memory as is good; `flush` makes room."""
        return self._bytes > BOUND_BYTES

    def write(self, letters: Iterable[DeadLetter]) -> None:
        """Take letters in; they are durable after the next `flush`."""
        if self._closed:
            raise SourceError("the dead letters are closed")
        if self._outlet is not None:
            letters = list(letters)
            self._waiting += letters
            self._bytes += _weight(letters)

    def flush(self) -> int:
        """Make all letters durable; how many became so since the last flush that did not fail."""
        if self._outlet is not None and self._waiting:
            written = len(self._waiting)
            try:
                self._outlet.deliver(self._waiting)
                self._wait_with([])
            except UndeliveredError as exc:
                self._wait_with(exc.left)
                raise
            finally:
                self._kept += written - len(self._waiting)
        kept, self._kept = self._kept, 0
        return kept

    def close(self) -> None:
        """Flush and let go; twice does no harm."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            if self._outlet is not None:
                self._outlet.close()

    def _wait_with(self, letters: list[DeadLetter]) -> None:
        self._waiting = letters
        self._bytes = _weight(letters)


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


def open_dead_letters(config: DeadLetterConfig, source: SourceConfig) -> DeadLetters:
    """The dead letters' way out; a topic lies in the cluster of `source`, with its client and its options."""
    if config.kind == "none":
        return DeadLetters(None)
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


def _weight(letters: list[DeadLetter]) -> int:
    return sum(len(letter.value) + LETTER_BYTES for letter in letters)


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
