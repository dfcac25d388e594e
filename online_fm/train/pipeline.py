"""The whole meaning of training: `step(records, now_ms)` reads, joins, learns, judges, and says what happened.

The daemon, offline replay, the benchmarks and the property tests all call it. It takes values and returns values; the
only time it knows is the `now_ms` handed in. Its state after any records is a function of these records, whatever the
batches they came in, and `state` and `restore` cut it anywhere.

Stream time moves on with `now_ms` only while every partition is read to its end and nothing waits to be merged, at the
distance that it had when the last record was merged: a quiet night closes windows, and so does a replay of old data.

What a restart must not change is in the state: parameters, pending rows, sums of quality, counts, offsets and keys of
the merge. Records that were read and not merged are read again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from numpy.typing import NDArray

from online_fm.join.facts import CLICK, IMPRESSION, REJECT
from online_fm.join.merge import Lane, Merged, Merger
from online_fm.join.pending import Batch, Pending
from online_fm.scan.scanner import Scanner
from online_fm.source.dead_letter import DeadLetter
from online_fm.source.port import RecordBatch, Records, TopicPartition
from online_fm.train.judged import JudgedLearner, LearningConfig

__all__ = ["LearningConfig", "Loss", "Pipeline", "PipelineState", "StepReport"]

_AHEAD = 4  # batches that a partition may be ahead of the others before it is paused
_FLAWS = ("unknown", "missing", "truncated")

Tensors = dict[str, NDArray[Any]]


class Loss(NamedTuple):
    """Weighted loss of the examples of one step; the log loss in nats."""

    total: float
    weight: float
    examples: int


@dataclass(slots=True)
class StepReport:
    """What one step did. Counts are of this step; `read` and `rejected` of what was merged in it."""

    records: int = 0
    merged: int = 0
    read: Counter[str] = field(default_factory=Counter)
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    flaws: Counter[str] = field(default_factory=Counter)
    rejects: list[DeadLetter] = field(default_factory=list)
    losses: dict[str, Loss] = field(default_factory=dict)


class PipelineState(NamedTuple):
    """All of a pipeline between two steps: numbers, offsets per partition, and the rest as plain JSON values."""

    tensors: Tensors
    offsets: dict[TopicPartition, int]
    rest: dict[str, Any]


class Pipeline:
    """Learns two topics. Not for several threads.

    learners: who learns, side by side; without any, one of this configuration. The first is the one that reports,
    state and counts are of.
    """

    def __init__(
        self,
        config: LearningConfig,
        *,
        impressions: str,
        clicks: str,
        batch_records: int = 5000,
        learners: Sequence[JudgedLearner] = (),
    ) -> None:
        self.config = config
        self._topics = (impressions, clicks)
        self._most_waiting = _AHEAD * batch_records
        self._scanner = Scanner(config.events, config.features)
        self._merger = Merger()
        self.learners = tuple(learners) or (JudgedLearner(config),)
        self.learner, self.quality = self.learners[0].learner, self.learners[0].quality
        self._pending = Pending(config.join, len(self.learners))
        self._rejects: dict[Lane, deque[DeadLetter]] = {}
        self._read: Counter[str] = Counter()
        self._rejected: Counter[tuple[str, str]] = Counter()
        self._first_ms: int | None = None
        self._anchor: tuple[int, int] | None = None  # (stream time, now_ms) when the last record was merged

    def assign(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Make partitions known by the offset that is read first; until they have spoken the others wait.

        One that a batch brings unannounced begins with its first record there.
        """
        self._merger.assign({self._lane(partition): offset for partition, offset in offsets.items()})

    def retain(self, partitions: AbstractSet[TopicPartition]) -> dict[TopicPartition, int]:
        """Forget partitions that are not among these any more; give them, with the offsets that they had reached."""
        gone = {partition: offset for partition, offset in self.offsets().items() if partition not in partitions}
        self._merger.drop(self._lane(partition) for partition in gone)
        return gone

    def missing_topics(self) -> tuple[str, ...]:
        """Topics without a partition: nothing is merged until they have one."""
        present = {partition.topic for partition in self.offsets()}
        return tuple(topic for topic in self._topics if topic not in present)

    def step(self, batch: RecordBatch, now_ms: int) -> StepReport:
        """Take in one batch."""
        report = StepReport(records=len(batch))
        before = self._joined()
        for records in batch.records:
            self.assign({records.partition: int(records.offsets[0])})
            self._add(records, report)
        at_end = {self._lane(partition) for partition in batch.at_end}
        merged = self._merger.take(at_end)
        if merged is not None:
            report.merged = len(merged.key)
            self._learn(self._pending.run(merged), report)
            self._settle(merged, report)
            self._anchor = (self.stream_time_ms, now_ms)
        elif (
            self._merger.complete
            and at_end >= self._merger.waiting().keys()
            and not any(self._merger.waiting().values())
        ):
            stream_ms, then_ms = self._anchor = self._anchor or (self.stream_time_ms, now_ms)
            self._learn(self._pending.advance(stream_ms + now_ms - then_ms), report)
        report.counts.update({name: n - before[name] for name, n in self._joined().items()})
        return report

    def drain(self) -> StepReport:
        """Close all windows: what is pending is learned now."""
        report, before = StepReport(), self._joined()
        self._learn(self._pending.drain(), report)
        report.counts.update({name: n - before[name] for name, n in self._joined().items()})
        return report

    def ahead(self) -> frozenset[TopicPartition]:
        """Partitions that wait for the others, and should not be read on meanwhile."""
        waiting = self._merger.waiting().items()
        return frozenset(self._partition(lane) for lane, n in waiting if n >= self._most_waiting)

    def offsets(self) -> dict[TopicPartition, int]:
        """The offset after the last merged record of each partition."""
        return {self._partition(lane): offset for lane, offset in self._merger.offsets().items()}

    def waiting(self) -> int:
        """Records read and not merged yet."""
        return sum(self._merger.waiting().values())

    @property
    def stream_time_ms(self) -> int:
        return self._pending.stream_time_ms

    @property
    def first_time_ms(self) -> int | None:
        """The key of the first usable record that was merged, ms."""
        return self._first_ms

    @property
    def pending(self) -> int:
        """Impressions whose label is not known yet."""
        return self._pending.pending

    @property
    def waiting_clicks(self) -> int:
        """Clicks whose impression has not come yet."""
        return self._pending.waiting_clicks

    def counts(self, learner: int = 0) -> dict[str, int]:
        """Totals since the very first start; `read` and `rejected` over both topics."""
        totals = {"read": self._read.total(), "rejected": self._rejected.total()}
        return {**totals, **self._joined(learner), "quarantined": self.learners[learner].quarantined.total()}

    def rejected(self) -> dict[str, int]:
        """Rejects since the very first start, by reason."""
        reasons: Counter[str] = Counter()
        for (_, reason), n in self._rejected.items():
            reasons[reason] += n
        return dict(reasons)

    def state(self) -> PipelineState:
        """Everything that `restore` needs, as copies."""
        parts = {**self.learners[0].state(), "pending": self._pending.state()}
        tensors = {f"{part}.{name}": array for part, tensors in parts.items() for name, array in tensors.items()}
        rest = {
            "keys": {str(self._partition(lane)): key for lane, key in self._merger.keys().items()},
            "read": dict(self._read),
            "rejected": sorted([topic, reason, n] for (topic, reason), n in self._rejected.items()),
            "quarantined": dict(self.learners[0].quarantined),
            "first_time_ms": self._first_ms,
        }
        return PipelineState(tensors, self.offsets(), rest)

    def restore(self, state: PipelineState) -> None:
        """Go on from a state; ValueError where it is not of this configuration."""
        rest = msgspec.convert(state.rest, _Rest)
        parts = _parts(state.tensors)
        missing = {"model", "pending", "quality.impression", "quality.learning"} - parts.keys()
        if missing:
            raise ValueError(f"no tensors of {', '.join(sorted(missing))}")
        self.learners[0].restore(parts, rest.quarantined)
        self._pending.restore(parts["pending"])
        lanes = {self._lane(partition): offset for partition, offset in state.offsets.items()}
        self._merger.restore(lanes, {lane: rest.keys[str(self._partition(lane))] for lane in lanes})
        self._read = Counter(rest.read)
        self._rejected = Counter({(topic, reason): n for topic, reason, n in rest.rejected})
        self._first_ms = rest.first_time_ms
        self._rejects.clear()
        self._anchor = None

    def _joined(self, learner: int = 0) -> dict[str, int]:
        """The join's counts; what was released and then quarantined is not learned."""
        counts, quarantined = self._pending.counts(), self.learners[learner].quarantined
        counts["learned"] -= quarantined.total()
        counts["positives"] -= quarantined["positive"]
        return counts

    def _lane(self, partition: TopicPartition) -> Lane:
        if partition.topic not in self._topics:
            raise ValueError(f"topic '{partition.topic}' is neither '{self._topics[0]}' nor '{self._topics[1]}'")
        return self._topics.index(partition.topic), partition.partition

    def _partition(self, lane: Lane) -> TopicPartition:
        return TopicPartition(self._topics[lane[0]], lane[1])

    def _add(self, records: Records, report: StepReport) -> None:
        """Read one partition's records, and queue them for the merge."""
        lane = self._lane(records.partition)
        found = self._scanner.clicks(records) if lane[0] else self._scanner.impressions(records)
        report.flaws.update({name: getattr(found, name) for name in _FLAWS})
        self._merger.add(lane, found.facts)
        self._rejects.setdefault(lane, deque()).extend(
            DeadLetter(
                *records.partition, int(records.offsets[i]), int(records.timestamps[i]), reason, records.values[i]
            )
            for i, reason in sorted(found.reasons.items())
        )

    def _settle(self, merged: Merged, report: StepReport) -> None:
        """Count what was merged, and let its rejects go."""
        rejected = Counter[tuple[str, str]]()
        for lane, offset in self._merger.offsets().items():
            queue = self._rejects.get(lane)
            while queue and queue[0].offset < offset:
                reject = queue.popleft()
                report.rejects.append(reject)
                rejected[reject.topic, str(reject.reason)] += 1
        kinds = merged.facts.kind
        report.read[self._topics[0]] += int((kinds == IMPRESSION).sum())
        report.read[self._topics[1]] += int((kinds == CLICK).sum())
        for (topic, _), n in rejected.items():
            report.read[topic] += n
        report.rejected += rejected
        self._rejected += rejected
        self._read += report.read
        if self._first_ms is None and (kinds != REJECT).any():
            self._first_ms = int(merged.key[kinds != REJECT][0])

    def _learn(self, batches: Iterable[Batch], report: StepReport) -> None:
        """Show every learner what arrives and what is released."""
        before = {moment: quality.totals() for moment, quality in self.quality.items()}
        quarantined = self.learners[0].quarantined.total()
        for batch in batches:
            if not len(batch):
                continue
            for number, learner in enumerate(self.learners):
                learner.learn(batch, partial(self._pending.predicted, batch, learner=number))
        report.counts["quarantined"] += self.learners[0].quarantined.total() - quarantined
        for moment, (total, weight, examples) in before.items():
            now = self.quality[moment].totals()
            report.losses[moment] = Loss(now[0] - total, now[1] - weight, now[2] - examples)


class _Rest(Struct):
    keys: dict[str, int]
    read: dict[str, int]
    rejected: list[tuple[str, str, int]]
    quarantined: dict[str, int]
    first_time_ms: int | None


def _parts(tensors: Tensors) -> dict[str, Tensors]:
    """Tensors by the part of the pipeline that they belong to: `part.name` -> part -> name."""
    parts: dict[str, Tensors] = {}
    for full_name, array in tensors.items():
        part, name = full_name.rsplit(".", 1)
        parts.setdefault(part, {})[name] = array
    return parts
