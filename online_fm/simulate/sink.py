"""Where the stream goes, and at what speed: the port `Sink`, its body for files, and the loop that paces."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from online_fm.simulate.stream import Chunk, Lines, Simulator

__all__ = ["FileSink", "Sink", "run"]

_SLICE_S = 0.05  # of the wall clock: a paced stream is sent in pieces of so much
_NAP_S = 0.1  # so soon a sleeping run notices that it shall stop


class Sink(Protocol):
    """Takes chunks in their order. `write` may buffer; `flush` returns when all is where readers see it."""

    def write(self, chunk: Chunk) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class FileSink:
    """JSON lines: a topic is a folder, a partition a file in it, as the files source reads them.

    `FOLDER/impressions/impressions-00000.jsonl` and so on. Appends; each chunk is one write of whole lines a file,
    and flushed, so that a reader that follows never sees less than a line that it cannot wait for.
    """

    def __init__(
        self, folder: Path, partitions: int, *, impressions: str = "impressions", clicks: str = "clicks"
    ) -> None:
        self._impressions = _opened(folder / impressions, partitions)
        self._clicks = _opened(folder / clicks, partitions)

    def write(self, chunk: Chunk) -> None:
        for file, lines in zip([*self._impressions, *self._clicks], [*chunk.impressions, *chunk.clicks], strict=True):
            _append(file, lines)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        for file in [*self._impressions, *self._clicks]:
            file.close()


def _opened(folder: Path, partitions: int) -> list[BinaryIO]:
    folder.mkdir(parents=True, exist_ok=True)
    return [(folder / f"{folder.name}-{p:05d}.jsonl").open("ab") for p in range(partitions)]


def _append(file: BinaryIO, lines: Lines) -> None:
    if lines.values:
        file.write(b"\n".join(lines.values) + b"\n")
        file.flush()


def run(
    simulator: Simulator,
    sink: Sink,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    on_progress: Callable[[Chunk], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Send the stream into the sink at the config's speed, to its end or until `stop` says so.

    A chunk is sent when the last of its records is due. A sink that is too slow is not spared: the run catches up as
    fast as it can. `clock` and `sleep` are in seconds; `on_progress` is told each chunk that was written.
    """
    speed = simulator.config.speed
    slice_ms = 1000.0 * _SLICE_S * speed if speed < float("inf") else None
    began_s = clock()
    for chunk in simulator.chunks(slice_ms):
        due_s = began_s + (chunk.until_ms - simulator.start_ms) / 1000.0 / speed
        while not stop() and (wait_s := due_s - clock()) > 0:
            sleep(min(wait_s, _NAP_S))
        if stop():
            break
        sink.write(chunk)
        if on_progress:
            on_progress(chunk)
    sink.flush()
