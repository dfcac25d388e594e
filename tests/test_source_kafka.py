"""The Kafka bodies against a real broker: commits, gaps, transactions, new partitions, restarts, stalls."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest
from broker import Broker

from online_fm.errors import ConfigError, OffsetGap, SourceError
from online_fm.source import confluent, kafka_python
from online_fm.source.config import ConfluentConfig, KafkaPythonConfig
from online_fm.source.kafka_source import KafkaSource
from online_fm.source.open import open_source
from online_fm.source.port import NO_TIMESTAMP, TopicPartition

pytestmark = pytest.mark.kafka

CONFIGS = {"kafka_python": KafkaPythonConfig, "confluent": ConfluentConfig}


@pytest.fixture(params=list(CONFIGS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def topics(kafka: Broker) -> tuple[str, str]:
    """An impressions topic and a clicks topic of one partition each."""
    return kafka.topic("impressions"), kafka.topic("clicks")


@pytest.fixture
def opened(kafka: Broker, kind: str, topics: tuple[str, str]):
    """Opens sources of one kind on the test's own topics and group, and closes them."""
    sources = []

    def open_kafka(**settings) -> KafkaSource:
        named = {"impressions": topics[0], "clicks": topics[1], "brokers": [kafka.address], "group": topics[0]}
        sources.append(open_source(CONFIGS[kind](**named | settings)))
        return sources[-1]

    yield open_kafka
    for source in sources:
        source.close()


def numbered(n: int, first: int = 0) -> list[bytes]:
    return [b"%d" % i for i in range(first, first + n)]


def read_until(source: KafkaSource, done: Callable[[list[bytes]], bool], seconds: float = 30) -> list[bytes]:
    """Values of all partitions in the order of reading, until `done` says so."""
    got: list[bytes] = []
    deadline = time.monotonic() + seconds
    while not done(got):
        assert time.monotonic() < deadline, f"{len(got)} records, lag {source.lag()}"
        got += [value for records in source.poll(500, 200).records for value in records.values]
    return got


def read_to_end(source: KafkaSource, seconds: float = 30) -> list[bytes]:
    got: list[bytes] = []
    deadline = time.monotonic() + seconds
    while True:
        batch = source.poll(500, 200)
        got += [value for records in batch.records for value in records.values]
        if batch.at_end == source.partitions():
            return got
        assert time.monotonic() < deadline, f"{len(got)} records, lag {source.lag()}"


def test_a_commit_can_be_seen_by_whoever_watches_the_group(kafka, opened, topics):
    kafka.produce(topics[0], numbered(9))
    source = opened()
    read_to_end(source)
    source.commit({TopicPartition(topics[0], 0): 7})
    assert kafka.committed(topics[0], topics[0]) == 7


def test_commits_do_not_move_where_a_source_begins(kafka, opened, topics):
    kafka.produce(topics[0], numbered(9))
    source = opened()
    source.commit({TopicPartition(topics[0], 0): 7})
    source.close()
    assert read_to_end(opened()) == numbered(9)


def test_start_latest_reads_only_what_comes_later(kafka, opened, topics):
    kafka.produce(topics[0], numbered(9))
    source = opened(start="latest")
    assert source.positions() == {TopicPartition(topics[0], 0): 9, TopicPartition(topics[1], 0): 0}
    kafka.produce(topics[0], numbered(3, first=9))
    assert read_until(source, lambda got: len(got) >= 3) == numbered(3, first=9)


def test_a_record_has_the_timestamp_that_its_producer_gave_it(kafka, opened, topics):
    kafka.produce(topics[0], [b"a"], timestamp_ms=1_234_567)
    producer = kafka.producer()
    producer.produce(topics[0], None, key=b"tombstone", timestamp=1_234_568)
    assert producer.flush(10) == 0
    source = opened()
    given = []
    while len(given) < 2:
        given += [
            (t, v) for r in source.poll(10, 200).records for t, v in zip(r.timestamps.tolist(), r.values, strict=True)
        ]
    assert given == [(1_234_567, b"a"), (1_234_568, b"")]
    assert NO_TIMESTAMP == -1


def test_lag_grows_while_nothing_is_polled_from_a_paused_partition(kafka, opened, topics):
    source = opened()
    paused = frozenset({TopicPartition(topics[0], 0)})
    kafka.produce(topics[0], numbered(50))
    deadline = time.monotonic() + 10
    while source.lag()[TopicPartition(topics[0], 0)] < 50:
        assert len(source.poll(10, 100, paused)) == 0
        assert time.monotonic() < deadline
    batch = source.poll(10, 100, paused)
    assert TopicPartition(topics[0], 0) not in batch.at_end
    assert TopicPartition(topics[1], 0) in batch.at_end
    assert read_to_end(source) == numbered(50)


def test_a_queue_that_is_full_pauses_its_partition_and_goes_on_when_it_is_read(kafka, opened, topics):
    kafka.produce(topics[0], [b"%07d" % i + b"x" * 50_000 for i in range(400)])
    kafka.produce(topics[1], numbered(400))
    source = opened()
    paused = frozenset({TopicPartition(topics[0], 0)})
    clicks: list[bytes] = []
    while len(clicks) < 400:
        clicks += [v for r in source.poll(3, 200, paused).records for v in r.values]
    assert source.positions()[TopicPartition(topics[0], 0)] == 0
    got = read_to_end(source)
    assert [int(v[:7]) for v in got] == list(range(400))


def test_what_is_paused_and_resumed_at_the_client_again_and_again_comes_once(kafka, kind, topics, monkeypatch):
    """kafka-python's own pause loses sight of what it has fetched."""
    for topic in topics:
        kafka.produce(topic, numbered(400))
    both = [TopicPartition(topic, 0) for topic in topics]
    make = {"kafka_python": kafka_python.KafkaPythonClient, "confluent": confluent.ConfluentClient}[kind]
    client = make(CONFIGS[kind](impressions=topics[0], clicks=topics[1], brokers=[kafka.address]))
    client.partitions(topics)
    client.assign(dict.fromkeys(both, 0))
    got: dict[TopicPartition, list[bytes]] = {p: [] for p in both}
    turns = itertools.cycle([frozenset(both[:1]), frozenset(), frozenset(both[1:]), frozenset(both)])
    now: frozenset[TopicPartition] = frozenset()
    deadline = time.monotonic() + 30
    while any(len(values) < 400 for values in got.values()):
        assert time.monotonic() < deadline, {p: len(values) for p, values in got.items()}
        before, now = now, next(turns)
        for partition in now - before:
            client.pause(partition)
        for partition in before - now:
            client.resume(partition)
        for records in client.fetch(40, 100):
            assert records.partition not in now
            got[records.partition] += records.values
    client.close()
    assert got == dict.fromkeys(both, numbered(400))


def test_records_that_retention_has_removed_are_a_gap_at_seek(kafka, opened, topics):
    kafka.produce(topics[0], numbered(20))
    kafka.delete_records(topics[0], 0, 15)
    source = opened()
    with pytest.raises(OffsetGap) as raised:
        source.seek({TopicPartition(topics[0], 0): 5})
    assert (raised.value.stored, raised.value.first, raised.value.end) == (5, 15, 20)
    assert source.lost == 0


def test_a_gap_that_is_accepted_goes_on_at_the_first_record_and_counts_the_loss(kafka, opened, topics):
    kafka.produce(topics[0], numbered(20))
    kafka.delete_records(topics[0], 0, 15)
    source = opened(on_gap="accept")
    source.seek({TopicPartition(topics[0], 0): 5, TopicPartition(topics[0], 8): 3})
    assert read_to_end(source) == numbered(5, first=15)
    assert source.lost == 10


@pytest.mark.parametrize("on_gap", ["stop", "accept"])
def test_records_that_retention_removes_under_the_reader_are_a_gap_at_poll(kafka, kind, opened, topics, on_gap):
    large = [b"%07d" % i + b"x" * 100_000 for i in range(300)]
    kafka.produce(topics[0], large)
    source = opened(on_gap=on_gap, options={"max_partition_fetch_bytes": 200_000} | few_queued(kind))
    first = source.poll(1, 5000).records[0]
    assert first.offsets.tolist() == [0]
    kafka.delete_records(topics[0], 0, 299)
    if on_gap == "stop":
        with pytest.raises(OffsetGap) as raised:
            read_to_end(source)
        assert (raised.value.first, raised.value.end) == (299, 300)
        return
    got = read_to_end(source)
    assert got[-1] == large[299]
    assert source.lost == 300 - 1 - len(got)


def few_queued(kind: str) -> dict[str, int]:
    return {"queued.max.messages.kbytes": 200} if kind == "confluent" else {}


def transaction(kafka: Broker, topic: str, values: list[bytes], end: str) -> None:
    producer = kafka.producer(transactional_id=f"{topic}-{end}")
    producer.init_transactions()
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value)
    producer.flush(10)
    {"commit": producer.commit_transaction, "abort": producer.abort_transaction}[end]()


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_a_partition_that_ends_in_control_records_is_read_to_its_end(kafka, opened, topics, end):
    transaction(kafka, topics[0], numbered(10), "commit")
    transaction(kafka, topics[0], numbered(5, first=10), end)
    source = opened(options={"isolation_level": "read_committed"})
    assert read_to_end(source) == numbered(15 if end == "commit" else 10)
    partition = TopicPartition(topics[0], 0)
    assert source.positions()[partition] == source.end_offsets()[partition] == kafka.ends(topics[0]) == 17
    assert source.lag()[partition] == 0


def test_an_open_transaction_does_not_hold_up_a_reader_of_committed_records(kafka, opened, topics):
    kafka.produce(topics[0], numbered(4))
    producer = kafka.producer(transactional_id=topics[0])
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(topics[0], b"open")
    producer.flush(10)
    source = opened(options={"isolation_level": "read_committed"})
    assert read_to_end(source) == numbered(4)
    producer.commit_transaction()
    assert read_until(source, lambda got: len(got) >= 1) == [b"open"]


def test_partitions_that_are_added_are_read_from_their_beginning(kafka, opened, topics, monkeypatch):
    monkeypatch.setattr("online_fm.source.kafka_source.LOOK_S", 0.2)
    kafka.produce(topics[0], numbered(5))
    source = opened(start="latest")
    read_to_end(source)
    kafka.grow(topics[0], 2)
    kafka.produce(topics[0], [b"old", b"new"], partition=1)
    kafka.produce(topics[0], [b"on"])
    assert sorted(read_until(source, lambda got: len(got) >= 3)) == [b"new", b"old", b"on"]
    assert source.partitions() == {
        TopicPartition(topics[0], 0),
        TopicPartition(topics[0], 1),
        TopicPartition(topics[1], 0),
    }


def test_partitions_that_came_while_nothing_read_are_read_from_their_beginning(kafka, opened, topics):
    kafka.produce(topics[0], numbered(5))
    stored = opened(start="latest").positions()
    kafka.grow(topics[0], 2)
    kafka.produce(topics[0], [b"new"], partition=1)
    source = opened(start="latest")
    source.seek(stored)
    assert read_to_end(source) == [b"new"]


def test_topics_that_do_not_exist_yet_are_waited_for(kafka, opened, topics):
    source = opened(impressions=f"{topics[0]}-later", clicks=f"{topics[1]}-later", start="latest")
    assert source.poll(10, 100).at_end == source.partitions() == frozenset()
    kafka.create(f"{topics[0]}-later", 2)
    kafka.create(f"{topics[1]}-later", 1)
    kafka.produce(f"{topics[0]}-later", [b"a"], partition=1)
    assert read_until(source, lambda got: len(got) >= 1) == [b"a"]
    read_until(source, lambda _: len(source.partitions()) == 3)


def test_a_topic_that_is_deleted_is_told_and_not_made_anew(kafka, opened, topics, monkeypatch):
    monkeypatch.setattr("online_fm.source.kafka_source.GONE_S", 2.0)
    kafka.produce(topics[0], numbered(5))
    source = opened()
    read_to_end(source)
    kafka.delete(topics[1])
    with pytest.raises(SourceError, match=f"{topics[1]}-0: is gone") as raised:
        read_until(source, lambda _: False, seconds=20)
    assert not raised.value.retriable
    assert not kafka.exists(topics[1])


def test_a_broker_restart_loses_nothing_and_repeats_nothing(kafka, opened, topics):
    kafka.produce(topics[0], numbered(3000))
    source = opened()
    got = read_until(source, lambda got: len(got) >= 1000)
    with kafka.away():
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            batch = source.poll(500, 200)
            got += [value for records in batch.records for value in records.values]
        assert batch.at_end == frozenset()
        started = time.monotonic()
        with pytest.raises(SourceError, match="committing offsets") as raised:
            source.commit({TopicPartition(topics[0], 0): len(got)})
        assert raised.value.retriable
        assert time.monotonic() - started < 3
    kafka.produce(topics[0], numbered(3000, first=3000))
    got += read_until(source, lambda more: len(got) + len(more) >= 6000, seconds=60)
    assert got == numbered(6000)
    commit_at_last(source, {TopicPartition(topics[0], 0): 6000})
    assert kafka.committed(topics[0], topics[0]) == 6000


def commit_at_last(source: KafkaSource, offsets: dict[TopicPartition, int]) -> None:
    for _ in range(10):
        try:
            return source.commit(offsets)
        except SourceError:
            time.sleep(0.5)
    raise AssertionError("no commit went through")


class Stalling:
    """A client that gives records once and then no more, as a consumer with a defect does."""

    def __init__(self, client) -> None:
        self._client, self._given = client, False

    def __getattr__(self, name: str):
        return getattr(self._client, name)

    def fetch(self, max_records: int, timeout_ms: int):
        if self._given:
            time.sleep(timeout_ms / 1000)
            return []
        records = self._client.fetch(10, timeout_ms)
        self._given = bool(records)
        return records


def test_a_client_that_stalls_is_replaced_and_nothing_is_lost(kafka, kind, topics):
    kafka.produce(topics[0], numbered(100))
    config = CONFIGS[kind](impressions=topics[0], clicks=topics[1], brokers=[kafka.address])
    make = {"kafka_python": kafka_python.KafkaPythonClient, "confluent": confluent.ConfluentClient}[kind]
    clients = [Stalling(make(config)), make(config)]
    source = KafkaSource(config, lambda: clients.pop(0), stall_s=1.0)
    assert read_to_end(source) == numbered(100)
    assert source.replaced == 1
    source.close()


@pytest.mark.parametrize("options", [{"no_such_option": 1}, {"isolation_level": "nonesuch"}])
def test_an_option_that_the_client_refuses_is_a_mistake_in_the_configuration(kafka, kind, options):
    with pytest.raises(ConfigError, match=r"source\.options"):
        open_source(CONFIGS[kind](brokers=[kafka.address], options=options))
