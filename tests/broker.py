"""A real Apache Kafka broker for tests: started once a session, with topics, producers and groups made per test."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from online_fm.source.port import TopicPartition

__all__ = ["Broker", "missing_tools"]

SCRIPT = Path(__file__).parent / "kafka" / "kafka.sh"
QUIET = {"log_level": 0}


@functools.cache
def missing_tools() -> str | None:
    """What this machine lacks for a broker, in one line; None where it has all."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin" if home else None)
    if java is None or not (libs().is_dir() or shutil.which("mvn")):
        return "Kafka tests need Java 17 or newer and Maven (Debian: apt install openjdk-17-jre-headless maven)"
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < 17:
        return f"Kafka tests need Java 17 or newer, and {java} is older: set JAVA_HOME"
    return None


def libs() -> Path:
    return Path(os.environ.get("KAFKA_LIBS", SCRIPT.parents[2] / ".cache" / "kafka-libs"))


class Broker:
    """One broker with its data in a folder; `address` stays the same over stop and start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.address = ""

    def start(self) -> None:
        self.address = self._run("start")
        self.admin = AdminClient({"bootstrap.servers": self.address} | QUIET)

    def stop(self) -> None:
        self._run("stop")

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Stop the broker, and start it again whatever happens meanwhile: other tests need it."""
        try:
            self.stop()
            yield
        finally:
            self.start()

    def topic(self, name: str = "t", partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        """Make a topic with a name that no other test has."""
        name = f"{name}-{uuid.uuid4().hex[:8]}"
        self.create(name, partitions, config)
        return name

    def create(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        wait(self.admin.create_topics([NewTopic(name, partitions, 1, config={"retention.ms": "-1", **(config or {})})]))

    def delete(self, topic: str) -> None:
        wait(self.admin.delete_topics([topic]))

    def exists(self, topic: str) -> bool:
        return topic in self.admin.list_topics(timeout=10).topics

    def grow(self, topic: str, partitions: int) -> None:
        wait(self.admin.create_partitions([NewPartitions(topic, partitions)]))

    def producer(self, **settings: object) -> confluent_kafka.Producer:
        named = {name.replace("_", "."): value for name, value in settings.items()}
        return confluent_kafka.Producer({"bootstrap.servers": self.address} | QUIET | named)

    def produce(self, topic: str, values: Iterable[bytes], partition: int = 0, timestamp_ms: int = 0) -> None:
        """Append records and wait until the broker has them."""
        producer = self.producer(linger_ms=5)
        for i, value in enumerate(values):
            producer.produce(topic, value, partition=partition, timestamp=timestamp_ms)
            if i % 20_000 == 0:  # the client's queue holds 100,000
                assert producer.flush(30) == 0
        assert producer.flush(30) == 0

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Remove the records before an offset, as retention does."""
        wait(self.admin.delete_records([confluent_kafka.TopicPartition(topic, partition, before)]))

    def committed(self, group: str, topic: str, partition: int = 0) -> int:
        asked = confluent_kafka.ConsumerGroupTopicPartitions(group, [confluent_kafka.TopicPartition(topic, partition)])
        answer = wait(self.admin.list_consumer_group_offsets([asked]))[0]
        return answer.topic_partitions[0].offset

    def ends(self, topic: str, partition: int = 0) -> int:
        from confluent_kafka.admin import OffsetSpec

        asked = {confluent_kafka.TopicPartition(topic, partition): OffsetSpec.latest()}
        return wait(self.admin.list_offsets(asked))[0].offset

    def read(self, topic: str, n: int) -> list[confluent_kafka.Message]:
        """The first `n` records of partition 0 and whatever comes with them."""
        settings = {"bootstrap.servers": self.address, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
        consumer = confluent_kafka.Consumer(settings | QUIET)
        consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
        try:
            return consumer.consume(n, 20)
        finally:
            consumer.close()

    def _run(self, command: str) -> str:
        environment = os.environ | {"KAFKA_LIBS": str(libs())}
        with (self._folder / "script.log").open("w") as log:
            done = subprocess.run(
                [str(SCRIPT), command, str(self._folder / "data")],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                check=False,
                env=environment,
            )
        if done.returncode:
            raise RuntimeError(f"kafka.sh {command}: {(self._folder / 'script.log').read_text()}")
        return done.stdout.strip()


def partition(topic: str, number: int = 0) -> TopicPartition:
    return TopicPartition(topic, number)


def wait(futures: Mapping[object, object]) -> list[object]:
    return [future.result(30) for future in futures.values()]
