"""Every Prometheus family that online_fm exposes, for the worker and for serving.

Invariant: all families are declared here, on a registry handed in, and every label is drawn from a set
that the process bounds: topics, partitions, fields and members of the configuration, and the tuples below. A
value outside its tuple is a `KeyError`, never a new series. Methods take plain values and are called once per
batch (worker) or per request (serving), never per event.

Prefix `online_fm_`, base units, counters end in `_total`. Log-loss is kept twice. The gauges are what the
quality room says of its own windows, counted in examples. The counters (nats and weight) can be divided over
any window of time in PromQL, and workers add up:

    sum(rate(online_fm_log_loss_nats_total[5m])) / sum(rate(online_fm_log_loss_weight_total[5m]))

A worker that learns by another loss has that one's families instead; those of other losses have no series.

The worker's state is read when it is scraped, not set by the loop: a loop that is stuck cannot say so.
https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)

from online_fm import __version__
from online_fm.quality import SCORED_BY, LossName
from online_fm.telemetry.health import State

__all__ = ["MOMENTS", "OUTCOMES", "REFUSALS", "SCORES", "SPANS", "STATES", "ServeMetrics", "WorkerMetrics"]

OUTCOMES: Final = (
    "impressions",
    "clicks",
    "learned",
    "positives",
    "duplicates",
    "late",
    "dropped",
    "quarantined",
    "unclicked",
    "orphans",
    "duplicate_clicks",
    "late_clicks",
    "outside_window",
    "dropped_clicks",
)
MOMENTS: Final = ("impression", "learning", "served")
SPANS: Final = ("start", "window")
STATES: Final = tuple(State)
# score of the quality room -> family
SCORES: Final = {
    "log_loss": "log_loss",
    "auc": "auc",
    "auc_error": "auc_error_bound",
    "normalized_entropy": "normalized_entropy",
    "calibration": "calibration_ratio",
    "rmse": "rmse",
    "mae": "mae",
    "r2": "r2",
    "hinge_loss": "hinge_loss",
}
# loss -> families of its sum and of the weights in it
_SUMS: Final[Mapping[LossName, tuple[str, str]]] = {
    "log": ("log_loss_nats", "log_loss_weight"),
    "squared": ("squared_error", "squared_error_weight"),
    "hinge": ("hinge", "hinge_weight"),
}
# score of each member of a committee -> what it is; those that its loss does not define have no series
_MEMBER_SCORES: Final = {
    "log_loss": "Progressive log-loss of a committee's member, in nats.",
    "auc": "Progressive area under the ROC curve of a committee's member.",
    "rmse": "Progressive root of the mean squared error of a committee's member.",
    "hinge_loss": "Progressive hinge loss of a committee's member.",
}
REFUSALS: Final = ("bad_file", "unreachable")
_FEATURE_FLAWS: Final = ("unknown", "missing", "truncated")

_STEP_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_BATCH_RECORDS: Final = (1, 10, 50, 100, 500, 1_000, 2_000, 5_000, 10_000, 50_000)
_FILE_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
# scoring one row takes a fraction of a millisecond, a caller gives up after seconds
_REQUEST_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class _Families:
    """Makes families on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self._registry)

    def gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(name, help_text, labels, registry=self._registry)

    def histogram(self, name: str, help_text: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, help_text, labels, registry=self._registry, buckets=buckets)

    def process(self) -> None:
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        build = Info("online_fm_build", "What is running.", registry=self._registry)
        build.info({"version": __version__, "python": platform.python_version()})


class WorkerMetrics:
    """What the training worker exposes.

    loss: what the model learns by, and is judged by; members: of a committee, by name.
    """

    def __init__(self, registry: CollectorRegistry, loss: LossName = "log", members: Sequence[str] = ()) -> None:
        self.registry = registry
        self._loss = loss
        self._members = tuple(members)
        new = _Families(registry)
        new.process()
        self._reading(new)
        self._joining(new)
        self._judging(new)
        self._comparing(new)
        self._learning(new)
        self._keeping(new)

    def _reading(self, new: _Families) -> None:
        self._read = new.counter("online_fm_records_read", "Records read and merged.", "topic")
        self._rejected = new.counter("online_fm_records_rejected", "Records rejected.", "topic", "reason")
        self._dead_letters = new.counter("online_fm_dead_letters", "Rejected records kept as dead letters, for good.")
        self._lost = new.counter("online_fm_records_lost", "Records that retention removed before they were read.")
        self._lag = new.gauge(
            "online_fm_lag_records", "Records known of and not read, per partition.", "topic", "partition"
        )
        self._lagging: set[tuple[str, int]] = set()

    def _joining(self, new: _Families) -> None:
        events = new.counter("online_fm_events", "What became of events.", "outcome")
        self._events = {outcome: events.labels(outcome) for outcome in OUTCOMES}
        flaws = new.counter(
            "online_fm_feature_flaws",
            "Fields not in the spec (unknown), absent from the event (missing), cut short (truncated).",
            "kind",
        )
        self._flaws = {kind: flaws.labels(kind) for kind in _FEATURE_FLAWS}
        self._pending = new.gauge("online_fm_pending_rows", "Impressions whose label is not known yet.")
        self._stream_time = new.gauge(
            "online_fm_stream_time_seconds", "Event time up to which everything was read, Unix time."
        )
        self._freshness = new.gauge(
            "online_fm_freshness_seconds", "Wall clock minus stream time, when the last batch ended."
        )
        for unknown in (self._stream_time, self._freshness):
            unknown.set(math.nan)

    def _judging(self, new: _Families) -> None:
        helps = {
            "log_loss": "Progressive log-loss, in nats.",
            "auc": "Progressive area under the ROC curve.",
            "auc_error": "The most by which online_fm_auc can be wrong.",
            "normalized_entropy": "Log-loss divided by the entropy of the mean click rate.",
            "calibration": "Sum of predictions divided by the sum of labels: by the number of clicks.",
            "rmse": "Progressive root of the mean squared error.",
            "mae": "Progressive mean absolute error.",
            "r2": "1 minus squared error divided by that of always predicting the mean label.",
            "hinge_loss": "Progressive hinge loss.",
        }
        gauges = {
            score: new.gauge(f"online_fm_{family}", helps[score], "moment", "span") for score, family in SCORES.items()
        }
        self._scores = {score: gauges[score] for score in SCORED_BY[self._loss]}
        of_losses = {"log": "log-loss", "squared": "squared error", "hinge": "hinge loss"}
        sums = {
            loss: (
                new.counter(f"online_fm_{total}", f"Sum of weighted {of_losses[loss]}.", "moment"),
                new.counter(f"online_fm_{weight}", "Sum of the weights in it.", "moment"),
            )
            for loss, (total, weight) in _SUMS.items()
        }
        examples = new.counter("online_fm_examples", "Examples judged.", "moment")
        self._losses = {
            moment: [counter.labels(moment) for counter in (*sums[self._loss], examples)] for moment in MOMENTS
        }

    def _comparing(self, new: _Families) -> None:
        self._member_weight = new.gauge(
            "online_fm_member_weight", "Weight of a committee's member in the score; 0: it is only watched.", "member"
        )
        gauges = {
            score: new.gauge(f"online_fm_member_{score}", help_text, "member", "span")
            for score, help_text in _MEMBER_SCORES.items()
        }
        self._member_scores = {score: gauge for score, gauge in gauges.items() if score in SCORED_BY[self._loss]}
        self._field_scale = new.gauge(
            "online_fm_field_scale",
            "Learned scale of a field's weights (of=w) or factors (of=v); in a committee its largest member's.",
            "field",
            "of",
        )
        self._scaled: set[tuple[str, str]] = set()

    def _learning(self, new: _Families) -> None:
        self._features = new.gauge("online_fm_model_features", "Features in the table.")
        self._limit = new.gauge("online_fm_model_features_limit", "Features that the table may hold.")
        self._overflow = new.counter("online_fm_model_overflow", "Features that found no place in the table.")
        self._step = new.histogram(
            "online_fm_step_duration_seconds",
            "Time to decode, join, learn and judge one batch.",
            buckets=_STEP_SECONDS,
        )
        self._batch = new.histogram("online_fm_batch_records", "Records in a batch.", buckets=_BATCH_RECORDS)
        self._state = new.gauge(
            "online_fm_worker_state", "1 for the state that the worker is in when it is scraped.", "state"
        )

    def _keeping(self, new: _Families) -> None:
        self._checkpoint_seconds = new.histogram(
            "online_fm_checkpoint_duration_seconds",
            "Time to write, verify and commit a checkpoint.",
            buckets=_FILE_SECONDS,
        )
        self._checkpoint_bytes = new.gauge("online_fm_checkpoint_bytes", "Size of the last checkpoint.")
        self._checkpoint_time = new.gauge(
            "online_fm_checkpoint_timestamp_seconds", "When the last checkpoint was kept, Unix time."
        )
        self._checkpoint_version = new.gauge("online_fm_checkpoint_version", "Version of the last checkpoint.")
        self._checkpoint_failures = new.counter(
            "online_fm_checkpoint_failures", "Checkpoints that could not be written."
        )
        self._commit_failures = new.counter(
            "online_fm_commit_failures",
            "Offsets that the group did not take; the checkpoint holds them all the same.",
        )
        self._snapshot_version = new.gauge("online_fm_snapshot_version", "Version of the last snapshot published.")
        self._snapshot_time = new.gauge(
            "online_fm_snapshot_timestamp_seconds", "When the last snapshot was published, Unix time."
        )

    def watch_state(self, read: Callable[[], str]) -> None:
        """Ask `read` for the worker's state, one of `STATES`, at every scrape."""
        for state in STATES:
            self._state.labels(state).set_function(partial(_is, read, state))

    def records(self, read: Mapping[str, int], rejected: Mapping[tuple[str, str], int]) -> None:
        """Add records read, per topic, and rejected, per (topic, reason), since the last call."""
        for topic, n in read.items():
            self._read.labels(topic).inc(n)
        for (topic, reason), n in rejected.items():
            self._rejected.labels(topic, reason).inc(n)

    def dead_letters(self, n: int) -> None:
        """Add rejected records that are kept for good: flushed, not only handed over."""
        self._dead_letters.inc(n)

    def lost(self, n: int) -> None:
        """Add records that retention removed before they were read."""
        self._lost.inc(n)

    def lag(self, records: Mapping[tuple[str, int], int]) -> None:
        """Set the lag of all (topic, partition); the series of those not named go."""
        for gone in self._lagging - records.keys():
            self._lag.remove(gone[0], str(gone[1]))
        for (topic, partition), n in records.items():
            self._lag.labels(topic, str(partition)).set(n)
        self._lagging = {(topic, partition) for topic, partition in records}

    def events(self, counts: Mapping[str, int]) -> None:
        """Add to the outcomes named, each one of `OUTCOMES`."""
        for outcome, n in counts.items():
            self._events[outcome].inc(n)

    def feature_flaws(self, *, unknown: int, missing: int, truncated: int) -> None:
        """Add fields that were not in the spec, absent from the event, or cut short."""
        self._flaws["unknown"].inc(unknown)
        self._flaws["missing"].inc(missing)
        self._flaws["truncated"].inc(truncated)

    def pending(self, rows: int) -> None:
        """Set the number of impressions that wait for their label."""
        self._pending.set(rows)

    def stream_time(self, stream_ms: int, now_ms: int) -> None:
        """Set stream time and how far it is behind the wall clock; 0, before the first event, leaves both NaN."""
        if not stream_ms:
            return
        self._stream_time.set(stream_ms / 1000)
        self._freshness.set((now_ms - stream_ms) / 1000)

    def loss(self, moment: str, *, total: float, weight: float, examples: int) -> None:
        """Add the weighted loss of the examples judged since the last call; the log loss in nats."""
        for counter, amount in zip(self._losses[moment], (total, weight, examples), strict=True):
            counter.inc(amount)

    def quality(self, moment: str, span: str, scores: Mapping[str, float]) -> None:
        """Set the scores of one moment and span; `scores` has at least those that the loss defines."""
        if moment not in MOMENTS or span not in SPANS:
            raise KeyError(moment, span)
        for score, gauge in self._scores.items():
            gauge.labels(moment, span).set(scores[score])

    def member(self, name: str, weight: float, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Set the weight of a committee's member and, by span, its scores: at least those that the loss defines."""
        if name not in self._members or not scores.keys() <= set(SPANS):
            raise KeyError(name, *scores)
        self._member_weight.labels(name).set(weight)
        for span, of_span in scores.items():
            for score, gauge in self._member_scores.items():
                gauge.labels(name, span).set(of_span[score])

    def field_scales(self, scales: Mapping[str, Mapping[str, float]]) -> None:
        """Set the scales by what they are of and field; the series of those not named go."""
        named = {(field, of): scale for of, by_field in scales.items() for field, scale in by_field.items()}
        for gone in self._scaled - named.keys():
            self._field_scale.remove(*gone)
        for (field, of), scale in named.items():
            self._field_scale.labels(field, of).set(scale)
        self._scaled = set(named)

    def model(self, features: int, limit: int) -> None:
        """Set the number of features in the table, and how many it may hold."""
        self._features.set(features)
        self._limit.set(limit)

    def overflow(self, n: int) -> None:
        """Add features that found no place in the table."""
        self._overflow.inc(n)

    def step(self, seconds: float, records: int) -> None:
        """Observe one batch."""
        self._step.observe(seconds)
        self._batch.observe(records)

    def checkpoint(self, version: int, seconds: float, size_bytes: int, now_ms: int) -> None:
        """Observe a checkpoint that was kept."""
        self._checkpoint_seconds.observe(seconds)
        self._checkpoint_bytes.set(size_bytes)
        self._checkpoint_version.set(version)
        self._checkpoint_time.set(now_ms / 1000)

    def restored(self, version: int, created_ms: int) -> None:
        """Set the version of the checkpoint that the worker goes on from, and when it was kept."""
        self._checkpoint_version.set(version)
        self._checkpoint_time.set(created_ms / 1000)

    def checkpoint_failed(self) -> None:
        """Count a checkpoint that could not be written."""
        self._checkpoint_failures.inc()

    def commit_failed(self) -> None:
        """Count offsets that the group did not take."""
        self._commit_failures.inc()

    def snapshot(self, version: int, now_ms: int) -> None:
        """Set the version that was published, and when."""
        self._snapshot_version.set(version)
        self._snapshot_time.set(now_ms / 1000)


class ServeMetrics:
    """What the serving process exposes. `clock` gives Unix time in seconds."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.time) -> None:
        self.registry = registry
        self._clock = clock
        new = _Families(registry)
        new.process()
        self._requesting(new)
        self._loading(new)

    def _requesting(self, new: _Families) -> None:
        self._requests = new.counter("online_fm_serve_requests", "Requests answered.", "route", "code")
        self._seconds = new.histogram(
            "online_fm_serve_request_duration_seconds",
            "Time from the request's arrival to the last byte of the reply.",
            "route",
            buckets=_REQUEST_SECONDS,
        )
        self._rows = new.counter("online_fm_serve_rows", "Rows scored.", "route")

    def _loading(self, new: _Families) -> None:
        self._version = new.gauge("online_fm_serve_snapshot_version", "Version that is served, 0 before the first.")
        self._created = new.gauge(
            "online_fm_serve_snapshot_created_timestamp_seconds",
            "When the served snapshot was made, Unix time.",
        )
        self._loaded = new.gauge(
            "online_fm_serve_snapshot_loaded_timestamp_seconds",
            "When the served snapshot was swapped in, Unix time.",
        )
        self._load_seconds = new.histogram(
            "online_fm_serve_load_duration_seconds",
            "Time to read, verify and warm up a snapshot.",
            buckets=_FILE_SECONDS,
        )
        failures = new.counter("online_fm_serve_load_failures", "Snapshots that were refused.", "reason")
        self._load_failures = {reason: failures.labels(reason) for reason in REFUSALS}
        self._swaps = new.counter("online_fm_serve_swaps", "Snapshots that were swapped in.")

    def request(self, route: str, code: int, seconds: float, rows: int = 0) -> None:
        """Observe one request. `route` is the path's template or `other`, never the path itself."""
        self._requests.labels(route, str(code)).inc()
        self._seconds.labels(route).observe(seconds)
        if rows:
            self._rows.labels(route).inc(rows)

    def loaded(self, version: int, created_ms: int, seconds: float) -> None:
        """Observe a snapshot that is served from now on."""
        self._version.set(version)
        self._created.set(created_ms / 1000)
        self._loaded.set(self._clock())
        self._load_seconds.observe(seconds)
        self._swaps.inc()

    def load_failed(self, reason: str) -> None:
        """Count a snapshot that was refused; `reason` is one of `REFUSALS`."""
        self._load_failures[reason].inc()


def _is(read: Callable[[], str], state: str) -> float:
    return float(read() == state)
