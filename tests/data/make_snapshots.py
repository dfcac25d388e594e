"""Writes tests/data/snapshots/: snapshots of the models below in the current format, and what they must predict.

Run from the project's root (`python tests/data/make_snapshots.py`), only when the format is raised: files of older
formats stay as they are, with the scores that were true of them. Those of format 1 are of the kinds lr, fm and ffm:
k 4, FTRL with alpha .1 and for factors .05, no scales, after the same events.
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


KALMAN = {"kind": "fm", "k": 4, "w": {"kind": "kalman"}, "v": {"kind": "kalman"}}
MODELS: dict[str, dict[str, object]] = {
    "lr": {"kind": "lr"},
    "lr-squared-ftrl": {"kind": "lr", "loss": "squared", "w": {"kind": "ftrl", "l1": 0.1}},
    "poly2": {"kind": "poly2"},
    "mf": {"kind": "mf", "user": "user", "item": "item", "k": 4},
    "fm": {"kind": "fm", "k": 4},
    "fm-kalman": KALMAN,
    "fm-without-scales": {"kind": "fm", "k": 4, "scales": None},
    "fwfm": {"kind": "fwfm", "k": 4},
    "ffm": {"kind": "ffm", "k": 2},
    "committee": {
        "kind": "committee",
        "members": {
            "slow": {"model": KALMAN},
            "fast": {"model": {"kind": "ffm", "k": 2, "v": {"kind": "adagrad", "eta": 1.0, "a0": 10.0}}},
            "watched": {"model": {"kind": "lr"}, "mixed": False},
        },
    },
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, model in MODELS.items():
        data = snapshot(trained(n=40, **model)[0], version=1)
        rows = events(5, seed=2)
        predicted = Scorer.from_bytes(name, data).predict(rows)
        expected = {"rows": rows, "scores": predicted.p.tolist(), "variances": predicted.variance.tolist()}
        (FOLDER / f"format-{FORMAT}-{name}.safetensors").write_bytes(data)
        text = msgspec.json.format(msgspec.json.encode(expected), indent=1)
        (FOLDER / f"format-{FORMAT}-{name}.json").write_bytes(text + b"\n")


if __name__ == "__main__":
    main()
