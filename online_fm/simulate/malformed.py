"""Records that no reader should believe: one fault each, all of them that `events` and `features` know to refuse."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["CLICK_FAULTS", "IMPRESSION_FAULTS", "Fault", "spoiled"]

_CENTURY_MS = 100 * 365 * 86_400_000
_TOO_LONG_BYTES = 100_000  # more than the 64 KiB that a worker takes by default, less than a broker's 1 MiB


class Fault(StrEnum):
    """What is wrong with a malformed record."""

    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    NAN = "nan"
    INFINITE = "infinite"
    NO_ID = "no_id"
    BAD_ID = "bad_id"
    NO_TIME = "no_time"
    BAD_TIME = "bad_time"
    FUTURE = "future"
    ANCIENT = "ancient"
    TOO_LONG = "too_long"
    NO_FEATURES = "no_features"
    BAD_FEATURES = "bad_features"
    BAD_VALUE = "bad_value"


_OF_FEATURES = (Fault.NO_FEATURES, Fault.BAD_FEATURES, Fault.BAD_VALUE)
IMPRESSION_FAULTS = tuple(Fault)
CLICK_FAULTS = tuple(fault for fault in Fault if fault not in _OF_FEATURES)


def spoiled(fault: Fault, name: str, ts: int, rest: str) -> bytes:
    """An event with this id, time (ms) and further members (each begun by a comma), with one fault, in one line."""
    ident, time = f'"impression_id":"{name}"', f'"ts":{ts}'
    whole = f"{{{ident},{time}{rest}}}"
    # `ANCIENT` is the commonest of mistakes: seconds where milliseconds are meant
    texts = {
        Fault.NOT_JSON: whole[: 2 * len(whole) // 3],
        Fault.NOT_AN_OBJECT: f"[{whole}]",
        Fault.NAN: f'{{{ident},"ts":NaN{rest}}}',
        Fault.INFINITE: f'{{{ident},"ts":1e999{rest}}}',
        Fault.NO_ID: f"{{{time}{rest}}}",
        Fault.BAD_ID: f'{{"impression_id":["{name}"],{time}{rest}}}',
        Fault.NO_TIME: f"{{{ident}{rest}}}",
        Fault.BAD_TIME: f'{{{ident},"ts":"yesterday"{rest}}}',
        Fault.FUTURE: f'{{{ident},"ts":{ts + _CENTURY_MS}{rest}}}',
        Fault.ANCIENT: f'{{{ident},"ts":{ts // 1000}{rest}}}',
        Fault.TOO_LONG: f'{{{ident},{time}{rest},"note":"{"x" * _TOO_LONG_BYTES}"}}',
        Fault.NO_FEATURES: f"{{{ident},{time}}}",
        Fault.BAD_FEATURES: f'{{{ident},{time},"features":["user","item"]}}',
        Fault.BAD_VALUE: f'{{{ident},{time},"features":{{"user":{{"name":"u1"}}}}}}',
    }
    return texts[fault].encode()
