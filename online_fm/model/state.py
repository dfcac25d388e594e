"""The model's memory: one record per feature in a dense table, and the index that finds it.

Invariant: feature number `i` (in the order of first learning) has its tag in `tags[i]` and its parameters and
optimizer state in `records[i + 1]`, which is its slot; the index holds exactly the tags `tags[:size]`; record 0, of
features without one of their own, and those from `size + 1` on are 0. There are at most `max_features`; a feature of a
learned row that then finds no place is counted in `overflowed`, each time.

Addresses for all of them are reserved at once, memory comes as records are used: a table that doubles copies itself
again and again while it is young, which an FFM, with its large records, feels most. Only the index doubles. Huge pages,
of 2 MiB, begin behind the first 4 MiB, so that a small model stays small.

A record is `w states... | v | state of v...` in float32, padded so that it touches as few cache lines as it can
wherever it begins (separate arrays cost a factor of 1.7 and more). The canonical form, `columns()`, knows nothing of
that layout.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from online_fm.errors import ConfigError
from online_fm.features.batch import Rows
from online_fm.model.kernels.table import make_table

__all__ = ["Layout", "Table", "reserved", "tensor"]

LINE = 16  # float32 in a cache line
FIRST_ROOM = 1 << 12
NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)  # 3.11 does not name it
HUGE_PAGES = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux alone
SMALL_BYTES = 4 << 20


class Layout(NamedTuple):
    """Where things lie in a record: from `head` on `width` floats of factors (`factors` used), then their state.

    v_start is what the first state of a new feature's factors begins with.
    """

    head: int
    factors: int
    width: int
    w_states: int
    v_states: int
    v_start: float = 0.0

    @property
    def stride(self) -> int:
        """Floats per record: the least multiple of 4 that crosses no more line ends than it must."""
        used = self.head + self.width * (1 + self.v_states) if self.width else 1 + self.w_states
        stride = -(-used // 4) * 4
        while _lines(stride) > -(-used // LINE):
            stride += 4
        return stride


def _lines(stride: int) -> int:
    """The most cache lines that a record touches, over all places where one begins."""
    return max(-(-(i * stride % LINE + stride) // LINE) for i in range(LINE))


def reserved(rows: int, stride: int) -> NDArray[np.float32]:
    """f32[rows, stride] of zeros on a page of its own, which take memory once they are touched.

    ConfigError where the system does not even give addresses (`ulimit -v`, vm.overcommit_memory = 2).
    """
    size_bytes = 4 * rows * stride
    try:
        area = mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
    except OSError as problem:
        raise ConfigError(
            f"model.max_features: {rows} records of {4 * stride} bytes are more than the system gives addresses for"
        ) from problem
    if HUGE_PAGES is not None and size_bytes > SMALL_BYTES:
        with suppress(OSError):  # a kernel without them
            area.madvise(HUGE_PAGES, SMALL_BYTES, size_bytes - SMALL_BYTES)
    return np.frombuffer(area, np.float32).reshape(rows, stride)


class Table:
    """Records by feature; grows as rows are learned, never by looking up."""

    def __init__(self, layout: Layout, max_features: int, seed: int, init_sd: float) -> None:
        self.layout = layout
        self.max_features = max_features
        self.seed, self.init_sd = seed, init_sd
        self._resolve, self._lookup, self._rehash = make_table()
        self.records = reserved(1 + max_features, layout.stride)
        self.tags = reserved(max_features, 2).view(np.uint64).reshape(max_features)
        self._index = _index_for(FIRST_ROOM)
        self._counts = np.zeros(2, np.int64)

    @property
    def size(self) -> int:
        """Features with a record."""
        return int(self._counts[0])

    @property
    def overflowed(self) -> int:
        """How often a feature of a learned row found no place."""
        return int(self._counts[1])

    @overflowed.setter
    def overflowed(self, times: int) -> None:
        self._counts[1] = times

    def resolve(self, rows: Rows, learn: NDArray[np.bool_]) -> NDArray[np.int32]:
        """The slot of each feature; rows to be learned insert theirs."""
        slot = np.empty(rows.nnz, np.int32)
        row = self._advance(rows, learn, 0, slot)
        while row < len(rows):
            need = min(self.size + int(rows.ptr[row + 1] - rows.ptr[row]), self.max_features)
            self._index = _index_for(max(need, 2 * _room(self._index)))
            self._rehash(self.tags[: self.size], self._index)
            row = self._advance(rows, learn, row, slot)
        return slot

    def _advance(self, rows: Rows, learn: NDArray[np.bool_], row: int, slot: NDArray[np.int32]) -> int:
        layout = self.layout
        reached: int = self._resolve(
            rows.ptr,
            rows.fld,
            rows.key,
            learn,
            row,
            self._index,
            self.tags,
            self._counts,
            self.records,
            _room(self._index),
            layout.head,
            layout.factors,
            layout.width,
            np.float32(layout.v_start),
            np.uint64(self.seed),
            self.init_sd,
            slot,
        )
        return reached

    def lookup(self, rows: Rows) -> NDArray[np.int32]:
        """The slot of each feature, 0 where it has none."""
        slot = np.empty(rows.nnz, np.int32)
        self._lookup(rows.fld, rows.key, self._index, slot)
        return slot

    def columns(self) -> dict[str, NDArray[Any]]:
        """The canonical form, as views.

        tags u64[n]; f32: w[n], w_state[n, states], v[n, factors], v_state[n, states, factors].
        """
        head, factors, width, w_states, v_states, _ = self.layout
        n = self.size
        used = self.records[1 : 1 + n]
        state = used[:, head + width : head + width * (1 + v_states)].reshape(n, v_states, width)
        return {
            "tags": self.tags[:n],
            "w": used[:, 0],
            "w_state": used[:, 1 : 1 + w_states],
            "v": used[:, head : head + factors],
            "v_state": state[:, :, :factors],
        }

    def fill(self, tensors: Mapping[str, NDArray[Any]], n_fields: int, overflowed: int = 0) -> None:
        """Take over the canonical form; raise ValueError naming the tensor that does not fit, and stay as before."""
        _, factors, _, w_states, v_states, _ = self.layout
        tags = tensor(tensors, "tags", np.uint64, (None,))
        n = len(tags)
        if n > self.max_features:
            raise ValueError(f"tags: {n} features, but max_features is {self.max_features}")
        if n and int(tags.max()) >> 32 >= n_fields:
            raise ValueError(f"tags: field {int(tags.max()) >> 32}, but there are {n_fields} fields")
        shapes = {"w": (n,), "w_state": (n, w_states), "v": (n, factors), "v_state": (n, v_states, factors)}
        columns = {
            name: tensor(tensors, name, np.float32, shapes[name]) for name in shapes if 0 not in shapes[name][1:]
        }
        index = _index_for(max(n, FIRST_ROOM))
        first = int(self._rehash(np.ascontiguousarray(tags), index))
        if first < n:
            raise ValueError(f"tags: feature {first} comes twice")
        self.records[: 1 + self.size] = 0.0
        self.tags[:n], self._index = tags, index
        self._counts[:] = n, overflowed
        views = self.columns()
        for name, column in columns.items():
            views[name][...] = column


def _index_for(features: int) -> NDArray[np.uint64]:
    """An empty index with room for so many features: pairs of (tag, slot), a power of two of them."""
    return np.zeros(4 << (features - 1).bit_length(), np.uint64)


def _room(index: NDArray[np.uint64]) -> int:
    """How many features an index takes: half of its pairs."""
    return len(index) // 4


def tensor(
    tensors: Mapping[str, NDArray[Any]], name: str, dtype: type[np.generic], shape: tuple[int | None, ...]
) -> NDArray[Any]:
    """The named tensor, if its type and shape (None: any length) fit and all its values are finite; else ValueError."""
    if name not in tensors:
        raise ValueError(f"{name}: missing")
    array = np.asarray(tensors[name])
    fits = len(array.shape) == len(shape) and all(want in (None, n) for want, n in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or not fits:
        wanted = ", ".join("n" if n is None else str(n) for n in shape)
        raise ValueError(f"{name}: {array.dtype}{list(array.shape)} where {np.dtype(dtype)}[{wanted}] is needed")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name}: holds values that are not finite")
    return array
