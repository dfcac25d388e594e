"""Writes tests/data/checkpoints/: checkpoints of the models below in the current format, and what they hold.

Run from the project's root (`python tests/data/make_checkpoints.py`), only when the format is raised: files of older
formats stay as they are. That of format 1 is an FM, k 4, FTRL with alpha .1 and for factors .05, without scales, in the
middle of the same stream; its `end` is what the version that wrote it came to when it went on. The FFM in the committee
of format 2 had no rho: hash and end are those of format 3, which gives it one of 1 and learns it from there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
import zstandard

sys.path.insert(0, str(Path(__file__).parent.parent))
from traffic import pipeline, read_all, source

from online_fm.snapshot.format import FORMAT
from online_fm.snapshot.store import MemoryStore, names_of
from online_fm.source.dead_letter import DeadLetters
from online_fm.train.checkpoint import Checkpoints
from online_fm.train.pipeline import Pipeline

FOLDER = Path(__file__).parent / "checkpoints"


class Nowhere:
    """An outlet that keeps nothing."""

    def deliver(self, letters: object) -> None: ...

    def close(self) -> None: ...


KALMAN = {"kind": "fm", "k": 4, "w": {"kind": "kalman"}, "v": {"kind": "kalman"}}
MODELS: dict[str, dict[str, object]] = {
    "fm": {"kind": "fm", "k": 4, "half_life_h": 1},
    "committee": {
        "kind": "committee",
        "members": {
            "slow": {"model": KALMAN},
            "fast": {"model": {"kind": "ffm", "k": 2, "v": {"kind": "ftrl"}}},
            "watched": {"model": {"kind": "lr", "w": {"kind": "adam"}}, "mixed": False},
        },
    },
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, model in MODELS.items():
        write(name, pipeline(f"model={json.dumps(model)}"))


def write(model: str, learner: Pipeline) -> None:
    """Stop in the middle, where rows are pending, clicks wait and rejects have been passed; then go on."""
    stream, store = source(), MemoryStore()
    learner.assign(stream.positions())
    for _ in range(30):
        learner.step(stream.poll(50, 0), now_ms=0)
    Checkpoints(store, MemoryStore(), keep=1, keep_snapshots=1).commit(learner, stream, DeadLetters(Nowhere()), 1)
    (name,) = names_of(store, "checkpoint")
    packed = zstandard.ZstdCompressor(level=19).compress(store.get(name))
    (FOLDER / f"format-{FORMAT}-{model}.safetensors.zst").write_bytes(packed)
    expected = {
        "model": learner.config.model,
        "state_hash": learner.learner.state_hash(),
        "counts": learner.counts(),
        "pending": learner.pending,
        "offsets": {str(partition): offset for partition, offset in sorted(learner.offsets().items())},
        "stream_time_ms": learner.stream_time_ms,
        "log_loss": learner.quality["learning"].since_start().log_loss,
    }
    read_all(learner, stream)
    end = {"learned": learner.counts()["learned"], "log_loss": learner.quality["learning"].since_start().log_loss}
    text = msgspec.json.format(msgspec.json.encode({**expected, "end": end}), indent=1)
    (FOLDER / f"format-{FORMAT}-{model}.json").write_bytes(text + b"\n")


if __name__ == "__main__":
    main()
