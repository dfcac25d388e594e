"""The worker: the loop that drives a pipeline from a source, for months.

One turn: poll, step, keep the rejects, tell the metrics, and commit a checkpoint where one is due. Whatever is not
foreseen ends the process before the next commit, and the next start goes on from the last one.

A turn takes what is there, so that a batch is large when the worker is behind and small when it is level. What a turn
costs however few records it has would eat a level worker up, so it makes at most 1 / `_TURN_S` turns a second, unless
they are well filled: that is the delay that a level stream is given, on top of what learning takes.

Time for windows is the wall clock at start plus monotonic time since, so that setting the clock closes no window.
A bounded source (files that are not followed) ends the run when all is read; windows then stay open, because event
time has not passed them: `replay --drain` closes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from threading import Event

import structlog

from online_fm.errors import SourceError, StoreError
from online_fm.source.dead_letter import DeadLetters
from online_fm.source.port import Source
from online_fm.telemetry.health import Health, State
from online_fm.telemetry.metrics import WorkerMetrics
from online_fm.train.checkpoint import Checkpoints, names_in
from online_fm.train.judged import JudgedLearner
from online_fm.train.pipeline import Pipeline, StepReport

__all__ = ["Worker", "WorkerParts"]

_RETRY_S = 1.0
_POLL_MS = 200  # an idle worker tells that it lives, and what time it is, so often
_TURN_S = 0.01
_GAUGES_EVERY_S = 1.0  # quality and lag are worth a look a second, not a look a batch

_log = structlog.get_logger("worker")


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """What a worker is plugged together from."""

    source: Source
    pipeline: Pipeline
    dead_letters: DeadLetters
    checkpoints: Checkpoints
    metrics: WorkerMetrics
    health: Health


class Worker:
    """Runs until it is told to stop, or a bounded source has ended; batches are of at most `batch_records`."""

    def __init__(
        self,
        parts: WorkerParts,
        *,
        batch_records: int,
        checkpoint_interval_s: float,
        bounded: bool = False,
        on_report: Callable[[StepReport], None] | None = None,
    ) -> None:
        self._parts, self._batch_records = parts, batch_records
        self._interval_s, self._bounded = checkpoint_interval_s, bounded
        self._on_report = on_report
        self._start_ms = round(time.time() * 1000) - round(time.monotonic() * 1000)
        self._committed_s = self._gauged_s = time.monotonic()
        self._changed = False
        self._losses: dict[str, int] = {}
        self._state: State | None = None
        self._stop = Event()

    def run(self, stop: Event) -> None:
        """Restore, then turn until `stop` is set; the last thing is a checkpoint."""
        self._stop = stop
        self._restore()
        while not stop.is_set() and not self._turn():
            pass
        self._parts.health.stop()
        self._gauges()
        if self._changed:
            self._commit()
        _log.info("stopped", stream_time_ms=self._parts.pipeline.stream_time_ms, **self._parts.pipeline.counts())

    def _now_ms(self) -> int:
        return self._start_ms + round(time.monotonic() * 1000)

    def _restore(self) -> None:
        parts = self._parts
        restored = parts.checkpoints.restore(parts.pipeline)
        for problem in restored.refused:
            _log.error("checkpoint refused, an older one is used", file=problem.name, why=problem.why)
        manifest = restored.manifest
        parts.source.seek(parts.pipeline.offsets(), names_in(manifest) if manifest else {})
        for partition, offset in parts.pipeline.retain(parts.source.partitions()).items():
            _log.error("a partition is gone", partition=str(partition), offset=offset)
        parts.pipeline.assign(parts.source.positions())
        self._losses = self._lost_so_far()
        self._troubles(restored.troubles)
        if manifest is None:
            _log.info("first start", partitions=len(parts.source.partitions()))
            self._try_commit()  # where to begin: with `start: latest` a restart must not begin later
        else:
            parts.metrics.restored(manifest.version, manifest.created_ms)
            _log.info("restored", checkpoint=manifest.version, learned=manifest.counts["learned"])

    def _turn(self) -> bool:
        """One turn of the loop; true where a bounded source has ended."""
        parts = self._parts
        turned_s = time.monotonic()
        parts.pipeline.assign(parts.source.positions())
        batch = parts.source.poll(self._batch_records, _POLL_MS, parts.pipeline.ahead())
        began_s = time.monotonic()
        report = parts.pipeline.step(batch, 0 if self._bounded else self._now_ms())
        parts.dead_letters.write(report.rejects)
        self._changed |= bool(report.merged or report.counts.total())
        now_s = time.monotonic()
        self._tell(report, now_s - began_s)
        if self._on_report is not None:
            self._on_report(report)
        if now_s - self._gauged_s >= _GAUGES_EVERY_S:
            self._gauges()
        if parts.dead_letters.full:
            self._make_room()
        if self._changed and now_s - self._committed_s >= self._interval_s:
            self._try_commit()
        if self._bounded and self._all_read(len(batch)):
            return True
        if len(batch) < self._batch_records / 2:
            time.sleep(max(0.0, turned_s + _TURN_S - time.monotonic()))
        return False

    def _all_read(self, n: int) -> bool:
        return n == 0 and not self._parts.pipeline.waiting() and not any(self._parts.source.lag().values())

    def _make_room(self) -> None:
        """Keep the rejects that wait; while that fails nothing more is read: they are bounded, and not to be lost."""
        while not self._stop.is_set():
            try:
                self._parts.metrics.dead_letters(self._parts.dead_letters.flush())
            except SourceError as problem:
                _log.error("dead letters cannot be kept, reading waits", why=str(problem))
                self._beat(0, waiting_for="dead letters cannot be kept")
                self._stop.wait(_RETRY_S)
            else:
                return

    def _beat(self, read: int, waiting_for: str | None = None) -> None:
        """A sign of life, and what the loop waits for."""
        source, pipeline = self._parts.source, self._parts.pipeline
        missing = pipeline.missing_topics()
        if missing and waiting_for is None:
            waiting_for = f"no partition yet of topic {' and '.join(missing)}"
        lag = sum(source.lag().values()) + pipeline.waiting()
        self._parts.health.beat(
            time.monotonic(), read=read, lag=lag, answering=source.answering, waiting_for=waiting_for
        )

    def _tell(self, report: StepReport, seconds: float) -> None:
        """Metrics and health, once a batch."""
        metrics, pipeline = self._parts.metrics, self._parts.pipeline
        metrics.records(report.read, report.rejected)
        metrics.events(report.counts)
        metrics.feature_flaws(**{name: report.flaws[name] for name in ("unknown", "missing", "truncated")})
        metrics.pending(pipeline.pending)
        for moment, loss in report.losses.items():
            metrics.loss(moment, total=loss.total, weight=loss.weight, examples=loss.examples)
        if report.records:
            metrics.step(seconds, report.records)
        self._beat(report.merged)

    def _gauges(self) -> None:
        """What is worth a look a second."""
        parts = self._parts
        self._gauged_s = time.monotonic()
        parts.metrics.lag({(topic, number): n for (topic, number), n in parts.source.lag().items()})
        parts.metrics.stream_time(parts.pipeline.stream_time_ms, self._now_ms())
        parts.metrics.model(parts.pipeline.learner.features, parts.pipeline.config.model.max_features)
        for moment, quality in parts.pipeline.quality.items():
            parts.metrics.quality(moment, "start", asdict(quality.since_start()))
            parts.metrics.quality(moment, "window", asdict(quality.window()))
        self._compare(parts.pipeline.learners[0])
        self._alarm()

    def _compare(self, learned: JudgedLearner) -> None:
        """How a committee's members do, and which fields count."""
        metrics = self._parts.metrics
        for name, weight in learned.weights().items():
            quality = learned.members[name]
            metrics.member(name, weight, {"start": asdict(quality.since_start()), "window": asdict(quality.window())})
        metrics.field_scales(learned.field_scales())

    def _lost_so_far(self) -> dict[str, int]:
        counts = self._parts.pipeline.counts()
        return {
            "retention": self._parts.source.lost,
            "max_pending": counts["dropped"] + counts["dropped_clicks"],
            "max_features": self._parts.pipeline.learner.overflowed,
        }

    def _alarm(self) -> None:
        """What was lost since the last look, and a new state of health, at the level that wakes somebody."""
        parts, before = self._parts, self._losses
        self._losses = self._lost_so_far()
        new = {name: n - before[name] for name, n in self._losses.items()}
        parts.metrics.lost(new["retention"])
        parts.metrics.overflow(new["max_features"])
        if new["retention"]:
            _log.error("records were lost to retention before they were read", records=new["retention"])
        if new["max_pending"]:
            _log.error("join.max_pending is reached: events are dropped", events=new["max_pending"])
        if new["max_features"]:
            _log.warning("model.max_features is reached: new features do not learn", features=new["max_features"])
        health = parts.health.report(time.monotonic())
        if health.state != self._state:
            self._state = health.state
            tell = _log.error if health.state is State.STUCK else _log.info
            tell(str(health.state), reason=health.reason)

    def _try_commit(self) -> None:
        """A checkpoint; where it fails, the loop goes on and the next one is tried after the same time."""
        try:
            self._commit()
        except (StoreError, SourceError) as problem:
            self._committed_s = time.monotonic()
            self._parts.metrics.checkpoint_failed()
            self._parts.health.checkpoint_failed(self._committed_s)
            _log.error("checkpoint failed", why=str(problem))

    def _commit(self) -> None:
        parts = self._parts
        began_s = time.monotonic()
        parts.health.checkpointing(began_s)
        done = parts.checkpoints.commit(parts.pipeline, parts.source, parts.dead_letters, self._now_ms())
        self._committed_s = time.monotonic()
        self._changed = False
        parts.metrics.dead_letters(done.letters_kept)
        parts.metrics.checkpoint(done.version, self._committed_s - began_s, done.size_bytes, self._now_ms())
        if done.published:
            parts.metrics.snapshot(done.version, self._now_ms())
        parts.health.checkpoint_kept()
        self._troubles(done.troubles)
        _log.info("checkpoint", version=done.version, learned=parts.pipeline.counts()["learned"])

    def _troubles(self, troubles: Iterable[SourceError | StoreError]) -> None:
        """What went wrong after a checkpoint was in force: nothing is lost."""
        for trouble in troubles:
            if isinstance(trouble, SourceError):
                self._parts.metrics.commit_failed()
            _log.warning("after the checkpoint", why=str(trouble))
