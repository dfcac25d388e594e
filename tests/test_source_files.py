"""The files body: lines as offsets, following, gaps, event-time speed; on real files with a clock of the test's."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from online_fm.errors import ConfigError, OffsetGap, SourceError
from online_fm.source.config import FilesConfig
from online_fm.source.files import FilesSource
from online_fm.source.lines import LineReader
from online_fm.source.open import open_source
from online_fm.source.port import TopicPartition

IMPRESSIONS = TopicPartition("impressions", 0)
CLICKS = TopicPartition("clicks", 0)
PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


class Clock:
    """A clock in ms that moves only by sleeping, or by hand."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now(self) -> int:
        return self.ms

    def sleep(self, ms: int) -> None:
        self.ms += ms


def write(folder: Path, impressions: bytes = b"", clicks: bytes = b"", suffix: str = ".jsonl") -> Path:
    pack = PACK[suffix.removeprefix(".jsonl")]
    (folder / f"impressions{suffix}").write_bytes(pack(impressions))
    (folder / f"clicks{suffix}").write_bytes(pack(clicks))
    return folder


@pytest.fixture
def opened():
    """Opens sources with a clock of the test's, and closes them."""
    sources = []

    def open_files(folder: Path, clock: Clock | None = None, **settings) -> FilesSource:
        clock = clock or Clock()
        time_of = settings.pop("time_of", None)
        config = FilesConfig(path=str(folder), **settings)
        sources.append(FilesSource(config, time_of=time_of, now_ms=clock.now, sleep_ms=clock.sleep))
        return sources[-1]

    yield open_files
    for source in sources:
        source.close()


def drain(source: FilesSource, max_records: int = 1000) -> dict[TopicPartition, list[bytes]]:
    got: dict[TopicPartition, list[bytes]] = {p: [] for p in source.partitions()}
    while True:
        batch = source.poll(max_records, 0)
        for records in batch.records:
            got.setdefault(records.partition, []).extend(records.values)
        if batch.at_end == source.partitions():
            return got


def test_a_last_line_without_newline_is_a_record_when_read_once(tmp_path, opened):
    source = opened(write(tmp_path, b"a\nb", b"c\n"))
    assert drain(source) == {IMPRESSIONS: [b"a", b"b"], CLICKS: [b"c"]}


def test_an_empty_line_is_a_record_so_that_line_numbers_are_offsets(tmp_path, opened):
    source = opened(write(tmp_path, b"a\n\nb\n"))
    assert drain(source)[IMPRESSIONS] == [b"a", b"", b"b"]


def test_only_a_newline_ends_a_line(tmp_path, opened):
    source = opened(write(tmp_path, b"a\r b\x0b\x85\r\nc\n"))
    assert drain(source)[IMPRESSIONS] == [b"a\r b\x0b\x85\r", b"c"]


def test_a_folder_is_a_topic_whose_partitions_are_its_files_by_name(tmp_path, opened):
    write(tmp_path).joinpath("impressions.jsonl").unlink()
    folder = tmp_path / "impressions"
    folder.mkdir()
    for name, data in {"b.jsonl": b"second\n", "a.jsonl.gz": gzip.compress(b"first\n"), ".c.tmp": b"no\n"}.items():
        (folder / name).write_bytes(data)
    got = drain(opened(tmp_path))
    assert got == {IMPRESSIONS: [b"first"], TopicPartition("impressions", 1): [b"second"], CLICKS: []}


def test_a_timestamp_is_the_time_of_reading(tmp_path, opened):
    clock = Clock()
    source = opened(write(tmp_path, b"a\nb\n"), clock)
    clock.ms += 5
    (records,) = source.poll(10, 0).records
    assert records.timestamps.tolist() == [clock.ms, clock.ms]


def test_batches_take_turns_between_partitions(tmp_path, opened):
    source = opened(write(tmp_path, b"i\n" * 100, b"c\n" * 100))
    sizes = [{r.partition.topic: len(r) for r in source.poll(5, 0).records} for _ in range(2)]
    assert sizes == [{"clicks": 3, "impressions": 2}, {"impressions": 3, "clicks": 2}]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
@given(
    lines=st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b".")), max_size=40),
    final=st.booleans(),
    block_bytes=st.integers(1, 50),
    cut=st.integers(0, 40),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
)
def test_any_block_size_and_batch_size_and_cut_give_the_same_lines(
    tmp_path_factory, suffix, lines, final, block_bytes, cut, sizes
):
    path = tmp_path_factory.mktemp("lines") / f"t{suffix}"
    data = b"\n".join(lines) + (b"\n" if final and lines else b"")
    path.write_bytes(PACK[suffix.removeprefix(".jsonl")](data))
    expected = data.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    reader = LineReader(path, max_line_bytes=100, block_bytes=block_bytes, whole=True)
    cut = min(cut, len(expected))
    assert reader.skip_to(cut) == cut
    got, turn = [], 0
    while reader.fill():
        got += reader.take(min(len(reader), sizes[turn % len(sizes)]))
        turn += 1
    reader.close()
    assert got == expected[cut:]
    assert reader.next_line == len(expected)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_a_seek_lands_on_its_line_in_a_file_of_many_blocks(tmp_path, suffix, opened):
    lines = [b"%d:%s" % (i, b"x" * (i % 97)) for i in range(60_000)]
    source = opened(write(tmp_path, b"\n".join(lines), suffix=suffix))
    for line in (59_999, 1, 40_000):
        source.seek({IMPRESSIONS: line})
        (records,) = source.poll(1, 0).records
        assert (records.offsets.tolist(), records.values) == ([line], [lines[line]])


def test_a_line_that_is_too_long_is_cut_to_one_byte_more_than_the_bound(tmp_path, opened):
    source = opened(write(tmp_path, b"a\n" + b"y" * 5_000_000 + b"\nb\n" + b"z" * 11), max_line_bytes=10)
    assert drain(source)[IMPRESSIONS] == [b"a", b"y" * 11, b"b", b"z" * 11]


def test_a_line_of_exactly_the_bound_is_whole(tmp_path, opened):
    source = opened(write(tmp_path, b"y" * 10 + b"\n"), max_line_bytes=10)
    assert drain(source)[IMPRESSIONS] == [b"y" * 10]


def test_frames_of_zstd_and_members_of_gzip_that_follow_one_another_are_one_file(tmp_path, opened):
    (tmp_path / "impressions.jsonl.zst").write_bytes(zstandard.compress(b"a\nb") + zstandard.compress(b"c\nd\n"))
    (tmp_path / "clicks.jsonl.gz").write_bytes(gzip.compress(b"e\n") + gzip.compress(b"f\n"))
    assert drain(opened(tmp_path)) == {IMPRESSIONS: [b"a", b"bc", b"d"], CLICKS: [b"e", b"f"]}


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_a_compressed_file_that_is_cut_is_an_error_that_names_it(tmp_path, suffix, opened):
    write(tmp_path, b"".join(b"%d\n" % (i * i) for i in range(9999)), suffix=suffix)
    path = tmp_path / f"impressions{suffix}"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SourceError, match=f"impressions{suffix}: cannot be read behind line"):
        drain(opened(tmp_path))


def test_a_missing_topic_is_an_error_with_a_hint(tmp_path, opened):
    (tmp_path / "impressions.jsonl").touch()
    with pytest.raises(SourceError, match=r"no topic clicks in .* \(put the file clicks.jsonl"):
        opened(tmp_path)


def test_a_topic_that_lies_there_twice_is_an_error(tmp_path, opened):
    write(tmp_path)
    write(tmp_path, suffix=".jsonl.gz")
    with pytest.raises(SourceError, match=r"topic impressions is both .*keep one"):
        opened(tmp_path)


def test_a_file_with_fewer_lines_than_the_stored_offset_is_a_gap(tmp_path, opened):
    source = opened(write(tmp_path, b"a\nb\nc\n"))
    with pytest.raises(OffsetGap) as raised:
        source.seek({IMPRESSIONS: 4})
    assert (raised.value.stored, raised.value.first, raised.value.end) == (4, 0, 3)


def test_a_gap_that_is_accepted_goes_on_from_the_first_line(tmp_path, opened):
    source = opened(write(tmp_path, b"a\nb\n"), on_gap="accept")
    source.seek({IMPRESSIONS: 9, TopicPartition("impressions", 7): 3})
    assert drain(source)[IMPRESSIONS] == [b"a", b"b"]


def test_start_latest_reads_only_what_comes_later(tmp_path, opened):
    source = opened(write(tmp_path, b"a\nb\nhal"), follow=True, start="latest")
    assert drain(source)[IMPRESSIONS] == []
    append(tmp_path / "impressions.jsonl", b"f\nc\n")
    assert drain(source)[IMPRESSIONS] == [b"half", b"c"]
    assert source.positions()[IMPRESSIONS] == 4


def test_a_file_that_came_while_nothing_read_begins_at_its_first_line_whatever_start_says(tmp_path, opened):
    write(tmp_path, clicks=b"c\n")
    (tmp_path / "impressions.jsonl").unlink()
    days(tmp_path, "1", "2")
    source = opened(tmp_path, start="latest")
    source.seek({IMPRESSIONS: 3, CLICKS: 0})
    assert drain(source) == {
        IMPRESSIONS: [],
        TopicPartition("impressions", 1): [b"2a", b"2b", b"2c"],
        CLICKS: [b"c"],
    }


def days(folder: Path, *names: str) -> None:
    (folder / "impressions").mkdir(exist_ok=True)
    for name in names:
        (folder / "impressions" / f"day{name}.jsonl").write_bytes(b"%sa\n%sb\n%sc\n" % ((name.encode(),) * 3))


@pytest.mark.parametrize("change", ["removed", "added"])
@pytest.mark.parametrize("on_gap", ["stop", "accept"])
def test_a_rank_that_is_another_file_at_the_restart_is_an_error_unless_accepted(tmp_path, opened, change, on_gap):
    write(tmp_path).joinpath("impressions.jsonl").unlink()
    days(tmp_path, "1", "2")
    before = opened(tmp_path)
    drain(before)
    assert before.names() == {
        IMPRESSIONS: "day1.jsonl",
        TopicPartition("impressions", 1): "day2.jsonl",
        CLICKS: "clicks.jsonl",
    }
    if change == "removed":
        (tmp_path / "impressions" / "day1.jsonl").unlink()
    days(tmp_path, *{"removed": ["3"], "added": ["0"]}[change])
    source = opened(tmp_path, on_gap=on_gap)
    today = {"removed": "day2", "added": "day0"}[change]
    if on_gap == "stop":
        with pytest.raises(SourceError, match=rf"impressions-0: day1\.jsonl was read.*{today}\.jsonl") as raised:
            source.seek(before.positions(), before.names())
        assert not raised.value.retriable
        return
    source.seek(before.positions(), before.names())
    assert drain(source)[IMPRESSIONS] == [today[3:].encode() + letter for letter in (b"a", b"b", b"c")]


def test_a_file_of_which_nothing_was_read_may_be_another_one(tmp_path, opened):
    write(tmp_path).joinpath("impressions.jsonl").unlink()
    days(tmp_path, "1")
    before = opened(tmp_path)
    days(tmp_path, "0")
    source = opened(tmp_path)
    source.seek(before.positions(), before.names())
    assert len(drain(source)[IMPRESSIONS]) == 3


def test_compressing_a_file_that_was_read_changes_neither_its_name_nor_its_lines(tmp_path, opened):
    before = opened(write(tmp_path, b"a\nb\n"))
    before.poll(1, 0)
    (tmp_path / "impressions.jsonl").unlink()
    (tmp_path / "impressions.jsonl.gz").write_bytes(gzip.compress(b"a\nb\n"))
    source = opened(tmp_path)
    source.seek({IMPRESSIONS: 1}, before.names())
    assert drain(source)[IMPRESSIONS] == [b"b"]


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_a_followed_line_is_a_record_once_it_is_complete(tmp_path, opened):
    source = opened(write(tmp_path, b"a\nb"), follow=True)
    assert drain(source)[IMPRESSIONS] == [b"a"]
    assert source.poll(10, 0).at_end == {IMPRESSIONS, CLICKS}
    append(tmp_path / "impressions.jsonl", b"b\nc\n")
    assert drain(source)[IMPRESSIONS] == [b"bb", b"c"]


def test_following_waits_for_topics_and_finds_new_files(tmp_path, opened):
    clock = Clock()
    source = opened(tmp_path / "later", clock, follow=True)
    assert source.poll(10, 100).at_end == source.partitions() == frozenset()
    for topic in ("impressions", "clicks"):
        (tmp_path / "later" / topic).mkdir(parents=True)
        (tmp_path / "later" / topic / "1.jsonl").write_bytes(b"a\n")
    clock.ms += 1000
    assert drain(source) == {IMPRESSIONS: [b"a"], CLICKS: [b"a"]}
    (tmp_path / "later" / "impressions" / "2.jsonl.gz").write_bytes(gzip.compress(b"b\n"))
    clock.ms += 1000
    assert drain(source)[TopicPartition("impressions", 1)] == [b"b"]


@pytest.mark.parametrize(("change", "message"), [("new", "0.jsonl: is new, but sorts before"), ("gone", "has gone")])
def test_files_that_would_shift_the_partitions_are_an_error(tmp_path, change, message, opened):
    clock = Clock()
    (tmp_path / "impressions").mkdir()
    path = tmp_path / "impressions" / "1.jsonl"
    path.touch()
    source = opened(tmp_path, clock, follow=True)
    clock.ms += 1000
    path.with_name("0.jsonl").touch() if change == "new" else path.unlink()
    with pytest.raises(SourceError, match=message) as raised:
        source.poll(1, 0)
    assert not raised.value.retriable


@pytest.mark.parametrize("how", ["cut", "replaced"])
def test_a_followed_file_that_is_cut_or_replaced_is_a_gap(tmp_path, how, opened):
    source = opened(write(tmp_path, b"a\nb\nc\n"), follow=True)
    drain(source)
    path = tmp_path / "impressions.jsonl"
    if how == "replaced":
        path.rename(tmp_path / "old")
    path.write_bytes(b"d\n")
    with pytest.raises(OffsetGap) as raised:
        source.poll(1, 0)
    assert (raised.value.stored, raised.value.first, raised.value.end) == (3, 0, 1)


def test_a_followed_file_that_is_made_anew_is_read_from_its_first_line_where_that_is_accepted(tmp_path, opened):
    source = opened(write(tmp_path, b"a\nb\nc\n"), follow=True, on_gap="accept")
    drain(source)
    (tmp_path / "impressions.jsonl").write_bytes(b"d\n")
    batch = source.poll(0, 0)
    assert IMPRESSIONS not in batch.at_end
    assert drain(source)[IMPRESSIONS] == [b"d"]


def test_an_empty_poll_lasts_as_long_as_was_asked_for(tmp_path, opened):
    clock = Clock()
    source = opened(write(tmp_path, b""), clock, follow=True)
    start_ms = clock.ms
    assert len(source.poll(1, 250)) == 0
    assert clock.ms - start_ms == 250


def event_time(value: bytes) -> int | None:
    return int(value.split(b":")[0]) if b":" in value else None


def test_at_event_time_speed_records_come_when_their_time_has_come(tmp_path, opened):
    clock = Clock()
    write(tmp_path, b"1000:a\n3000:b\n9000:c\n", b"2000:d\n")
    source = opened(tmp_path, clock, speed=2.0, time_of=event_time)
    assert [r.values for r in source.poll(10, 0).records] == [[b"1000:a"]]
    assert source.poll(10, 499).at_end == source.partitions()
    clock.ms += 1
    assert [r.values for r in source.poll(10, 0).records] == [[b"2000:d"]]
    clock.ms += 500
    assert [r.values for r in source.poll(10, 0).records] == [[b"3000:b"]]
    assert len(source.poll(10, 2900)) == 0
    assert [r.values for r in source.poll(10, 5000).records] == [[b"9000:c"]]


def test_a_line_without_time_is_due_with_the_line_before_it(tmp_path, opened):
    clock = Clock()
    source = opened(write(tmp_path, b"x\n1000:a\ny\n500:b\n2000:c\nz\n"), clock, speed=1.0, time_of=event_time)
    assert drain(source)[IMPRESSIONS] == [b"x", b"1000:a", b"y", b"500:b"]
    clock.ms += 1000
    assert drain(source, max_records=1)[IMPRESSIONS] == [b"2000:c", b"z"]


@pytest.mark.parametrize("max_records", [1, 3, 1000])
def test_what_is_due_is_one_cut_through_event_time_whatever_the_batch_size(tmp_path, max_records, opened):
    clock = Clock()
    lines = [b"%d:%d" % (1000 * i, i) for i in range(20)]
    write(tmp_path, b"\n".join(lines[::2]), b"\n".join(lines[1::2]))
    source = opened(tmp_path, clock, speed=1.0, time_of=event_time)
    seen = []
    for _ in range(10):
        got = drain(source, max_records)
        seen.append(sorted(int(v.split(b":")[1]) for values in got.values() for v in values))
        clock.ms += 2000
    assert seen == [[0], *[[2 * i - 1, 2 * i] for i in range(1, 10)]]


def test_a_seek_starts_event_time_from_where_it_lands(tmp_path, opened):
    clock = Clock()
    source = opened(write(tmp_path, b"0:a\n90000:b\n91000:c\n"), clock, speed=1.0, time_of=event_time)
    source.seek({IMPRESSIONS: 1})
    assert drain(source)[IMPRESSIONS] == [b"90000:b"]


def test_speed_without_a_way_to_tell_time_is_a_mistake_in_the_configuration(tmp_path):
    with pytest.raises(ConfigError, match=r"source\.speed"):
        open_source(FilesConfig(path=str(write(tmp_path)), speed=1.0))


def test_progress_goes_from_nothing_to_all_of_the_bytes(tmp_path, opened):
    source = opened(write(tmp_path, b"x" * 99 + b"\n" * 3_000_000))
    before = source.progress
    drain(source, 100_000)
    assert before < 0.9
    assert source.progress == 1.0


def test_an_unreadable_file_is_an_error_that_names_it(tmp_path, opened):
    write(tmp_path)
    (tmp_path / "impressions.jsonl").write_bytes(b"x\n")
    (tmp_path / "clicks.jsonl").rename(tmp_path / "clicks.jsonl.gz")
    (tmp_path / "clicks.jsonl.gz").write_bytes(b"this is not gzip")
    with pytest.raises(SourceError, match=r"clicks\.jsonl\.gz"):
        opened(tmp_path)
