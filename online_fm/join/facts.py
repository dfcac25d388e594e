"""Facts: records of one partition, decoded and encoded, as columns.

A rejected record keeps its place among the others, because its offset must be passed in order like any other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

    def take(self, order: NDArray[np.int64]) -> Facts:
        """The records at these positions, in this order."""
        return Facts(
            self.kind[order],
            self.offset[order],
            self.ts[order],
            self.moves_to[order],
            self.ident[order],
            self.weight[order],
            self.score[order],
            self.label[order],
            take_rows(self.rows, order),
        )

    @staticmethod
    def concatenate(parts: Sequence[Facts]) -> Facts:
        """All records of these parts, one part after another; at least one part."""
        if len(parts) == 1:
            return parts[0]
        return Facts(
            np.concatenate([part.kind for part in parts]),
            np.concatenate([part.offset for part in parts]),
            np.concatenate([part.ts for part in parts]),
            np.concatenate([part.moves_to for part in parts]),
            np.concatenate([part.ident for part in parts]),
            np.concatenate([part.weight for part in parts]),
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.label for part in parts]),
            concatenate_rows([part.rows for part in parts]),
        )


def concatenate_rows(parts: Sequence[Rows]) -> Rows:
    """All rows of these parts, one part after another."""
    lengths = np.concatenate([np.diff(part.ptr) for part in parts])
    ptr = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    return Rows(ptr, *(np.concatenate([getattr(part, name) for part in parts]) for name in ("fld", "key", "val")))


def take_rows(rows: Rows, order: NDArray[np.int64]) -> Rows:
    """The rows at these positions, in this order."""
    return Rows(*_take(rows.ptr, rows.fld, rows.key, rows.val, order))


@njit(cache=True, nogil=True)
def _take(
    ptr: NDArray[np.int64],
    fld: NDArray[np.uint16],
    key: NDArray[np.uint32],
    val: NDArray[np.float32],
    order: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.uint32], NDArray[np.float32]]:
    ptr_out = np.zeros(len(order) + 1, np.int64)
    for i in range(len(order)):
        ptr_out[i + 1] = ptr_out[i] + ptr[order[i] + 1] - ptr[order[i]]
    nnz = ptr_out[-1]
    fld_out, key_out, val_out = np.empty(nnz, np.uint16), np.empty(nnz, np.uint32), np.empty(nnz, np.float32)
    for i in range(len(order)):
        at, start = ptr_out[i], ptr[order[i]]
        for j in range(ptr_out[i + 1] - at):
            fld_out[at + j] = fld[start + j]
            key_out[at + j] = key[start + j]
            val_out[at + j] = val[start + j]
    return ptr_out, fld_out, key_out, val_out
