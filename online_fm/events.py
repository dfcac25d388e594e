"""From bytes to facts: an impression, a click, or the reason why a record is neither.

Where id, time and features lie in the user's own events is configured as dotted paths. A record that cannot be used
is data like any other: its `Reason` is one of a bounded set, so that it can be counted and dead-lettered, and the
stream goes on. A click may bring a number, such as stars or seconds watched, which is then the label. Ids are compared
as UTF-8 text; an integer id is its decimal digits. Event times are ms since the epoch; one that is further ahead of its
record's own timestamp than `max_ahead_s` is refused, because it would carry the whole stream's time away with it, and
so is one before the year 2000, which is most often seconds taken for ms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

__all__ = [
    "EARLIEST_MS",
    "LARGEST",
    "LATEST_MS",
    "ClickShape",
    "Clicks",
    "EventDecoder",
    "EventsConfig",
    "ImpressionShape",
    "Impressions",
    "Reason",
    "TimeAndId",
]

EARLIEST_MS = 946_684_800_000  # 2000-01-01
LATEST_MS = 253_402_300_800_000  # the year 10000
_UNKNOWN_TIMESTAMP = -1
_WIDEST = 2**64
_NO_SCORE = math.nan
LARGEST = 1e30  # of a number in an event: far from where float32 ends

Path = Annotated[str, Meta(min_length=1)]
_Decoded = Mapping[str, object]
_Lookup = Callable[[_Decoded], object]


class Reason(StrEnum):
    """Why a record was rejected."""

    TOO_LONG = "too_long"
    NOT_JSON = "not_json"
    BAD_NUMBER = "bad_number"
    NOT_AN_OBJECT = "not_an_object"
    NO_ID = "no_id"
    BAD_ID = "bad_id"
    NO_TIME = "no_time"
    BAD_TIME = "bad_time"
    TIME_AHEAD = "time_ahead"
    TIME_TOO_OLD = "time_too_old"
    NO_FEATURES = "no_features"
    BAD_FEATURES = "bad_features"
    BAD_VALUE = "bad_value"
    BAD_WEIGHT = "bad_weight"
    BAD_SCORE = "bad_score"
    NO_LABEL = "no_label"
    BAD_LABEL = "bad_label"


class TimeAndId(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a click's id (that of its impression) and time lie: dotted paths."""

    id: Path = "impression_id"
    time: Path = "ts"


class ImpressionShape(TimeAndId, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the parts of an impression lie: dotted paths.

    `features`: the object that holds them; null where they lie at the top. `weight`: the example's weight, 1 where
    absent. `score`: the probability that was served, if the event carries it: its quality is then reported too.
    """

    features: Path | None = "features"
    weight: Path | None = None
    score: Path | None = None


class ClickShape(TimeAndId, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the parts of a click lie: dotted paths.

    `value`: the number that it brings, which is the row's label; null: every click is a 1. The number is multiplied by
    `scale`, which brings it near 1, and then kept within `clip` (least and most), because a page left open for a
    night would otherwise outweigh all others; a click without a number, or with what is none, is rejected.
    """

    value: Path | None = None
    scale: Annotated[float, Meta(gt=0, le=1e9)] = 1.0
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.clip and self.clip[0] >= self.clip[1]:
            raise ValueError("`clip` is the least and the most: they must rise")
        if not self.value and (self.clip or self.scale != 1.0):
            raise ValueError("`scale` and `clip` are of the number at `value`, which is not set")


class EventsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of the user's events, and the bounds of what is believed."""

    impression: ImpressionShape = ImpressionShape()
    click: ClickShape = ClickShape()
    time_unit: Literal["ms", "s", "us", "ns", "iso8601"] = "ms"
    max_bytes: Annotated[int, Meta(ge=2)] = 65_536
    max_id_length: Annotated[int, Meta(ge=1)] = 256
    max_ahead_s: Annotated[float, Meta(ge=0)] = 300.0


@dataclass(slots=True)
class _Found:
    """n records as columns; where `reasons` names one, id and time are empty."""

    ids: list[str] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)
    reasons: dict[int, Reason] = field(default_factory=dict)


@dataclass(slots=True)
class Clicks(_Found):
    """n click records as columns, with the labels that they bring."""

    labels: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Impressions(_Found):
    """n impression records as columns; a score that the event does not carry is NaN."""

    features: list[Mapping[str, object]] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


class _Unusable(Exception):  # control flow within this module, not an error of the tree
    """Leaves one record's decoding; never leaves this module."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason


class EventDecoder:
    """Decodes record values by one configuration. Holds no state."""

    def __init__(self, config: EventsConfig) -> None:
        self._config = config
        self._json = msgspec.json.Decoder()
        self._ahead_ms = round(config.max_ahead_s * 1000)
        self._to_ms = _TO_MS[config.time_unit]
        shape = config.impression
        self._impression = (_lookup(shape.id), _lookup(shape.time))
        self._click = (_lookup(config.click.id), _lookup(config.click.time))
        self._features = _lookup(shape.features) if shape.features else lambda event: event
        self._weight = _lookup(shape.weight) if shape.weight else None
        self._score = _lookup(shape.score) if shape.score else None
        self._label = _label_of(config.click)

    def impressions(self, values: Sequence[bytes], timestamps: NDArray[np.int64]) -> Impressions:
        """Decode records of the impressions topic; timestamps are the records' own, ms, -1 where unknown."""
        found = Impressions()
        for i, (value, timestamp) in enumerate(zip(values, timestamps.tolist(), strict=True)):
            try:
                event, ident, time_ms = self._envelope(value, timestamp, self._impression)
                features = _object_of(self._features(event))
                weight = _within(self._weight, event, 1.0, math.inf, Reason.BAD_WEIGHT)
                score = _within(self._score, event, _NO_SCORE, 1.0, Reason.BAD_SCORE)
            except _Unusable as unusable:
                found.reasons[i] = unusable.reason
                ident, time_ms, features, weight, score = "", 0, {}, 1.0, _NO_SCORE
            found.ids.append(ident)
            found.times_ms.append(time_ms)
            found.features.append(features)
            found.weights.append(weight)
            found.scores.append(score)
        return found

    def clicks(self, values: Sequence[bytes], timestamps: NDArray[np.int64]) -> Clicks:
        """Decode records of the clicks topic; timestamps as above."""
        found = Clicks()
        for i, (value, timestamp) in enumerate(zip(values, timestamps.tolist(), strict=True)):
            try:
                event, ident, time_ms = self._envelope(value, timestamp, self._click)
                label = self._label(event)
            except _Unusable as unusable:
                found.reasons[i] = unusable.reason
                ident, time_ms, label = "", 0, 0.0
            found.ids.append(ident)
            found.times_ms.append(time_ms)
            found.labels.append(label)
        return found

    def time_ms(self, value: bytes) -> int | None:
        """The event time of a record of either topic; None where it has none that can be read."""
        try:
            event = self._object(value)
        except _Unusable:
            return None
        for _, time in (self._impression, self._click):
            try:
                return self._to_ms(time(event))
            except (TypeError, ValueError, OverflowError):
                continue
        return None

    def _object(self, value: bytes) -> _Decoded:
        if len(value) > self._config.max_bytes:
            raise _Unusable(Reason.TOO_LONG)
        try:
            event = self._json.decode(value)
        except msgspec.ValidationError:  # no 64-bit float is as large as that number
            raise _Unusable(Reason.BAD_NUMBER) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _Unusable(Reason.NOT_JSON) from None
        if not isinstance(event, dict):
            raise _Unusable(Reason.NOT_AN_OBJECT)
        return event

    def _envelope(self, value: bytes, timestamp: int, shape: tuple[_Lookup, _Lookup]) -> tuple[_Decoded, str, int]:
        """The decoded object, its id and its time in ms."""
        event = self._object(value)
        ident, time = shape
        return event, self._id(ident(event)), self._time(time(event), timestamp)

    def _id(self, value: object) -> str:
        if isinstance(value, str) and 0 < len(value) <= self._config.max_id_length:
            return value
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _WIDEST:
            return str(value)
        raise _Unusable(Reason.NO_ID if value is None else Reason.BAD_ID)

    def _time(self, value: object, timestamp: int) -> int:
        if value is None:
            raise _Unusable(Reason.NO_TIME)
        try:
            time_ms = self._to_ms(value)
        except (TypeError, ValueError, OverflowError):
            raise _Unusable(Reason.BAD_TIME) from None
        if time_ms < EARLIEST_MS:
            raise _Unusable(Reason.TIME_TOO_OLD)
        latest = LATEST_MS if timestamp == _UNKNOWN_TIMESTAMP else min(timestamp + self._ahead_ms, LATEST_MS)
        if time_ms > latest:
            raise _Unusable(Reason.TIME_AHEAD)
        return time_ms


def _lookup(path: str) -> _Lookup:
    """A function that follows a dotted path; None where it leads nowhere."""
    head, *rest = path.split(".")
    if not rest:
        return lambda event: event.get(head)

    def follow(event: _Decoded) -> object:
        value = event.get(head)
        for part in rest:
            value = value.get(part) if isinstance(value, dict) else None
        return value

    return follow


def _object_of(features: object) -> _Decoded:
    if isinstance(features, dict):
        return features
    raise _Unusable(Reason.NO_FEATURES if features is None else Reason.BAD_FEATURES)


def _within(lookup: _Lookup | None, event: _Decoded, absent: float, most: float, reason: Reason) -> float:
    """A number from 0 to `most`, finite; `absent` where there is none."""
    value = lookup(event) if lookup else None
    if value is None:
        return absent
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= min(most, LARGEST):
        raise _Unusable(reason)
    return float(value)


def _label_of(shape: ClickShape) -> Callable[[_Decoded], float]:
    """A function that gives the label that a click brings."""
    if shape.value is None:
        return lambda _: 1.0
    lookup, scale = _lookup(shape.value), shape.scale
    least, most = shape.clip or (-LARGEST, LARGEST)

    def label(event: _Decoded) -> float:
        value = lookup(event)
        if value is None:
            raise _Unusable(Reason.NO_LABEL)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
            raise _Unusable(Reason.BAD_LABEL)
        return min(max(value * scale, least), most)

    return label


def _scaled(per_ms: float) -> Callable[[object], int]:
    def to_ms(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError("an event time is a number")
        return round(value / per_ms)

    return to_ms


def _milliseconds(value: object) -> int:
    if type(value) is int:
        return value
    return _scaled(1.0)(value)


def _iso8601(value: object) -> int:
    if not isinstance(value, str):
        raise TypeError("an ISO 8601 time is a string")
    moment = datetime.fromisoformat(value)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


_TO_MS: dict[str, Callable[[object], int]] = {
    "ms": _milliseconds,
    "s": _scaled(1e-3),
    "us": _scaled(1e3),
    "ns": _scaled(1e6),
    "iso8601": _iso8601,
}
