"""Lanes as NumPy slices: the same names and meaning as `lanes_llvm`, readable and slow."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Lanes",
    "at_least",
    "farther",
    "fma",
    "largest",
    "load",
    "load_first",
    "prefetch",
    "shrink",
    "spread",
    "sqrt",
    "store",
    "total",
    "total32",
    "totals",
    "where_nonzero",
    "within",
    "zeros",
]

Lanes: TypeAlias = NDArray[np.float32]


def zeros(n: int) -> Lanes:
    """`n` lanes (a constant) of 0."""
    return np.zeros(n, np.float32)


def load(array: NDArray[np.float32], at: int, like: Lanes) -> Lanes:
    """The lanes at `array[at:]`, as many as `like` has."""
    return array[at : at + len(like)].copy()


def load_first(array: NDArray[np.float32], at: int, n: int, like: Lanes) -> Lanes:
    """The lanes at `array[at:]` as `load`, but 0 from the n-th on."""
    found, n = zeros(len(like)), min(n, len(like))
    found[:n] = array[at : at + n]
    return found


def store(array: NDArray[np.float32], at: int, lanes: Lanes) -> None:
    """`array[at:at + n] = lanes`."""
    array[at : at + len(lanes)] = lanes


def prefetch(array: NDArray[Any], at: int) -> None:
    """Ask for the cache line of `array[at]`: nothing to do here."""


def total(lanes: Lanes) -> float:
    """The sum of the lanes in float64."""
    return float(lanes.sum(dtype=np.float64))


def total32(lanes: Lanes) -> np.float32:
    """The sum of the lanes in float32."""
    return np.float32(lanes.sum(dtype=np.float32))


def totals(groups: Lanes, like: Lanes) -> Lanes:
    """The sums of as many groups of consecutive lanes as `like` has lanes."""
    return groups.reshape(len(like), -1).sum(axis=1, dtype=np.float32)


def farther(lanes: Lanes, others: Lanes) -> Lanes:
    """The lanes, or the absolute values of the others where these are larger."""
    return np.fmax(lanes, np.abs(others))


def largest(lanes: Lanes) -> np.float32:
    """The largest of the lanes."""
    return np.float32(lanes.max())


def fma(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """The product plus c, lane by lane; rounded once, but for rare halves."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def spread(array: NDArray[np.float32], at: int, times: int, like: Lanes) -> Lanes:
    """Consecutive floats of `array[at:]`, each `times` (a constant) over, in as many lanes as `like` has."""
    return np.repeat(array[at : at + len(like) // times], times)


def at_least(lanes: Lanes, floor: np.float32) -> Lanes:
    """The lanes, or `floor` where they are smaller or no numbers."""
    return np.fmax(lanes, floor)


def within(lanes: Lanes, bound: np.float32) -> Lanes:
    """The lanes cut to [-bound, bound]; what is not a number becomes bound."""
    return np.fmax(np.fmin(lanes, bound), -bound)


def sqrt(lanes: Lanes) -> Lanes:
    """The square root of each lane."""
    return np.sqrt(lanes)


def shrink(lanes: Lanes, by: np.float32) -> Lanes:
    """sgn(z) max(|z| - by, 0): each lane moved `by` towards 0, and no further."""
    return np.copysign(np.maximum(np.abs(lanes) - by, np.float32(0.0)), lanes)


def where_nonzero(test: Lanes, then: Lanes, otherwise: Lanes) -> Lanes:
    """`then` in the lanes where `test` is not 0, `otherwise` in the rest."""
    return np.where(test != 0, then, otherwise).astype(np.float32)
