"""From JSON bytes in memory to a learned example, one process: the whole pipeline, a plain design, and River.

39 fields, about 620 bytes an impression, the clicks of 5 % of them; scan, merge, join, predict, learn, judge. Timed
is the second half of the stream, with the table as the first half left it, as a daemon finds it all its life but the
first seconds. The plain design takes impressions alone, whose labels it is told: orjson, a loop over the fields that
hashes, the same kernel. River decodes the same bytes and learns the same labels with its own FM, on a prefix. Events a
second of the processor's time, the best of the turns that all but River take; a first table says where the pipeline's
goes, room by room.

    python benchmarks/ingest.py [--json]
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import orjson
import xxhash
from _report import Row, show
from rich.console import Console
from rich.table import Table
from river import facto, optim

from online_fm.config import learning, parse
from online_fm.features.batch import Rows
from online_fm.model import make_learner
from online_fm.simulate import SimulateConfig, Simulator
from online_fm.source.memory import MemorySource
from online_fm.source.port import TopicPartition
from online_fm.train.pipeline import Pipeline

EVENTS, RIVER_EVENTS, PLAIN_EVENTS = 200_000, 2_000, 50_000  # in each half; of the second half
FIELDS, BATCH, TURNS = 39, 5000, 5
SHOWN, CLICKED = TopicPartition("impressions", 0), TopicPartition("clicks", 0)
CONFIG = f"""
features:
  fields: [user, item, category, device, hour, {{kind: bounds, name: age, bounds: [18, 25, 35, 45, 55, 65]}},
    {{kind: bounds, name: price, bounds: [5, 10, 20, 50, 100]}}, {{kind: multi, name: tags}},
    {", ".join(f"x{i}" for i in range(FIELDS - 8))}]
join: {{window_s: 60, grace_s: 5}}
"""
ROOMS = {
    "scan": ("_scanner", ("impressions", "clicks")),
    "merge": ("_merger", ("add", "take")),
    "join": ("_pending", ("run", "advance", "predicted")),
    "learn": ("learner", ("step",)),
}
Recorded = dict[TopicPartition, list[bytes]]


def stream() -> tuple[Recorded, Recorded]:
    """The two halves, cut at one event time."""
    config = SimulateConfig(
        events=2 * EVENTS, rate_per_s=None, event_rate_per_s=1000.0, start_ms=1_700_000_000_000, partitions=1,
        fields=FIELDS, click_rate=0.05, malformed_rate=0.0,
    )  # fmt: skip
    halves: tuple[Recorded, Recorded] = ({SHOWN: [], CLICKED: []}, {SHOWN: [], CLICKED: []})
    for chunk in Simulator(config).chunks():
        if not len(chunk.impressions[0].values):
            break  # clicks alone, long after the last impression: rows would be learned and none come
        found = halves[len(halves[0][SHOWN]) >= EVENTS]
        found[SHOWN] += chunk.impressions[0].values
        found[CLICKED] += chunk.clicks[0].values
    return halves


def pipeline(kind: str, k: int) -> Pipeline:
    settings = [f"model.kind={kind}", *([f"model.k={k}"] if kind != "lr" else [])]
    return Pipeline(learning(parse(CONFIG, settings)), impressions="impressions", clicks="clicks")


def fed(made: Pipeline, source: MemorySource, records: Recorded) -> float:
    """Nanoseconds of the processor per impression, until nothing waits to be merged."""
    for partition, values in records.items():
        source.append(partition, *values)
    before, began_s = made.counts()["impressions"], time.thread_time()
    while len(batch := source.poll(BATCH, 0, made.ahead())) or made.waiting():
        made.step(batch, now_ms=0)
    spent_s = time.thread_time() - began_s
    read = made.counts()["impressions"] - before
    assert read == len(records[SHOWN])
    return 1e9 * spent_s / read


def grown(kind: str, k: int, young: Recorded) -> tuple[Pipeline, MemorySource]:
    """A pipeline that has learned the first half."""
    made, source = pipeline(kind, k), MemorySource({SHOWN: [], CLICKED: []})
    made.assign(source.positions())
    fed(made, source, young)
    return made, source


def ours(kind: str, k: int, halves: tuple[Recorded, Recorded]) -> float:
    """Nanoseconds per impression of the second half, in which as many rows are learned as come."""
    made, source = grown(kind, k, halves[0])
    before = made.counts()["learned"]
    spent_ns = fed(made, source, halves[1])
    assert made.counts()["learned"] - before > 0.97 * len(halves[1][SHOWN])
    return spent_ns


class Clock:
    """Seconds of the processor in the rooms of one pipeline; a room's time is not that of the room that it called."""

    def __init__(self, made: Pipeline) -> None:
        self.spent: Counter[str] = Counter()
        self._inside: list[str] = []
        self._since_s = 0.0
        for room, (part, names) in ROOMS.items():
            owner = made.learners[0].learner if part == "learner" else getattr(made, part)
            for name in names:
                setattr(owner, name, self._timed(room, getattr(owner, name)))
        for quality in made.quality.values():
            quality.observe = self._timed("judge", quality.observe)  # type: ignore[method-assign]

    def _timed(self, room: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            self._enter(room)
            try:
                found = function(*args, **kwargs)
            finally:
                self._leave()
            return self._each(room, found) if isinstance(found, Iterator) else found

        return run

    def _each(self, room: str, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            self._enter(room)
            try:
                batch = next(batches, None)
            finally:
                self._leave()
            if batch is None:
                return
            yield batch

    def _enter(self, room: str) -> None:
        self._count()
        self._inside.append(room)

    def _leave(self) -> None:
        self._count()
        self._inside.pop()

    def _count(self) -> None:
        now_s = time.thread_time()
        if self._inside:
            self.spent[self._inside[-1]] += now_s - self._since_s
        self._since_s = now_s


def rooms(kind: str, k: int, halves: tuple[Recorded, Recorded]) -> dict[str, float]:
    """Nanoseconds per impression of the second half, by room."""
    made, source = grown(kind, k, halves[0])
    clock = Clock(made)
    whole = fed(made, source, halves[1])
    spent = {room: 1e9 * clock.spent[room] / len(halves[1][SHOWN]) for room in (*ROOMS, "judge")}
    return {**spent, "the rest": whole - sum(spent.values()), "together": whole}


def plain(halves: tuple[Recorded, Recorded]) -> float:
    """Nanoseconds per impression of the second half: orjson, a loop that hashes, the kernel of FM k=8."""
    config = learning(parse(CONFIG))
    names = list(config.field_names)
    seeds = [xxhash.xxh64_intdigest(name.encode()) for name in names]
    learner = make_learner(config.model, names)
    for half, most in zip(halves, (EVENTS, PLAIN_EVENTS), strict=True):
        clicked = {msgspec.json.decode(value)["impression_id"] for value in half[CLICKED]}
        values = half[SHOWN][:most]
        labels = np.array([msgspec.json.decode(value)["impression_id"] in clicked for value in values], np.float32)
        began_s = time.thread_time()
        for start in range(0, len(values), BATCH):
            ptr, fld, key = [0], [], []
            for value in values[start : start + BATCH]:
                features = orjson.loads(value)["features"]
                for number, name in enumerate(names):
                    given = features.get(name)
                    for text in given if isinstance(given, list) else (given,):
                        fld.append(number)
                        key.append(xxhash.xxh64_intdigest(str(text).encode(), seeds[number]) >> 32)
                ptr.append(len(key))
            rows = Rows(
                np.array(ptr, np.int64), np.array(fld, np.uint16), np.array(key, np.uint32),
                np.ones(len(key), np.float32),
            )  # fmt: skip
            label = labels[start : start + len(rows)]
            outcome = learner.step(rows, label, np.ones_like(label), np.ones(len(rows), np.bool_))
            float(-np.log(np.where(label > 0, outcome.p, 1 - outcome.p)).sum())
        spent_s = time.thread_time() - began_s
    return 1e9 * spent_s / len(values)


def river(records: Recorded) -> float:
    """Nanoseconds per impression, on a prefix."""
    model = facto.FMClassifier(n_factors=8, weight_optimizer=optim.AdaGrad(0.1), latent_optimizer=optim.AdaGrad(0.1))
    clicked = {msgspec.json.decode(value)["impression_id"] for value in records[CLICKED]}
    began_s = time.thread_time()
    for value in records[SHOWN][:RIVER_EVENTS]:
        event = msgspec.json.decode(value)
        features = {name: str(value) for name, value in event["features"].items()}
        model.predict_proba_one(features)
        model.learn_one(features, event["impression_id"] in clicked)
    return 1e9 * (time.thread_time() - began_s) / RIVER_EVENTS


def main() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    halves = stream()
    kinds = {"LR": ("lr", 0), "FM k=8": ("fm", 8), "FFM k=4": ("ffm", 4)}
    turns = [([ours(*kind, halves) for kind in kinds.values()], plain(halves)) for _ in range(1 + TURNS)][1:]
    by_hand, peer = min(spent for _, spent in turns), 1e9 / river(halves[0])
    lr, fm, ffm = (1e9 / min(spent) for spent in zip(*(found for found, _ in turns), strict=True))
    rows = [
        Row("LR, River FM k=8", lr, peer, 400_000),
        Row("FM k=8, River FM k=8", fm, peer, 400_000),
        Row("FFM k=4, River FM k=8", ffm, peer, 110_000),
        Row("FM k=8, plain design", fm, 1e9 / by_hand, 6, "ratio"),
    ]
    table = Table("room", *(f"{name}, ns per impression" for name in kinds))
    found = [
        min((rooms(*kind, halves) for _ in range(TURNS)), key=lambda by: by["together"]) for kind in kinds.values()
    ]
    for room in found[0]:
        table.add_row(room, *(f"{spent[room]:,.0f}" for spent in found))
    Console(width=110).print(table)
    show("JSON bytes to learned, impressions a second", "peer", rows, as_json="--json" in sys.argv[1:])


if __name__ == "__main__":
    main()
