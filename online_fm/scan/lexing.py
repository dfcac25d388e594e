"""JSON's lexemes, read where they lie.

Every function takes a place and gives the place behind what it read, or -1 where the record is unusual. A text ends
with NUL, which no lexeme holds: no loop passes it, so none leaves its record, and words that begin before it may be
loaded because seven bytes of padding follow the last one.

What is accepted here must mean the same to the general decoder. What it would refuse is unusual; so is what is not
worth the code: escapes other than simple ones in skipped strings, numbers of more than 64 bits, exponents beyond 22.

Reference: RFC 8259; the well-formed bytes of UTF-8 are table 3-7 of the Unicode standard.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from online_fm.features.words import Text, byte, first_byte, half, word

__all__ = [
    "ABSENT",
    "INTEGER",
    "LIST",
    "LITERAL",
    "NULL",
    "REAL",
    "TEXT",
    "WIDEST",
    "blank",
    "same",
    "scalar",
    "skip",
    "text_end",
]

PLAIN: dict[str, Any] = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
INLINE: dict[str, Any] = {**PLAIN, "forceinline": True}

ABSENT, NULL, TEXT, LITERAL, INTEGER, REAL, LIST = range(7)
WIDEST = 22  # 10^22 is the last power of ten that a double holds exactly

_TAB, _LINE_FEED, _RETURN, _SPACE = 0x09, 0x0A, 0x0D, 0x20
_QUOTE, _COMMA, _MINUS, _PLUS, _DOT, _ZERO, _NINE, _COLON = 0x22, 0x2C, 0x2D, 0x2B, 0x2E, 0x30, 0x39, 0x3A
_OPEN_LIST, _BACKSLASH, _CLOSE_LIST, _OPEN, _CLOSE = 0x5B, 0x5C, 0x5D, 0x7B, 0x7D
_E, _B, _F, _N, _R, _T, _SLASH, _CASE = 0x65, 0x62, 0x66, 0x6E, 0x72, 0x74, 0x2F, 0x20
_LAST_BUT_ONE = (2**63 - 10) // 10  # ten times this and a digit is still an i64
_DEEPEST = 64

_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)
_SPACES = np.uint64(0x2020202020202020)
_QUOTES = np.uint64(0x2222222222222222)
_BACKSLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)
_NONE = np.uint64(0)
_ONE = np.uint64(1)
_NULL = np.uint64(int.from_bytes(b"null", "little"))
_TRUE = np.uint64(int.from_bytes(b"true", "little"))
_ALSE = np.uint64(int.from_bytes(b"alse", "little"))


@njit(**INLINE)
def blank(text: Text, at: int) -> int:
    """The place of the next byte that is not white space."""
    while byte(text, at) <= _SPACE:
        c = byte(text, at)
        if c not in (_SPACE, _LINE_FEED, _RETURN, _TAB):
            break
        at += 1
    return at


@njit(**INLINE)
def same(text: Text, a: int, b: int, n: int) -> bool:
    """Whether the n bytes at `a` and `b` are equal; those at `b` hold no NUL."""
    while n >= 8:
        if word(text, a) != word(text, b):
            return False
        a, b, n = a + 8, b + 8, n - 8
    return n == 0 or (word(text, a) ^ word(text, b)) << np.uint64(64 - 8 * n) == _NONE


@njit(**INLINE)
def _stop(text: Text, at: int) -> int:
    """The next byte that is a quote, a backslash, a control character or not ASCII.

    Per byte x below 0x80, the high bit of x - 0x20 is set for controls, that of (x ^ c) - 1 where x = c; a borrow
    reaches only bytes behind the first one found.
    """
    while True:
        x = word(text, at)
        flags = (x | (x - _SPACES) | ((x ^ _QUOTES) - _ONES) | ((x ^ _BACKSLASHES) - _ONES)) & _HIGHS
        if flags != _NONE:
            break
        at += 8
    return at + first_byte(flags)


@njit(**PLAIN)
def _wide(text: Text, at: int) -> int:
    """Behind the UTF-8 sequence, of two to four bytes, that begins here."""
    lead = byte(text, at)
    least, most = 0x80, 0xBF
    if 0xC2 <= lead <= 0xDF:
        more = 1
    elif 0xE0 <= lead <= 0xEF:
        more = 2
        least = 0xA0 if lead == 0xE0 else 0x80
        most = 0x9F if lead == 0xED else 0xBF
    elif 0xF0 <= lead <= 0xF4:
        more = 3
        least = 0x90 if lead == 0xF0 else 0x80
        most = 0x8F if lead == 0xF4 else 0xBF
    else:
        return -1
    for i in range(1, more + 1):
        c = byte(text, at + i)
        if c < least or c > most:
            return -1
        least, most = 0x80, 0xBF
    return at + more + 1


@njit(**INLINE)
def text_end(text: Text, at: int) -> int:
    """The place of the quote that ends the string whose first byte is here."""
    at = _stop(text, at)
    while at >= 0 and byte(text, at) >= 0x80:
        at = _wide(text, at)
        if at >= 0:
            at = _stop(text, at)
    return at if at >= 0 and byte(text, at) == _QUOTE else -1


@njit(**PLAIN)
def _skip_text(text: Text, at: int) -> int:
    """Behind the string whose first byte is here; simple escapes may be in it."""
    while True:
        at = _stop(text, at)
        c = byte(text, at)
        if c == _QUOTE:
            return at + 1
        if c >= 0x80:
            at = _wide(text, at)
            if at < 0:
                return -1
        elif c == _BACKSLASH:
            c = byte(text, at + 1)
            if c not in (_QUOTE, _BACKSLASH, _SLASH, _B, _F, _N, _R, _T):
                return -1
            at += 2
        else:
            return -1


@njit(**INLINE)
def _digits(text: Text, at: int, mantissa: int) -> tuple[int, int]:
    """Append the digits that begin here to a number; -1 where it becomes too long."""
    d = byte(text, at) - _ZERO
    while 0 <= d <= 9 and mantissa <= _LAST_BUT_ONE:
        mantissa = mantissa * 10 + d
        at += 1
        d = byte(text, at) - _ZERO
    if 0 <= d <= 9:
        at = -1
    return at, mantissa


@njit(**INLINE)
def _number(text: Text, start: int) -> tuple[int, int, int, int]:
    """(behind it, INTEGER or REAL, mantissa, exponent) of the number that begins here; -0 is unusual."""
    negative = byte(text, start) == _MINUS
    first = start + 1 if negative else start
    at, mantissa = _digits(text, first, 0)
    kind, exponent = INTEGER, 0
    if at <= first or (byte(text, first) == _ZERO and at > first + 1):
        at = -1
    if at >= 0 and byte(text, at) == _DOT:
        kind, dot = REAL, at
        at, mantissa = _digits(text, dot + 1, mantissa)
        exponent = dot + 1 - at
        if exponent >= 0:
            at = -1
    if at >= 0 and (byte(text, at) | _CASE) == _E:
        kind = REAL
        at, shift = _exponent(text, at + 1)
        exponent += shift
    if exponent < -WIDEST or exponent > WIDEST or (negative and mantissa == 0):
        at = -1
    return at, kind, -mantissa if negative else mantissa, exponent


@njit(**PLAIN)
def _exponent(text: Text, at: int) -> tuple[int, int]:
    """Behind the exponent that begins here, and what it is."""
    sign = byte(text, at)
    first = at + 1 if sign in (_MINUS, _PLUS) else at
    at, shift = _digits(text, first, 0)
    if at <= first or shift > 1000:
        return -1, 0
    return at, -shift if sign == _MINUS else shift


@njit(**INLINE)
def scalar(text: Text, at: int) -> tuple[int, int, int, int, int, int]:
    """(behind it, kind, start, end, mantissa, exponent) of the string, number or literal that begins here.

    `start:end` is the text that it has as a category: a string without its quotes, digits, `true`, `false`.
    """
    c = byte(text, at)
    start, kind, mantissa, exponent = at, TEXT, 0, 0
    if c == _QUOTE:
        start = at + 1
        end = text_end(text, start)
        at = end + 1 if end >= 0 else -1
    elif c == _MINUS or _ZERO <= c <= _NINE:
        end, kind, mantissa, exponent = _number(text, at)
        at = end
    else:
        at, kind = _literal(text, at)
        end = at
    return at, kind, start, end, mantissa, exponent


@njit(**INLINE)
def _literal(text: Text, at: int) -> tuple[int, int]:
    """Behind `null`, `true` or `false`, and LITERAL or NULL."""
    found, kind = half(text, at), LITERAL
    if found == _TRUE:
        end = at + 4
    elif found == _NULL:
        end, kind = at + 4, NULL
    elif byte(text, at) == _F and half(text, at + 1) == _ALSE:
        end = at + 5
    else:
        end = -1
    return end, kind


@njit(**PLAIN)
def _skip_key(text: Text, at: int) -> int:
    """The place of the value whose key begins here."""
    if byte(text, at) != _QUOTE:
        return -1
    at = _skip_text(text, at + 1)
    if at < 0:
        return -1
    at = blank(text, at)
    return blank(text, at + 1) if byte(text, at) == _COLON else -1


@njit(**PLAIN)
def skip(text: Text, at: int) -> int:
    """Behind the value that begins here, whatever it holds.

    A bit for each object or list that is open, the innermost lowest: 1 is an object.
    """
    depth, objects = 0, _NONE
    while True:
        c = byte(text, at)
        if c in (_OPEN, _OPEN_LIST):
            if depth == _DEEPEST:
                return -1
            depth += 1
            objects = objects << _ONE | (_ONE if c == _OPEN else _NONE)
            at = blank(text, at + 1)
            if byte(text, at) != (_CLOSE if c == _OPEN else _CLOSE_LIST):
                if c == _OPEN:
                    at = _skip_key(text, at)
                    if at < 0:
                        return -1
                continue
        elif c == _QUOTE:
            at = _skip_text(text, at + 1)
        else:
            at = scalar(text, at)[0]
        if at < 0:
            return -1
        while depth > 0:
            at = blank(text, at)
            inside = objects & _ONE != _NONE
            c = byte(text, at)
            if c == _COMMA:
                at = blank(text, at + 1)
                if inside:
                    at = _skip_key(text, at)
                    if at < 0:
                        return -1
                break
            if c != (_CLOSE if inside else _CLOSE_LIST):
                return -1
            at, depth, objects = at + 1, depth - 1, objects >> _ONE
        else:
            return at
