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

from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from online_fm.features.batch import Rows
from online_fm.features.hashing import hash_texts
from online_fm.river.values import cells, read

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FIELDS_MOST", "Encoder", "Features"]

FIELDS_MOST = 65_535  # a field is a u16
_32 = np.uint64(32)

Features: TypeAlias = Mapping[Hashable, Any]


class _Place(NamedTuple):
    """Where a name belongs: `number` is -1 where its field was never learned; `tail` is part of its features."""

    name: str
    field: str
    number: int
    tail: str


class Encoder:
    """Fields by name, in the order of first learning."""

    def __init__(self, separator: str | None, max_fields: int) -> None:
        if separator is not None and not separator:
            raise ValueError("separator: an empty one cuts nothing; None keeps names whole")
        if not 2 <= max_fields <= FIELDS_MOST:
            raise ValueError(f"max_fields: {max_fields} is not between 2 and {FIELDS_MOST}")
        self._separator, self._max_fields = separator, max_fields
        self._join = separator or "="
        self._named: dict[str, int] = {}
        self._rest = False
        self._seeds = np.empty(0, np.uint64)
        self._last: tuple[tuple[Hashable, ...], list[_Place]] = (), []

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
        numbers: list[int] = []
        texts: list[str] = []
        vals: list[float] = []
        new: set[str] = set()
        for (name, field, number, tail), value in zip(self._places(tuple(x)), x.values(), strict=True):
            for text, val in ((value, 1.0),) if type(value) is str else read(name, value):
                if number < 0:
                    new.add(field)
                    continue
                numbers.append(number)
                texts.append(text if text is not None and not tail else self._under(tail, text))
                vals.append(val)
        if new and learning:
            self._add(sorted(new))
            return self.one(x, learning=False)
        fld = np.array(numbers, np.int64)
        tags = fld.astype(np.uint64) << _32 | hash_texts(texts, [1] * len(texts), self._seeds[fld]) >> _32
        order = tags.argsort()
        return _rows(np.array([0, len(tags)], np.int64), tags[order], np.array(vals, np.float32)[order])

    def many(self, frame: pd.DataFrame, *, learning: bool) -> Rows:
        """The rows of a frame; `learning` adds the fields that are new, in the order in which its rows bring them."""
        n = len(frame)
        columns, row, at, val = cells(frame)
        counts = [len(texts) for _, texts in columns]
        if learning:
            first = np.full(len(columns), n)
            np.minimum.at(first, np.repeat(np.arange(len(columns)), counts)[at], row)
            brought = sorted((r, self._place(name).field) for r, (name, _) in zip(first.tolist(), columns, strict=True))
            self._add(field for r, field in brought if r < n)
        tags, known = self._tags([(self._place(name), texts) for name, texts in columns])
        there = known[at]
        row, tag, val = row[there], tags[at[there]], val[there]
        order = np.lexsort((tag, row))
        ptr = np.concatenate(([0], np.cumsum(np.bincount(row, minlength=n))))
        return _rows(ptr, tag[order], val[order])

    def _tags(self, columns: list[tuple[_Place, list[str | None]]]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """`field << 32 | key` of each feature, and whether its field is known."""
        numbers = np.array([place.number for place, _ in columns], np.int64)
        counts = np.array([len(texts) for _, texts in columns], np.int64)
        known = numbers >= 0
        texts = [self._under(place.tail, text) for place, own in columns if place.number >= 0 for text in own]
        hashes = hash_texts(texts, counts[known].tolist(), self._seeds[numbers[known]])
        there = np.repeat(known, counts)
        tags = np.repeat(numbers.astype(np.uint64) << _32, counts)
        tags[there] |= hashes >> _32
        return tags, there

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
        self._last = (), []

    def _places(self, names: tuple[Hashable, ...]) -> list[_Place]:
        """Those of a dict's names; kept for the next dict, which mostly has the same."""
        if names == self._last[0]:
            return self._last[1]
        places = [self._place(str(name)) for name in names]
        if all(type(name) is str for name in names):  # 1 and True are equal, and called otherwise
            self._last = names, places
        return places

    def _place(self, name: str) -> _Place:
        field, _, tail = name.partition(self._separator) if self._separator else (name, "", "")
        number = self._named.get(field, -1)
        return (
            _Place(name, field, len(self._named), name)
            if number < 0 and self._rest
            else _Place(name, field, number, tail)
        )

    def _under(self, tail: str, text: str | None) -> str:
        """What is hashed: the name's tail, the category, or both."""
        if text is None:
            return tail
        return f"{tail}{self._join}{text}" if tail else text


def _rows(ptr: NDArray[np.int64], tags: NDArray[np.uint64], val: NDArray[np.float32]) -> Rows:
    return Rows(ptr, (tags >> _32).astype(np.uint16), tags.astype(np.uint32), val)
