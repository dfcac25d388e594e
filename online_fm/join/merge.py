"""The merge: records of all partitions of both topics in one order, a function of the records alone.

The order is (key, topic, partition, offset), where key is the running maximum within the partition of what its
records may move time to (`Facts.moves_to`), and impressions go before clicks. A record may leave once no partition can
still bring one that goes before it: a partition that is not at its end answers for its next record with its last key.
What a partition at its end brings later is merged when it comes. While a topic has no partition at all nothing leaves:
without clicks every row would be learned as a negative. So any sizes of batches, and any cut and restart, give the
same sequence.

Offsets given out are those after the last *merged* record; what waits here is read again after a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from online_fm.join.facts import Facts

__all__ = ["Lane", "Merged", "Merger"]

Lane = tuple[int, int]  # (0 for impressions, 1 for clicks; partition): ties go in this order
_LONG_AGO = 0


@dataclass(frozen=True, slots=True)
class Merged:
    """Facts in merged order, with key i64[n] in ms."""

    facts: Facts
    key: NDArray[np.int64]


@dataclass(slots=True)
class _Queue:
    """What one partition has brought and the merge has not yet let go."""

    next_offset: int
    merged_key: int = _LONG_AGO
    read_key: int = _LONG_AGO
    parts: list[tuple[NDArray[np.int64], Facts]] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(key) for key, _ in self.parts)

    def pop(self, last_key: int, *, inclusive: bool) -> list[tuple[NDArray[np.int64], Facts]]:
        """Records up to `last_key`, which rises along the queue."""
        taken: list[tuple[NDArray[np.int64], Facts]] = []
        side: Literal["left", "right"] = "right" if inclusive else "left"
        while self.parts:
            key, facts = self.parts[0]
            n = int(np.searchsorted(key, last_key, side))
            if n == len(key):
                taken.append(self.parts.pop(0))
                continue
            if n:
                taken.append((key[:n], facts.part(0, n)))
                self.parts[0] = (key[n:], facts.part(n, len(key)))
            break
        if taken:
            key, facts = taken[-1]
            self.merged_key = int(key[-1])
            self.next_offset = int(facts.offset[-1]) + 1
        return taken


class Merger:
    """Merges facts of a known, growing set of partitions."""

    def __init__(self) -> None:
        self._queues: dict[Lane, _Queue] = {}

    def assign(self, offsets: Mapping[Lane, int]) -> None:
        """Make partitions known by their first offset; until they have spoken, or are at their end, all others wait."""
        for lane, offset in offsets.items():
            self._queues.setdefault(lane, _Queue(offset))

    def add(self, lane: Lane, facts: Facts) -> None:
        """Append a partition's next records."""
        queue = self._queues[lane]
        key = np.maximum.accumulate(np.maximum(facts.moves_to, queue.read_key))
        queue.read_key = int(key[-1])
        queue.parts.append((key, facts))

    @property
    def complete(self) -> bool:
        """Whether both topics have a partition."""
        return {topic for topic, _ in self._queues} == {0, 1}

    def drop(self, lanes: Iterable[Lane]) -> None:
        """Forget partitions that are no longer there: they would hold the others back for ever."""
        for lane in lanes:
            del self._queues[lane]

    def take(self, at_end: AbstractSet[Lane]) -> Merged | None:
        """All records whose turn has come; None where there is none."""
        if not self.complete:
            return None
        bounds = [(queue.read_key, lane) for lane, queue in self._queues.items() if lane not in at_end]
        last_key, last_lane = min(bounds) if bounds else (np.iinfo(np.int64).max, (2, 0))
        taken = [
            (key, facts, lane)
            for lane, queue in sorted(self._queues.items())
            for key, facts in queue.pop(last_key, inclusive=lane <= last_lane)
        ]
        if not taken:
            return None
        keys = np.concatenate([key for key, _, _ in taken])
        parts = [facts for _, facts, _ in taken]
        if len({lane for _, _, lane in taken}) == 1:
            return Merged(Facts.concatenate(parts), keys)
        # taken partition by partition in lane order, offsets rising: a stable sort by key is the whole order
        order = np.argsort(keys, kind="stable")
        return Merged(Facts.gather(parts, order), keys[order])

    def waiting(self) -> dict[Lane, int]:
        """Records read and not yet merged, per partition."""
        return {lane: len(queue) for lane, queue in self._queues.items()}

    def offsets(self) -> dict[Lane, int]:
        """The offset after the last merged record of each partition."""
        return {lane: queue.next_offset for lane, queue in self._queues.items()}

    def keys(self) -> dict[Lane, int]:
        """The key of the last merged record of each partition, ms."""
        return {lane: queue.merged_key for lane, queue in self._queues.items()}

    def restore(self, offsets: Mapping[Lane, int], keys: Mapping[Lane, int]) -> None:
        """Go on as if the records before these offsets had been merged, with these last keys."""
        self._queues = {lane: _Queue(offset, keys[lane], keys[lane]) for lane, offset in offsets.items()}
