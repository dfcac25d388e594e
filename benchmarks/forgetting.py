"""What forgetting is worth: a truth that is drawn anew at half time, and one of which a third drifts.

    python benchmarks/forgetting.py [--json]

Plain AdaGrad and FTRL take ever smaller steps: after the jump they hardly move. The excess over the Bayes loss, in
nats, over the last quarter of the stream; that of `jump` begins a quarter of the stream after the jump. `half_life_h`
is given as a share of the stream's event time. One pass, predict then learn; FM k=8.
"""

from __future__ import annotations

import argparse
from typing import Any

import msgspec
import numpy as np
from _ours import make
from _streams import Stream, load
from rich.console import Console
from rich.table import Table

STREAMS = ("jump", "synd")
BATCH = 4096


def fm(kind: str, *, half_life: float | None = None, scales: bool = True, **setting: float) -> dict[str, Any]:
    """An FM whose optimizers are of one kind; `half_life` is a share of the stream."""
    step = {"adagrad": {"eta": 0.05, "a0": 0.4}, "ftrl": {"alpha": 0.05}, "kalman": {}}[kind]
    settings = {"kind": "fm", "w": {"kind": kind, **setting}, "v": {"kind": kind, **step, **setting}}
    return {**settings, **({} if scales else {"scales": None}), "half_life": half_life}


LEARNERS = {
    "AdaGrad, plain": fm("adagrad", scales=False),
    "FTRL, plain": fm("ftrl", scales=False),
    "AdaGrad": fm("adagrad"),
    "AdaGrad, decay 3e-4": fm("adagrad", decay=3e-4),
    "AdaGrad, half-life of a fifth": fm("adagrad", half_life=0.2),
    "FTRL": fm("ftrl"),
    "FTRL, decay 3e-4": fm("ftrl", decay=3e-4),
    "FTRL, half-life of a fifth": fm("ftrl", half_life=0.2),
    "Kalman, q 0": fm("kalman", q=0.0),
    "Kalman, as shipped (q 3e-5)": fm("kalman"),
    "Kalman, q 1e-4": fm("kalman", q=1e-4),
}


def excess(stream: Stream, settings: dict[str, Any]) -> float:
    """Log-loss minus that of the true probability, over the last quarter."""
    assert stream.bayes is not None
    span_h = float(stream.time_ms[-1] - stream.time_ms[0]) / 3_600_000
    given = {key: value for key, value in settings.items() if key != "half_life"}
    if settings["half_life"]:
        given["half_life_h"] = settings["half_life"] * span_h
    learner = make(given, stream.fields)
    parts = []
    for start in range(0, len(stream), BATCH):
        piece = slice(start, min(start + BATCH, len(stream)))
        rows, ones = stream.rows.part(piece.start, piece.stop), np.ones(piece.stop - piece.start, np.bool_)
        given_p = learner.step(rows, stream.label[piece], stream.weight[piece], ones, stream.time_ms[piece]).p
        parts.append(given_p.astype(np.float64))
    last = slice(3 * len(stream) // 4, None)
    p, clicked, bayes = np.concatenate(parts)[last], stream.label[last] > 0, stream.bayes[last]
    return float(np.log(np.where(clicked, bayes, 1.0 - bayes) / np.where(clicked, p, 1.0 - p)).mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    streams = [load(name) for name in STREAMS]
    rows = [(name, [excess(stream, settings) for stream in streams]) for name, settings in LEARNERS.items()]
    table = Table("FM k=8", *STREAMS, title="excess over Bayes in the last quarter")
    for name, found in rows:
        table.add_row(name, *(f"{each:.5f}" for each in found))
    Console(width=100).print(table)
    if as_json:
        told = [
            {"stream": stream, "learner": name, "ours": True, "excess": each}
            for name, found in rows
            for stream, each in zip(STREAMS, found, strict=True)
        ]
        print(msgspec.json.encode({"rows": told}).decode())


if __name__ == "__main__":
    main()
