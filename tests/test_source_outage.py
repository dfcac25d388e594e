"""Outages without a broker: whatever the client fails at within a poll, the poll is silent, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pytest

from online_fm.errors import OffsetGap, SourceError
from online_fm.source import kafka_source
from online_fm.source.client import OutOfRangeError
from online_fm.source.config import KafkaPythonConfig
from online_fm.source.kafka_source import KafkaSource
from online_fm.source.port import Records, TopicPartition
from online_fm.source.values import Values

BUSY = TopicPartition("impressions", 0)
QUIET = TopicPartition("clicks", 0)
TOPICS = KafkaPythonConfig(brokers=["nowhere:9092"])
QUESTIONS = ("partitions", "first_offsets", "end_offsets", "position", "assign", "pause", "resume", "fetch")


class Cluster:
    """Topics in lists; each question of `failing` fails, and is counted; `retriable` says how."""

    def __init__(self) -> None:
        self.values = {BUSY: [b"%d" % i for i in range(50)], QUIET: []}
        self.first: dict[TopicPartition, int] = {}
        self.failing: set[str] = set()
        self.failures = self.closed = 0
        self.retriable = True

    def connect(self) -> Plain:
        self.answer("connect")
        return Plain(self)

    def answer(self, question: str) -> None:
        if question in self.failing:
            self.failures += 1
            error = SourceError(f"{question}: away")
            error.retriable = self.retriable
            raise error


class Plain:
    """A `Client` on such a cluster; a record that is a control record (`None`) is passed over."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.at: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()

    def partitions(self, topics: Sequence[str]) -> frozenset[TopicPartition]:
        self.cluster.answer("partitions")
        return frozenset(p for p in self.cluster.values if p.topic in topics)

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self.cluster.answer("assign")
        self.at, self.paused = dict(positions), set()

    def fetch(self, max_records: int, timeout_ms: int) -> list[Records]:
        self.cluster.answer("fetch")
        for p in sorted(self.at.keys() & self.cluster.values.keys() - self.paused):
            if self.at[p] < self.cluster.first.get(p, 0):
                raise OutOfRangeError(p)
            taken = list(enumerate(self.cluster.values[p]))[self.at[p] : self.at[p] + 10]
            self.at[p] += len(taken)
            records = [(i, value) for i, value in taken if value is not None]
            if records:
                offsets = np.array([i for i, _ in records], np.int64)
                return [Records(p, offsets, np.zeros(len(records), np.int64), Values.of(value for _, value in records))]
        return []

    def position(self, partition: TopicPartition) -> int:
        self.cluster.answer("position")
        return self.at[partition]

    def first_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        self.cluster.answer("first_offsets")
        return {p: self.cluster.first.get(p, 0) for p in partitions if p in self.cluster.values}

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        self.cluster.answer("end_offsets")
        return {p: len(self.cluster.values[p]) for p in partitions if p in self.cluster.values}

    def pause(self, partition: TopicPartition) -> None:
        self.cluster.answer("pause")
        self.paused.add(partition)

    def resume(self, partition: TopicPartition) -> None:
        self.cluster.answer("resume")
        self.paused.discard(partition)

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self.cluster.answer("commit")

    def close(self) -> None:
        self.cluster.closed += 1
        self.cluster.answer("close")


@pytest.fixture
def cluster(monkeypatch):
    """A cluster; sources look for everything at every poll, and their queues are full at 50 bytes."""
    for name in ("FRESH_S", "ENDS_S", "LOOK_S", "LOOK_MISSING_S", "BACKOFF_S"):
        monkeypatch.setattr(kafka_source, name, 0.0)
    monkeypatch.setattr(kafka_source, "QUEUE_BYTES", 50)
    monkeypatch.setattr(kafka_source, "FRESH_S", 1e-3)
    return Cluster()


def poll(source: KafkaSource, times: int, max_records: int = 7) -> list[bytes]:
    """What some polls give."""
    return [v for _ in range(times) for r in source.poll(max_records, 2).records for v in r.values]


def busy_life(cluster: Cluster, source: KafkaSource) -> list[bytes]:
    """Give all questions a reason to be asked: a new partition, control records at an end, retention, full queues."""
    got = poll(source, 3, 20)
    cluster.values[BUSY] += [None, None]
    cluster.values[TopicPartition("impressions", 1)] = [b"new-%d" % i for i in range(20)]
    return got + poll(source, 6, 20)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_that_fails_for_a_while_is_silence_and_nothing_is_lost(cluster, question):
    source = KafkaSource(TOPICS, cluster.connect)
    cluster.failing = {question}
    got = busy_life(cluster, source)
    assert cluster.failures > 0
    cluster.failing = set()
    got += poll(source, 60)
    assert sorted(got) == sorted([b"%d" % i for i in range(50)] + [b"new-%d" % i for i in range(20)])
    assert source.positions() == source.end_offsets()
    assert source.poll(1, 2).at_end == source.partitions()
    assert source.answering


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_that_will_never_be_answered_ends_the_poll(cluster, question):
    source = KafkaSource(TOPICS, cluster.connect)
    cluster.failing, cluster.retriable = {question}, False
    with pytest.raises(SourceError, match=f"{question}: away"):
        busy_life(cluster, source)


@pytest.mark.parametrize("question", ["end_offsets", "fetch"])
def test_while_the_brokers_are_away_the_source_says_so_and_names_no_end(cluster, question):
    source = KafkaSource(TOPICS, cluster.connect)
    poll(source, 20)
    assert source.answering
    cluster.failing = {question}
    poll(source, 1)
    cluster.values[BUSY].append(b"waits")
    for _ in range(5):
        assert BUSY not in source.poll(1, 2).at_end
        assert not source.answering
    cluster.failing = set()
    poll(source, 3)
    assert source.answering


@pytest.mark.parametrize("question", ["first_offsets", "assign"])
@pytest.mark.parametrize("on_gap", ["stop", "accept"])
def test_a_gap_that_is_met_in_an_outage_is_understood_after_it(cluster, question, on_gap):
    source = KafkaSource(KafkaPythonConfig(brokers=["nowhere:9092"], on_gap=on_gap), cluster.connect)
    cluster.failing, cluster.first[BUSY] = {question}, 40
    if (question, on_gap) != ("assign", "stop"):
        assert poll(source, 5) == []
        assert cluster.failures > 0
    cluster.failing = set()
    if on_gap == "stop":
        with pytest.raises(OffsetGap):
            poll(source, 5)
    else:
        assert poll(source, 5) == [b"%d" % i for i in range(40, 50)]
        assert source.lost == 40


class Stalled(Plain):
    """A client that gives nothing."""

    def fetch(self, max_records: int, timeout_ms: int) -> list[Records]:
        return []


@pytest.mark.parametrize("question", ["connect", "partitions", "close", "assign"])
def test_replacing_a_stalled_client_may_fail_and_is_tried_again(cluster, question, monkeypatch):
    monkeypatch.setattr(kafka_source, "LOOK_S", 60.0)
    clients = [Stalled(cluster)]
    source = KafkaSource(TOPICS, lambda: clients.pop() if clients else cluster.connect(), stall_s=0.0)
    cluster.failing = {question}
    got = poll(source, 5)
    assert cluster.failures > 0
    cluster.failing = set()
    got += poll(source, 30)
    assert got == [b"%d" % i for i in range(50)]
    assert source.replaced == 1


def test_a_partition_that_answering_brokers_no_longer_know_is_an_error_and_never_at_its_end(cluster, monkeypatch):
    monkeypatch.setattr(kafka_source, "GONE_S", 0.1)
    source = KafkaSource(TOPICS, cluster.connect)
    poll(source, 20)
    gone = cluster.values.pop(QUIET)
    poll(source, 3)
    assert source.poll(1, 2).at_end == {BUSY}
    cluster.values[QUIET] = gone
    poll(source, 3)
    time.sleep(0.1)
    assert source.poll(1, 2).at_end == {BUSY, QUIET}
    del cluster.values[QUIET]
    poll(source, 1)
    time.sleep(0.1)
    with pytest.raises(SourceError, match="clicks-0: is gone") as raised:
        poll(source, 3)
    assert not raised.value.retriable
