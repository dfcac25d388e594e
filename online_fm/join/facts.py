"""Facts: records of one partition, decoded and encoded, as columns.

A rejected record keeps its place among the others, because its offset must be passed in order like any other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from online_fm.features.batch import Rows

__all__ = ["CLICK", "IMPRESSION", "REJECT", "Facts"]

REJECT, IMPRESSION, CLICK = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Facts:
    """n records: kind u8[n], offset, ts, moves_to i64[n], ident u64[n, 2], weight, score, label f32[n], n rows.

    ts is the event time in ms; moves_to is the time in ms that the record may move its partition to: the event time,
    but not beyond the record's own timestamp, so that one device with a fast clock does not make all others late.
    Rejects have 0 for both; clicks and rejects have empty rows. A score that was not served is NaN. The label is what a
    click brings; others have 0.
    """

    kind: NDArray[np.uint8]
    offset: NDArray[np.int64]
    ts: NDArray[np.int64]
    moves_to: NDArray[np.int64]
    ident: NDArray[np.uint64]
    weight: NDArray[np.float32]
    score: NDArray[np.float32]
    label: NDArray[np.float32]
    rows: Rows

    def __len__(self) -> int:
        return len(self.kind)

    def part(self, start: int, end: int) -> Facts:
        """The records start:end; their columns are views."""
        columns = {name: getattr(self, name)[start:end] for name in _COLUMNS}
        return Facts(**columns, rows=self.rows.part(start, end))

    @staticmethod
    def concatenate(parts: Sequence[Facts]) -> Facts:
        """All records of these parts, one part after another; at least one part."""
        if len(parts) == 1:
            return parts[0]
        return Facts(**_columns(parts), rows=concatenate_rows([part.rows for part in parts]))

    @staticmethod
    def gather(parts: Sequence[Facts], order: NDArray[np.int64]) -> Facts:
        """The records at these positions of the parts, one part after another, in this order, each at most once."""
        columns = {name: column[order] for name, column in _columns(parts).items()}
        return Facts(**columns, rows=gather_rows([part.rows for part in parts], order))


_COLUMNS = ("kind", "offset", "ts", "moves_to", "ident", "weight", "score", "label")


def _columns(parts: Sequence[Facts]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}


def concatenate_rows(parts: Sequence[Rows]) -> Rows:
    """All rows of these parts, one part after another."""
    lengths = np.concatenate([np.diff(part.ptr) for part in parts])
    ptr = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    return Rows(ptr, *(np.concatenate([getattr(part, name) for part in parts]) for name in ("fld", "key", "val")))


def gather_rows(parts: Sequence[Rows], order: NDArray[np.int64]) -> Rows:
    """The rows at these positions of the parts, one part after another, in this order, each at most once."""
    lengths = np.concatenate([np.diff(part.ptr) for part in parts])
    ptr = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths[order])))
    rows = Rows(ptr, np.empty(ptr[-1], np.uint16), np.empty(ptr[-1], np.uint32), np.empty(ptr[-1], np.float32))
    places = np.full(len(lengths), -1)
    places[order] = np.arange(len(order))
    for part in parts:
        _put(part.ptr, part.fld, part.key, part.val, places[: len(part)], rows.ptr, rows.fld, rows.key, rows.val)
        places = places[len(part) :]
    return rows


@njit(cache=True, nogil=True)
def _put(
    ptr: NDArray[np.int64],
    fld: NDArray[np.uint16],
    key: NDArray[np.uint32],
    val: NDArray[np.float32],
    places: NDArray[np.int64],
    ptr_out: NDArray[np.int64],
    fld_out: NDArray[np.uint16],
    key_out: NDArray[np.uint32],
    val_out: NDArray[np.float32],
) -> None:
    """Copy each row to its place, unless that is negative."""
    for i in range(len(places)):
        if places[i] >= 0:
            at, start = ptr_out[places[i]], ptr[i]
            for j in range(ptr[i + 1] - start):
                fld_out[at + j] = fld[start + j]
                key_out[at + j] = key[start + j]
                val_out[at + j] = val[start + j]
