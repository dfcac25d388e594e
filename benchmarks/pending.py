"""What a pending impression costs: bytes of resident memory, and nanoseconds of the join with few and with many.

Impressions of 39 one-hot fields, one a millisecond, 5 % of them clicked at any time of the window. Memory is what the
process holds more than before, when the rows have come and after they were all replaced by others twice. Time is that
of the join, alone and with the learner: a row is predicted when it comes, kept, found by its click, and learned.

    python benchmarks/pending.py [--json]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from _report import Row, show
from numpy.typing import NDArray

from online_fm.config import learning, parse
from online_fm.features.batch import Rows
from online_fm.join.facts import CLICK, IMPRESSION, Facts
from online_fm.join.merge import Merged
from online_fm.join.pending import JoinConfig, Pending
from online_fm.train.judged import JudgedLearner

FIELDS = 39
BATCH = 5000  # impressions
CLICKED = 0.05
KEYS = 20_000  # of a field
TURNS = 150  # batches
FEW, MANY = 10_000, 5_000_000
U64 = np.uint64
CONFIG = f"""
model: {{kind: fm, k: 8}}
features: {{fields: [{", ".join(f"x{i}" for i in range(FIELDS))}]}}
"""


def identities(number: NDArray[np.int64]) -> NDArray[np.uint64]:
    """128 bits for each impression, as two hashes of its id would be: u64[n, 2]."""

    def mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        x = (x ^ (x >> U64(30))) * U64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> U64(27))) * U64(0x94D049BB133111EB)
        return x ^ (x >> U64(31))

    return np.column_stack([mixed(number.astype(U64) * U64(0x9E3779B97F4A7C15) + U64(seed)) for seed in (1, 2)])


def records(first: int, window: int, rng: np.random.Generator) -> Merged:
    """Impressions `first` and following, the clicks of earlier ones among them."""
    shown = np.arange(first, first + BATCH)
    clicked = shown[rng.random(BATCH) < CLICKED]
    delay = np.minimum(rng.integers(0, window, len(clicked)), clicked)
    number = np.concatenate((shown, clicked - delay))
    ts = np.concatenate((shown, clicked))
    kind = np.repeat([IMPRESSION, CLICK], (len(shown), len(clicked))).astype(np.uint8)
    order = np.lexsort((kind, ts))
    nnz = np.where(kind[order] == IMPRESSION, FIELDS, 0)
    n = len(order)
    rows = Rows(
        np.concatenate(([0], np.cumsum(nnz))),
        np.tile(np.arange(FIELDS, dtype=np.uint16), BATCH),
        rng.integers(0, KEYS, FIELDS * BATCH, np.uint32),
        np.ones(FIELDS * BATCH, np.float32),
    )
    facts = Facts(
        kind[order],
        np.arange(n),
        ts[order],
        ts[order],
        identities(number)[order],
        np.ones(n, np.float32),
        np.full(n, np.nan, np.float32),
        (kind[order] == CLICK).astype(np.float32),
        rows,
    )
    return Merged(facts, ts[order])


def resident_bytes() -> int:
    fields = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in fields.splitlines() if line.startswith("VmRSS:")) * 1024


class Stream:
    """Feeds a join so that `waiting` impressions are pending; counts what it costs."""

    def __init__(self, waiting: int) -> None:
        self.waiting, self.next, self.rng = waiting, 0, np.random.default_rng(1)
        self.pending = Pending(JoinConfig(window_s=waiting / 1000, grace_s=0, max_pending=2 * waiting))
        self.times: list[float] = []  # s per event, batch by batch

    def feed(self, impressions: int, learner: JudgedLearner | None = None) -> None:
        for first in range(self.next, self.next + impressions, BATCH):
            merged = records(first, self.waiting, self.rng)
            began_s = time.thread_time()
            for batch in self.pending.run(merged):
                if learner:
                    learner.learn(batch, partial(self.pending.predicted, batch))
                else:
                    self.pending.predicted(batch, batch.weight)
            self.times.append((time.thread_time() - began_s) / len(merged.key))
        self.next += impressions


def memory() -> list[float]:
    """Bytes of resident memory per pending impression: when they have come, when all were replaced twice."""
    warm = Stream(BATCH)
    warm.feed(10 * BATCH)
    del warm
    before, stream, found = resident_bytes(), Stream(MANY), []
    for impressions in (MANY, 2 * MANY):
        stream.feed(impressions)
        found.append((resident_bytes() - before) / stream.pending.pending)
    return found


def times() -> list[float]:
    """ns per event with few and with many, of the join alone and with a learner; in turns, batch by batch."""
    streams, found = [Stream(FEW), Stream(MANY)], []
    for stream in streams:
        stream.feed(stream.waiting)
    for config in (None, learning(parse(CONFIG))):
        learners = [JudgedLearner(config) if config else None for _ in streams]
        for turn in range(2 * TURNS):
            for stream, learner in zip(streams, learners, strict=True):
                stream.feed(BATCH, learner)
                if turn < TURNS:  # the features are not known yet, the caches not warm
                    stream.times.clear()
        found += [float(np.median(stream.times)) * 1e9 for stream in streams]
    return found


def main() -> None:
    if sys.argv[1:] == ["--memory"]:
        print(json.dumps(memory()))
        return
    command = [sys.executable, __file__, "--memory"]
    filled, replaced = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    few, many, few_learned, many_learned = times()
    rows = [
        Row("bytes per pending impression", filled, 250, 1, "cost"),
        Row("the same, all replaced twice", replaced, 250, 1, "cost"),
        Row("ns per event, join alone", many, few, 1.5, "cost"),
        Row("ns per event, joined and learned, FM k=8", many_learned, few_learned, 1.5, "cost"),
    ]
    show(f"{MANY:,} pending impressions", f"bound; {FEW:,} pending", rows, as_json="--json" in sys.argv[1:])


if __name__ == "__main__":
    main()
