"""The scanner: what it reads by itself, what it leaves to the general way, and that it stays within its bytes."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import CASES, NOW_MS, Case, Maker, bits
from test_scan_fuzz import compare

from online_fm.events import EventDecoder, EventsConfig, Reason
from online_fm.scan import scanner as scanning
from online_fm.scan.kernel import FINGERPRINT, columns_for, make_scan
from online_fm.scan.rows import MOST_ELEMENTS, room_for
from online_fm.scan.scanner import Scanner
from online_fm.scan.shape import NEW_KEYS
from online_fm.source.port import Records, TopicPartition
from online_fm.source.values import Values

ALL_KINDS, FLAT = CASES[0], CASES[1]
SCANNERS = {case.name: case.scanner() for case in CASES}


def records(*values: bytes) -> Records:
    n = len(values)
    return Records(TopicPartition("t", 0), np.arange(n), np.full(n, -1), Values.of(values))


def impression(features: bytes, **rest: str) -> bytes:
    more = "".join(f', "{name}": {value}' for name, value in rest.items())
    return b'{"impression_id": "i", "ts": %d, "features": %s%s}' % (NOW_MS, features, more.encode())


def scanned_alone(scanner: Scanner, given: Records, *, clicks: bool = False) -> list[bool]:
    """Which records the kernel reads by itself."""
    tables = scanner._clicked if clicks else scanner._shown
    columns, _ = scanning._scan(given, tables)
    return columns.ok.tolist()


def scanner_of(*fields: object, **events: object) -> Scanner:
    return Case("", events, list(fields)).scanner()


@pytest.mark.parametrize("case", [case for case in CASES if case.name != "deep, in seconds"], ids=lambda c: c.name)
def test_no_usable_event_of_the_usual_kind_goes_the_general_way(case) -> None:
    scanner = SCANNERS[case.name]
    for clicks in (False, True):
        given = Maker(case, 1, odd=0.0).records(500, clicks=clicks)
        general = scanner.general_clicks(given) if clicks else scanner.general_impressions(given)
        if (scanner._clicked if clicks else scanner._shown) is not None:
            alone = scanned_alone(scanner, given, clicks=clicks)
            assert alone == [i not in general.reasons for i in range(500)]
            assert sum(alone) > 250


def test_only_a_path_that_ends_within_another_keeps_a_topic_from_being_scanned() -> None:
    assert [(case.name, clicks) for case in CASES for clicks in (False, True) if not _tables(case, clicks)] == [
        ("not to be scanned", False),
        ("a leaf within a leaf", False),
        ("a leaf within a leaf", True),
    ]


def _tables(case: Case, clicks: bool) -> bool:
    scanner = SCANNERS[case.name]
    return (scanner._clicked if clicks else scanner._shown) is not None


def test_no_records_are_no_facts() -> None:
    for case in (ALL_KINDS, CASES[-1]):
        found = SCANNERS[case.name].impressions(records())
        assert (len(found.facts), found.facts.rows.nnz, found.reasons) == (0, 0, {})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.NOT_JSON),
        (b"{}", Reason.NO_ID),
        (b"[]", Reason.NOT_AN_OBJECT),
        (impression(b"{}") + b"\0", Reason.NOT_JSON),
        (impression(b"{}") + b"}", Reason.NOT_JSON),
        (impression(b"{}")[:-1], Reason.NOT_JSON),
        (impression(b"[]"), Reason.BAD_FEATURES),
        (impression(b'{"user": {}}'), Reason.BAD_VALUE),
        (impression(b'{"user": "\\ud800"}'), Reason.NOT_JSON),
        (impression(b'{"user": "\xed\xa0\x80"}'), Reason.NOT_JSON),
        (impression(b'{"other": 1e999}'), Reason.BAD_NUMBER),
        (impression(b'{"tags": [1, [2]]}'), Reason.BAD_VALUE),
        (impression(b"{}", score="1.5"), Reason.BAD_SCORE),
        (impression(b"{}", w="-1"), Reason.BAD_WEIGHT),
        (impression(b"{}", impression_id='""'), Reason.BAD_ID),
        (impression(b'{"x": 3.5e38}'), Reason.BAD_VALUE),
    ],
)
def test_what_is_wrong_with_a_record_is_what_the_general_decoder_says(value, reason) -> None:
    found = SCANNERS[ALL_KINDS.name].impressions(records(impression(b"{}"), value, impression(b"{}")))
    assert found.reasons == {1: reason}
    assert found.facts.kind.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("features", "unknown"),
    [
        (b'{"a": 1, "a": 2}', 1),
        (b'{"a": 1, "b": {"a": {}}, "user": "u"}', 2),
        (b'{"\\u0061": 1, "a": 2}', 1),
        (b'{"page": {"a": 1}, "page.words": 1}', 1),
        (b'{"user": "1", "user": "2"}', 0),
        (b'{"user": "1", "\\u0075ser": "2"}', 0),
    ],
)
def test_keys_that_no_field_knows_are_counted_once(features, unknown) -> None:
    given = records(impression(features))
    found = SCANNERS[ALL_KINDS.name].impressions(given)
    assert found.unknown == unknown
    assert bits(found) == bits(SCANNERS[ALL_KINDS.name].general_impressions(given))


def test_a_record_cut_at_any_byte_is_read_as_the_general_decoder_reads_it() -> None:
    scanner = SCANNERS[ALL_KINDS.name]
    whole = Maker(ALL_KINDS, 3, odd=0.0).records(3).values
    compare(scanner, records(*(value[:n] for value in whole for n in range(len(value) + 1))), clicks=False)
    compare(scanner, records(*(value[n:] for value in whole for n in range(len(value) + 1))), clicks=False)
    compare(
        scanner, records(*(value[:n] + b"\0" + value[n:] for value in whole for n in range(len(value)))), clicks=False
    )


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect by its Linux numbers")
def test_nothing_is_read_beyond_the_buffer() -> None:
    """The batch lies at the end of a page, and the next one must not be touched: a read there ends the process."""
    page = mmap.PAGESIZE
    with mmap.mmap(-1, 4 * page) as memory:
        whole = np.frombuffer(memory, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        last = ctypes.c_void_p(whole.ctypes.data + 3 * page)
        assert libc.mprotect(last, page, 0) == 0
        try:
            for case in CASES[:5]:
                _read_at_the_end_of(whole[: 3 * page], case)
        finally:
            assert libc.mprotect(last, page, mmap.PROT_READ | mmap.PROT_WRITE) == 0
            del whole


def _read_at_the_end_of(memory: np.ndarray, case: Case) -> None:
    scanner = SCANNERS[case.name]
    for clicks, tables in ((False, scanner._shown), (True, scanner._clicked)):
        maker = Maker(case, 4, odd=0.02)
        values = [*maker.records(4, clicks=clicks).values, *maker.records(300, clicks=clicks, broken=0.9).values]
        cuts = [value[:n] for value in values[:4] for n in range(len(value))]
        for value in (*cuts, *values):
            given = records(value)
            data, bounds = scanning._joined(given.values, tables)
            data = data[:-1]  # seven bytes of padding are enough
            place = memory[len(memory) - len(data) :]
            place[:] = data
            place.flags.writeable = False
            scanning._scan_joined(place, bounds, given.timestamps, tables, columns_for(1), room_for(1000))
            memory.flags.writeable = True


def test_the_kernel_as_plain_python_reads_the_same_and_only_what_is_there() -> None:
    """Without the compiler every read of bytes and arrays is checked."""
    code = """
import numpy as np
from scan_cases import CASES, Maker
from test_scan_fuzz import compare
np.seterr(over="ignore")  # hashes
for case in CASES:
    scanner = case.scanner()
    for clicks in (False, True):
        for broken in (0.0, 0.9):
            compare(scanner, Maker(case, 5, odd=0.05).records(60, clicks=clicks, broken=broken), clicks=clicks)
"""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_rows_of_any_width_find_room() -> None:
    scanner = scanner_of(
        {"kind": "multi", "name": "a", "max_values": 10_000},
        {"kind": "multi", "name": "b", "input": "a", "max_values": 10_000},
        {"kind": "cross", "name": "ab", "of": ["a", "b"], "max_values": 10_000},
    )
    widths = [0, 1, 3, 2000, 5, 1, 90, 3000, MOST_ELEMENTS, MOST_ELEMENTS + 1, 7]
    given = records(*(impression(json.dumps({"a": [f"{i}" for i in range(n)]}).encode()) for n in widths))
    compare(scanner, given, clicks=False)
    assert scanned_alone(scanner, given) == [n <= MOST_ELEMENTS for n in widths]


def test_keys_beyond_those_that_a_batch_may_bring_are_unusual() -> None:
    scanner, each = scanner_of("user"), 8
    names = [", ".join(f'"key{each * i + k}": [true]' for k in range(each)) for i in range(300)]
    given = records(*(impression(b'{"user": "u", %s}' % name.encode()) for name in names))
    compare(scanner, given, clicks=False)
    assert scanned_alone(scanner, given) == [each * (i + 1) <= NEW_KEYS for i in range(300)]


def test_records_are_the_same_in_any_batch() -> None:
    scanner = SCANNERS[ALL_KINDS.name]
    given = Maker(ALL_KINDS, 6, odd=0.05).records(700, broken=0.2)
    whole = scanner.impressions(given).facts
    for i in range(0, 700, 50):
        cut = slice(i, i + 50)
        piece = given[cut]
        part = scanner.impressions(piece).facts
        assert part.ident.tobytes() == whole.ident[cut].tobytes()
        assert part.rows.key.tobytes() == whole.rows.part(i, i + 50).key.tobytes()


def test_strided_timestamps_are_read_as_they_are() -> None:
    given = records(*[impression(b"{}")] * 4)
    strided = np.array([-1, 0, NOW_MS - 10**6, 0, NOW_MS, 0, -1, 0])[::2]
    found = scanner_of("user").impressions(Records(given.partition, given.offsets, strided, given.values))
    assert found.reasons == {1: Reason.TIME_AHEAD}
    assert found.facts.moves_to.tolist() == [NOW_MS, 0, NOW_MS, NOW_MS]


def test_an_event_time_is_believed_as_far_ahead_of_the_record_as_configured() -> None:
    given = records(*[impression(b"{}")] * 3)
    near = Records(given.partition, given.offsets, NOW_MS - 2500 + np.array([1, 0, -1]), given.values)
    scanner = scanner_of("user", max_ahead_s=2.5)
    compare(scanner, near, clicks=False)
    assert scanned_alone(scanner, near) == [True, True, False]


numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(-1e7, 1e7, width=32).map(lambda x: repr(float(x))),
    st.integers(-(10**20), 10**20).map(str),
    st.tuples(st.integers(-(10**17), 10**17), st.integers(1, 20)).map(
        lambda pair: f"{'-' if pair[0] < 0 else ''}0.{abs(pair[0]):0{pair[1]}d}"
    ),
    st.tuples(st.integers(-(10**18), 10**18), st.integers(-24, 24)).map(lambda pair: f"{pair[0]}e{pair[1]}"),
)
NUMERIC = scanner_of(
    {"kind": "number", "name": "n"},
    {"kind": "number", "name": "scaled", "input": "n", "scale": 1e-3},
    {"kind": "log_bucket", "name": "log", "input": "n"},
    {"kind": "log_bucket", "name": "log10", "input": "n", "base": 10.0},
    {"kind": "log_bucket", "name": "fine", "input": "n", "base": 1.05},
    {"kind": "bounds", "name": "bounds", "input": "n", "bounds": [-1.0, 0.1, 0.3, 1.0, 1e6]},
)


@settings(deadline=None, max_examples=300)
@given(st.lists(numbers, min_size=1, max_size=50))
def test_numbers_have_the_values_and_buckets_of_the_general_way(texts) -> None:
    compare(NUMERIC, records(*(impression(b'{"n": %s}' % text.encode()) for text in texts)), clicks=False)


def test_numbers_at_the_edges_of_buckets_are_scanned() -> None:
    edges = [f"{sign}{2**k - 1 + d}" for k in range(50) for d in (-1, 0, 1) for sign in ("", "-") if 2**k - 1 + d > 0]
    given = records(*(impression(b'{"n": %s}' % edge.encode()) for edge in [*edges, "0", "0.1", "0.3"]))
    compare(NUMERIC, given, clicks=False)
    assert all(scanned_alone(NUMERIC, given))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.1, 0.9), min_size=1, max_size=100, unique=True))
def test_numbers_of_nineteen_digits_are_never_on_the_wrong_side_of_a_bound(bounds) -> None:
    """They lie beside the middle between a bound and the double before it: rounded twice, many would be on it."""
    bounds = sorted(bounds)
    middles = [int((Fraction(b) + Fraction(float(np.nextafter(b, 0.0)))) / 2 * 10**19) for b in bounds]
    given = [impression(b'{"n": 0.%019d}' % (middle + d)) for middle in middles for d in (-1, 0, 1, 2)]
    compare(scanner_of({"kind": "bounds", "name": "n", "bounds": bounds}), records(*given), clicks=False)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(946_684_800_000, 2 * 10**12), st.integers(-9, 9)), min_size=1, max_size=100))
def test_times_of_nineteen_digits_are_never_in_the_wrong_millisecond(times) -> None:
    values = [b"%d.%s" % (ms, f"{5 * 10**5 + d:06}".encode()) for ms, d in times]
    given = [b'{"impression_id": "i", "ts": %s, "features": {}}' % value for value in values]
    compare(scanner_of("user"), records(*given), clicks=False)


moments = st.builds(
    lambda moment, minutes, spec, end: moment.replace(tzinfo=timezone(timedelta(minutes=minutes))).isoformat(
        timespec=spec
    )[: None if end is None else end],
    st.datetimes(datetime(1999, 12, 30), datetime(2201, 1, 2)),  # noqa: DTZ001 the zone is drawn
    st.integers(-1439, 1439),
    st.sampled_from(["seconds", "milliseconds", "microseconds"]),
    st.sampled_from([None, 19]),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(moments, min_size=1, max_size=30))
def test_moments_are_the_ms_of_the_general_way(texts) -> None:
    values = (b'{"impression_id": "i", "ts": "%s", "features": {}}' % text.encode() for text in texts)
    compare(scanner_of("user", time_unit="iso8601"), records(*values), clicks=False)


@pytest.mark.parametrize(
    "text",
    ["2024-02-29T12:00:00Z", "2023-02-29T12:00:00Z", "2100-02-29T00:00:00", "2000-02-29T23:59:59.999999999+00:01",
     "2024-12-31T23:59:60Z", "2024-13-01T00:00:00", "2024-00-01T00:00:00", "2024-01-32T00:00:00", "2024-04-31T00:00:00",
     "2024-01-01T24:00:00", "2024-01-01 00:00:00", "2024-01-01T00:00:00.", "2024-01-01T00:00:00.5", "20240101T000000Z",
     "2024-01-01T00:00:00+0100", "2024-01-01T00:00:00+01", "2024-01-01T00:00:00z", "2024-01-01T00:00:00,5Z",
     "2024-01-01T00:00:00-00:00", "2024-01-01T00:00:00+24:00", "2024-01-01T00:60:00", "+024-01-01T00:00:00"],
)  # fmt: skip
def test_moments_that_do_not_exist_or_are_written_otherwise_are_left_to_the_general_way(text) -> None:
    value = b'{"impression_id": "i", "ts": "%s", "features": {}}' % text.encode()
    compare(scanner_of("user", time_unit="iso8601"), records(value), clicks=False)


def test_events_of_the_simulator_are_scanned() -> None:
    from traffic import config
    from traffic import records as simulated

    given = [value for partition, values in simulated().items() if partition.topic == "impressions" for value in values]
    scanner = Scanner(config().events, config().features)
    reasons = EventDecoder(config().events).impressions(given, np.full(len(given), -1)).reasons
    alone = scanned_alone(scanner, records(*given))
    assert sum(alone) == len(given) - len(scanner.general_impressions(records(*given)).reasons)
    assert len(reasons) > 0


def test_compiled_code_is_kept_under_the_fingerprint_of_all_its_sources() -> None:
    assert [cell.cell_contents for cell in make_scan().py_func.__closure__] == [FINGERPRINT]


def test_a_configuration_that_only_the_general_way_can_read_is_read() -> None:
    events = msgspec.convert({"impression": {"id": "features", "features": "features"}}, EventsConfig)
    scanner = Scanner(events, msgspec.convert({"fields": ["user"]}, scanning.FeaturesConfig))
    assert scanner.impressions(records(b'{"ts": 1, "features": "x"}')).reasons == {0: Reason.TIME_TOO_OLD}


def test_a_base_without_end_has_one_bucket() -> None:
    scanner = scanner_of({"kind": "log_bucket", "name": "n", "base": float("inf")}, "user")
    compare(scanner, records(impression(b'{"n": 1e30, "user": "u"}'), impression(b'{"n": 0}')), clicks=False)


def test_a_moment_without_a_zone_is_utc() -> None:
    value = b'{"impression_id": "i", "ts": "2024-01-01T00:00:00.5", "features": {}}'
    found = scanner_of("user", time_unit="iso8601").impressions(records(value))
    assert found.facts.ts.tolist() == [int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000) + 500]
