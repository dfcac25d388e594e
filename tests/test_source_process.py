"""A client in a process of its own: its errors arrive, and neither the process nor the worker outlives the other."""

from __future__ import annotations

import os
import signal
import sys
from threading import Thread

import pytest
from daemon import children, until

from online_fm.errors import ConfigError, SourceError
from online_fm.source import client_process
from online_fm.source.client import OutOfRangeError
from online_fm.source.client_process import ClientProcess
from online_fm.source.config import ConfluentConfig, KafkaPythonConfig, Secret
from online_fm.source.port import TopicPartition

CONFIGS = {"kafka_python": KafkaPythonConfig, "confluent": ConfluentConfig}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_mistake_in_the_configuration_arrives_as_one_and_the_process_is_gone(kind):
    config = CONFIGS[kind](brokers=["127.0.0.1:9"], options={"sasl_plain_password": Secret(env="NOT_THERE")})
    with pytest.raises(ConfigError, match=r"source\.options\.sasl_plain_password: the environment variable NOT_THERE"):
        ClientProcess(config)
    assert not children(os.getpid())


def test_an_error_that_may_pass_arrives_with_its_hint():
    config = KafkaPythonConfig(brokers=["127.0.0.1:9"], options={"bootstrap_timeout_ms": 300})
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:9.*\(is a broker running there") as raised:
        ClientProcess(config)
    assert raised.value.retriable
    assert not children(os.getpid())


@pytest.fixture(params=list(CONFIGS))
def config(request, kafka):
    topics = kafka.topic("impressions"), kafka.topic("clicks")
    return CONFIGS[request.param](impressions=topics[0], clicks=topics[1], brokers=[kafka.address])


@pytest.mark.kafka
def test_it_answers_as_a_client_and_leaves_when_it_is_closed(kafka, config):
    values = [b"%d" % i for i in range(10)] + [b"", b"\xff\x00"]
    kafka.produce(config.impressions, values, timestamp_ms=1_700_000_000_000)
    one = TopicPartition(config.impressions, 0)
    client = ClientProcess(config)
    assert client.partitions((config.impressions, config.clicks)) == {one, TopicPartition(config.clicks, 0)}
    assert client.first_offsets({one}) == {one: 0}
    assert client.end_offsets({one: 3}) == {one: len(values)}
    client.assign({one: 2})
    got = []
    while sum(map(len, got)) < len(values) - 2:
        got += client.fetch(4, 500)
    assert {records.partition for records in got} == {one}
    assert [value for records in got for value in records.values] == values[2:]
    assert [int(offset) for records in got for offset in records.offsets] == list(range(2, len(values)))
    assert {int(time_ms) for records in got for time_ms in records.timestamps} == {1_700_000_000_000}
    until(lambda: (client.fetch(4, 50), client.position(one) == len(values))[1])
    client.pause(one)
    client.resume(one)
    client.commit({one: 5})
    assert kafka.committed(config.group, config.impressions, 0) == 5
    client.assign({one: 1000})
    with pytest.raises(OutOfRangeError) as raised:
        until(lambda: client.fetch(4, 500))
    assert raised.value.partition == one
    client.close()
    assert not children(os.getpid())


@pytest.mark.kafka
def test_what_was_asked_for_early_is_given_later_and_not_after_a_new_assignment(kafka, config):
    one, other = (TopicPartition(topic, 0) for topic in (config.impressions, config.clicks))
    kafka.produce(one.topic, [b"%d" % i for i in range(1000)])
    client = ClientProcess(config)

    def read(first: int, end: int) -> None:
        given = first
        while given < end:
            for records in client.fetch(10, 500):
                assert [int(value) for value in records.values] == list(range(given, given + len(records)))
                given += len(records)
            assert client.position(one) <= given  # librdkafka tells it at the end only
            client.commit({one: given})

    client.assign({one: 0})
    read(0, 300)
    client.assign({one: 700})
    read(700, 1000)
    client.assign({one: 0, other: 1000})
    with pytest.raises(OutOfRangeError) as raised:
        until(lambda: (client.end_offsets([one]), client.fetch(10, 500))[1:] == ())
    assert raised.value.partition == other
    client.close()


def test_signals_that_come_while_it_starts_are_the_workers_too():
    config = KafkaPythonConfig(brokers=["127.0.0.1:9"], options={"bootstrap_timeout_ms": 300})
    given: list[Exception] = []

    def start() -> None:
        try:
            ClientProcess(config)
        except SourceError as error:
            given.append(error)

    thread = Thread(target=start)
    thread.start()
    until(lambda: children(os.getpid()))
    for child in children(os.getpid()):
        os.kill(child, signal.SIGINT)
        os.kill(child, signal.SIGTERM)
    thread.join()
    assert "is a broker running there" in str(given[0])


def test_a_process_that_cannot_be_started_is_an_error_that_may_pass(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(SourceError, match="starting the process of the Kafka client") as raised:
        ClientProcess(KafkaPythonConfig(brokers=["127.0.0.1:9"]))
    assert raised.value.retriable


@pytest.mark.kafka
def test_a_process_that_does_not_answer_is_given_up(config, monkeypatch):
    monkeypatch.setattr(client_process, "ANSWER_S", 1.0)
    client = ClientProcess(config)
    (child,) = children(os.getpid())
    os.kill(child, signal.SIGSTOP)
    with pytest.raises(SourceError, match="does not answer any more") as raised:
        client.partitions((config.impressions,))
    assert not raised.value.retriable
    client.close()
    assert not children(os.getpid())


@pytest.mark.kafka
def test_signals_are_the_workers_and_a_process_that_dies_is_an_error_that_does_not_pass(config):
    client = ClientProcess(config)
    (child,) = children(os.getpid())
    os.kill(child, signal.SIGINT)
    os.kill(child, signal.SIGTERM)
    assert client.partitions((config.impressions,))
    os.kill(child, signal.SIGKILL)
    with pytest.raises(SourceError, match="has ended, with code -9") as raised:
        client.partitions((config.impressions,))
    assert not raised.value.retriable
    with pytest.raises(SourceError, match="has ended"):
        client.fetch(1, 0)
    client.close()
    assert not children(os.getpid())
