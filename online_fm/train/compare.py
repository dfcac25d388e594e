"""Several configurations over one stream: read, decoded and joined once, learned side by side.

Invariant: what each gives is, bit for bit, what its replay alone gives; learners share the batches and nothing else. So
only configurations that are alike up to the model (events, features, join) can share a pass. In memory are one join
and all the learners, however long the stream.

The time of one is what all share plus what its own learner took: what its replay alone would take. Results come best
first, by the score that its loss is judged by; those of another loss, which no score compares, come behind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from online_fm.join.pending import Batch
from online_fm.quality import SCORED_BY
from online_fm.source.port import Source, TopicPartition
from online_fm.train.judged import JudgedLearner, LearningConfig, Predictions
from online_fm.train.pipeline import Pipeline
from online_fm.train.replay import read_through, summary

__all__ = ["alike", "best_first", "compare"]


def alike(one: LearningConfig, other: LearningConfig) -> bool:
    """Whether both make the same examples of the same records."""
    return (one.events, one.features, one.join) == (other.events, other.features, other.join)


def compare(
    source: Source,
    configs: Sequence[LearningConfig],
    *,
    topics: tuple[str, str],
    batch_records: int,
    until: Mapping[TopicPartition, int] | None = None,
    drain: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Read a source to its end once; give each configuration's summary, as `replay` does, and its events per second.

    topics: impressions and clicks; until: as in `replay`. ValueError where the configurations are not alike.
    """
    if not all(alike(configs[0], other) for other in configs):
        raise ValueError("configurations that differ before the model cannot share a pass")
    learners = [_Timed(config) for config in configs]
    pipeline = Pipeline(
        configs[0], impressions=topics[0], clicks=topics[1], batch_records=batch_records, learners=learners
    )
    all_s = read_through(
        source, pipeline, batch_records=batch_records, until=until, drain=drain, on_progress=on_progress
    )
    shared_s = all_s - sum(learner.seconds for learner in learners)
    results = [summary(pipeline, shared_s + each.seconds, number) for number, each in enumerate(learners)]
    return [{**result, "events_per_s": result["read"] / result["seconds"]} for result in results]


def best_first(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """By the first score of each one's loss, the least first; what was not judged comes last."""
    names = [scores[0] for scores in SCORED_BY.values()]

    def place(result: Mapping[str, Any]) -> tuple[int, bool, float]:
        name = next(name for name in names if name in result)
        return names.index(name), math.isnan(result[name]), result[name]

    return sorted(results, key=place)


class _Timed(JudgedLearner):
    """A judged learner that knows the seconds that it took."""

    seconds = 0.0

    def learn(self, batch: Batch, keep: Callable[[Predictions], Predictions]) -> None:
        began_s = time.perf_counter()
        super().learn(batch, keep)
        self.seconds += time.perf_counter() - began_s
