"""The daemon on a real Kafka: killed in the middle of a backlog, through a broker's restart, with its dead letters."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from daemon import Folder, children, until
from traffic import pipeline, read_all, records, source

from online_fm.source.port import TopicPartition

pytestmark = pytest.mark.kafka

EVENTS = 20_000


@pytest.fixture(scope="module")
def whole():
    """All of the stream, and the windows at its end closed, as time closes them on Kafka."""
    learner = pipeline()
    read_all(learner, source(events=EVENTS))
    learner.drain()
    return learner


def on_kafka(tmp_path, kafka, kind: str, **changes) -> tuple[Folder, dict[str, str]]:
    """A folder whose source is two new topics, filled with the stream."""
    topics = {name: kafka.topic(name, 2) for name in ("impressions", "clicks")}
    for (topic, partition), values in records(events=EVENTS).items():
        kafka.produce(topics[topic], values, partition, timestamp_ms=round(time.time() * 1000))
    settings = {"kind": kind, "brokers": [kafka.address], "group": topics["clicks"], **topics}
    folder = Folder(tmp_path, source=settings, join={"window_s": 20, "grace_s": 5}, **changes)
    return folder, topics


def level(folder: Folder, whole) -> bool:
    """Whether the newest checkpoint holds all that there is to learn, with every window closed."""
    return bool(folder.checkpoints()) and restored(folder).counts() == whole.counts()


def restored(folder: Folder):
    """The newest checkpoint, read with the topics' names that the test gave them."""
    names = yaml.safe_load(folder.config.read_text())["source"]
    return folder.learned(topics=(names["impressions"], names["clicks"]))


@pytest.mark.parametrize("kind", ["kafka_python", "confluent"])
def test_a_backlog_that_is_cut_by_kill_9_ends_as_the_same_records_from_memory(tmp_path, kafka, whole, kind) -> None:
    folder, topics = on_kafka(tmp_path, kafka, kind)
    deaths = 0
    while deaths < 2:
        before = folder.checkpoints()
        worker = folder.start("train", "checkpoint.interval_s=0.05", batch_records=50)
        until(lambda before=before: folder.checkpoints() != before)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        deaths += 1
    assert restored(folder).counts()["learned"] < whole.counts()["learned"]
    worker = folder.start("train")
    until(lambda: level(folder, whole), 120)
    folder.stop(worker)
    assert restored(folder).learner.state_hash() == whole.learner.state_hash()
    assert sum(kafka.committed(topics["clicks"], topics["clicks"], p) for p in (0, 1)) == sum(
        len(values) for (topic, _), values in records(events=EVENTS).items() if topic == "clicks"
    )


def test_a_broker_that_restarts_in_the_middle_costs_nothing(tmp_path, kafka, whole) -> None:
    folder, _ = on_kafka(tmp_path, kafka, "kafka_python")
    worker = folder.start("train", "checkpoint.interval_s=0.3", batch_records=100)
    until(lambda: folder.metric("online_fm_checkpoint_version"))
    with kafka.away():
        time.sleep(3)
        assert worker.poll() is None, folder.log()
    until(lambda: level(folder, whole), 120)
    folder.stop(worker)
    assert restored(folder).learner.state_hash() == whole.learner.state_hash()


def test_the_death_of_the_client_s_process_ends_the_worker_and_costs_nothing(tmp_path, kafka, whole) -> None:
    folder, _ = on_kafka(tmp_path, kafka, "confluent")
    worker = folder.start("train", "checkpoint.interval_s=0.1", batch_records=50)
    until(folder.checkpoints)
    (client,) = children(worker.pid)
    os.kill(client, signal.SIGKILL)
    assert worker.wait(30) == 1
    assert "the process of the Kafka client has ended, with code -9" in folder.log()
    worker = folder.start("train")
    until(lambda: level(folder, whole), 120)
    (client,) = children(worker.pid)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    until(lambda: not Path(f"/proc/{client}").exists())
    assert restored(folder).learner.state_hash() == whole.learner.state_hash()


def test_rejects_go_to_the_dead_letter_topic_with_their_coordinates(tmp_path, kafka, whole) -> None:
    letters = kafka.topic("dead-letters")
    folder, topics = on_kafka(tmp_path, kafka, "kafka_python", dead_letters={"kind": "kafka", "topic": letters})
    worker = folder.start("train")
    until(lambda: level(folder, whole), 120)
    folder.stop(worker)
    rejected = whole.counts()["rejected"]
    assert kafka.ends(letters) == rejected
    for message in kafka.read(letters, 20):
        headers = {name: value.decode() for name, value in message.headers()}
        place = TopicPartition(
            "impressions" if headers["topic"] == topics["impressions"] else "clicks", int(headers["partition"])
        )
        assert records(events=EVENTS)[place][int(headers["offset"])] == message.value()
        assert headers["reason"]


@pytest.mark.parametrize("kind", ["kafka_python", "confluent"])
def test_a_comparison_reads_topics_up_to_where_they_end(tmp_path, kafka, run, kind) -> None:
    folder, _ = on_kafka(tmp_path, kafka, kind)
    said = run("replay", "-c", folder.config, "--grid", "join.window_s=20,10", "--json").last["configurations"]
    read = sum(map(len, records(events=EVENTS).values()))
    assert [each["read"] for each in said] == [read, read]
    learner = pipeline()
    read_all(learner, source(events=EVENTS))
    hashes = {each["differs"]["join.window_s"]: each["state_hash"] for each in said}
    assert hashes[20.0] == learner.learner.state_hash() != hashes[10.0]
