"""Replay: a source's history through the pipeline as fast as it goes, without checkpoints or a clock.

No time passes but that of the events, so the windows that are open at the end stay open, and the summary says how many
rows are pending; draining closes them. A topic that is still written to is read up to where it ended at the start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from online_fm.quality import SCORED_BY
from online_fm.source.port import RecordBatch, Source, TopicPartition
from online_fm.train.judged import JudgedLearner
from online_fm.train.pipeline import Pipeline

__all__ = ["read_through", "replay", "summary"]

_POLL_MS = 500


def replay(
    source: Source,
    pipeline: Pipeline,
    *,
    batch_records: int,
    until: Mapping[TopicPartition, int] | None = None,
    drain: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Read a source to its end and give the summary; `on_progress` is told the records read so far.

    until: the offsets at which the partitions end; None where the source itself knows an end, as files do.
    """
    seconds = read_through(
        source, pipeline, batch_records=batch_records, until=until, drain=drain, on_progress=on_progress
    )
    return summary(pipeline, seconds)


def read_through(
    source: Source,
    pipeline: Pipeline,
    *,
    batch_records: int,
    until: Mapping[TopicPartition, int] | None,
    drain: bool,
    on_progress: Callable[[int], None],
) -> float:
    """Read a source to its end, as `replay`; give the seconds that it took."""
    began_s = time.perf_counter()
    pipeline.assign({p: offset for p, offset in source.positions().items() if until is None or p in until})
    read = 0
    while True:
        done = _reached(source, until)
        batch = source.poll(batch_records, _POLL_MS, pipeline.ahead() | done)
        if until is not None:
            batch = _cut(batch, until, _reached(source, until))
        pipeline.step(batch, now_ms=0)
        read += len(batch)
        on_progress(read)
        behind = any(source.lag().values()) if until is None else len(_reached(source, until)) < len(until)
        if not len(batch) and not behind and not pipeline.waiting():
            break
    if drain:
        pipeline.drain()
    return time.perf_counter() - began_s


def _reached(source: Source, until: Mapping[TopicPartition, int] | None) -> frozenset[TopicPartition]:
    """Partitions that were read up to their end."""
    positions = source.positions()
    return frozenset(p for p, end in (until or {}).items() if positions.get(p, end) >= end)


def _cut(batch: RecordBatch, until: Mapping[TopicPartition, int], reached: frozenset[TopicPartition]) -> RecordBatch:
    """Without the records that came after the end."""
    kept = []
    for records in batch.records:
        n = int(records.offsets.searchsorted(until.get(records.partition, 0)))
        if n:
            kept.append(records[:n])
    return RecordBatch(tuple(kept), reached)


def summary(pipeline: Pipeline, seconds: float, learner: int = 0) -> dict[str, Any]:
    """What was read, what became of it, and how good a learner's predictions were; NaN where nothing was judged.

    read = impressions + clicks + rejected;
    impressions = learned + quarantined + unclicked + pending + duplicates + late + dropped.
    """
    learned = pipeline.learners[learner]
    judged = {moment: asdict(quality.since_start()) for moment, quality in learned.quality.items()}
    scores = SCORED_BY[learned.quality["learning"].loss]
    return {
        **pipeline.counts(learner),
        "rejected_by_reason": pipeline.rejected(),
        "pending": pipeline.pending,
        "waiting_clicks": pipeline.waiting_clicks,
        "features": learned.learner.features,
        **{score: judged["learning"][score] for score in scores},
        **{f"{score}_at_impression": judged["impression"][score] for score in (scores[0], "auc") if score in scores},
        **{f"{scores[0]}_served": judged[moment][scores[0]] for moment in judged if moment == "served"},
        **_members(learned),
        "seconds": seconds,
        "state_hash": learned.learner.state_hash(),
    }


def _members(learned: JudgedLearner) -> dict[str, dict[str, dict[str, float]]]:
    """Of a committee, each member's weight in the score and how good it was by itself."""
    members = {}
    for name, weight in learned.weights().items():
        quality = learned.members[name]
        scores = asdict(quality.since_start())
        members[name] = {"weight": weight, **{score: scores[score] for score in SCORED_BY[quality.loss]}}
    return {"members": members} if members else {}
