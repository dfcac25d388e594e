"""What the kernel must know of the configuration, as tables of numbers.

The paths that are looked for form a tree: its nodes are objects, its leaves are slots, and a slot is used by one part
of the envelope or more, by one field or more. Keys are rows of `keys`; the first ones stand for the beginnings of the
nodes' objects. `blob` holds the keys' bytes, each with its closing quote, and lies in front of every batch.

A field is a row of `fields`; what its parameters are depends on its kind. The keys of buckets are hashed here, once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from online_fm.events import LARGEST, LATEST_MS, EventsConfig
from online_fm.features.encode import FLOAT32_MAX, path_of
from online_fm.features.hashing import hash_texts
from online_fm.features.spec import (
    Bounds,
    Categorical,
    Cross,
    FeaturesConfig,
    Field,
    Input,
    LogBucket,
    Multi,
    Number,
    named,
)

__all__ = [
    "BUCKETS",
    "ELSEWHERE",
    "NEW_KEYS",
    "F",
    "K",
    "Kind",
    "Shape",
    "Spec",
    "Tables",
    "of_clicks",
    "of_impressions",
]

ELSEWHERE = -1  # where a key leads that nothing is looked for behind
NEW_KEYS = 1024  # keys that a batch may bring beyond those of the configuration; more are unusual
BUCKETS = 1024  # logarithmic buckets, of each sign, whose keys are known beforehand; larger ones are unusual


class K(IntEnum):
    """Columns of `keys`: where the key's bytes begin, how many they are, its object's node, where it leads (a slot,
    `ELSEWHERE`, or -2 - node), whether no field knows it, the key that came after it last time, the record that had
    it last.
    """

    START = 0
    LENGTH = 1
    NODE = 2
    LEADS = 3
    UNKNOWN = 4
    AFTER = 5
    SEEN = 6


class Kind(IntEnum):
    """What is made of a value."""

    CATEGORY = 0
    MULTI = 1
    NUMBER = 2
    LOG_BUCKET = 3
    BOUNDS = 4
    CROSS = 5


class F(IntEnum):
    """Columns of `fields`: number, kind, slot, most values; where its keys (buckets, numbers) or parts (crosses) begin
    in `ready` or `parts`; where its bounds begin in `bounds`; how many bounds, buckets of a sign, or parts it has.
    """

    FIELD = 0
    KIND = 1
    SLOT = 2
    MOST = 3
    BEGIN = 4
    BOUNDS = 5
    COUNT = 6
    WEIGHTING = 7


class Shape(NamedTuple):
    """One topic's records, as numbers. Slots are -1 where nothing is configured; `per_ms` is 0 for ISO 8601."""

    features: int  # the node that holds them; -1 for clicks
    id: int
    time: int
    weight: int
    score: int
    label: int
    max_bytes: int
    max_id: int
    per_ms: float
    ahead: int
    scale: float
    least: float
    most: float
    inputs: int
    repeats: int  # the most fields that one list is for
    crossed: int  # the most features that crosses can add to a row
    sorts: bool  # whether a row must be sorted by field


class Spec(NamedTuple):
    """A shape's arrays: fields i64[f, len(F)] in an order in which crosses follow their parts, seeds u64[f], factors
    f64[f] (a scale, or the logarithm of a base), lists bool[slots] (whether the slot takes a list), bounds f64,
    ready u32, parts i64.
    """

    fields: NDArray[Any]
    seeds: NDArray[Any]
    factors: NDArray[Any]
    lists: NDArray[Any]
    bounds: NDArray[Any]
    ready: NDArray[Any]
    parts: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tables:
    """A shape, the keys i64[k, len(K)] that it knows, and their bytes."""

    shape: Shape
    spec: Spec
    keys: NDArray[np.int64]
    blob: bytes


class _Unscannable(Exception):  # control flow within this module, not an error of the tree
    """A configuration for the general way."""


_Path = tuple[str, ...]
_Object = dict[str, Any]  # key -> slot, or the object that lies there


@dataclass(slots=True)
class _Paths:
    """The tree of paths, while it grows."""

    root: _Object = field(default_factory=dict)
    slots: dict[_Path, int] = field(default_factory=dict)

    def object(self, path: _Path) -> _Object:
        """The object at a path."""
        node = self.root
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise _Unscannable
        return node

    def slot(self, path: _Path | None) -> int:
        """The slot of the value at a path."""
        if path is None:
            return -1
        slot = self.slots.setdefault(path, len(self.slots))
        if self.object(path[:-1]).setdefault(path[-1], slot) != slot:
            raise _Unscannable
        return slot


def of_impressions(events: EventsConfig, features: FeaturesConfig) -> Tables | None:
    """Tables for the impressions topic; None where its records cannot be scanned."""
    config, specs = events.impression, named(features)
    inside = _split(config.features) or ()
    paths = _Paths()
    try:
        ident, time = paths.slot(_split(config.id)), paths.slot(_split(config.time))
        weight, score = paths.slot(_split(config.weight)), paths.slot(_split(config.score))
        inputs = {
            name: paths.slot(inside + path_of(spec)) for name, spec in specs.items() if not isinstance(spec, Cross)
        }
        heads = {path_of(spec)[0] for spec in specs.values() if not isinstance(spec, Cross)}
        lists = np.ones(len(paths.slots), np.bool_)
        lists[[slot for slot in (ident, time, weight, score) if slot >= 0]] = False
        lists[[slot for name, slot in inputs.items() if not isinstance(specs[name], Multi)]] = False
        keys, blob, node = _keys(paths, inside, heads)
        fields = _Fields(specs, inputs)
        spec = fields.spec(lists)
    except (_Unscannable, UnicodeEncodeError):
        return None
    shape = Shape(node, ident, time, weight, score, -1, *_envelope(events), 1.0, 0.0, 0.0, *fields.bounds())
    return Tables(shape, spec, keys, blob)


def of_clicks(events: EventsConfig) -> Tables | None:
    """Tables for the clicks topic; None where its records cannot be scanned."""
    config, paths = events.click, _Paths()
    try:
        ident, time, label = (paths.slot(_split(path)) for path in (config.id, config.time, config.value))
        keys, blob, _ = _keys(paths, None, set())
    except (_Unscannable, UnicodeEncodeError):
        return None
    least, most = map(float, config.clip or (-LARGEST, LARGEST))
    fields = _Fields({}, {})
    shape = Shape(
        -1, ident, time, -1, -1, label, *_envelope(events), float(config.scale), least, most, *fields.bounds()
    )
    return Tables(shape, fields.spec(np.zeros(len(paths.slots), np.bool_)), keys, blob)


def _split(path: str | None) -> _Path | None:
    return tuple(path.split(".")) if path else None


def _envelope(events: EventsConfig) -> tuple[int, int, float, int]:
    per_ms = {"ms": 1.0, "s": 1e-3, "us": 1e3, "ns": 1e6, "iso8601": 0.0}[events.time_unit]
    ahead = min(events.max_ahead_s, LATEST_MS)
    return min(events.max_bytes, 2**62), min(events.max_id_length, 2**62), per_ms, round(ahead * 1000)


def _keys(paths: _Paths, features: _Path | None, heads: set[str]) -> tuple[NDArray[np.int64], bytes, int]:
    """Rows of all keys, their bytes, and the node of the features."""
    nodes = [paths.root]
    for node in nodes:
        nodes += [child for child in node.values() if isinstance(child, dict)]
    at_features = -1 if features is None else _number(nodes, paths.object(features))
    rows = [_key(0, 0, number) for number in range(len(nodes))]
    blob = b""
    for number, node in enumerate(nodes):
        first = len(rows)
        rows[number][K.AFTER] = first
        for name, found in node.items():
            key = name.encode()
            leads = -2 - _number(nodes, found) if isinstance(found, dict) else found
            unknown = number == at_features and name not in heads
            rows.append(_key(len(blob), len(key), number, leads, int(unknown), len(rows) + 1))
            blob += key + b'"'
        rows[-1][K.AFTER] = first
    return np.array(rows, np.int64), blob, at_features


def _number(nodes: list[_Object], node: _Object) -> int:
    return next(number for number, each in enumerate(nodes) if each is node)


def _key(start: int, length: int, node: int, leads: int = ELSEWHERE, unknown: int = 0, after: int = 0) -> list[int]:
    return [start, length, node, leads, unknown, after, -1]


class _Fields:
    """The fields' rows and what these point to, while they grow."""

    def __init__(self, specs: dict[str, Field], slots: dict[str, int]) -> None:
        self._at = {name: number for number, name in enumerate(specs)}
        self._specs, self._slots = specs, slots
        self._bounds: list[float] = []
        self._ready: list[NDArray[np.uint32]] = []
        self._parts: list[int] = []
        self._factors: list[float] = []
        self._order = sorted(specs.values(), key=self._turn)
        self._numbers = [self._at[spec.name] for spec in self._order]
        self._seeds = hash_texts(list(specs), [len(specs)], np.zeros(1, np.uint64))

    def bounds(self) -> tuple[int, int, int, bool]:
        """The last places of a `Shape`."""
        lists_of = Counter(self._slots[spec.name] for spec in self._order if isinstance(spec, Multi))
        crossed = sum(self._widest(spec) for spec in self._order if isinstance(spec, Cross))
        return len(self._slots), max(lists_of.values(), default=0), crossed, self._numbers != sorted(self._numbers)

    def spec(self, lists: NDArray[np.bool_]) -> Spec:
        """The rows, and what they point to."""
        return Spec(
            np.array([self._row(spec) for spec in self._order], np.int64).reshape(-1, len(F)),
            self._seeds[self._numbers],
            np.array(self._factors, np.float64),
            lists,
            np.array(self._bounds, np.float64),
            np.concatenate([*self._ready, np.empty(0, np.uint32)]),
            np.array(self._parts, np.int64),
        )

    def _turn(self, spec: Field) -> tuple[int, bool]:
        """In their order, but a cross after its parts."""
        cross = isinstance(spec, Cross)
        return max(self._at[name] for name in (spec.name, *(spec.of if isinstance(spec, Cross) else ()))), cross

    def _widest(self, cross: Cross) -> int:
        """The most features that a cross can have."""
        widths = [spec.max_values if isinstance(spec := self._specs[name], Multi) else 1 for name in cross.of]
        return min(math.prod(widths), cross.max_values)

    def _row(self, spec: Field) -> list[int]:
        factor, begin, bounds, count, most, weighting = 1.0, 0, len(self._bounds), 0, 1, 0
        match spec:
            case Categorical():
                kind = Kind.CATEGORY
            case Multi():
                kind, most = Kind.MULTI, spec.max_values
                weighting = ("one", "mean", "sqrt").index(spec.weighting)
            case Number():
                kind, factor = Kind.NUMBER, spec.scale
                begin = self._hashed(spec, [""])
            case LogBucket():
                kind, factor = Kind.LOG_BUCKET, math.log(spec.base)
                count = _buckets(factor)
                begin = self._hashed(spec, [f"{sign}{n}" for sign in ("", "-") for n in range(count)])
            case Bounds():
                kind, count = Kind.BOUNDS, len(spec.bounds)
                begin = self._hashed(spec, [str(n) for n in range(count + 1)])
                self._bounds += spec.bounds
            case Cross():
                kind, most = Kind.CROSS, spec.max_values
                begin, count = len(self._parts), len(spec.of)
                self._parts += [self._at[name] for name in spec.of]
        self._factors.append(factor)
        slot = self._slots.get(spec.name, -1)
        return [self._at[spec.name], kind, slot, most, begin, bounds, count, weighting]

    def _hashed(self, spec: Input, texts: Sequence[str]) -> int:
        """Where the keys of these texts begin."""
        begin = sum(map(len, self._ready))
        number = self._at[spec.name]
        hashes = hash_texts(texts, [len(texts)], self._seeds[number : number + 1])
        self._ready.append((hashes >> np.uint64(32)).astype(np.uint32))
        return begin


def _buckets(log_base: float) -> int:
    """Logarithmic buckets of one sign, as many as are hashed beforehand."""
    if not math.isfinite(log_base):
        raise _Unscannable
    return min(int(math.log1p(FLOAT32_MAX) / log_base) + 1, BUCKETS)
