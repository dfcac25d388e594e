"""What an impression is made of: parts, such as a user with his age, each one of a known number at a time.

A part's features always come together, so what the truth needs of them is summed once and then looked up. Parameters
of all fields lie in one numbering: value `i` of field `f` has the row `layout.first[f] + i`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Context", "Floats", "Ints", "Layout", "Part", "Population", "zipf"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Context = tuple[Ints, ...]
"""n impressions: of each part, which one, i64[n]."""


class Layout:
    """Where the values of the fields lie: `size` and `first` by field, and `total` rows."""

    def __init__(self, size: Mapping[str, int]) -> None:
        self.size = dict(size)
        self.first = dict(zip(size, accumulate(size.values(), initial=0), strict=False))
        self.total = sum(size.values())

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.size)


@dataclass(frozen=True, slots=True)
class Part:
    """One of `size` at a time, each with m features.

    fields : of the m columns, the field of each; they may repeat.
    rows, vals : i64[size, m], f64[size, m]: row and value of each feature; value 0 where there are fewer than m.
    texts : of each one, its members in the event's JSON.
    """

    fields: tuple[str, ...]
    rows: Ints
    vals: Floats
    texts: list[str]


class Population(Protocol):
    """What impressions there are, and how often."""

    layout: Layout
    parts: tuple[Part, ...]

    def draw(self, rng: np.random.Generator, ts: Ints) -> Context:
        """The impressions at these times (ms)."""

    def row(self, field: str, value: object) -> int | None:
        """The row of a field's value, as an event has it; None where there is none such."""

    def renew(self, rng: np.random.Generator, elapsed_ms: float) -> Ints:
        """Let so much event time go by; the items that are new since then."""


def zipf(n: int, exponent: float) -> Floats:
    """The distribution function of 0 to n - 1, the i-th with a share of 1 / (i + 1)^exponent."""
    shares = np.arange(1, n + 1) ** -exponent
    cdf = np.cumsum(shares) / shares.sum()
    cdf[-1] = 1.0
    return np.asarray(cdf)
