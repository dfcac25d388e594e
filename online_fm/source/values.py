"""`Values`: the values of many records as one piece of memory, so that moving them costs nothing per record.

Invariant: value `i` is `data[bounds[i] : bounds[i + 1] - 1]`, and the byte behind it is NUL: what scans them needs no
other end. A slice is a view; bytes are copied where one value is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["Values"]


class Values(Sequence[bytes]):
    """Byte strings, one behind the other.

    data u8; bounds i64[n + 1], which need not begin at 0. Both may be read-only.
    """

    __slots__ = ("bounds", "data")

    def __init__(self, data: NDArray[np.uint8], bounds: NDArray[np.int64]) -> None:
        self.data, self.bounds = data, bounds

    @classmethod
    def of(cls, values: Iterable[bytes]) -> Values:
        """Copy byte strings."""
        values = list(values)
        bounds = np.zeros(len(values) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, values), np.int64, len(values)) + 1, out=bounds[1:])
        return cls(np.frombuffer(b"\0".join([*values, b""]), np.uint8), bounds)

    @classmethod
    def joined(cls, parts: Sequence[Values]) -> Values:
        """All values of the parts, in order."""
        if len(parts) == 1:
            return parts[0]
        pieces = [np.empty(0, np.uint8), *(part.bytes_of_all() for part in parts)]
        ends = np.cumsum([len(piece) for piece in pieces])
        moved = [part.bounds[:-1] + (at - part.bounds[0]) for part, at in zip(parts, ends[:-1], strict=True)]
        return cls(np.concatenate(pieces), np.concatenate([*moved, ends[-1:]]))

    @property
    def size_bytes(self) -> int:
        """How long the values are together."""
        return int(self.bounds[-1] - self.bounds[0]) - len(self)

    def bytes_of_all(self) -> NDArray[np.uint8]:
        """The values and the NULs behind them; value `i` begins at `bounds[i] - bounds[0]`."""
        return self.data[self.bounds[0] : self.bounds[-1]]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> Values: ...
    def __getitem__(self, at: int | slice) -> bytes | Values:
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            if step != 1:
                raise ValueError("values are sliced in steps of 1")
            return Values(self.data, self.bounds[start : max(start, stop) + 1])
        place = range(len(self))[at]
        return self.data[self.bounds[place] : self.bounds[place + 1] - 1].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        whole = self.bytes_of_all().tobytes()
        for start, stop in pairwise((self.bounds - self.bounds[0]).tolist()):
            yield whole[start : stop - 1]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Values | list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # its bytes may be anybody's

    def __repr__(self) -> str:
        return f"Values({list(self)!r})"
