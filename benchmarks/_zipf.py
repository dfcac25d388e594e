"""Events for the kernels: 39 one-hot fields, Zipf, over a given number of records, the same in every run.

Field f has its own equal share of the values; rank r comes with probability in proportion to r^-1.1; records lie in no
order, as hashes would. The labels come from a planted logistic model, so that learners have something to learn.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from online_fm.features.batch import Rows

__all__ = ["BATCH", "FIELDS", "Events", "batches", "cover", "make_events"]

FIELDS = 39
BATCH = 4096
EXPONENT = 1.1


class Events(NamedTuple):
    """slot i32[n, FIELDS], which record is meant; label f32[n]."""

    slot: NDArray[np.int32]
    label: NDArray[np.float32]


def _records(size: int) -> NDArray[np.int32]:
    """i32[FIELDS, size // FIELDS]: the record of each field's values, most frequent first."""
    return np.random.default_rng(7).permutation(size // FIELDS * FIELDS).astype(np.int32).reshape(FIELDS, -1)


def make_events(n: int, size: int) -> Events:
    """n events over `size` records."""
    rng = np.random.default_rng(11)
    records = _records(size)
    values = records.shape[1]
    share = np.cumsum(np.arange(1, values + 1) ** -EXPONENT)
    slot = np.empty((n, FIELDS), np.int32)
    logit = np.full(n, -1.0)
    for field in range(FIELDS):
        rank = np.minimum(np.searchsorted(share, rng.random(n) * share[-1]), values - 1)
        slot[:, field] = records[field, rank]
        logit += 0.3 * rng.standard_normal(values)[rank]
    return Events(slot, (rng.random(n) < 1.0 / (1.0 + np.exp(-logit))).astype(np.float32))


def cover(size: int) -> Events:
    """Every record once: what a table must have seen to be as large as the peers' arrays."""
    slot = np.ascontiguousarray(_records(size).T)
    return Events(slot, (np.arange(len(slot)) % 4 == 0).astype(np.float32))


def batches(events: Events) -> list[tuple[Rows, NDArray[np.float32]]]:
    """Rows of 4096 events each, with their labels; a feature's key is its record's number."""
    found = []
    for lo in range(0, len(events.label), BATCH):
        slot, label = events.slot[lo : lo + BATCH], events.label[lo : lo + BATCH]
        n = len(label)
        ptr = np.arange(n + 1, dtype=np.int64) * FIELDS
        fld = np.tile(np.arange(FIELDS, dtype=np.uint16), n)
        rows = Rows(ptr, fld, slot.ravel().astype(np.uint32), np.ones(n * FIELDS, np.float32))
        found.append((rows, label))
    return found
