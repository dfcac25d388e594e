"""Bytes to facts: shapes, units, and a reason for everything that is refused."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_fm.events import EventDecoder, EventsConfig, Reason

T = 1_700_000_000_000


def decoder(**settings) -> EventDecoder:
    return EventDecoder(msgspec.convert(settings, EventsConfig))


def impression(value: bytes, timestamp: int = -1, **settings):
    return decoder(**settings).impressions([value], np.array([timestamp]))


def reason(value: bytes, timestamp: int = -1, **settings) -> Reason | None:
    return impression(value, timestamp, **settings).reasons.get(0)


def test_an_impression_is_id_time_and_features() -> None:
    found = impression(b'{"impression_id":"i1","ts":1700000000000,"features":{"a":"x"}}')
    assert (found.ids, found.times_ms, found.features) == (["i1"], [T], [{"a": "x"}])
    assert found.weights == [1.0]
    assert math.isnan(found.scores[0])
    assert found.reasons == {}


def test_a_click_is_id_and_time() -> None:
    found = decoder().clicks([b'{"impression_id":7,"ts":1700000000000}'], np.array([-1]))
    assert (found.ids, found.times_ms) == (["7"], [T])


def test_a_click_brings_a_one_unless_a_number_is_asked_for() -> None:
    value = b'{"impression_id":7,"ts":1700000000000,"watch":{"s":12.5}}'
    assert decoder().clicks([value], np.array([-1])).labels == [1.0]
    assert decoder(click={"value": "watch.s"}).clicks([value], np.array([-1])).labels == [12.5]


@pytest.mark.parametrize(
    ("number", "label"), [(b"600", 1.0), (b"30", 0.5), (b"0", 0.0), (b"-60", -0.25), (b"1e30", 1.0), (b"-1e30", -0.25)]
)
def test_the_number_of_a_click_is_scaled_and_then_clipped(number, label) -> None:
    shape = {"value": "s", "scale": 1 / 60, "clip": [-0.25, 1.0]}
    value = b'{"impression_id":7,"ts":1700000000000,"s":' + number + b"}"
    assert decoder(click=shape).clicks([value], np.array([-1])).labels == [pytest.approx(label)]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (None, Reason.NO_LABEL),
        (b"null", Reason.NO_LABEL),
        (b'"5"', Reason.BAD_LABEL),
        (b"true", Reason.BAD_LABEL),
        (b"[5]", Reason.BAD_LABEL),
        (b"1.1e30", Reason.BAD_LABEL),
        (b"-1" + b"0" * 31, Reason.BAD_LABEL),
        (b"NaN", Reason.NOT_JSON),
        (b"1e999", Reason.BAD_NUMBER),
    ],
)
def test_a_click_without_a_number_that_can_be_used_is_rejected(number, expected) -> None:
    value = b'{"impression_id":7,"ts":1700000000000' + (b',"stars":' + number if number else b"") + b"}"
    found = decoder(click={"value": "stars"}).clicks([value], np.array([-1]))
    assert (found.reasons, len(found.labels)) == ({0: expected}, 1)


def test_no_scale_or_clip_makes_a_label_that_float32_cannot_hold() -> None:
    value = b'{"impression_id":7,"ts":1700000000000,"stars":1e30}'
    (label,) = decoder(click={"value": "stars", "scale": 1e9}).clicks([value], np.array([-1])).labels
    assert np.isfinite(np.float32(label))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"value": "s", "clip": [1.0, 1.0]}, "they must rise"),
        ({"clip": [0.0, 1.0]}, "which is not set"),
        ({"scale": 2.0}, "which is not set"),
        ({"value": "s", "scale": 0.0}, "> 0"),
    ],
)
def test_a_click_s_number_that_makes_no_sense_is_refused(shape, message) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        decoder(click=shape)


def test_where_things_lie_is_configured() -> None:
    shape = {"id": "meta.req.id", "time": "at", "features": "ctx", "weight": "meta.w", "score": "p"}
    value = b'{"meta":{"req":{"id":"x"},"w":2},"at":1700000000000,"ctx":{"a":1},"p":0.25}'
    found = impression(value, impression=shape)
    assert (found.ids, found.weights, found.scores, found.features) == (["x"], [2.0], [0.25], [{"a": 1}])


def test_features_may_lie_at_the_top() -> None:
    found = impression(b'{"impression_id":"i","ts":1700000000000,"a":"x"}', impression={"features": None})
    assert found.features[0]["a"] == "x"


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("ms", b"1700000000000"),
        ("s", b"1700000000"),
        ("s", b"1700000000.0"),
        ("us", b"1700000000000000"),
        ("ns", b"1700000000000000000"),
        ("iso8601", b'"2023-11-14T22:13:20Z"'),
        ("iso8601", b'"2023-11-14T23:13:20+01:00"'),
        ("iso8601", b'"2023-11-14T22:13:20"'),
    ],
)
def test_times_of_every_unit_become_milliseconds(unit, text) -> None:
    value = b'{"impression_id":"i","ts":' + text + b',"features":{}}'
    assert impression(value, time_unit=unit).times_ms == [T]
    assert decoder(time_unit=unit).time_ms(value) == T


GOOD = {"impression_id": b'"i"', "ts": b"1700000000000", "features": b"{}", "score": b"0.5", "weight": b"1"}
SHAPE = {"weight": "weight", "score": "score"}


def event(**changes: bytes | None) -> bytes:
    parts = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), value) for name, value in parts.items()) + b"}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (event(), None),
        (b"", Reason.NOT_JSON),
        (b"not json", Reason.NOT_JSON),
        (event()[:-1], Reason.NOT_JSON),
        (b'{"a":"\xff"}', Reason.NOT_JSON),
        (b"[" * 3000, Reason.NOT_JSON),
        (event(features=b'{"n":NaN}'), Reason.NOT_JSON),
        (event(features=b'{"n":1e999}'), Reason.BAD_NUMBER),
        (b"[1]", Reason.NOT_AN_OBJECT),
        (b'"x"', Reason.NOT_AN_OBJECT),
        (event(impression_id=None), Reason.NO_ID),
        (event(impression_id=b"null"), Reason.NO_ID),
        (event(impression_id=b'""'), Reason.BAD_ID),
        (event(impression_id=b"1.5"), Reason.BAD_ID),
        (event(impression_id=b"true"), Reason.BAD_ID),
        (event(impression_id=b'"' + b"x" * 257 + b'"'), Reason.BAD_ID),
        (event(impression_id=b"1" * 5000), Reason.BAD_NUMBER),
        (event(impression_id=b"1" * 30), Reason.BAD_ID),
        (event(ts=None), Reason.NO_TIME),
        (event(ts=b'"yesterday"'), Reason.BAD_TIME),
        (event(ts=b"true"), Reason.BAD_TIME),
        (event(ts=b"1700000000"), Reason.TIME_TOO_OLD),
        (event(ts=b"-5"), Reason.TIME_TOO_OLD),
        (event(ts=b"1" * 30), Reason.TIME_AHEAD),
        (event(features=None), Reason.NO_FEATURES),
        (event(features=b"[1]"), Reason.BAD_FEATURES),
        (event(weight=b"-1"), Reason.BAD_WEIGHT),
        (event(weight=b'"2"'), Reason.BAD_WEIGHT),
        (event(score=b"1.5"), Reason.BAD_SCORE),
        (event(score=b"null", weight=b"null"), None),
        (event(features=b'{"a":"' + b"x" * 70_000 + b'"}'), Reason.TOO_LONG),
    ],
)
def test_every_unusable_record_has_its_reason(value, expected) -> None:
    assert reason(value, impression=SHAPE) == expected


def test_an_event_ahead_of_its_record_is_refused_beyond_the_skew() -> None:
    assert reason(event(), timestamp=T - 300_000) is None
    assert reason(event(), timestamp=T - 300_001) == Reason.TIME_AHEAD
    assert reason(event(), timestamp=T - 5_000, max_ahead_s=4.0) == Reason.TIME_AHEAD


def test_a_bad_record_leaves_its_neighbours_alone() -> None:
    found = decoder().impressions([event(), b"?", event(impression_id=b'"j"')], np.full(3, -1))
    assert found.ids == ["i", "", "j"]
    assert found.reasons == {1: Reason.NOT_JSON}
    assert len(found.features) == len(found.weights) == len(found.scores) == 3


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["impression_id", "ts", "features", "x"]), inner)
        ),
    ).map(msgspec.json.encode)
)
def test_no_bytes_whatever_end_the_stream(value) -> None:
    for found in (impression(value), decoder().clicks([value], np.array([-1]))):
        assert len(found.ids) == len(found.times_ms) == 1
        assert set(found.reasons) <= {0}
    decoder().time_ms(value)
