"""A real Kafka broker, the daemon's own loop, and the model: how many events a second, and how fresh.

Throughput: topics of 4 partitions are filled beforehand with impressions of 39 fields, some 620 bytes, and the clicks
of 5 % of them. The client alone polls and counts; then `train` joins and learns the same topics, FM k=8, with the same
client, which lives in a process of its own. Both are told in records a second over the second half, once the table has
grown; the better of two runs.

Freshness: 20,000 events a second are produced by another process; an event has been learned (window 0) when the worker
reports that it was merged. Beside it, how old events are when the client alone has polled them. In ms, once warm.

    python benchmarks/from_kafka.py [--json] [kafka_python] [confluent]

Needs Java and Maven as the tests do. Broker, producer and worker share the machine.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import confluent_kafka
import kafka
import numpy as np
from _report import Row, show
from numpy.typing import NDArray

from online_fm import app
from online_fm.config import Config, parse
from online_fm.simulate import SimulateConfig, Simulator
from online_fm.simulate.kafka_sink import ConfluentSink
from online_fm.source.config import ConfluentConfig, KafkaPythonConfig
from online_fm.source.confluent import CONSUMER_DEFAULTS, settings
from online_fm.source.kafka_python import connected
from online_fm.train.pipeline import Pipeline, StepReport

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from broker import Broker

KINDS = {"kafka_python": "kafka-python", "confluent": "confluent-kafka"}
EVENTS = 1_000_000
PARTITIONS, FIELDS, CLICK_RATE = 4, 39, 0.05
RATE, WARM_S, FRESH_S = 20_000, 10.0, 15.0
TICK_S = 0.005
CONFIG = f"""
features:
  fields: [user, item, category, device, hour, {{kind: bounds, name: age, bounds: [18, 25, 35, 45, 55, 65]}},
    {{kind: bounds, name: price, bounds: [5, 10, 20, 50, 100]}}, {{kind: multi, name: tags}},
    {", ".join(f"x{i}" for i in range(FIELDS - 8))}]
model: {{kind: fm, k: 8}}
telemetry: {{port: 0, log_level: error}}
"""
Heard = list[tuple[float, dict[tuple[str, int], int]]]
"""When (s), and the offsets up to which everything had been heard by then, per partition."""


@contextmanager
def broker() -> Iterator[Broker]:
    with tempfile.TemporaryDirectory() as folder:
        started = Broker(Path(folder))
        started.start()
        try:
            yield started
        finally:
            started.stop()


def simulator(events: int) -> Simulator:
    return Simulator(
        SimulateConfig(
            events=events, rate_per_s=None, event_rate_per_s=1000.0, start_ms=1_700_000_000_000, partitions=PARTITIONS,
            fields=FIELDS, click_rate=CLICK_RATE, malformed_rate=0.0,
        )
    )  # fmt: skip


def fill(address: str, impressions: str, clicks: str) -> None:
    sink = ConfluentSink([address], PARTITIONS, impressions=impressions, clicks=clicks)
    for chunk in simulator(EVENTS).chunks():
        sink.write(chunk)
    sink.close()


def config(kind: str, address: str, topics: tuple[str, str], folder: str, *changes: str) -> Config:
    source = [f"source.kind={kind}", f"source.brokers=[{address}]"]
    named = [f"source.impressions={topics[0]}", f"source.clicks={topics[1]}", f"source.group={topics[1]}"]
    stores = [f"checkpoint.path={folder}/checkpoints", f"snapshot.path={folder}/snapshots"]
    return parse(CONFIG, [*source, *named, *stores, *changes])


def alone(kind: str, address: str, topics: tuple[str, str]) -> Iterator[dict[tuple[str, int], int]]:
    """Poll with the client and nothing else; give the next offsets after each batch, without end."""
    partitions = [(topic, number) for topic in topics for number in range(PARTITIONS)]
    at: dict[tuple[str, int], int] = {}
    if kind == "confluent":
        conf = CONSUMER_DEFAULTS | settings(ConfluentConfig(brokers=[address])) | {"group.id": "alone"}
        consumer = confluent_kafka.Consumer(conf)
        consumer.assign([confluent_kafka.TopicPartition(*p, 0) for p in partitions])
        while True:
            messages = consumer.consume(1, 0.5)
            messages += consumer.consume(2000, 0)
            for message in messages:
                at[message.topic(), message.partition()] = message.offset() + 1
            yield at
    theirs = connected(kafka.KafkaConsumer, KafkaPythonConfig(brokers=[address]))
    theirs.assign([kafka.TopicPartition(*p) for p in partitions])
    theirs.seek_to_beginning()
    while True:
        for partition, records in theirs.poll(500, max_records=2000).items():
            at[partition] = records[-1].offset + 1
        yield at


def train(described: Config, hear: Callable[[Pipeline, StepReport], bool]) -> None:
    """Run the worker until `hear` says that it has heard enough."""
    stop = Event()

    def report(pipeline: Pipeline, step: StepReport) -> None:
        if hear(pipeline, step):
            stop.set()

    app.train(described, stop, on_report=report)


def rate(heard: Iterator[int], total: int) -> float:
    """Records a second over the second half of all."""
    half = next(n for n in heard if n >= total // 2)
    began_s = time.perf_counter()
    last = next(n for n in heard if n >= total)
    return (last - half) / (time.perf_counter() - began_s)


def throughput(kind: str, address: str, topics: tuple[str, str], total: int) -> tuple[float, float]:
    """Records a second: of ours, and of the client alone."""
    peer = rate((sum(at.values()) for at in alone(kind, address, topics)), total)
    with tempfile.TemporaryDirectory() as folder:
        heard = [(time.perf_counter(), 0)]

        def hear(_: Pipeline, step: StepReport) -> bool:
            heard.append((time.perf_counter(), heard[-1][1] + step.records))
            return heard[-1][1] >= total

        train(config(kind, address, topics, folder, "join.window_s=60", "join.grace_s=5"), hear)
    (began_s, half), (ended_s, last) = next(each for each in heard if each[1] >= total // 2), heard[-1]
    return (last - half) / (ended_s - began_s), peer


def send(address: str, topics: tuple[str, str], seconds: float) -> None:
    """Produce `RATE` events a second, each with the time of sending, as if all were shown or clicked just now."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": address, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000}
    )
    found: list[tuple[str, int, bytes, int]] = []
    for chunk in simulator(RATE).chunks():
        for topic, lines in zip(topics, (chunk.impressions, chunk.clicks), strict=True):
            for number, each in enumerate(lines):
                found += [(topic, number, value, value.index(b'"ts":') + 5) for value in each.values]
    began_s, sent = time.perf_counter(), 0
    while (passed_s := time.perf_counter() - began_s) < seconds:
        for _ in range(sent, round(passed_s * RATE)):
            topic, number, value, at = found[sent % len(found)]
            now_ms = time.time_ns() // 1_000_000
            ident, rest = value[:at].replace(b"-", b"-%d-" % (sent // len(found)), 1), value[at + 13 :]
            producer.produce(topic, b"%s%d%s" % (ident, now_ms, rest), partition=number, timestamp=now_ms)
            sent += 1
        producer.poll(0)
        time.sleep(TICK_S)
    producer.flush(30)


def ages(address: str, topics: tuple[str, str], heard: Heard) -> NDArray[np.float64]:
    """How long after it was produced each record was heard, in ms, of those produced after `WARM_S`."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": address, "group.id": "ages"})
    found = []
    for topic, number in [(topic, number) for topic in topics for number in range(PARTITIONS)]:
        end = heard[-1][1].get((topic, number), 0)
        consumer.assign([confluent_kafka.TopicPartition(topic, number, 0)])
        produced: list[float] = []
        while len(produced) < end:
            produced += [m.timestamp()[1] for m in consumer.consume(10_000, 1.0) if m.error() is None]
        upto = np.array([at.get((topic, number), 0) for _, at in heard])
        times_ms = np.array([at_s * 1000 for at_s, _ in heard])
        first = times_ms[np.searchsorted(upto, np.arange(end), side="right")]
        sent_ms = np.array(produced[:end])
        found.append(np.stack([sent_ms, first - sent_ms]))
    consumer.close()
    sent_ms, ages_ms = np.concatenate(found, axis=1)
    return ages_ms[sent_ms > sent_ms.min() + 1000 * WARM_S]


def freshness(kind: str, started: Broker, *, learned: bool) -> tuple[float, float]:
    """Median and 99th percentile of the age, in ms, at which events are learned or, by the client alone, polled."""
    topics = started.topic("impressions", PARTITIONS), started.topic("clicks", PARTITIONS)
    seconds = WARM_S + FRESH_S
    sender = multiprocessing.get_context("spawn").Process(target=send, args=(started.address, topics, seconds + 2.0))
    sender.start()
    heard: Heard = []
    enough = 0.95 * RATE * seconds
    if learned:
        with tempfile.TemporaryDirectory() as folder:

            def hear(pipeline: Pipeline, step: StepReport) -> bool:
                if step.merged:
                    heard.append((time.time(), {(p.topic, p.partition): o for p, o in pipeline.offsets().items()}))
                return not sender.is_alive() or bool(heard and sum(heard[-1][1].values()) >= enough)

            train(config(kind, started.address, topics, folder, "join.window_s=0", "join.grace_s=0"), hear)
    else:
        for at in alone(kind, started.address, topics):
            heard.append((time.time(), dict(at)))
            if sum(at.values()) >= enough or not sender.is_alive():
                break
    sender.join()
    found = ages(started.address, topics, heard)
    return float(np.quantile(found, 0.5)), float(np.quantile(found, 0.99))


def main() -> None:
    kinds = [kind for kind in KINDS if kind in sys.argv] or list(KINDS)
    rows = []
    with broker() as started:
        topics = ("impressions", "clicks")
        fill(started.address, *topics)
        ends = [started.ends(topic, number) for topic in topics for number in range(PARTITIONS)]
        for kind in kinds:
            runs = [throughput(kind, started.address, topics, sum(ends)) for _ in range(2)]
            ours, peer = max(ours for ours, _ in runs), max(peer for _, peer in runs)
            share = sum(ends[:PARTITIONS]) / sum(ends)
            if kind == "confluent":
                rows.append(Row("confluent-kafka, impressions/s", ours * share, peer * share, 250_000))
            else:
                rows.append(Row("kafka-python, records/s", ours, peer, 0.8, "ratio"))
        for kind in kinds:
            fresh, polled = (freshness(kind, started, learned=learned) for learned in (True, False))
            for name, mine, theirs in zip(("p50", "p99"), fresh, polled, strict=True):
                rows.append(Row(f"{KINDS[kind]}, learned after, {name}, ms", mine, theirs, 250, "most"))
    show("Kafka to learned, FM k=8", "client alone", rows, as_json="--json" in sys.argv[1:])


if __name__ == "__main__":
    main()
