"""From records to facts: scanned in one pass, and what is unusual by the general decoder and encoder.

Facts, reasons and counts are the same whichever way a record went. Both ways go by pieces of a batch, small enough for
the cache: a third faster where memory is busy, as it is beside a learner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from online_fm.events import Clicks, EventDecoder, EventsConfig, Impressions, Reason
from online_fm.features.batch import Rows
from online_fm.features.encode import Encoder
from online_fm.features.hashing import hash_texts
from online_fm.features.spec import FeaturesConfig
from online_fm.join.facts import CLICK, IMPRESSION, REJECT, Facts
from online_fm.scan.kernel import IDENT_SEEDS, Columns, columns_for, make_scan, part_of
from online_fm.scan.keys import copied
from online_fm.scan.rows import Features, room_for, scratch_for
from online_fm.scan.shape import Tables, of_clicks, of_impressions
from online_fm.source.port import NO_TIMESTAMP, Records
from online_fm.source.values import Values

__all__ = ["Scanned", "Scanner"]

_AT_ONCE = 512  # records whose bytes, or decoded objects, stay in the cache until they are arrays
_PADDING = 8  # the kernel reads words of eight bytes, which begin at the last NUL or before it
_SPARE = 256  # features, so that a record with a few lists does not need a second look


@dataclass(slots=True)
class Scanned:
    """Facts of records, why some are rejects (by place), and what was odd: counts as of `features.encode.Encoded`."""

    facts: Facts
    reasons: dict[int, Reason] = field(default_factory=dict)
    unknown: int = 0
    missing: int = 0
    truncated: int = 0


class Scanner:
    """Reads the records of both topics by one configuration. Holds no state; threads may share it."""

    def __init__(self, events: EventsConfig, features: FeaturesConfig) -> None:
        self._decoder = EventDecoder(events)
        self._encoder = Encoder(features)
        self._shown = of_impressions(events, features)
        self._clicked = of_clicks(events)

    def impressions(self, records: Records) -> Scanned:
        """Read records of the impressions topic."""
        return _read(records, IMPRESSION, self._shown, self.general_impressions)

    def clicks(self, records: Records) -> Scanned:
        """Read records of the clicks topic."""
        return _read(records, CLICK, self._clicked, self.general_clicks)

    def general_impressions(self, records: Records) -> Scanned:
        """The same as `impressions`, by the general decoder and encoder alone."""
        found = self._decoder.impressions(records.values, records.timestamps)
        encoded = self._encoder.encode(found.features)
        found.reasons.update({problem.row: Reason.BAD_VALUE for problem in encoded.problems})
        facts = _facts(found, IMPRESSION, records, found.weights, found.scores, [0.0] * len(records), encoded.rows)
        return Scanned(facts, found.reasons, encoded.unknown, encoded.missing, encoded.truncated)

    def general_clicks(self, records: Records) -> Scanned:
        """The same as `clicks`, by the general decoder alone."""
        found, n = self._decoder.clicks(records.values, records.timestamps), len(records)
        facts = _facts(found, CLICK, records, [1.0] * n, [np.nan] * n, found.labels, Rows.empty(n))
        return Scanned(facts, found.reasons)


def _read(records: Records, kind: int, tables: Tables | None, general: Callable[[Records], Scanned]) -> Scanned:
    """Scan records; those that cannot be scanned are read the general way, and put into their places."""
    n = len(records)
    if tables is None or n == 0:
        return _in_pieces(records, general)
    columns, rows = _scan(records, tables)
    facts = _of_columns(records, kind, columns, rows)
    scanned = Scanned(facts, {}, *columns.flaws.tolist())
    unusual = np.flatnonzero(~columns.ok)
    if len(unusual):
        rest = _in_pieces(_at(records, unusual), general)
        order = np.arange(n)
        order[unusual] = np.arange(n, n + len(unusual))
        scanned.facts = Facts.gather([facts, rest.facts], order)
        scanned.reasons = {int(unusual[i]): reason for i, reason in rest.reasons.items()}
        _add_counts(scanned, rest)
    return scanned


def _scan(records: Records, tables: Tables) -> tuple[Columns, Rows]:
    """Scan all records, piece by piece."""
    n = len(records)
    columns, features = columns_for(n), room_for(2 * n * len(tables.spec.fields) + _SPARE)
    for start in range(0, n, _AT_ONCE):
        piece = records[start : start + _AT_ONCE]
        data, bounds = _joined(piece.values, tables)
        timestamps = np.ascontiguousarray(piece.timestamps, np.int64)
        features = _scan_joined(data, bounds, timestamps, tables, part_of(columns, start, len(piece)), features)
    filled = columns.ptr[-1]
    return columns, Rows(columns.ptr, *(array[:filled] for array in features))


def _joined(values: Values, tables: Tables) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The keys' bytes and all records, each with a NUL behind it, and padding: u8; where records begin: i64[n + 1]."""
    blob = np.frombuffer(tables.blob + b"\0", np.uint8)
    data = np.concatenate([blob, values.bytes_of_all(), np.zeros(_PADDING, np.uint8)])
    return data, values.bounds + (len(blob) - values.bounds[0])


def _scan_joined(
    data: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    timestamps: NDArray[np.int64],
    tables: Tables,
    columns: Columns,
    features: Features,
) -> Features:
    """Scan joined records; the features, moved to where there is more room if need be."""
    shape, spec, n, reached = tables.shape, tables.spec, len(timestamps), 0
    keys, scratch, scan = copied(tables.keys), scratch_for(spec, len(tables.keys)), make_scan()
    while (reached := scan(data, bounds, timestamps, reached, shape, spec, keys, scratch, columns, features)) < n:
        more, filled = room_for(2 * len(features.fld)), columns.ptr[reached]
        for old, new in zip(features, more, strict=True):
            new[:filled] = old[:filled]
        features = more
    return features


def _in_pieces(records: Records, general: Callable[[Records], Scanned]) -> Scanned:
    """Read records the general way."""
    whole, parts = None, []
    for start in range(0, max(len(records), 1), _AT_ONCE):
        part = general(records[start : start + _AT_ONCE])
        parts.append(part.facts)
        if whole is None:
            whole = part
        else:
            whole.reasons.update({start + i: reason for i, reason in part.reasons.items()})
            _add_counts(whole, part)
    assert whole is not None
    whole.facts = Facts.concatenate(parts)
    return whole


def _add_counts(whole: Scanned, part: Scanned) -> None:
    whole.unknown += part.unknown
    whole.missing += part.missing
    whole.truncated += part.truncated


def _at(records: Records, places: NDArray[np.int64]) -> Records:
    """The records at these places."""
    values = Values.of(records.values[i] for i in places.tolist())
    return Records(records.partition, records.offsets[places], records.timestamps[places], values)


def _of_columns(records: Records, kind: int, columns: Columns, rows: Rows) -> Facts:
    """Facts of scanned records; where one is not ok they mean nothing."""
    return Facts(
        np.full(len(records), kind, np.uint8),
        records.offsets,
        columns.ts,
        _moves_to(columns.ts, records.timestamps),
        columns.ident,
        columns.weight,
        columns.score,
        columns.label if kind == CLICK else np.zeros(len(records), np.float32),
        rows,
    )


def _facts(
    found: Clicks | Impressions,
    kind: int,
    records: Records,
    weights: list[float],
    scores: list[float],
    labels: list[float],
    rows: Rows,
) -> Facts:
    """Facts of decoded records; a reject has no time, and must not move its partition's."""
    rejects = list(found.reasons)
    kinds, times = np.full(len(records), kind, np.uint8), np.array(found.times_ms, np.int64)
    kinds[rejects], times[rejects] = REJECT, 0
    return Facts(
        kinds,
        records.offsets,
        times,
        _moves_to(times, records.timestamps),
        _identities(found.ids),
        np.array(weights, np.float32),
        np.array(scores, np.float32),
        np.array(labels, np.float32),
        rows,
    )


def _identities(ids: list[str]) -> NDArray[np.uint64]:
    """128 bits per id: u64[n, 2]."""
    return np.column_stack([hash_texts(ids, [len(ids)], IDENT_SEEDS[i : i + 1]) for i in range(2)])


def _moves_to(times: NDArray[np.int64], timestamps: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(timestamps == NO_TIMESTAMP, times, np.minimum(times, timestamps))
