"""`FilesSource`: a topic is a file of JSON lines or a folder of such files, a file a partition, a line an offset.

Invariant: the records of a partition are the file's lines, each once between two seeks, whatever the batch size.

- A topic NAME is the folder PATH/NAME, or the file PATH/NAME, NAME.jsonl, NAME.jsonl.gz or NAME.jsonl.zst. In a
  folder the partition is the file's rank by name; hidden files are left out. A file that appears while following
  must sort behind the known ones, and no file may go, or offsets would mean other records: both are errors, also
  where `seek` is told by the stored names that it happened while nothing read here.
- Read once, a file ends where it ends. Followed, it ends for now behind its last complete line.
- A file has no timestamps of its own: a record's is the time of reading, an upper bound of when it was written.
- At event-time speed a partition is at its end when all that is due has been read: what is not yet due has, for
  the reader, not been written. `timeout_ms` and speed go by the clock that is handed in.
- A file with fewer lines than the stored offset is a gap, as is one that is cut or replaced while followed. Where
  gaps are accepted it is read from its first line; what it held before cannot be known and is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np

from online_fm.errors import ConfigError, OffsetGap, SourceError
from online_fm.source.config import FilesConfig
from online_fm.source.fair import shares
from online_fm.source.lines import COMPRESSED, LineReader
from online_fm.source.pace import Pace, Schedule
from online_fm.source.port import RecordBatch, Records, TopicPartition
from online_fm.source.values import Values

__all__ = ["FilesSource"]

SUFFIXES = ("", ".jsonl", ".jsonl.gz", ".jsonl.zst")
IDLE_MS = 20  # between looks at files that are at their end
SCAN_MS = 1000  # between looks for new files
BLOCK_BYTES = 1 << 20
ALL_BLOCKS_BYTES = 64 << 20  # what the buffers of many files may add up to
SMALLEST_BLOCK_BYTES = 1 << 16
END = 1 << 62


class FilesSource:
    """The port `Source` on files; clock and sleep, in ms, can be handed in."""

    def __init__(
        self,
        config: FilesConfig,
        *,
        time_of: Callable[[bytes], int | None] | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        sleep_ms: Callable[[int], None] = lambda ms: time.sleep(ms / 1000),
    ) -> None:
        self._config, self._now_ms, self._sleep_ms = config, now_ms, sleep_ms
        self._pace = _pace(config, time_of)
        self._names: dict[str, list[Path]] = {config.impressions: [], config.clicks: []}
        self._readers: dict[TopicPartition, LineReader] = {}
        self._schedules: dict[TopicPartition, Schedule] = {}
        self._ready: dict[TopicPartition, int] = {}
        self._turn, self._lost, self._closed, self._scanned_ms = 0, 0, False, now_ms()
        try:
            self._scan()
            self.seek({})
        except BaseException:
            self.close()
            raise

    @property
    def lost(self) -> int:
        return self._lost

    @property
    def answering(self) -> bool:
        return True

    @property
    def progress(self) -> float:
        """The part of the known files' bytes that has been read, 0 to 1."""
        size_bytes = sum(reader.size_bytes for reader in self._readers.values())
        return sum(reader.read_bytes for reader in self._readers.values()) / size_bytes if size_bytes else 1.0

    def partitions(self) -> frozenset[TopicPartition]:
        return frozenset(self._readers)

    def names(self) -> dict[TopicPartition, str]:
        return {p: _name(reader.path) for p, reader in self._readers.items()}

    def poll(self, max_records: int, timeout_ms: int, paused: AbstractSet[TopicPartition] = frozenset()) -> RecordBatch:
        self._check_open()
        deadline_ms = self._now_ms() + timeout_ms
        while True:
            now_ms = self._now_ms()
            self._look_for_files(now_ms)
            self._release(now_ms)
            records = self._take(max_records, paused, now_ms)
            if records or now_ms >= deadline_ms:
                return RecordBatch(records, frozenset(p for p, n in self._ready.items() if not n))
            self._sleep_ms(max(1, min(IDLE_MS, deadline_ms - now_ms)))

    def positions(self) -> dict[TopicPartition, int]:
        return {p: reader.next_line for p, reader in self._readers.items()}

    def end_offsets(self) -> dict[TopicPartition, int]:
        return {p: reader.next_line + self._ready.get(p, 0) for p, reader in self._readers.items()}

    def lag(self) -> dict[TopicPartition, int]:
        return {p: self._ready.get(p, 0) for p in self._readers}

    def seek(self, offsets: Mapping[TopicPartition, int], names: Mapping[TopicPartition, str] = {}) -> None:
        self._check_open()
        offsets = dict(offsets) | dict.fromkeys(self._renamed(offsets, names), 0)
        for partition in sorted(offsets.keys() - self._readers.keys()):
            if offsets[partition] > 0 and self._config.on_gap == "stop":
                raise OffsetGap(str(partition), offsets[partition], 0, 0)
        begin = END if self._config.start == "latest" and not offsets else 0
        for partition in self._readers:
            self._seek(partition, offsets.get(partition, begin))
        if self._pace:
            self._pace.stop()
        self._release(self._now_ms())

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Nobody else looks at a file's offsets: nothing is done."""

    def close(self) -> None:
        self._closed = True
        for reader in self._readers.values():
            reader.close()

    def _check_open(self) -> None:
        if self._closed:
            raise SourceError("the source is closed")

    def _open(self, partition: TopicPartition, path: Path) -> None:
        files = sum(map(len, self._names.values()))
        self._readers[partition] = LineReader(
            path,
            max_line_bytes=self._config.max_line_bytes,
            block_bytes=max(SMALLEST_BLOCK_BYTES, min(BLOCK_BYTES, ALL_BLOCKS_BYTES // max(1, files))),
            whole=not self._config.follow,
        )
        if self._pace:
            self._schedules[partition] = Schedule(self._pace)

    def _renamed(
        self, offsets: Mapping[TopicPartition, int], names: Mapping[TopicPartition, str]
    ) -> list[TopicPartition]:
        """The partitions that were read and are another file now; an error unless that is accepted."""
        today = self.names()
        renamed = sorted(p for p, name in names.items() if offsets.get(p, 0) > 0 and p in today and today[p] != name)
        if renamed and self._config.on_gap == "stop":
            first = renamed[0]
            raise _shifted(
                f"{first}: {names[first]} was read up to line {offsets[first]}, but the file of this rank is now "
                f"{today[first]}: one was removed, or added before it, while nothing read here"
            )
        return renamed

    def _seek(self, partition: TopicPartition, line: int) -> None:
        if self._pace or self._readers[partition].next_line > line:
            self._reopen(partition)
        reached = self._readers[partition].skip_to(line)
        if reached < line < END:
            self._mind_the_gap(partition, line, reached)

    def _mind_the_gap(self, partition: TopicPartition, stored: int, lines: int) -> None:
        if self._config.on_gap == "stop":
            raise OffsetGap(str(partition), stored, 0, lines)
        self._reopen(partition)

    def _reopen(self, partition: TopicPartition) -> None:
        reader = self._readers[partition]
        reader.close()
        self._open(partition, reader.path)

    def _look_for_files(self, now_ms: int) -> None:
        if self._config.follow and now_ms - self._scanned_ms >= SCAN_MS:
            self._scanned_ms = now_ms
            self._scan()

    def _scan(self) -> None:
        """Find the files of both topics; those that are new are read from their first line."""
        for topic, known in self._names.items():
            found = _files(Path(self._config.path), topic, follow=self._config.follow)
            _check_ranks(topic, known, found)
            for rank in range(len(known), len(found)):
                known.append(found[rank])
                self._open(TopicPartition(topic, rank), found[rank])

    def _release(self, now_ms: int) -> None:
        """Count, for all partitions at the same moment, the lines that can be given."""
        if self._pace and not self._pace.began:
            for reader in self._readers.values():
                reader.fill()
            self._pace.begin(now_ms, [reader.buffered() for reader in self._readers.values()])
        for partition in self._readers:
            self._ready[partition] = self._count(partition, now_ms)

    def _count(self, partition: TopicPartition, now_ms: int) -> int:
        reader = self._readers[partition]
        if not reader.fill():
            if self._config.follow and reader.path.suffix not in COMPRESSED and reader.replaced():
                self._start_again(partition)
                return self._count(partition, now_ms)
            return 0
        if self._pace is None:
            return len(reader)
        schedule = self._schedules[partition]
        if not len(schedule):
            schedule.add(reader.buffered())
        return schedule.due(now_ms)

    def _start_again(self, partition: TopicPartition) -> None:
        stored = self._readers[partition].next_line
        self._reopen(partition)
        lines = self._readers[partition].skip_to(END)
        self._mind_the_gap(partition, stored, lines)

    def _take(self, max_records: int, paused: AbstractSet[TopicPartition], now_ms: int) -> tuple[Records, ...]:
        ready = sorted(p for p, n in self._ready.items() if n and p not in paused)
        if not ready:
            return ()
        turn = self._turn % len(ready)
        self._turn += 1
        ready = ready[turn:] + ready[:turn]
        given = shares([self._ready[p] for p in ready], max_records)
        return tuple(self._records(p, n, now_ms) for p, n in zip(ready, given, strict=True) if n)

    def _records(self, partition: TopicPartition, n: int, now_ms: int) -> Records:
        reader = self._readers[partition]
        offsets = np.arange(reader.next_line, reader.next_line + n, dtype=np.int64)
        lines = reader.take(n)
        if self._pace:
            self._schedules[partition].drop(n)
        self._ready[partition] = self._count(partition, now_ms)
        return Records(partition, offsets, np.full(n, now_ms, np.int64), Values.of(lines))


def _pace(config: FilesConfig, time_of: Callable[[bytes], int | None] | None) -> Pace | None:
    if config.speed is None:
        return None
    if time_of is None:
        raise ConfigError("source.speed: event-time speed needs to know a record's event time")
    return Pace(config.speed, time_of)


def _files(folder: Path, topic: str, *, follow: bool) -> list[Path]:
    found = [folder / f"{topic}{suffix}" for suffix in SUFFIXES if (folder / f"{topic}{suffix}").exists()]
    if len(found) > 1:
        raise SourceError(f"topic {topic} is both {found[0]} and {found[1]}", hint="keep one of them")
    if not found and follow:
        return []
    if not found:
        raise SourceError(
            f"there is no topic {topic} in {folder}",
            hint=f"put the file {topic}.jsonl or the folder {topic}/ there, or set source.follow to wait for it",
        )
    if not found[0].is_dir():
        return found
    return sorted(p for p in found[0].iterdir() if p.is_file() and not p.name.startswith("."))


def _name(path: Path) -> str:
    """The file's name; compressing it, which leaves its lines as they are, does not change it."""
    return path.name.removesuffix(path.suffix) if path.suffix in COMPRESSED else path.name


def _check_ranks(topic: str, known: list[Path], found: list[Path]) -> None:
    for rank, path in enumerate(known):
        if path not in found:
            raise _shifted(f"{path}: has gone from topic {topic} while it was followed")
        if found[rank] != path:
            raise _shifted(f"{found[rank]}: is new, but sorts before {path}, which is known")


def _shifted(message: str) -> SourceError:
    error = SourceError(message, hint="a file's rank by name is its partition: only add files behind the last one")
    error.retriable = False
    return error
