"""Writes tests/data/snapshots/: one snapshot per model kind in the current format, and the scores it must give.

Run from the project's root (`python tests/data/make_snapshots.py`), only when the format is raised: files of older
formats stay as they are, with the scores that were true of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))
from published import events, snapshot, trained

from online_fm.serve.scorer import Scorer
from online_fm.snapshot.format import FORMAT

FOLDER = Path(__file__).parent / "snapshots"


def main() -> None:
    for kind in ("lr", "fm", "ffm"):
        data = snapshot(trained(kind, n=40)[0], version=1)
        rows = events(5, seed=2)
        scores = [float(str(score)) for score in Scorer.from_bytes(kind, data).score(rows)]
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"format-{FORMAT}-{kind}.safetensors").write_bytes(data)
        expected = msgspec.json.format(msgspec.json.encode({"rows": rows, "scores": scores}), indent=1)
        (FOLDER / f"format-{FORMAT}-{kind}.json").write_bytes(expected + b"\n")


if __name__ == "__main__":
    main()
