"""What a value means: its categories and numbers, of one value or of a frame's columns.

None as a category stands for the name itself, which has a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Column", "cells", "read"]

_LARGEST = float(np.finfo(np.float32).max)
_BOOLEAN = bool, np.bool_
_NUMBER = float, int, np.floating, np.integer
_CATEGORY = (str, *_BOOLEAN, *_NUMBER)
_SEVERAL = list, tuple, set, frozenset

Ints: TypeAlias = NDArray[np.int64]
Column: TypeAlias = tuple[str, list[str | None]]
"""A name and its distinct categories."""


def read(name: str, value: object) -> Iterator[tuple[str | None, float]]:
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


def cells(frame: pd.DataFrame) -> tuple[list[Column], Ints, Ints, NDArray[np.float32]]:
    """The frame's distinct features by column; and of each occurrence the row, which feature it is, and its value."""
    of_numbers = [c for c, dtype in enumerate(frame.dtypes) if dtype.kind in "fiu"]
    columns: list[Column] = [(str(frame.columns[c]), [None]) for c in of_numbers]
    matrix = frame.iloc[:, of_numbers].to_numpy(np.float64, na_value=np.nan)
    row, at = np.nonzero((matrix != 0.0) & (np.abs(matrix) <= _LARGEST))
    parts = [(row, at, matrix[row, at].astype(np.float32))]
    n = len(columns)
    for c in sorted(set(range(frame.shape[1])).difference(of_numbers)):
        name, column = str(frame.columns[c]), frame.iloc[:, c]
        values = np.array(column, object)
        values[column.isna().to_numpy()] = None
        texts, row, at, val = _column(name, values)
        parts.append((row, at + n, val))
        columns.append((name, texts))
        n += len(texts)
    row, at, val = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return columns, row, at, val


def _column(name: str, values: NDArray[np.object_]) -> tuple[list[str | None], Ints, Ints, NDArray[np.float32]]:
    """The same of one column that does not hold numbers alone."""
    if set(map(type, values)) <= {str, type(None)}:
        import pandas as pd

        codes, texts = pd.factorize(values)
        row = np.flatnonzero(codes >= 0)
        return list(texts), row, codes[row].astype(np.int64), np.ones(len(row), np.float32)
    seen: dict[str | None, int] = {}
    found = [
        (row, seen.setdefault(text, len(seen)), x) for row, value in enumerate(values) for text, x in read(name, value)
    ]
    rows, at, val = zip(*found, strict=True) if found else ((), (), ())
    return list(seen), np.array(rows, np.int64), np.array(at, np.int64), np.array(val, np.float32)
