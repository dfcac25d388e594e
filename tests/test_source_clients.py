"""The Kafka clients without a broker: options, errors, and brokers that do not answer."""

from __future__ import annotations

import pytest
from kafka import errors as kafka_errors

from online_fm.errors import SourceError
from online_fm.source import confluent, kafka_python
from online_fm.source.config import ConfluentConfig, KafkaPythonConfig, Secret
from online_fm.source.kafka_source import KafkaSource


@pytest.mark.parametrize(
    ("config", "client"),
    [(KafkaPythonConfig, kafka_python.KafkaPythonClient), (ConfluentConfig, confluent.ConfluentClient)],
)
def test_brokers_that_do_not_answer_are_an_error_that_may_pass(config, client, monkeypatch):
    monkeypatch.setitem(kafka_python.DEFAULTS, "bootstrap_timeout_ms", 1000)
    monkeypatch.setattr(confluent, "BEGIN_S", 1.0)
    made = config(brokers=["127.0.0.1:9"])
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:9.*source\.options") as raised:
        KafkaSource(made, lambda: client(made))
    assert raised.value.retriable


def test_options_named_as_by_kafka_python_reach_librdkafka(monkeypatch):
    monkeypatch.setenv("KAFKA_PASSWORD", "p")
    options = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "u",
        "sasl_plain_password": Secret(env="KAFKA_PASSWORD"),
        "ssl_cafile": "/ca.pem",
        "ssl_check_hostname": False,
        "queued.max.messages.kbytes": 100,
        "log_level": 7,
    }
    assert confluent.settings(ConfluentConfig(brokers=["a:1", "b:2"], options=options)) == {
        "bootstrap.servers": "a:1,b:2",
        "client.id": "online-fm",
        "reconnect.backoff.max.ms": 1000,
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "u",
        "sasl.password": "p",
        "ssl.ca.location": "/ca.pem",
        "ssl.endpoint.identification.algorithm": "none",
        "queued.max.messages.kbytes": 100,
        "log_level": 7,
    }


def test_every_exception_of_kafka_python_becomes_ours_with_its_retriability():
    theirs = [c for c in vars(kafka_errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    assert len(theirs) > 100
    for error in theirs:
        exception = error({}) if error is kafka_errors.LogTruncationError else error()
        with pytest.raises(SourceError) as raised, kafka_python.translated("reading"):
            raise exception
        leaderless = error is kafka_errors.UnknownBrokerIdError  # which theirs give up at
        assert raised.value.retriable == (error.retriable or leaderless)


def test_every_exception_of_confluent_kafka_becomes_ours():
    codes = [code for name, code in vars(confluent.KafkaError).items() if name.isupper() and isinstance(code, int)]
    assert len(codes) > 100
    for code in codes:
        with pytest.raises(SourceError) as raised, confluent.translated("reading"):
            raise confluent.KafkaException(confluent.KafkaError(code))
        assert raised.value.retriable == (code not in confluent.REFUSED)
