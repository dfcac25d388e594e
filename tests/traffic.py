"""A small, nasty stream for the tests of training: every kind of trouble, in two partitions of each topic."""

from __future__ import annotations

from functools import cache

import msgspec

from online_fm.config import Config, learning, parse
from online_fm.simulate import SimulateConfig, Simulator
from online_fm.source.memory import MemorySource
from online_fm.source.port import TopicPartition
from online_fm.train.pipeline import Pipeline

START_MS = 1_700_000_000_000

CONFIG = """
source: { kind: files, path: unused }
events: { impression: { score: score } }
features:
  fields:
    - user
    - item
    - device
    - { kind: bounds, name: age, bounds: [18, 35, 65] }
    - { kind: log_bucket, name: price }
    - { kind: multi, name: tags }
    - { kind: cross, name: item_device, of: [item, device] }
join: { window_s: 20, grace_s: 5 }
model: { kind: fm, k: 4 }
quality: { window: 200 }
"""


def config(*settings: str) -> Config:
    return parse(CONFIG, settings)


@cache
def records(events: int = 1500, seed: int = 1) -> dict[TopicPartition, list[bytes]]:
    """Values per partition: duplicates, malformed ones, orphans, late and out-of-order events among them."""
    simulator = Simulator(
        SimulateConfig(
            seed=seed,
            events=events,
            rate_per_s=None,
            event_rate_per_s=20.0,
            start_ms=START_MS,
            users=30,
            items=20,
            duplicate_rate=0.03,
            out_of_order_rate=0.1,
            out_of_order_s=10.0,
            malformed_rate=0.02,
            orphan_rate=0.03,
        )
    )
    found: dict[TopicPartition, list[bytes]] = {}
    for chunk in simulator.chunks():
        for topic, lines in (("impressions", chunk.impressions), ("clicks", chunk.clicks)):
            for partition, each in enumerate(lines):
                found.setdefault(TopicPartition(topic, partition), []).extend(each.values)
    return found


def pipeline(*settings: str, batch_records: int = 5000) -> Pipeline:
    return Pipeline(
        learning(config(*settings)), impressions="impressions", clicks="clicks", batch_records=batch_records
    )


def source(crash_at: int | None = None, **stream: int) -> MemorySource:
    return MemorySource(records(**stream), timestamp_ms=START_MS + 10**8, crash_at=crash_at)


def read_all(learner: Pipeline, stream: MemorySource, batch_records: int = 5000) -> None:
    """Turn until all is merged; no time passes but that of the events."""
    learner.assign(stream.positions())
    while True:
        batch = stream.poll(batch_records, 0, learner.ahead())
        learner.step(batch, now_ms=0)
        if not len(batch) and not learner.waiting():
            return


def fingerprint(learner: Pipeline) -> tuple[str, dict[str, int], bytes]:
    """All that must be equal: parameters and optimizer state, counts, and everything else a checkpoint holds."""
    state = learner.state()
    rest = msgspec.json.encode([state.rest, {str(p): o for p, o in sorted(state.offsets.items())}], order="sorted")
    tensors = b"".join(name.encode() + array.tobytes() for name, array in sorted(state.tensors.items()))
    return learner.learner.state_hash(), learner.counts(), rest + tensors
