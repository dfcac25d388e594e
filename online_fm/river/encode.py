"""From River's dicts and pandas' frames to rows; which field a name belongs to is decided when it is first learned.

Invariant: a row depends neither on the order of a dict nor on whether it came alone or in a frame, and predicting
adds no field. The names that a learned row brings are numbered in alphabetical order; its features lie in the order of
(field, key).

| value | feature |
|---|---|
| number | one feature of the field, whose value it is |
| string, boolean | the category, of value 1 |
| list, tuple or set of n of these | n categories (a number is then an id), each of value 1/sqrt(n) |
| None, 0, NaN, infinite, beyond float32 | absent |

Each name is a field of its own: that is what scales per field and an FFM live on, and what bags of words, a name a
word, have no use for. So a `separator` cuts names: with "=", `tag=red` and `tag=blue` are two features of the field
`tag`. And there are at most `max_fields`: what comes later shares the last one, where names are part of the feature.
Keys are those of the worker, `xxh64(text, seed = xxh64(field)) >> 32` (`features.hashing`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from online_fm.features.batch import Rows
from online_fm.features.hashing import hash_texts

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FIELDS_MOST", "Encoder"]

FIELDS_MOST = 65_535  # a field is a u16
_LARGEST = float(np.finfo(np.float32).max)
_32 = np.uint64(32)
_BOOLEAN = bool, np.bool_
_NUMBER = float, int, np.floating, np.integer
_CATEGORY = (str, *_BOOLEAN, *_NUMBER)
_SEVERAL = list, tuple, set, frozenset

Ints: TypeAlias = NDArray[np.int64]
Features: TypeAlias = Mapping[Hashable, Any]
Group: TypeAlias = tuple[str, list[str | None]]
"""A name and its categories; None: the name itself, which has a number."""


class Encoder:
    """Fields by name, in the order of first learning."""

    def __init__(self, separator: str | None, max_fields: int) -> None:
        if separator is not None and not separator:
            raise ValueError("separator: an empty one cuts nothing; None keeps names whole")
        if not 2 <= max_fields <= FIELDS_MOST:
            raise ValueError(f"max_fields: {max_fields} is not between 2 and {FIELDS_MOST}")
        self._separator, self._max_fields = separator, max_fields
        self._named: dict[str, int] = {}
        self._rest = False
        self._seeds = np.empty(0, np.uint64)

    @property
    def n_fields(self) -> int:
        """How many there are, with that of the rest."""
        return len(self._seeds)

    @property
    def fields(self) -> tuple[str, ...]:
        """Their names by number; that of the rest, where there is one, is the last and empty."""
        return (*self._named, "") if self._rest else tuple(self._named)

    def restore(self, fields: Iterable[str]) -> None:
        """Go on from `fields`, in a new encoder."""
        self._add(fields)

    def one(self, x: Features, *, learning: bool) -> Rows:
        """The row of a dict; `learning` adds the fields that are new."""
        groups: list[Group] = []
        vals: list[float] = []
        for key, value in x.items():
            name = key if type(key) is str else str(key)
            if type(value) is str:
                groups.append((name, [value]))
                vals.append(1.0)
                continue
            for text, val in _read(name, value):
                groups.append((name, [text]))
                vals.append(val)
        if learning:
            self._add(sorted(field for field in self._fields_of(groups) if field not in self._named))
        tags, known = self._tags(groups)
        kept = np.array(vals, np.float32)[known]
        order = tags.argsort()
        return _rows(np.array([0, len(tags)], np.int64), tags[order], kept[order])

    def many(self, frame: pd.DataFrame, *, learning: bool) -> Rows:
        """The rows of a frame; `learning` adds the fields that are new, in the order in which its rows bring them."""
        n = len(frame)
        groups, row, at, val = _cells(frame)
        if learning:
            first = np.full(len(groups), n)
            np.minimum.at(first, np.repeat(np.arange(len(groups)), [len(texts) for _, texts in groups])[at], row)
            brought = sorted(zip(first.tolist(), self._fields_of(groups), strict=True))
            self._add(field for r, field in brought if r < n and field not in self._named)
        found, known = self._tags(groups)
        tags = np.zeros(len(known), np.uint64)
        tags[known] = found
        there = known[at]
        row, tag, val = row[there], tags[at[there]], val[there]
        order = np.lexsort((tag, row))
        ptr = np.concatenate(([0], np.cumsum(np.bincount(row, minlength=n))))
        return _rows(ptr, tag[order], val[order])

    def _fields_of(self, groups: list[Group]) -> list[str]:
        if self._separator:
            return [name.partition(self._separator)[0] for name, _ in groups]
        return [name for name, _ in groups]

    def _add(self, fields: Iterable[str]) -> None:
        """Number those that are new, until there is place for the rest only."""
        new = [field for field in dict.fromkeys(fields) if field not in self._named and not self._rest]
        if not new:
            return
        n = len(self._named)
        free = self._max_fields - 1 - n
        added = new[:free] if len(new) <= free else [*new[:free], ""]
        seeds = hash_texts(added, [len(added)], np.zeros(1, np.uint64))
        self._named.update({field: n + i for i, field in enumerate(new[:free])})
        self._rest = len(new) > free
        self._seeds = np.concatenate((self._seeds, seeds))

    def _tags(self, groups: list[Group]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """`field << 32 | key` of the features whose field is known, and which features these are."""
        fields, counts = [], []
        texts: list[str] = []
        for name, own in groups:
            field, tail = self._place(name)
            fields.append(field)
            counts.append(len(own))
            if field >= 0:
                texts += self._under(tail, own)
        fld, count = np.array(fields, np.int64), np.array(counts, np.int64)
        known = fld >= 0
        hashes = hash_texts(texts, count[known].tolist(), self._seeds[fld[known]])
        tags = np.repeat(fld[known].astype(np.uint64) << _32, count[known]) | hashes >> _32
        return tags, np.repeat(known, count)

    def _place(self, name: str) -> tuple[int, str]:
        """The field, -1 where it was never learned, and what of the name is part of the feature."""
        if self._separator:
            field, _, tail = name.partition(self._separator)
        else:
            field, tail = name, ""
        number = self._named.get(field, -1)
        return (len(self._named), name) if number < 0 and self._rest else (number, tail)

    def _under(self, tail: str, texts: list[str | None]) -> list[str]:
        """What is hashed: the name's tail, the category, or both."""
        join = tail and f"{tail}{self._separator or '='}"
        return [tail if text is None else join + text for text in texts]


def _read(name: str, value: object) -> Iterator[tuple[str | None, float]]:
    """The features of one value: category (None: a number) and value."""
    if isinstance(value, str):
        yield value, 1.0
    elif isinstance(value, _BOOLEAN):
        yield _category(value), 1.0
    elif isinstance(value, _NUMBER):
        number = float(value)
        if number != 0.0 and abs(number) <= _LARGEST:
            yield None, number
    elif isinstance(value, _SEVERAL):
        for each in value:
            if not isinstance(each, _CATEGORY):
                raise TypeError(f"feature '{name}': a {type(each).__name__} among its values is no category")
            yield _category(each), 1.0 / math.sqrt(len(value))
    elif value is not None:
        raise TypeError(f"feature '{name}': a {type(value).__name__} is no number, string, boolean or list of these")


def _category(value: object) -> str:
    if isinstance(value, _BOOLEAN):
        return "true" if value else "false"
    return str(value)


def _cells(frame: pd.DataFrame) -> tuple[list[Group], Ints, Ints, NDArray[np.float32]]:
    """The frame's distinct features by column; and per occurrence its row, which feature it is, and its value."""
    of_numbers = [c for c, dtype in enumerate(frame.dtypes) if dtype.kind in "fiu"]
    groups: list[Group] = [(str(frame.columns[c]), [None]) for c in of_numbers]
    matrix = frame.iloc[:, of_numbers].to_numpy(np.float64, na_value=np.nan)
    row, at = np.nonzero((matrix != 0.0) & (np.abs(matrix) <= _LARGEST))
    parts = [(row, at, matrix[row, at].astype(np.float32))]
    n = len(groups)
    for c in sorted(set(range(frame.shape[1])).difference(of_numbers)):
        name, column = str(frame.columns[c]), frame.iloc[:, c]
        cells = np.array(column, object)
        cells[column.isna().to_numpy()] = None
        texts, row, at, val = _column(name, cells)
        parts.append((row, at + n, val))
        groups.append((name, texts))
        n += len(texts)
    row, at, val = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return groups, row, at, val


def _column(name: str, cells: NDArray[np.object_]) -> tuple[list[str | None], Ints, Ints, NDArray[np.float32]]:
    """The same of one column that does not hold numbers alone."""
    if set(map(type, cells)) <= {str, type(None)}:
        import pandas as pd

        codes, texts = pd.factorize(cells)
        row = np.flatnonzero(codes >= 0)
        return list(texts), row, codes[row].astype(np.int64), np.ones(len(row), np.float32)
    seen: dict[str | None, int] = {}
    found = [
        (row, seen.setdefault(text, len(seen)), val)
        for row, cell in enumerate(cells)
        for text, val in _read(name, cell)
    ]
    rows, at, val = zip(*found, strict=True) if found else ((), (), ())
    return list(seen), np.array(rows, np.int64), np.array(at, np.int64), np.array(val, np.float32)


def _rows(ptr: NDArray[np.int64], tags: NDArray[np.uint64], val: NDArray[np.float32]) -> Rows:
    return Rows(ptr, (tags >> _32).astype(np.uint16), tags.astype(np.uint32), val)
