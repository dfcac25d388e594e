"""What every body of the port `Source` must do, on the same records."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from online_fm.errors import OffsetGap, SourceError
from online_fm.source.background import BackgroundSource
from online_fm.source.config import ConfluentConfig, FilesConfig, KafkaPythonConfig
from online_fm.source.memory import MemorySource
from online_fm.source.open import open_source
from online_fm.source.port import NO_TIMESTAMP, Source, TopicPartition

BODIES = [
    "memory",
    "plain",
    "gzip",
    "zstd",
    pytest.param("kafka_python", marks=pytest.mark.kafka),
    pytest.param("confluent", marks=pytest.mark.kafka),
    "memory, in the background",
    "plain, in the background",
    pytest.param("kafka_python, in the background", marks=pytest.mark.kafka),
    pytest.param("confluent, in the background", marks=pytest.mark.kafka),
]
Opened = tuple[Source, dict[TopicPartition, list[bytes]]]


@pytest.fixture(params=BODIES)
def opened(request: pytest.FixtureRequest, tmp_path: Path):
    """Opens a source on three partitions: two of impressions with 40 and 25 records, one of clicks with 10."""
    sources = []

    def open_body() -> Opened:
        source, records = BUILD[request.param](request, tmp_path)
        sources.append(source)
        return source, records

    yield open_body
    for source in sources:
        source.close()


def values(topics: tuple[str, str]) -> dict[TopicPartition, list[bytes]]:
    impressions, clicks = topics
    sizes = {TopicPartition(impressions, 0): 40, TopicPartition(impressions, 1): 25, TopicPartition(clicks, 0): 10}
    return {p: [b'{"of":"%d","n":%d}' % (p.partition, i) for i in range(n)] for p, n in sizes.items()}


def on_memory(request, tmp_path) -> Opened:
    records = values(("impressions", "clicks"))
    return MemorySource(records), records


def on_files(suffix: str, pack: Callable[[bytes], bytes]):
    def build(request, tmp_path) -> Opened:
        records = values(("impressions", "clicks"))
        for (topic, number), lines in records.items():
            (tmp_path / topic).mkdir(exist_ok=True)
            data = pack(b"".join(line + b"\n" for line in lines))
            (tmp_path / topic / f"day-{number}.jsonl{suffix}").write_bytes(data)
        return open_source(FilesConfig(path=str(tmp_path))), records

    return build


def on_kafka(config: type[KafkaPythonConfig | ConfluentConfig]):
    def build(request, tmp_path) -> Opened:
        broker = request.getfixturevalue("kafka")
        topics = broker.topic("impressions", 2), broker.topic("clicks", 1)
        records = values(topics)
        for (topic, number), lines in records.items():
            broker.produce(topic, lines, number)
        impressions, clicks = topics
        made = config(impressions=impressions, clicks=clicks, brokers=[broker.address], group=impressions)
        return open_source(made), records

    return build


def in_the_background(build: Callable[..., Opened]):
    """The same, read ahead in a thread; 20 records at once, so that partitions fill up and wait for room."""

    def build_behind(request, tmp_path) -> Opened:
        inner, records = build(request, tmp_path)
        return BackgroundSource(lambda: inner, ahead_records=20), records

    return build_behind


BUILD = {
    "memory": on_memory,
    "plain": on_files("", bytes),
    "gzip": on_files(".gz", gzip.compress),
    "zstd": on_files(".zst", zstandard.compress),
    "kafka_python": on_kafka(KafkaPythonConfig),
    "confluent": on_kafka(ConfluentConfig),
}
BUILD |= {f"{name}, in the background": in_the_background(build) for name, build in BUILD.items()}


def drain(source: Source, max_records: int, paused: frozenset[TopicPartition] = frozenset(), polls: int = 300):
    """Poll until all that is not paused is read to its end: the values, and the offsets, per partition."""
    got: dict[TopicPartition, list[bytes]] = {p: [] for p in source.partitions()}
    offsets: dict[TopicPartition, list[int]] = {p: [] for p in source.partitions()}
    for _ in range(polls):
        batch = source.poll(max_records, 200, paused)
        assert len(batch) <= max_records
        for records in batch.records:
            got[records.partition] += records.values
            offsets[records.partition] += records.offsets.tolist()
        if batch.at_end >= source.partitions() - paused:
            return got, offsets
    raise AssertionError(f"not at the end after {polls} polls: {source.lag()}")


@pytest.mark.parametrize("max_records", [1, 7, 5000])
def test_each_record_comes_once_and_in_the_order_of_its_partition(opened, max_records):
    source, records = opened()
    got, offsets = drain(source, max_records)
    assert got == records
    assert offsets == {p: list(range(len(lines))) for p, lines in records.items()}


@pytest.mark.parametrize("max_records", [3, 5000])
def test_a_partition_is_at_its_end_with_its_last_record_and_never_before(opened, max_records):
    source, records = opened()
    left = {p: len(lines) for p, lines in records.items()}
    for _ in range(300):
        batch = source.poll(max_records, 200)
        for given in batch.records:
            left[given.partition] -= len(given)
        assert all(left[p] == 0 for p in batch.at_end)
        if batch.at_end == source.partitions():
            break
    assert left == dict.fromkeys(records, 0)


def test_a_paused_partition_gives_nothing_and_loses_nothing(opened):
    source, records = opened()
    ahead = max(records, key=lambda p: len(records[p]))
    source.poll(6, 200)
    read = source.positions()[ahead]
    got, _ = drain(source, 7, frozenset({ahead}))
    assert got[ahead] == []
    assert source.positions()[ahead] == read
    assert source.lag()[ahead] == 40 - read
    rest, _ = drain(source, 7)
    assert rest[ahead] == records[ahead][read:]
    assert sum(source.lag().values()) == 0


def test_reading_goes_on_from_the_offsets_that_are_sought(opened):
    source, records = opened()
    drain(source, 5000)
    first, *others = sorted(records)
    source.seek({first: 5, **{p: len(records[p]) for p in others}})
    assert source.positions() == {first: 5, **{p: len(records[p]) for p in others}}
    got, offsets = drain(source, 4)
    assert got[first] == records[first][5:]
    assert offsets[first][0] == 5
    assert all(got[p] == [] for p in others)


def test_a_partition_that_is_not_named_begins_as_configured(opened):
    source, records = opened()
    drain(source, 5000)
    source.seek({})
    assert source.positions() == dict.fromkeys(records, 0)
    assert drain(source, 5000)[0] == records


def test_positions_and_ends_and_lag_agree_at_the_end(opened):
    source, records = opened()
    assert source.partitions() == records.keys()
    drain(source, 10)
    sizes = {p: len(lines) for p, lines in records.items()}
    assert source.positions() == source.end_offsets() == sizes
    assert source.lag() == dict.fromkeys(records, 0)
    assert source.lost == 0


def test_an_offset_behind_the_end_is_a_gap(opened):
    source, records = opened()
    first = min(records)
    with pytest.raises(OffsetGap) as raised:
        source.seek({first: 1000})
    assert (raised.value.stored, raised.value.first, raised.value.end) == (1000, 0, len(records[first]))


def test_a_partition_that_is_gone_is_a_gap_unless_none_of_it_was_read(opened):
    source, records = opened()
    gone = min(records)._replace(partition=7)
    with pytest.raises(OffsetGap) as raised:
        source.seek({gone: 3})
    assert (raised.value.partition, raised.value.stored, raised.value.end) == (str(gone), 3, 0)
    source.seek({gone: 0})
    assert drain(source, 5000)[0] == records


def test_whoever_holds_the_records_answers_and_the_names_of_today_are_no_obstacle(opened):
    source, records = opened()
    drain(source, 5000)
    assert source.answering
    source.seek(dict.fromkeys(records, 2), source.names())
    assert source.positions() == dict.fromkeys(records, 2)


def test_committing_moves_nothing(opened):
    source, records = opened()
    source.poll(10, 200)
    before = source.positions()
    source.commit(dict.fromkeys(records, 1))
    assert source.positions() == before


def test_nothing_new_gives_an_empty_batch(opened):
    source, _ = opened()
    drain(source, 5000)
    batch = source.poll(5000, 50)
    assert len(batch) == 0
    assert batch.at_end == source.partitions()


def test_a_record_has_its_coordinates_and_a_timestamp(opened):
    source, _ = opened()
    batch = source.poll(5, 500)
    for records in batch.records:
        assert len(records.offsets) == len(records.timestamps) == len(records.values) == len(records)
        assert all(t == NO_TIMESTAMP or t > 1_600_000_000_000 for t in records.timestamps)


def test_a_closed_source_can_be_closed_again_and_reads_no_more(opened):
    source, _ = opened()
    source.close()
    source.close()
    with pytest.raises(SourceError, match="closed"):
        source.poll(1, 0)
