"""Records for the tests of the scanner: events of several configurations, plain, odd, and broken."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from online_fm.events import EventsConfig
from online_fm.features.spec import FeaturesConfig
from online_fm.scan.scanner import Scanned, Scanner
from online_fm.source.port import Records, TopicPartition
from online_fm.source.values import Values

NOW_MS = 1_700_000_000_000
FIELDS: list[Any] = [
    "user",
    "item",
    {"kind": "cross", "name": "early", "of": ["tags", "age"]},
    {"kind": "multi", "name": "tags", "max_values": 4},
    {"kind": "multi", "name": "tags again", "input": "tags", "weighting": "mean", "max_values": 2},
    {"kind": "multi", "name": "words", "input": "page.words", "weighting": "one", "max_values": 70},
    {"kind": "categorical", "name": "section", "input": "page.section"},
    {"kind": "categorical", "name": "größe"},
    {"kind": "bounds", "name": "age", "bounds": [-1.5, 0, 0.1, 18, 35, 1e6]},
    {"kind": "log_bucket", "name": "price"},
    {"kind": "log_bucket", "name": "fine", "input": "price", "base": 1.1},
    {"kind": "number", "name": "raw", "input": "price", "scale": 0.3},
    {"kind": "number", "name": "x", "scale": -1.0},
    {"kind": "cross", "name": "user_item", "of": ["user", "item"]},
    {"kind": "cross", "name": "wide", "of": ["tags", "words", "item", "tags again"], "max_values": 5},
]
NUMBERS = [
    {"kind": "number", "name": "x"},
    {"kind": "log_bucket", "name": "age", "base": 10},
    "user",
    {"kind": "multi", "name": "tags"},
]


class Case(NamedTuple):
    """A configuration, and where its events keep what."""

    name: str
    events: dict[str, Any]
    fields: list[Any]

    def scanner(self) -> Scanner:
        return Scanner(
            msgspec.convert(self.events, EventsConfig), msgspec.convert({"fields": self.fields}, FeaturesConfig)
        )


CASES = [
    Case("all kinds", {"impression": {"weight": "w", "score": "score"}, "click": {"value": "stars"}}, FIELDS),
    Case(
        "flat",
        {
            "impression": {"id": "user", "time": "at", "features": None, "score": "meta.p", "weight": "meta.w"},
            "click": {"id": "user", "time": "at", "value": "meta.stars", "scale": 0.1, "clip": [-0.5, 0.7]},
            "time_unit": "iso8601",
        },
        FIELDS,
    ),
    Case(
        "deep, in seconds",
        {
            "impression": {"id": "a.user", "time": "a.at", "features": "a.b.features", "weight": "a.b.w"},
            "click": {"id": "a.user", "time": "at", "value": "a.stars", "scale": 1e9},
            "time_unit": "s",
            "max_bytes": 500,
            "max_id_length": 9,
            "max_ahead_s": 0.0,
        },
        NUMBERS,
    ),
    Case("in microseconds", {"impression": {"score": "score"}, "time_unit": "us"}, FIELDS),
    Case("in nanoseconds", {"impression": {"features": None}, "time_unit": "ns", "max_ahead_s": 1.5}, NUMBERS),
    Case(
        "not to be scanned",
        {"impression": {"id": "features.user", "features": "features"}},
        ["user", {"kind": "multi", "name": "n", "input": "user.n"}],
    ),
    Case("a leaf within a leaf", {"impression": {"id": "ts.id"}, "click": {"id": "ts.id"}}, ["user"]),
]

_TEXTS = ["", "a", "u17", "mobile", "a text of more than thirty-two bytes, in four lanes", "true", "-0", "\x7f", "12"]
_WIDE = ["ä", "größe", "漢字かな", "👍🏽", "\u07ff\u0800\uffff\U00010000\U0010ffff", "\ud7ff\ue000"]
_RAW_TEXTS = [
    b"\\n", b'a\\"b', b"\\u0041", b"\\ud83d\\ude00", b"\\ud800", b"\\u0000", b"\\x", b"\\", b"tab\there",
    b"\x1f", b"\x00", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80",
    b"\xff", b"\xc3", b"abc\xe2\x82", b"\\/\\b\\f\\r\\t\\\\",
]  # fmt: skip
_NUMBERS = """
    0 -0 0.0 -0.0 1 -1 7 7.0 0.1 -0.1 0.5 1.5 18 17.999999999999999 1e5 1E+5 1e-5 -2.5e-3 1e22 1e23 1e-22
    1e-23 1e30 1.0000000000000001e30 1e38 3.4028235e38 3.4028236e38 340282346638528859811704183484516925440
    340282356779733661637539395458142568447 1e39 1e308 1e309 -1e400 0e999 1e-400 01 1. .5 +1 - 1e 1e+ 0x1 1_0
    NaN Infinity 1.e1 9007199254740993 9007199254740993.0 123456789012345678 1234567890123456789
    9223372036854775807 9223372036854775808 -9223372036854775808 18446744073709551615 18446744073709551616
    123456789012345678901234567890 0.1000000000000000055511151231257827 0.12345678901234567 1e00005 00 -01
    16777217 16777217.0 16777216.999999999 33554433.5 1.00000005960464477 1.000000059604644775390625
    1.00000005960464478 1e-45 7e-46 1e-46 2147483648 99999999999999999999e-2 999999 1000000.0
""".split()  # noqa: SIM905
_TOKENS = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b" ", b"\n", b"\t", b"\r", b"\x0b", b"\x00", b"null",
    b"true", b"0", b"-", b".", b"e", b"E9", b"[]", b"{}", b'""', b'"user":', b'"user":1,', b'"features":{},',
    b"\xef\xbb\xbf", b"\xc2\xa0", b"//", b"1e",
]  # fmt: skip


class Maker:
    """Makes records of one case. `odd` is the share of values that are not what an event should have."""

    def __init__(self, case: Case, seed: int, odd: float) -> None:
        self._case, self._odd, self._random = case, odd, random.Random(f"{case.name} {seed}")

    def records(self, n: int, *, clicks: bool = False, broken: float = 0.0) -> Records:
        """n records, this share of which is mutated once or more."""
        values = [self._click() if clicks else self._impression() for _ in range(n)]
        values = [self._mutated(value, values) if self._random.random() < broken else value for value in values]
        timestamps = np.array([self._timestamp() for _ in range(n)], np.int64)
        return Records(TopicPartition("t", 0), np.arange(n) + 5, timestamps, Values.of(values))

    def _timestamp(self) -> int:
        if self._random.random() < 3 * self._odd:
            return self._random.choice([-2, 0, -(2**63), 2**63 - 1, NOW_MS - 10**6, NOW_MS - 300_000])
        return self._random.choice([-1, NOW_MS + 10, NOW_MS + 10**9])

    def _impression(self) -> bytes:
        shape = {"id": "impression_id", "time": "ts", "features": "features", **self._case.events.get("impression", {})}
        features = self._features()
        event = self._placed({}, shape["features"], features) if shape["features"] else features
        self._envelope(event, shape)
        for path in ("weight", "score"):
            if shape.get(path) and self._random.random() < 0.7:
                usual = Raw(f"{self._random.random():.{self._random.randrange(18)}f}")
                self._placed(event, shape[path], self._odd_or(self._random.choice([usual, Raw("1e-05"), Raw("1")])))
        return self._written(event)

    def _click(self) -> bytes:
        shape = {"id": "impression_id", "time": "ts", **self._case.events.get("click", {})}
        event: dict[str, Any] = {}
        self._envelope(event, shape)
        if shape.get("value") and self._random.random() < 0.9:
            self._placed(event, shape["value"], self._number(["0", "5", "4.5", "-3", "12345.678"]))
        return self._written(event)

    def _envelope(self, event: dict[str, Any], shape: dict[str, Any]) -> None:
        if shape["id"] not in event or not self._case.events.get("impression", {}).get("features", True):
            self._placed(event, shape["id"], self._category())
        self._placed(event, shape["time"], self._time())

    def _placed(self, event: dict[str, Any], path: str, value: object) -> dict[str, Any]:
        """The event, with the value at a path, unless something else is in the way."""
        *heads, last = path.split(".")
        inner: Any = event
        for head in heads:
            inner = inner.setdefault(head, {})
            if not isinstance(inner, dict):
                return event
        inner[last] = value
        return event

    def _features(self) -> dict[str, Any]:
        makers: dict[str, Callable[[], object]] = {
            "user": self._category,
            "item": self._category,
            "tags": self._several,
            "größe": self._category,
            "age": lambda: self._number(["17", "18", "36", "0", "0.1", "-7", "1000000"]),
            "price": lambda: self._number(["0", "1", "3", "4.99", "1023", "12.5", "0.1", "99999.99"]),
            "x": lambda: self._number(["1", "-0.25", "0.5", "12345.6789", "0.12345678901234567"]),
            "page": lambda: {"words": self._several(), "section": self._category()},
        }
        names = list(makers)
        if self._random.random() < 0.2:
            self._random.shuffle(names)
        event = {name: makers[name]() for name in names if self._random.random() < 0.93}
        for _ in range(self._random.choice([0, 0, 0, 0, 0, 1, 3])):
            name = self._random.choice(["other", "more", "ünbekannt", "page.words", "", "k" * 40])
            event[name] = self._random.choice([self._category, self._several, self._features])()
            if self._random.random() < 5 * self._odd:
                event[name] = self._anything()
        return event

    def _odd_or(self, value: object) -> object:
        return self._anything() if self._random.random() < self._odd else value

    def _category(self) -> object:
        if self._random.random() < self._odd:
            return self._anything()
        chosen = self._random.random()
        if chosen < 0.6:
            return f"{self._random.choice('uitc')}{self._random.randrange(10 ** self._random.randrange(1, 9))}"
        if chosen < 0.9:
            return self._random.choice([self._random.randrange(-10, 1000), True, False, 10**17])
        return self._random.choice(_TEXTS + _WIDE)

    def _several(self) -> object:
        if self._random.random() < self._odd:
            return self._anything()
        if self._random.random() < 0.1:
            return self._category()
        return [self._category() for _ in range(self._random.choice([0, 1, 2, 3, 5, 5, 9]))]

    def _number(self, usual: list[str]) -> object:
        if self._random.random() < self._odd:
            return self._anything()
        if self._random.random() < 0.3:
            return Raw(self._random.choice(usual))
        digits = self._random.randrange(16)
        return Raw(f"{self._random.choice([0, 1, 10, 1000]) * self._random.random():.{digits}f}")

    def _time(self) -> object:
        if self._random.random() < self._odd / 2:
            return self._anything()
        ms = NOW_MS + self._random.randrange(-(10**6), 10)
        if self._random.random() < self._odd / 2:
            ms = self._random.choice(
                [946_684_800_000, 946_684_799_999, 253_402_300_800_000, 253_402_300_800_001, -5, 10**15]
            )
        part = self._random.random()
        match self._case.events.get("time_unit", "ms"):
            case "s":
                return Raw(self._random.choice([f"{ms / 1000}", f"{ms // 1000}", f"{ms / 1000 + part / 1000:.6f}"]))
            case "us":
                return Raw(self._random.choice([f"{ms}000", f"{ms}500", f"{ms}{int(part * 1000):03}", f"{ms}123.5"]))
            case "ns":
                return Raw(f"{ms}{int(part * 1e6):06}")
            case "iso8601":
                return self._moment(ms)
        fine = f"{ms}.{part * 1e6:.0f}" if self._random.random() < 5 * self._odd else f"{ms}.{part * 100:.0f}"
        return Raw(self._random.choice([f"{ms}", f"{ms}", f"{ms}.5", fine]))

    def _moment(self, ms: int) -> object:
        text = np.datetime_as_string(np.datetime64(ms, "ms"), unit="ms")
        text = text[: self._random.choice([19, 21, 23])] + self._random.choice(["", "", "", "123", "456789"])
        text += self._random.choice(["Z", "", "+00:00", "-05:30", "+23:59"])
        if self._random.random() < self._odd:
            at = self._random.randrange(len(text))
            text = text[:at] + self._random.choice(["9", "0", "", ":", " ", "-", "Z", "24", "60"]) + text[at + 1 :]
        return text

    def _anything(self, depth: int = 0) -> object:
        """A value that an event may have somewhere, or should not have anywhere."""
        match self._random.randrange(12 if depth < 4 else 9):
            case 0:
                return None
            case 1:
                return self._random.choice([True, False])
            case 2 | 3 | 4:
                return Raw(self._random.choice(_NUMBERS))
            case 5:
                return Raw(f"{self._random.choice(['', '-'])}{self._halfway()!r}")
            case 6:
                return self._random.choice(_TEXTS + _WIDE)
            case 7:
                return Raw(b'"' + self._random.choice(_RAW_TEXTS) + b'"')
            case 8:
                return Raw(
                    str(self._random.choice([-1, 1]) * self._random.randrange(10 ** self._random.randrange(1, 24)))
                )
            case 9:
                return {
                    self._random.choice("abcd"): self._anything(depth + 1) for _ in range(self._random.randrange(4))
                }
            case 10:
                return Raw(b"[" * (deep := self._random.choice([1, 63, 64, 65, 90])) + b"]" * deep)
        return [self._anything(depth + 1) for _ in range(self._random.randrange(4))]

    def _halfway(self) -> float:
        """A number at, or beside, the middle between two float32, or the edge of a bucket."""
        if self._random.random() < 0.5:
            x = float(np.float32(self._random.random() * 10 ** self._random.randrange(-6, 7)))
            middle = (x + float(np.nextafter(np.float32(x), np.float32(np.inf)))) / 2
        else:
            middle = self._random.choice([2.0, 1.1, 10.0]) ** self._random.randrange(0, 30) - 1
        return float(np.nextafter(middle, self._random.choice([-np.inf, middle, np.inf])))

    def _written(self, event: object) -> bytes:
        separators = self._random.choice([(",", ":"), (",", ":"), (", ", ": "), (" ,\n", "\t: ")])
        text = b"".join(_json(event, *(each.encode() for each in separators)))
        return text if self._random.random() < 0.95 else b" \n" + text + b"\r\n "

    def _mutated(self, value: bytes, others: list[bytes]) -> bytes:
        data = bytearray(value)
        for _ in range(self._random.choice([1, 1, 1, 2, 4])):
            at = self._random.randrange(len(data) + 1)
            match self._random.randrange(9):
                case 0 if at < len(data):
                    data[at] ^= 1 << self._random.randrange(8)
                case 1:
                    del data[at:]
                case 2:
                    del data[at : at + self._random.choice([1, 1, 2, 8, 30])]
                case 3:
                    data[at:at] = self._random.choice(_TOKENS)
                case 4:
                    data[at:at] = data[at : at + self._random.randrange(40)]
                case 5 if at + 1 < len(data):
                    data[at], data[at + 1] = data[at + 1], data[at]
                case 6:
                    data[at:] = self._random.choice(others)[at:]
                case 7 if at < len(data):
                    data[at] = self._random.randrange(256)
                case 8:
                    found = data.find(self._random.choice([b'"', b":", b",", b"1", b"e"]), at)
                    if found >= 0:
                        data[found : found + 1] = self._random.choice(_TOKENS)
        return bytes(data)


class Raw:
    """JSON as it is written."""

    def __init__(self, text: str | bytes) -> None:
        self.text = text.encode() if isinstance(text, str) else text


def _json(value: object, comma: bytes, colon: bytes) -> Iterator[bytes]:
    match value:
        case Raw(text=text):
            yield text
        case dict():
            yield b"{"
            for i, (key, inner) in enumerate(value.items()):
                yield comma if i else b""
                yield json.dumps(key, ensure_ascii=False).encode() + colon
                yield from _json(inner, comma, colon)
            yield b"}"
        case list():
            yield b"["
            for i, inner in enumerate(value):
                yield comma if i else b""
                yield from _json(inner, comma, colon)
            yield b"]"
        case _:
            yield json.dumps(value, ensure_ascii=False).encode()


def bits(found: Scanned) -> dict[str, object]:
    """All that was found, to the bit."""
    facts = found.facts
    columns = ("kind", "offset", "ts", "moves_to", "ident", "weight", "score", "label")
    arrays = {name: getattr(facts, name) for name in columns}
    arrays |= {name: getattr(facts.rows, name) for name in ("ptr", "fld", "key", "val")}
    exact = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}
    return {**exact, "reasons": found.reasons, "flaws": (found.unknown, found.missing, found.truncated)}
