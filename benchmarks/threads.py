"""What threads that learn an FFM at once gain in time and lose in quality.

    python benchmarks/threads.py [--json]

One pass over KuaiRand (41 fields) and over an FFM truth (12 fields), predict then learn, in batches as a worker that is
behind makes them; FFM k=4 as shipped. Microseconds of the clock per event, of `Learner.step`, the best of `TURNS`; of
loss and AUC, which differ from run to run, the mean. One thread, and as many as there are cores.
"""

from __future__ import annotations

import os
import sys
import time

import msgspec
import numpy as np
from _ours import make
from _scores import auc, log_loss
from _streams import Stream, load
from rich.console import Console
from rich.table import Table

STREAMS = ("kuairand", "synf")
BATCH, TURNS = 5000, 3


def learned(stream: Stream, threads: int) -> tuple[float, float, float]:
    """(microseconds per event, log-loss, AUC) of one pass."""
    learner = make({"kind": "ffm", "threads": threads}, stream.fields)
    parts, taken_s = [], 0.0
    for start in range(0, len(stream), BATCH):
        piece = slice(start, min(start + BATCH, len(stream)))
        rows, all_rows = stream.rows.part(piece.start, piece.stop), np.ones(piece.stop - piece.start, np.bool_)
        began_s = time.perf_counter()
        parts.append(learner.step(rows, stream.label[piece], stream.weight[piece], all_rows).p)
        taken_s += time.perf_counter() - began_s
    p = np.concatenate(parts)
    return 1e6 * taken_s / len(stream), log_loss(p, stream.label), auc(p, stream.label)


def main() -> None:
    table = Table("FFM k=4", "threads", "us per event", "log-loss", "AUC", title="threads without locks")
    told = []
    for name in STREAMS:
        stream = load(name)
        for threads in sorted({1, os.cpu_count() or 1}):
            turns = [learned(stream, threads) for _ in range(TURNS)]
            taken_us, loss, area = min(t[0] for t in turns), *np.mean([t[1:] for t in turns], axis=0)
            table.add_row(name, str(threads), f"{taken_us:.2f}", f"{loss:.5f}", f"{area:.4f}")
            told.append({"stream": name, "threads": threads, "us": taken_us, "log_loss": loss, "auc": area})
    Console(width=100).print(table)
    if "--json" in sys.argv[1:]:
        print(msgspec.json.encode({"rows": told}).decode())


if __name__ == "__main__":
    main()
