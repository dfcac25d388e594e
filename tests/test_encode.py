"""The encoder: what each kind of field makes of a value, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from online_fm.features.encode import Encoder
from online_fm.features.spec import FeaturesConfig


def encoder(*fields: str | dict[str, Any]) -> Encoder:
    return Encoder(msgspec.convert({"fields": fields}, FeaturesConfig))


def key(field: str, value: bytes) -> int:
    return xxhash.xxh64_intdigest(value, xxhash.xxh64_intdigest(field.encode(), 0)) >> 32


def row(encoded, i: int = 0) -> list[tuple[int, int, float]]:
    a, b = encoded.rows.ptr[i : i + 2]
    rows = encoded.rows
    return [(int(rows.fld[j]), int(rows.key[j]), float(rows.val[j])) for j in range(a, b)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("abc", b"abc"),
        (7, b"7"),
        (-7, b"-7"),
        (7.0, b"7"),
        (True, b"true"),
        (False, b"false"),
        ("", b""),
        ("a\0b", b"a\0b"),
    ],
)
def test_a_category_is_the_hash_of_its_text_under_its_field(value, text) -> None:
    assert row(encoder("f").encode([{"f": value}])) == [(0, key("f", text), 1.0)]


def test_fields_lie_in_the_order_of_the_spec_whatever_the_order_in_the_event() -> None:
    a, b = encoder("x", "y").encode([{"y": "1", "x": "2"}, {"x": "2", "y": "1"}]), encoder("x", "y")
    assert row(a, 0) == row(a, 1) == row(b.encode([{"x": "2", "y": "1"}]))


def test_absent_and_null_fields_are_left_out_and_counted() -> None:
    encoded = encoder("x", "y").encode([{"x": None}, {"y": "1"}, {}])
    assert [row(encoded, i) for i in range(3)] == [[], [(1, key("y", b"1"), 1.0)], []]
    assert (encoded.missing, encoded.unknown) == (5, 0)


def test_features_that_no_field_takes_are_counted() -> None:
    assert encoder("x").encode([{"x": "1", "y": "2", "z": "3"}, {"x": "1"}]).unknown == 2


def test_a_raw_number_is_one_feature_with_a_value() -> None:
    encoded = encoder({"kind": "number", "name": "n", "scale": 0.5}).encode([{"n": 3}, {"n": -1.5}])
    assert row(encoded, 0) == [(0, key("n", b""), 1.5)]
    assert row(encoded, 1) == [(0, key("n", b""), -0.75)]


@pytest.mark.parametrize(
    ("x", "bucket"), [(0, b"0"), (0.9, b"0"), (1, b"1"), (1000, b"9"), (-1000, b"-9"), (-0.1, b"-0")]
)
def test_log_buckets_keep_the_sign_and_the_order_of_magnitude(x, bucket) -> None:
    assert row(encoder({"kind": "log_bucket", "name": "n"}).encode([{"n": x}])) == [(0, key("n", bucket), 1.0)]


@pytest.mark.parametrize(("x", "bucket"), [(-5, b"0"), (1, b"1"), (1.99, b"1"), (2, b"2"), (99, b"2")])
def test_bounds_are_reached_from_below(x, bucket) -> None:
    assert row(encoder({"kind": "bounds", "name": "n", "bounds": [1, 2]}).encode([{"n": x}])) == [
        (0, key("n", bucket), 1.0)
    ]


@pytest.mark.parametrize(("weighting", "value"), [("one", 1.0), ("mean", 0.25), ("sqrt", 0.5)])
def test_several_values_share_a_field(weighting, value) -> None:
    encoded = encoder({"kind": "multi", "name": "t", "weighting": weighting}).encode([{"t": ["a", "b", 3, "a"]}])
    assert row(encoded) == [(0, key("t", v), value) for v in (b"a", b"b", b"3", b"a")]


def test_values_beyond_the_bound_are_cut_and_counted() -> None:
    encoded = encoder({"kind": "multi", "name": "t", "max_values": 2, "weighting": "one"}).encode([{"t": list("abcd")}])
    assert len(row(encoded)) == 2
    assert encoded.truncated == 2


def test_a_cross_is_every_combination_of_its_parts() -> None:
    fields = ("a", {"kind": "multi", "name": "t", "weighting": "one"}, {"kind": "cross", "name": "x", "of": ["a", "t"]})
    encoded = encoder(*fields).encode([{"a": "1", "t": ["p", "q"]}, {"a": "1"}, {"t": ["p"]}])

    def crossed(t: bytes) -> int:
        parts = b"".join(k.to_bytes(4, "little") for k in (key("a", b"1"), key("t", t)))
        return key("x", parts)

    assert row(encoded, 0)[3:] == [(2, crossed(b"p"), 1.0), (2, crossed(b"q"), 1.0)]
    assert [len(row(encoded, i)) for i in (1, 2)] == [1, 1]


def test_a_cross_of_three_lists_is_cut_at_its_bound() -> None:
    lists = [{"kind": "multi", "name": n} for n in "abc"]
    cross = {"kind": "cross", "name": "x", "of": ["a", "b", "c"], "max_values": 10}
    encoded = encoder(*lists, cross).encode([{"a": list("12"), "b": list("123"), "c": list("12345")}])
    assert len(row(encoded)) == 10 + 10
    assert encoded.truncated == 20


def test_the_same_key_may_feed_several_fields_by_a_dotted_input() -> None:
    fields = (
        {"kind": "categorical", "name": "os", "input": "device.os"},
        {"kind": "number", "name": "age", "input": "user.age"},
        {"kind": "bounds", "name": "age_group", "input": "user.age", "bounds": [18]},
    )
    encoded = encoder(*fields).encode([{"device": {"os": "ios"}, "user": {"age": 20}}, {"device": "old", "user": {}}])
    assert row(encoded, 0) == [
        (0, key("os", b"ios"), 1.0),
        (1, key("age", b""), 20.0),
        (2, key("age_group", b"1"), 1.0),
    ]
    assert row(encoded, 1) == []
    assert encoded.unknown == 0


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("f", {"a": 1}, "a dict is not a category"),
        ("f", 1.5, "is not a category: use a field of kind number"),
        ("f", 2**64, "more than 64 bits"),
        ("f", "\ud800", "lone surrogate"),
        ({"kind": "number", "name": "f"}, "3", "a str is not a number"),
        ({"kind": "number", "name": "f"}, True, "a bool is not a number"),
        ({"kind": "number", "name": "f"}, math.nan, "not a finite 32-bit number"),
        ({"kind": "number", "name": "f"}, 1e39, "not a finite 32-bit number"),
        ({"kind": "number", "name": "f"}, 10**400, "too large"),
        ({"kind": "number", "name": "f", "scale": 1e30}, 1e30, "not a finite 32-bit number"),
        ({"kind": "multi", "name": "f"}, ["a", ["b"]], "a list is not a category"),
    ],
)
def test_a_value_that_cannot_be_used_empties_its_row_and_says_why(field, value, why) -> None:
    encoded = encoder(field, "other").encode(
        [{"other": "1", "f": "" if field == "f" else None}, {"f": value, "other": "1"}]
    )
    (problem,) = encoded.problems
    assert (problem.row, problem.field) == (1, "f")
    assert why in problem.why
    assert row(encoded, 1) == []
    assert (1, key("other", b"1"), 1.0) in row(encoded, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["a", "a"], "named twice"),
        (["a", {"kind": "cross", "name": "x", "of": ["a", "b"]}], "needs 'b' to be another field"),
        (
            ["a", {"kind": "number", "name": "n"}, {"kind": "cross", "name": "x", "of": ["a", "n"]}],
            "bucket a number first",
        ),
        ([{"kind": "bounds", "name": "n", "bounds": [2, 1]}], "must rise"),
        ([], "length >= 1"),
        ([{"kind": "log_bucket", "name": "n", "base": 1}], "> 1.0"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(fields, message) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert({"fields": fields}, FeaturesConfig)


EVERYTHING = (
    "a",
    "b",
    {"kind": "multi", "name": "t"},
    {"kind": "number", "name": "n"},
    {"kind": "log_bucket", "name": "l", "input": "n"},
    {"kind": "cross", "name": "x", "of": ["a", "t"]},
)
anything = st.dictionaries(
    st.sampled_from(["a", "b", "t", "n", "z"]),
    st.none()
    | st.text(max_size=3)
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.lists(st.text(max_size=2), max_size=3),
    max_size=5,
)


@settings(deadline=None)
@given(st.lists(anything, max_size=8))
def test_a_batch_is_its_events_one_by_one(events) -> None:
    whole = encoder(*EVERYTHING).encode(events)
    singles = [encoder(*EVERYTHING).encode([event]) for event in events]
    assert [row(whole, i) for i in range(len(events))] == [row(single) for single in singles]
    assert len(whole.problems) == sum(len(single.problems) for single in singles)
    for count in ("unknown", "missing", "truncated"):
        assert getattr(whole, count) == sum(getattr(single, count) for single in singles)
    assert whole.rows.val.dtype == np.float32
    assert np.isfinite(whole.rows.val).all()
