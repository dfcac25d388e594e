"""How fast the kernels are: 39 one-hot fields, Zipf, one thread, everything in memory, the peers in the same run.

    python benchmarks/kernels.py [--json] [--events N] [--repeats N]     minutes; makes the peers' environment
    python benchmarks/kernels.py --check                                  tens of seconds, without peers: for CI

Nanoseconds of the processor per event; each is the least over rounds in which everybody takes a turn, as whatever else
the machine does can only add to it. 2^22 records (FFM: 2^20, which are 1.3 GB), all known to the table before. "Kernel"
is predict-then-learn with the records found; finding them, which peers do while they read text, is part of
`Learner.step`, which has a table of its own. Scales are on unless it says so.

`--check` holds FM k=16 against the naive Numba loops where all records fit into the cache, so that only computing
counts: code that silently lost its vector instructions fails it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import _naive
import _native
import _speed_peers as peers
from _ours import Timed
from _peers import available
from _report import Row, show
from _zipf import FIELDS, Events, batches, make_events
from rich.console import Console
from rich.table import Table

RECORDS, FFM_RECORDS, CHECK_RECORDS = 1 << 22, 1 << 20, 1 << 12
ADAGRAD = {"w": {"kind": "adagrad"}, "v": {"kind": "adagrad"}}
KALMAN = {"w": {"kind": "kalman"}, "v": {"kind": "kalman"}}
LR = {"kind": "lr", "w": {"kind": "ftrl"}}
FM8, FM16 = {"kind": "fm", "k": 8, **ADAGRAD}, {"kind": "fm", "k": 16, **ADAGRAD}
FFM4 = {"kind": "ffm", "k": 4, **ADAGRAD}
PLAIN: dict[str, Any] = {"scales": None}
PLAIN_FFM: dict[str, Any] = {"scales": None, "pairs": None}

Subjects = dict[str, Callable[[], float]]
Found = dict[str, float]


def in_turn(subjects: Subjects, repeats: int) -> Found:
    """Each subject's least over rounds in which everybody takes a turn; a first round warms up."""
    rounds = [{name: run() for name, run in subjects.items()} for _ in range(repeats + 1)]
    return {name: min(found[name] for found in rounds[1:]) for name in subjects}


def timed(train: Callable[..., object], events: Events) -> Callable[[], float]:
    def run() -> float:
        began_s = time.process_time()
        train(*events)
        return 1e9 * (time.process_time() - began_s) / len(events.label)

    return run


def linear(n: int, repeats: int) -> tuple[list[Row], Found]:
    events = make_events(n, RECORDS)
    subjects = {**ours(LR, PLAIN, RECORDS, events), "C": timed(_native.lr(RECORDS, FIELDS), events)}
    if available("vowpalwabbit"):
        subjects["VW"] = peers.vw_ftrl(events, RECORDS)
    found = in_turn(subjects, repeats)
    return [
        *against(found, "VW", Row("LR FTRL, VW --ftrl learning from its cache", found["on"], 0, 15, "speedup")),
        Row("LR FTRL, the same without scales", found["on"], found["off"], 1.15, "cost"),
        Row("LR FTRL without scales, C by hand", found["off"], found["C"], 1.15, "cost"),
    ], found


def factors(n: int, repeats: int) -> tuple[list[Row], Found]:
    events = make_events(n, RECORDS)
    kalman = Timed({"kind": "fm", "k": 8, **KALMAN}, RECORDS, batches(events))
    subjects = {
        **ours(FM8, PLAIN, RECORDS, events),
        "kalman": kalman.kernel,
        "C": timed(_native.pairwise("fm", 8, RECORDS, FIELDS), events),
        "River": peers.river(events),
    }
    if available("xlearn"):
        subjects["xLearn"] = peers.xlearn("fm", 8, events, RECORDS)
    found = in_turn(subjects, repeats)
    return [
        *against(found, "xLearn", Row("FM k=8 AdaGrad, xLearn's epoch", found["on"], 0, 7, "speedup")),
        *against(found, "River", Row("FM k=8 AdaGrad, River", found["on"], 0, 5000, "speedup")),
        Row("FM k=8 Kalman, AdaGrad", found["kalman"], found["on"], 1.25, "cost"),
        Row("FM k=8 AdaGrad, the same without scales", found["on"], found["off"], 1.15, "cost"),
        Row("FM k=8 without scales, C by hand", found["off"], found["C"], 1.15, "cost"),
    ], found


def naive(n: int, repeats: int, size: int = RECORDS, goal: float = 3.5) -> tuple[list[Row], Found]:
    events = make_events(n, size)
    subjects: Subjects = {"on": Timed(FM16, size, batches(events)).kernel, "naive": timed(_naive.fm(16, size), events)}
    found = in_turn(subjects, repeats)
    return [Row("FM k=16 AdaGrad, naive Numba loops", found["on"], found["naive"], goal, "speedup")], found


def field_aware(n: int, repeats: int) -> tuple[list[Row], Found]:
    events = make_events(n // 4, FFM_RECORDS)
    subjects = {
        **ours(FFM4, PLAIN_FFM, FFM_RECORDS, events),
        "C": timed(_native.pairwise("ffm", 4, FFM_RECORDS, FIELDS), events),
    }
    if available("pylibffm"):
        subjects["libffm"] = peers.libffm(4, events, FFM_RECORDS)
    if available("xlearn"):
        subjects["xLearn"] = peers.xlearn("ffm", 4, events, FFM_RECORDS)
    found = in_turn(subjects, repeats)
    return [
        *against(found, "libffm", Row("FFM k=4 AdaGrad, libffm's epoch", found["on"], 0, 1.5, "speedup")),
        *against(found, "xLearn", Row("FFM k=4 AdaGrad, xLearn's epoch", found["on"], 0, 2, "speedup")),
        Row("FFM k=4 AdaGrad, the same without scales", found["on"], found["off"], 1.15, "cost"),
        Row("FFM k=4 without scales, C by hand", found["off"], found["C"], 1.35, "cost"),
    ], found


def ours(settings: dict[str, Any], plain: dict[str, Any], size: int, events: Events) -> Subjects:
    """The kernel with scales on and off, and all of `Learner.step`."""
    batched = batches(events)
    on, off = Timed(settings, size, batched), Timed({**settings, **plain}, size, batched)
    return {"on": on.kernel, "off": off.kernel, "step": on.step}


def against(found: Found, peer: str, row: Row) -> list[Row]:
    """The row with its peer's time; none where the peer does not install."""
    return [replace(row, peer=found[peer])] if peer in found else []


def show_tables(found: dict[str, Found]) -> None:
    """What a caller waits for beside the kernel alone."""
    table = Table("ns per event", "kernel", "Learner.step")
    for name, times in found.items():
        table.add_row(name, *(f"{x:,.0f}" for x in (times["on"], times["step"])))
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--events", type=int, default=1 << 19)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # peers inherit it
    if chosen.check:
        rows, _ = naive(1 << 15, 7, CHECK_RECORDS, 2.0)
        show("One pass in memory, ns per event", "peer", rows, as_json=chosen.json)
        sys.exit(not all(row.met for row in rows))
    groups = {"LR FTRL": linear, "FM k=8 AdaGrad": factors, "FM k=16": naive, "FFM k=4 AdaGrad": field_aware}
    results = {name: group(chosen.events, chosen.repeats) for name, group in groups.items()}
    show_tables({name: found for name, (_, found) in results.items() if "step" in found})
    rows = [row for rows, _ in results.values() for row in rows]
    show("One pass in memory, ns per event", "peer", rows, as_json=chosen.json)


if __name__ == "__main__":
    main()
