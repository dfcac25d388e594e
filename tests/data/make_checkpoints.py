"""Writes tests/data/checkpoints/: a checkpoint in the current format, compressed, and what must come out of it.

Run from the project's root (`python tests/data/make_checkpoints.py`), only when the format is raised: files of older
formats stay as they are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import zstandard

sys.path.insert(0, str(Path(__file__).parent.parent))
from traffic import pipeline, source

from online_fm.snapshot.format import FORMAT
from online_fm.snapshot.store import MemoryStore, names_of
from online_fm.source.dead_letter import DeadLetters
from online_fm.train.checkpoint import Checkpoints

FOLDER = Path(__file__).parent / "checkpoints"


class Nowhere:
    """An outlet that keeps nothing."""

    def deliver(self, letters: object) -> None: ...

    def close(self) -> None: ...


def main() -> None:
    learner, stream, store = pipeline(), source(), MemoryStore()
    learner.assign(stream.positions())
    for _ in range(30):  # in the middle: rows are pending, clicks wait, rejects have been passed
        learner.step(stream.poll(50, 0), now_ms=0)
    Checkpoints(store, MemoryStore(), keep=1, keep_snapshots=1).commit(learner, stream, DeadLetters(Nowhere()), 1)
    (name,) = names_of(store, "checkpoint")
    FOLDER.mkdir(exist_ok=True)
    packed = zstandard.ZstdCompressor(level=19).compress(store.get(name))
    (FOLDER / f"format-{FORMAT}.safetensors.zst").write_bytes(packed)
    expected = {
        "state_hash": learner.learner.state_hash(),
        "counts": learner.counts(),
        "pending": learner.pending,
        "offsets": {str(partition): offset for partition, offset in sorted(learner.offsets().items())},
        "stream_time_ms": learner.stream_time_ms,
        "log_loss": learner.quality["learning"].since_start().log_loss,
    }
    (FOLDER / f"format-{FORMAT}.json").write_bytes(msgspec.json.format(msgspec.json.encode(expected), indent=1) + b"\n")


if __name__ == "__main__":
    main()
