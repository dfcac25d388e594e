"""Replay: a source's history through the pipeline as fast as it goes, without checkpoints or a clock.

No time passes but that of the events, so the windows that are open at the end stay open, and the summary says how many
rows are pending; draining closes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from online_fm.source.port import Source
from online_fm.train.pipeline import Pipeline

__all__ = ["replay", "summary"]

_POLL_MS = 500


def replay(
    source: Source,
    pipeline: Pipeline,
    *,
    batch_records: int,
    drain: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Read a source to its end and give the summary; `on_progress` is told the records read so far."""
    began_s = time.perf_counter()
    read = 0
    while True:
        pipeline.assign(source.positions())
        batch = source.poll(batch_records, _POLL_MS, pipeline.ahead())
        pipeline.step(batch, now_ms=0)
        read += len(batch)
        on_progress(read)
        if not len(batch) and not pipeline.waiting() and not any(source.lag().values()):
            break
    if drain:
        pipeline.drain()
    return summary(pipeline, time.perf_counter() - began_s)


def summary(pipeline: Pipeline, seconds: float) -> dict[str, Any]:
    """What was read, what became of it, and how good the predictions were; NaN where nothing was judged.

    read = impressions + clicks + rejected;
    impressions = learned + quarantined + pending + duplicates + late + dropped.
    """
    learning = pipeline.quality["learning"].since_start()
    impression = pipeline.quality["impression"].since_start()
    served = [(moment, quality) for moment, quality in pipeline.quality.items() if moment == "served"]
    return {
        **pipeline.counts(),
        "rejected_by_reason": pipeline.rejected(),
        "pending": pipeline.pending,
        "waiting_clicks": pipeline.waiting_clicks,
        "features": pipeline.learner.features,
        "log_loss": learning.log_loss,
        "auc": learning.auc,
        "auc_error": learning.auc_error,
        "normalized_entropy": learning.normalized_entropy,
        "calibration": learning.calibration,
        "log_loss_at_impression": impression.log_loss,
        "auc_at_impression": impression.auc,
        **{f"log_loss_{moment}": quality.since_start().log_loss for moment, quality in served},
        "seconds": seconds,
        "state_hash": pipeline.learner.state_hash(),
    }
