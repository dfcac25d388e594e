"""The encoder: features of many impressions to `Rows`, the same in training and serving.

`key = xxh64(value, seed = xxh64(field name)) >> 32`. A category's text is the string itself, an integer's decimal
digits, `true` or `false`; a whole float is its integer (JSON knows no difference). A cross hashes the keys of its
parts, 4 bytes each, little end first, under its own name's seed. A raw number has the key of the empty text and
itself as value.

A field that an event lacks, or has as null, is absent from the row. A value that cannot be used makes the whole
event unusable: its row is empty and a `Problem` says why. The encoder holds no state and never looks at a clock.

Work goes by columns: one field of all events at a time, all texts hashed in one call, so that Python touches events
and columns, and only odd values one by one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from online_fm.features.batch import Rows
from online_fm.features.hashing import hash_blocks, hash_texts
from online_fm.features.spec import (
    Bounds,
    Categorical,
    Cross,
    FeaturesConfig,
    Input,
    LogBucket,
    Multi,
    Number,
    named,
)

__all__ = ["FLOAT32_MAX", "Encoded", "Encoder", "Features", "Problem", "path_of"]

Features = Mapping[str, object]
Triple = tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.float32]]
Reader = Callable[[object], tuple[list[str], list[float] | None]]
_ABSENT = type("_Absent", (), {})()
_NOTHING = frozenset({type(_ABSENT), type(None)})
_TEXT = frozenset({str})
_TEXT_OR_NOTHING = _TEXT | _NOTHING
_EXACT = 2**53  # beyond it a float's integer is a guess
_WIDEST = 2**64  # larger integers are not what any client means by an id
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Problem:
    """Event `row` cannot be used: the value of `field` is at fault."""

    row: int
    field: str
    why: str


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows of a batch of events, and what was odd about them.

    `unknown` counts features that no field takes, `missing` fields that a usable event lacks, `truncated` values
    beyond a field's `max_values`. Rows of events with a problem are empty.
    """

    rows: Rows
    problems: tuple[Problem, ...]
    unknown: int
    missing: int
    truncated: int


@dataclass(slots=True)
class _Column:
    """One field of all events, as far as it is present: which rows (rising), texts to hash, values (None: all 1)."""

    rows: Sequence[int]
    texts: Sequence[str]
    vals: list[float] | None = None


@dataclass(slots=True)
class _Notes:
    problems: list[Problem] = field(default_factory=list)
    missing: int = 0
    truncated: int = 0


class Encoder:
    """Encodes events by one spec. Threads may share it."""

    def __init__(self, config: FeaturesConfig) -> None:
        specs = named(config)
        self.config = config
        self.fields = tuple(specs)
        self._at = {name: f for f, name in enumerate(specs)}
        self._inputs = [(self._at[s.name], s, path_of(s)) for s in specs.values() if not isinstance(s, Cross)]
        self._crosses = [spec for spec in specs.values() if isinstance(spec, Cross)]
        heads = dict.fromkeys(path[0] for _, _, path in self._inputs)
        self._heads = frozenset(heads)
        self._place = {head: place for place, head in enumerate(heads)}
        self._all = itemgetter(*heads)
        self._seeds = hash_texts(self.fields, [len(self.fields)], np.zeros(1, np.uint64))
        self._input_seeds = self._seeds[[f for f, _, _ in self._inputs]]

    def encode(self, features: Sequence[Features]) -> Encoded:
        """Rows of these events, in their order."""
        notes = _Notes()
        found = self._found(features)
        columns = [_read(spec, _follow(found[self._place[path[0]]], path[1:]), notes) for _, spec, path in self._inputs]
        if not notes.problems:
            try:
                rows = self._rows(len(features), columns, notes)
            except UnicodeEncodeError:
                notes.problems.extend(self._lone_surrogates(columns))
        if notes.problems:
            return self._without(features, notes.problems)
        return Encoded(rows, (), self._unknown(features), notes.missing, notes.truncated)

    def _unknown(self, features: Sequence[Features]) -> int:
        known = self._heads
        return sum(len(event.keys() - known) for event in features if event.keys() != known)

    def _found(self, features: Sequence[Features]) -> list[tuple[object, ...]]:
        """What all events have under each head, a tuple a head; `_ABSENT` where one has nothing."""
        rows = []
        for event in features:
            try:
                row = self._all(event)
            except KeyError:
                row = tuple(event.get(head, _ABSENT) for head in self._place)
                row = row[0] if len(self._place) == 1 else row
            rows.append(row)
        if len(self._place) == 1:
            return [tuple(rows)]
        return list(zip(*rows, strict=True)) if rows else [()] * len(self._place)

    def _without(self, features: Sequence[Features], problems: list[Problem]) -> Encoded:
        """The same again with nothing in place of the events that have a problem."""
        bad = {problem.row for problem in problems}
        good = self.encode([{} if row in bad else event for row, event in enumerate(features)])
        missing = good.missing - len(bad) * len(self._inputs)
        both = tuple(problems) + good.problems
        return Encoded(good.rows, both, good.unknown, missing, good.truncated)

    def _lone_surrogates(self, columns: list[_Column]) -> list[Problem]:
        return [
            Problem(row, spec.name, "a text with a lone surrogate has no UTF-8 form")
            for (_, spec, _), column in zip(self._inputs, columns, strict=True)
            for row, text in zip(column.rows, column.texts, strict=True)
            if any("\ud800" <= char <= "\udfff" for char in text)
        ]

    def _rows(self, n: int, columns: list[_Column], notes: _Notes) -> Rows:
        counts = [len(column.texts) for column in columns]
        keys = _key(hash_texts(list(chain.from_iterable(c.texts for c in columns)), counts, self._input_seeds))
        triples: dict[int, Triple] = {}
        end = 0
        for (f, _, _), column, count in zip(self._inputs, columns, counts, strict=True):
            start, end = end, end + count
            triples[f] = _triple(column, keys[start:end])
        for cross in self._crosses:
            triples[self._at[cross.name]] = self._cross(cross, triples, notes)
        ordered = [triples[f] for f in range(len(self.fields))]
        fld = np.repeat(np.arange(len(ordered), dtype=np.uint16), [len(row) for row, _, _ in ordered])
        row, key, val = (np.concatenate(arrays) for arrays in zip(*ordered, strict=True))
        return Rows(*_scatter(n, row, fld, key, val))

    def _cross(self, cross: Cross, triples: dict[int, Triple], notes: _Notes) -> Triple:
        """Every combination of the parts' features, row by row, the last part turning fastest."""
        row, key, val = triples[self._at[cross.of[0]]]
        keys = key.reshape(-1, 1)
        for part in cross.of[1:]:
            other_row, other_key, other_val = triples[self._at[part]]
            left, right, cut = _pairs(row, other_row, cross.max_values)
            notes.truncated += cut
            row, val = row[left], val[left] * other_val[right]
            keys = np.column_stack((keys[left], other_key[right]))
        return row, _key(hash_blocks(keys, self._seeds[self._at[cross.name]])), val


def path_of(spec: Input) -> tuple[str, ...]:
    """The keys that lead to a field's value among the features."""
    return (spec.name,) if spec.input is None else tuple(spec.input.split("."))


def _key(hashes: NDArray[np.uint64]) -> NDArray[np.uint32]:
    return (hashes >> np.uint64(32)).astype(np.uint32)


def _triple(column: _Column, keys: NDArray[np.uint32]) -> Triple:
    vals = np.ones(len(keys), np.float32) if column.vals is None else np.array(column.vals, np.float32)
    return np.array(column.rows, np.int64), keys, vals


def _follow(values: Sequence[object], path: tuple[str, ...]) -> Sequence[object]:
    for part in path:
        values = [value.get(part, _ABSENT) if isinstance(value, Mapping) else _ABSENT for value in values]
    return values


def _read(spec: Input, values: Sequence[object], notes: _Notes) -> _Column:
    """One field of all events: what is absent is counted, what cannot be used is noted."""
    if isinstance(spec, Categorical):
        kinds = set(map(type, values))
        if kinds == _TEXT:
            return _Column(range(len(values)), cast("Sequence[str]", values))
        if kinds <= _TEXT_OR_NOTHING:
            present = [row for row, value in enumerate(values) if type(value) is str]
            notes.missing += len(values) - len(present)
            return _Column(present, [cast("str", values[row]) for row in present])
    read = _reader(spec, notes)
    rows: list[int] = []
    texts: list[str] = []
    vals: list[float] = []
    for row, value in enumerate(values):
        if type(value) in _NOTHING:
            notes.missing += 1
            continue
        try:
            several, weights = read(value)
        except (TypeError, ValueError, OverflowError) as problem:
            notes.problems.append(Problem(row, spec.name, str(problem)))
            continue
        rows.extend([row] * len(several))
        texts.extend(several)
        vals.extend(weights or ())
    return _Column(rows, texts, vals if isinstance(spec, Number | Multi) else None)


def _reader(spec: Input, notes: _Notes) -> Reader:
    """How one value of this field becomes texts, and values where these are not all 1."""
    match spec:
        case Categorical():
            return lambda value: ([_text(value)], None)
        case Number(scale=scale):
            return lambda value: ([""], [_number(_number(value) * scale)])
        case LogBucket(base=base):
            return lambda value: ([_log_bucket(_number(value), base)], None)
        case Bounds(bounds=bounds):
            return lambda value: ([str(bisect_right(bounds, _number(value)))], None)
        case Multi():
            return lambda value: _several(spec, value, notes)


def _text(value: object) -> str:
    """A category's text. Raises TypeError, ValueError for what is not a category."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        value = int(value)
    if isinstance(value, int):
        if abs(value) < _WIDEST:
            return str(value)
        raise ValueError("an integer of more than 64 bits is not a category")
    if isinstance(value, float):
        raise ValueError(f"{value!r} is not a category: use a field of kind number, log_bucket or bounds")
    raise TypeError(f"a {type(value).__name__} is not a category")


def _number(value: object) -> float:
    """A finite float32's worth of number. Raises TypeError, ValueError, OverflowError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a {type(value).__name__} is not a number")
    number = float(value)
    if not abs(number) <= FLOAT32_MAX:
        raise ValueError(f"{number} is not a finite 32-bit number")
    return number


def _log_bucket(number: float, base: float) -> str:
    return f"{'-' if number < 0 else ''}{int(math.log1p(abs(number)) / math.log(base))}"


def _several(spec: Multi, value: object, notes: _Notes) -> tuple[list[str], list[float]]:
    if not isinstance(value, list | tuple):
        value = [value]
    notes.truncated += max(0, len(value) - spec.max_values)
    texts = [_text(each) for each in value[: spec.max_values]]
    n = max(1, len(texts))
    weight = {"one": 1.0, "mean": 1.0 / n, "sqrt": 1.0 / math.sqrt(n)}[spec.weighting]
    return texts, [weight] * len(texts)


@njit(cache=True, nogil=True)
def _scatter(
    n: int, row: NDArray[np.int64], fld: NDArray[np.uint16], key: NDArray[np.uint32], val: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.uint32], NDArray[np.float32]]:
    """Features that lie field by field, row by row instead; within a row the fields keep their order."""
    ptr = np.zeros(n + 1, np.int64)
    for r in row:
        ptr[r + 1] += 1
    for i in range(n):
        ptr[i + 1] += ptr[i]
    cursor = ptr[:-1].copy()
    fld_out, key_out, val_out = np.empty_like(fld), np.empty_like(key), np.empty_like(val)
    for j in range(len(row)):
        at = cursor[row[j]]
        cursor[row[j]] = at + 1
        fld_out[at] = fld[j]
        key_out[at] = key[j]
        val_out[at] = val[j]
    return ptr, fld_out, key_out, val_out


@njit(cache=True, nogil=True)
def _pairs(a: NDArray[np.int64], b: NDArray[np.int64], most: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """All (i, j) with a[i] == b[j], both rising; at most `most` for one row, and how many were cut."""
    total, cut = 0, 0
    left = np.empty(0, np.int64)
    right = np.empty(0, np.int64)
    for filling in range(2):
        if filling:
            left, right = np.empty(total, np.int64), np.empty(total, np.int64)
        total, cut, i, j = 0, 0, 0, 0
        while i < len(a):
            row, first = a[i], i
            while i < len(a) and a[i] == row:
                i += 1
            while j < len(b) and b[j] < row:
                j += 1
            start = j
            while j < len(b) and b[j] == row:
                j += 1
            found = (i - first) * (j - start)
            kept = min(found, most)
            cut += found - kept
            if filling:
                for c in range(kept):
                    left[total + c] = first + c // (j - start)
                    right[total + c] = start + c % (j - start)
            total += kept
    return left, right, cut
