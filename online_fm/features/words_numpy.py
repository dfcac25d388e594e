"""Words of a NumPy array: the same names and meaning as `words_llvm`, every read checked, and slow."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Text", "byte", "first_byte", "half", "origin", "word"]

Text: TypeAlias = NDArray[np.uint8]


def origin(data: NDArray[np.uint8]) -> Text:
    """The text that begins where the array begins."""
    return data


def byte(text: Text, at: int) -> int:
    """The byte at `at`."""
    return _read(text, at, 1)


def half(text: Text, at: int) -> np.uint64:
    """Four bytes."""
    return np.uint64(_read(text, at, 4))


def word(text: Text, at: int) -> np.uint64:
    """Eight bytes."""
    return np.uint64(_read(text, at, 8))


def _read(text: Text, at: int, width: int) -> int:
    if not 0 <= at <= len(text) - width:
        raise IndexError(f"{width} bytes at {at} of {len(text)}")
    return int.from_bytes(text[at : at + width].tobytes(), "little")


def first_byte(flags: np.uint64) -> int:
    """The place, from 0, of the lowest byte that is not 0; there is one."""
    bits = int(flags)
    return ((bits & -bits).bit_length() - 1) // 8
