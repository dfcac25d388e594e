"""Numbers of an event: what their digits stand for, and what is made of it.

A mantissa m of at most 2^53 times a power of ten 10^e, |e| <= 22, both exact, is rounded once: that is the number
that the general decoder reads (Clinger 1990). So is an integer. Beyond that the product is rounded twice, and the
decoder's number lies within 8 units of 2^-53 around it: what both ends of that range give, it gives too, because all
that is made of numbers is monotone; where they differ the record is unusual.

W. D. Clinger, How to Read Floating Point Numbers Accurately, PLDI 1990.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from online_fm.features.encode import FLOAT32_MAX
from online_fm.features.words import Text, byte
from online_fm.scan.lexing import INLINE, PLAIN, WIDEST

__all__ = ["UNKNOWN_MS", "amount", "bucket_among", "log_bucket", "milliseconds", "moment", "narrow"]

UNKNOWN_MS = -1  # not the time of any event that is believed
_POWERS = np.array([float(f"1e{e}") for e in range(WIDEST + 1)])
_EXACT = 2**53
_SPREAD = 8 * 2.0**-53
_FAR = 1.0 + 2.0**-40  # more than a logarithm and a division can be off
_LONG_MS = 1e18

Array = NDArray[Any]


@njit(**INLINE)
def amount(mantissa: int, exponent: int) -> tuple[float, float]:
    """The least and the most that the number m 10^e can be read as."""
    x = np.float64(mantissa)
    spread = 0.0
    if exponent != 0:
        x = x * _POWERS[exponent] if exponent > 0 else x / _POWERS[-exponent]
        if abs(mantissa) > _EXACT:
            spread = abs(x) * _SPREAD
    return x - spread, x + spread


@njit(**INLINE)
def narrow(low: float, high: float) -> tuple[bool, np.float32]:
    """Whether both are the same finite float32, and it."""
    usable = abs(low) <= FLOAT32_MAX and abs(high) <= FLOAT32_MAX
    x = np.float32(low if usable else 0.0)
    return usable and x == np.float32(high), x


@njit(**PLAIN)
def log_bucket(low: float, high: float, log_base: float) -> int:
    """floor(log(1 + |x|) / log(base)) of a number without its sign; -1 where it is not sure, or out of range."""
    a, b = min(abs(low), abs(high)), max(abs(low), abs(high))
    if not b <= FLOAT32_MAX:
        return -1
    a, b = math.log1p(a) / log_base, math.log1p(b) / log_base
    if low != high:
        a, b = a / _FAR, b * _FAR
    return int(a) if b < 1e9 and int(a) == int(b) else -1


@njit(**PLAIN)
def bucket_among(bounds: Array, start: int, n: int, low: float, high: float) -> int:
    """How many of `bounds[start:start + n]` a number has reached; -1 where it is not sure, or out of range."""
    if not (abs(low) <= FLOAT32_MAX and abs(high) <= FLOAT32_MAX):
        return -1
    reached = _reached(bounds, start, n, low)
    return reached if low == high or reached == _reached(bounds, start, n, high) else -1


@njit(**PLAIN)
def _reached(bounds: Array, start: int, n: int, x: float) -> int:
    """`bisect.bisect_right`."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if x < bounds[start + middle]:
            high = middle
        else:
            low = middle + 1
    return low


@njit(**INLINE)
def milliseconds(mantissa: int, exponent: int, real: bool, per_ms: float) -> int:
    """A time in ms, rounded half to even; an integer of ms is one."""
    ms: Any = mantissa
    if real or per_ms != 1.0:
        low, high = amount(mantissa, exponent)
        low, high = np.rint(low / per_ms), np.rint(high / per_ms)
        ms = np.int64(low) if low == high and abs(low) < _LONG_MS else UNKNOWN_MS
    return ms


@njit(**PLAIN)
def moment(text: Text, start: int, end: int) -> int:
    """The time in ms of `YYYY-MM-DDTHH:MM:SS`, a fraction if need be, and `Z`, `+HH:MM`, `-HH:MM` or nothing.

    Rounded as Python does it: whole microseconds, as a double of seconds times 1000, half to even.
    """
    if end - start < 19:
        return UNKNOWN_MS
    year, month, day = _pair(text, start) * 100 + _pair(text, start + 2), _pair(text, start + 5), _pair(text, start + 8)
    hour, minute, second = _pair(text, start + 11), _pair(text, start + 14), _pair(text, start + 17)
    divided = byte(text, start + 4) == 0x2D and byte(text, start + 7) == 0x2D and byte(text, start + 10) == 0x54
    divided = divided and byte(text, start + 13) == 0x3A and byte(text, start + 16) == 0x3A
    if not divided or year < 1970 or year > 2200 or month < 1 or month > 12 or day < 1 or day > _days(year, month):
        return UNKNOWN_MS
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
        return UNKNOWN_MS
    at, fraction, unit = start + 19, 0, 1_000_000
    if byte(text, at) == 0x2E:
        at += 1
        while 0x30 <= byte(text, at) <= 0x39:
            unit //= 10
            fraction += (byte(text, at) - 0x30) * unit
            at += 1
        if unit == 1_000_000:
            return UNKNOWN_MS
    east = 0
    if at + 6 == end and byte(text, at + 3) == 0x3A and (byte(text, at) == 0x2B or byte(text, at) == 0x2D):
        hours, minutes = _pair(text, at + 1), _pair(text, at + 4)
        if hours < 0 or hours > 23 or minutes < 0 or minutes > 59:
            return UNKNOWN_MS
        east = (hours * 60 + minutes) * (1 if byte(text, at) == 0x2B else -1)
        at = end
    elif at + 1 == end and byte(text, at) == 0x5A:
        at = end
    if at != end:
        return UNKNOWN_MS
    seconds = ((_since_1970(year, month, day) * 24 + hour) * 60 + minute - east) * 60 + second
    return int(np.rint(np.float64(seconds * 1_000_000 + fraction) / 1e6 * 1e3))


@njit(**PLAIN)
def _pair(text: Text, at: int) -> int:
    """Two digits as a number; far below 0 where they are none."""
    a, b = byte(text, at) - 0x30, byte(text, at + 1) - 0x30
    return a * 10 + b if 0 <= a <= 9 and 0 <= b <= 9 else -1_000_000


@njit(**PLAIN)
def _days(year: int, month: int) -> int:
    """Days of a month of the Gregorian calendar."""
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


@njit(**PLAIN)
def _since_1970(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01."""
    days = (year - 1970) * 365 + (year - 1969) // 4 - (year - 1901) // 100 + (year - 1601) // 400
    for m in range(1, month):
        days += _days(year, m)
    return days + day - 1
