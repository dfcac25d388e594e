"""A population of plain categories: each field draws its value for itself, by Zipf; value 0 is the most frequent."""

from __future__ import annotations

import numpy as np
from msgspec import json

from online_fm.simulate.config import SimulateConfig
from online_fm.simulate.parts import Context, Ints, Layout, Part, zipf

__all__ = ["Plain"]


class Plain:
    """The fields of `vocabulary`; values are their numbers as text. Every field is a part."""

    def __init__(self, config: SimulateConfig) -> None:
        self.layout = Layout(config.vocabulary)
        self.parts: tuple[Part, ...] = tuple(self._part(field) for field in self.layout.fields)
        self._cdfs = [zipf(size, config.zipf) for size in self.layout.size.values()]

    def _part(self, field: str) -> Part:
        size = self.layout.size[field]
        rows = self.layout.first[field] + np.arange(size)[:, None]
        name = json.encode(field).decode()
        return Part((field,), rows, np.ones(rows.shape), [f'{name}:"{value}"' for value in range(size)])

    def draw(self, rng: np.random.Generator, ts: Ints) -> Context:
        return tuple(np.searchsorted(cdf, rng.random(len(ts)), side="right") for cdf in self._cdfs)

    def row(self, field: str, value: object) -> int | None:
        number = int(value) if isinstance(value, str) and value.isdecimal() else -1
        return self.layout.first[field] + number if 0 <= number < self.layout.size.get(field, 0) else None

    def renew(self, rng: np.random.Generator, elapsed_ms: float) -> Ints:  # noqa: ARG002  # nothing comes or goes
        return np.empty(0, np.int64)
