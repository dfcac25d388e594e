"""Dead letters in files and topics: nothing is lost by a crash, a full memory or a broker that is away."""

from __future__ import annotations

import base64
import json
import time

import pytest

from online_fm.errors import ConfigError, SourceError
from online_fm.source import letter_topic
from online_fm.source.config import ConfluentConfig, DeadLetterConfig, FilesConfig, KafkaPythonConfig
from online_fm.source.dead_letter import DeadLetter, DeadLetters, open_dead_letters
from online_fm.source.letter import RefusedError, UndeliveredError

FILES = FilesConfig(path="events")


def letter(offset: int = 7, value: bytes = b'{"id":') -> DeadLetter:
    return DeadLetter("impressions", 2, offset, 1_700_000_000_000, "not_json", value)


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "made" / "dead.jsonl"


def to_file(path) -> DeadLetters:
    return open_dead_letters(DeadLetterConfig(kind="file", path=str(path)), FILES)


def test_a_letter_is_a_line_with_coordinates_and_reason_and_value(path):
    letters = to_file(path)
    letters.write([letter()])
    letters.flush()
    assert lines(path) == [
        {
            "topic": "impressions",
            "partition": 2,
            "offset": 7,
            "timestamp": 1_700_000_000_000,
            "reason": "not_json",
            "value": '{"id":',
        }
    ]
    letters.close()


def test_bytes_that_are_not_text_come_back_from_base64(path):
    letters = to_file(path)
    letters.write([letter(value=b"\xff\x00\n")])
    letters.close()
    (line,) = lines(path)
    assert "value" not in line
    assert base64.b64decode(line["value_base64"]) == b"\xff\x00\n"


def test_nothing_is_in_the_file_before_the_flush_and_a_second_run_appends(path):
    for offset in (1, 2):
        letters = to_file(path)
        letters.write([letter(offset)])
        assert len(lines(path)) == offset - 1
        letters.flush()
        letters.flush()
        letters.close()
        letters.close()
    assert [line["offset"] for line in lines(path)] == [1, 2]


def test_a_line_that_a_crash_has_cut_does_not_spoil_the_next(path):
    path.parent.mkdir()
    path.write_bytes(b'{"topic":"impr')
    letters = to_file(path)
    letters.write([letter()])
    letters.close()
    cut, whole = path.read_bytes().splitlines()
    assert cut == b'{"topic":"impr'
    assert json.loads(whole)["offset"] == 7


def test_letters_say_when_their_memory_is_full_and_a_flush_makes_room(path):
    letters = to_file(path)
    letters.write(letter(i, b"x" * 1_000_000) for i in range(8))
    assert not letters.full
    letters.write([letter(8, b"x" * 1_000_000)])
    assert letters.full
    assert lines(path) == []
    assert letters.flush() == 9
    assert not letters.full
    assert [line["offset"] for line in lines(path)] == list(range(9))
    letters.close()


def test_a_large_letter_is_whole_in_a_file(path):
    letters = to_file(path)
    letters.write([letter(value=b"x" * 3_000_000)])
    letters.close()
    (line,) = lines(path)
    assert len(line["value"]) == 3_000_000


def test_a_folder_in_the_files_place_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="directory"):
        to_file(tmp_path)


def test_a_closed_file_takes_no_letters(path):
    letters = to_file(path)
    letters.close()
    with pytest.raises(SourceError, match="closed"):
        letters.write([letter()])


def test_without_a_place_letters_go_nowhere():
    letters = open_dead_letters(DeadLetterConfig(), FILES)
    letters.write([letter(value=b"x" * 20_000_000)])
    assert not letters.full
    assert letters.flush() == 0
    letters.close()


class Failing:
    """An outlet that is down for the first deliveries."""

    def __init__(self, failures: int) -> None:
        self.failures, self.delivered = failures, []

    def deliver(self, letters: list[DeadLetter]) -> None:
        if self.failures:
            self.failures -= 1
            raise SourceError("down")
        self.delivered += letters

    def close(self) -> None:
        pass


def test_a_flush_that_fails_keeps_its_letters_for_the_next():
    outlet = Failing(1)
    letters = DeadLetters(outlet)
    letters.write([letter(1)])
    with pytest.raises(SourceError, match="down"):
        letters.flush()
    letters.write([letter(2)])
    assert letters.flush() == 2
    assert letters.flush() == 0
    assert [each.offset for each in outlet.delivered] == [1, 2]


def test_taking_letters_in_does_not_fail_while_the_outlet_is_down():
    letters = DeadLetters(Failing(99))
    for i in range(20):
        letters.write([letter(i, b"x" * 1_000_000)])
    assert letters.full
    with pytest.raises(SourceError, match="down"):
        letters.flush()
    assert letters.full


class Half(Failing):
    """An outlet that acknowledges one half of the first delivery."""

    def deliver(self, letters: list[DeadLetter]) -> None:
        if self.failures:
            self.failures -= 1
            self.delivered += letters[::2]
            raise UndeliveredError(letters[1::2], SourceError("down"))
        self.delivered += letters


def test_letters_that_were_acknowledged_are_not_sent_again_and_are_counted_once():
    outlet = Half(1)
    letters = DeadLetters(outlet)
    letters.write(letter(i) for i in range(5))
    with pytest.raises(SourceError, match="down") as raised:
        letters.flush()
    assert raised.value.retriable
    assert letters.flush() == 5
    assert [each.offset for each in outlet.delivered] == [0, 2, 4, 1, 3]


class Wire:
    """A topic that takes at most `bound` bytes a letter, and none of the offsets that are `away`."""

    def __init__(self, bound: int, away: frozenset[int] = frozenset()) -> None:
        self.bound, self.away, self.taken = bound, away, []

    def send(self, parcels):
        return [self._take(*parcel) for parcel in parcels]

    def _take(self, letter: DeadLetter, size: int) -> SourceError | None:
        if letter.offset in self.away:
            return SourceError("away")
        if size > self.bound:
            return RefusedError("too large")
        self.taken.append((letter.offset, size))
        return None


def test_a_letter_that_is_refused_for_its_size_is_halved_until_it_is_taken():
    wire = Wire(bound=100)
    letter_topic._deliver([letter(1, b"x" * 100), letter(2, b"x" * 401), letter(3, b"x" * 101)], wire.send)
    assert wire.taken == [(1, 100), (3, 50), (2, 100)]


def test_a_letter_that_waits_for_the_brokers_does_not_hold_up_one_that_is_cut():
    wire = Wire(bound=100, away=frozenset({1}))
    with pytest.raises(UndeliveredError, match="away") as raised:
        letter_topic._deliver([letter(1), letter(2, b"x" * 150)], wire.send)
    assert [each.offset for each in raised.value.left] == [1]
    assert raised.value.retriable
    assert wire.taken == [(2, 75)]


def test_a_topic_that_refuses_even_an_empty_value_refuses_all():
    with pytest.raises(UndeliveredError, match="too large") as raised:
        letter_topic._deliver([letter(1)], Wire(bound=-1).send)
    assert not raised.value.retriable
    assert len(raised.value.left) == 1


def test_a_topic_needs_a_kafka_source_and_must_not_be_one_that_is_read():
    config = DeadLetterConfig(kind="kafka", topic="clicks")
    with pytest.raises(ConfigError, match=r"dead_letters\.kind: `kafka` needs a Kafka source"):
        open_dead_letters(config, FILES)
    with pytest.raises(ConfigError, match=r"dead_letters\.topic: clicks is a topic that is read"):
        open_dead_letters(config, KafkaPythonConfig(brokers=["127.0.0.1:9"]))


@pytest.mark.kafka
@pytest.mark.parametrize("source", [KafkaPythonConfig, ConfluentConfig])
def test_a_letter_in_a_topic_is_the_original_bytes_with_headers(kafka, source):
    topic = kafka.topic("dead")
    letters = open_dead_letters(DeadLetterConfig(kind="kafka", topic=topic), source(brokers=[kafka.address]))
    letters.write([letter(1, b"\xff"), letter(2, b"")])
    letters.flush()
    assert kafka.ends(topic) == 2
    letters.close()
    first, second = kafka.read(topic, 2)
    assert (first.key(), first.value(), second.value()) == (None, b"\xff", b"")
    assert dict(first.headers()) == {
        "topic": b"impressions",
        "partition": b"2",
        "offset": b"1",
        "timestamp": b"1700000000000",
        "reason": b"not_json",
    }


@pytest.mark.kafka
@pytest.mark.parametrize("source", [KafkaPythonConfig, ConfluentConfig])
def test_a_letter_that_is_too_large_for_its_topic_or_its_client_is_cut_and_says_so(kafka, source):
    topic = kafka.topic("dead", config={"max.message.bytes": "50000"})
    letters = open_dead_letters(DeadLetterConfig(kind="kafka", topic=topic), source(brokers=[kafka.address]))
    sizes = {1: 1000, 2: 80_000, 3: 2_500_000, **dict.fromkeys(range(4, 400), 400)}
    letters.write(letter(i, b"%07d" % i + b"x" * (n - 7)) for i, n in sizes.items())
    assert letters.flush() == len(sizes) == kafka.ends(topic)
    letters.close()
    found = {int(dict(m.headers())["offset"]): m for m in kafka.read(topic, len(sizes))}
    assert {i: len(m.value()) for i, m in found.items()} == sizes | {2: 40_000, 3: 39_062}
    assert {i: m.value()[:7] for i, m in found.items()} == {i: b"%07d" % i for i in sizes}
    truncated = {i: dict(m.headers()).get("truncated") for i, m in found.items()}
    assert truncated == dict.fromkeys(sizes) | {2: b"80000", 3: b"2500000"}


@pytest.mark.kafka
@pytest.mark.parametrize("source", [KafkaPythonConfig, ConfluentConfig])
def test_letters_reach_their_topic_after_a_broker_that_was_away(kafka, source, monkeypatch):
    monkeypatch.setattr(letter_topic, "FLUSH_S", 2.0)
    topic = kafka.topic("dead")
    letters = open_dead_letters(DeadLetterConfig(kind="kafka", topic=topic), source(brokers=[kafka.address]))
    letters.write([letter(1)])
    letters.flush()
    with kafka.away():
        letters.write([letter(2)])
        with pytest.raises(SourceError, match=f"writing dead letters to {topic}") as raised:
            letters.flush()
        assert raised.value.retriable
    deadline = time.monotonic() + 30
    while True:
        try:
            letters.flush()
            break
        except SourceError:
            assert time.monotonic() < deadline
    letters.close()
    assert {dict(m.headers())["offset"] for m in kafka.read(topic, kafka.ends(topic))} == {b"1", b"2"}
