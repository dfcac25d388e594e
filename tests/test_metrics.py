"""Metrics are read back from the registry that was handed in."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from online_fm.telemetry.metrics import MOMENTS, OUTCOMES, REFUSALS, SCORES, SPANS, STATES, ServeMetrics, WorkerMetrics

SCORED = {"log_loss": 0.61, "auc": 0.71, "auc_error": 1e-4, "normalized_entropy": 0.93, "calibration": 1.02, "ctr": 0.4}


@pytest.fixture
def worker() -> WorkerMetrics:
    return WorkerMetrics(CollectorRegistry())


@pytest.fixture
def serving() -> ServeMetrics:
    return ServeMetrics(CollectorRegistry(), clock=lambda: 1_700_000_000.5)


def value(metrics: WorkerMetrics | ServeMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"online_fm_{name}", labels)


def test_counts_of_several_batches_add_up(worker):
    worker.records({"impressions": 10, "clicks": 3}, {("clicks", "not_json"): 1})
    worker.records({"impressions": 5}, {})
    worker.events({"impressions": 14, "learned": 12})
    worker.events({"learned": 1})
    assert value(worker, "records_read_total", topic="impressions") == 15
    assert value(worker, "records_rejected_total", topic="clicks", reason="not_json") == 1
    assert value(worker, "events_total", outcome="impressions") == 14
    assert value(worker, "events_total", outcome="learned") == 13


def test_every_outcome_is_there_from_the_start_so_that_its_first_increase_is_a_rate(worker, serving):
    assert [value(worker, "events_total", outcome=outcome) for outcome in OUTCOMES] == [0] * 14
    assert [value(worker, "log_loss_nats_total", moment=moment) for moment in MOMENTS] == [0] * 3
    assert [value(serving, "serve_load_failures_total", reason=reason) for reason in REFUSALS] == [0, 0]


def test_a_label_outside_its_set_makes_no_series(worker, serving):
    with pytest.raises(KeyError):
        worker.events({"lerned": 1})
    with pytest.raises(KeyError):
        worker.quality("impression", "hour", SCORED)
    with pytest.raises(KeyError):
        worker.loss("click", total=1.0, weight=1.0, examples=1)
    with pytest.raises(KeyError):
        serving.load_failed("sha256 of tensor v differs")
    assert b"lerned" not in generate_latest(worker.registry)


def test_the_lag_of_a_partition_that_went_away_is_no_longer_shown(worker):
    worker.lag({("impressions", 0): 7, ("impressions", 1): 9})
    worker.lag({("impressions", 1): 4})
    assert value(worker, "lag_records", topic="impressions", partition="0") is None
    assert value(worker, "lag_records", topic="impressions", partition="1") == 4


def test_stream_time_is_in_seconds_and_freshness_its_distance_from_the_clock(worker):
    worker.stream_time(1_700_000_000_250, now_ms=1_700_000_003_750)
    assert value(worker, "stream_time_seconds") == 1_700_000_000.25
    assert value(worker, "freshness_seconds") == 3.5


def test_stream_time_is_unknown_before_the_first_event(worker):
    worker.stream_time(0, now_ms=1_700_000_003_750)
    assert math.isnan(value(worker, "stream_time_seconds"))
    assert math.isnan(value(worker, "freshness_seconds"))


def test_scores_are_kept_for_each_moment_and_span(worker):
    for n, (moment, span) in enumerate((m, s) for m in MOMENTS for s in SPANS):
        worker.quality(moment, span, SCORED | {"auc": 0.5 + n / 100})
    assert value(worker, "auc", moment="impression", span="start") == 0.5
    assert value(worker, "auc", moment="served", span="window") == 0.55
    assert value(worker, "auc_error_bound", moment="learning", span="window") == 1e-4
    assert value(worker, "calibration_ratio", moment="learning", span="start") == 1.02


def test_a_score_that_is_not_defined_yet_is_exposed_as_nan(worker):
    worker.quality("served", "window", SCORED | {"auc": math.nan})
    assert math.isnan(value(worker, "auc", moment="served", span="window"))


def test_log_loss_of_any_span_of_time_is_a_quotient_of_two_counters(worker):
    worker.loss("learning", total=60.0, weight=100.0, examples=90)
    before = value(worker, "log_loss_nats_total", moment="learning")
    worker.loss("learning", total=25.0, weight=50.0, examples=50)
    nats = value(worker, "log_loss_nats_total", moment="learning") - before
    assert nats / (value(worker, "log_loss_weight_total", moment="learning") - 100.0) == 0.5
    assert value(worker, "examples_total", moment="learning") == 140


@pytest.mark.parametrize(
    ("loss", "scores", "total", "weight"),
    [
        ("squared", {"rmse": 0.9, "mae": 0.6, "r2": 0.2, "calibration": 1.1}, "squared_error", "squared_error_weight"),
        ("hinge", {"hinge_loss": 0.4, "auc": 0.8, "auc_error": 0.001}, "hinge", "hinge_weight"),
    ],
)
def test_a_worker_has_series_of_its_own_loss_only(loss, scores, total, weight):
    worker = WorkerMetrics(CollectorRegistry(), loss)
    worker.quality("learning", "window", scores)
    worker.loss("learning", total=30.0, weight=20.0, examples=10)
    exposed = {SCORES[score]: number for score, number in scores.items()}
    labels = {"moment": "learning", "span": "window"}
    assert {name: value(worker, name, **labels) for name in exposed} == exposed
    others = set(SCORES.values()) - exposed.keys()
    assert [value(worker, name, **labels) for name in others] == [None] * len(others)
    sums = [value(worker, f"{name}_total", moment="learning") for name in (total, weight, "examples")]
    assert sums == [30, 20, 10]
    assert value(worker, "log_loss_nats_total", moment="learning") is None


def test_members_of_a_committee_have_a_weight_and_the_scores_of_their_loss():
    worker = WorkerMetrics(CollectorRegistry(), members=("champion", "challenger"))
    worker.member("champion", 1.0, {"window": SCORED})
    worker.member("challenger", 0.0, {"start": SCORED, "window": SCORED | {"log_loss": 0.59}})
    assert [value(worker, "member_weight", member=name) for name in ("champion", "challenger")] == [1.0, 0.0]
    spans = [value(worker, "member_log_loss", member="challenger", span=span) for span in SPANS]
    assert spans == [0.61, 0.59]
    assert value(worker, "member_auc", member="champion", span="window") == 0.71
    assert value(worker, "member_rmse", member="champion", span="window") is None
    for name, span in (("stranger", "window"), ("champion", "hour")):
        with pytest.raises(KeyError):
            worker.member(name, 1.0, {span: SCORED})
    assert b"stranger" not in generate_latest(worker.registry)


@pytest.mark.parametrize(("loss", "score"), [("squared", "rmse"), ("hinge", "hinge_loss")])
def test_members_that_learn_numbers_or_margins_are_scored_as_such(loss, score):
    worker = WorkerMetrics(CollectorRegistry(), loss, ("one",))
    worker.member("one", 1.0, {"window": {score: 0.3, "auc": 0.8}})
    assert value(worker, f"member_{score}", member="one", span="window") == 0.3
    assert value(worker, "member_log_loss", member="one", span="window") is None


def test_scales_of_fields_that_a_new_largest_member_does_not_have_are_no_longer_shown(worker):
    worker.field_scales({"w": {"user": 1.5, "item": 0.5}, "v": {"user": 0.9, "item": 0.8}})
    worker.field_scales({"w": {"user": 1.6, "item": 0.5}})
    assert value(worker, "field_scale", field="user", of="w") == 1.6
    assert value(worker, "field_scale", field="user", of="v") is None


def test_the_state_is_asked_for_at_each_scrape(worker):
    state = "starting"
    worker.watch_state(lambda: state)
    assert [value(worker, "worker_state", state=each) for each in STATES] == [1, 0, 0, 0, 0]
    state = "stuck"
    assert [value(worker, "worker_state", state=each) for each in STATES] == [0, 0, 0, 1, 0]


def test_a_checkpoint_leaves_its_version_size_and_time(worker):
    worker.checkpoint(version=12, seconds=0.3, size_bytes=4_096, now_ms=1_700_000_000_500)
    worker.checkpoint_failed()
    worker.commit_failed()
    worker.snapshot(version=12, now_ms=1_700_000_001_000)
    assert value(worker, "checkpoint_version") == 12
    assert value(worker, "checkpoint_bytes") == 4_096
    assert value(worker, "checkpoint_timestamp_seconds") == 1_700_000_000.5
    assert value(worker, "checkpoint_duration_seconds_sum") == 0.3
    assert value(worker, "checkpoint_failures_total") == 1
    assert value(worker, "commit_failures_total") == 1
    assert value(worker, "snapshot_version") == 12
    assert value(worker, "snapshot_timestamp_seconds") == 1_700_000_001


def test_a_restart_shows_the_checkpoint_that_it_goes_on_from(worker):
    worker.restored(version=12, created_ms=1_700_000_000_500)
    assert value(worker, "checkpoint_version") == 12
    assert value(worker, "checkpoint_timestamp_seconds") == 1_700_000_000.5
    assert value(worker, "checkpoint_duration_seconds_count") == 0


def test_the_rest_of_a_batch_is_observed(worker):
    worker.step(seconds=0.02, records=1_500)
    worker.dead_letters(2)
    worker.lost(5)
    worker.pending(1_000)
    worker.model(features=900, limit=1_000)
    worker.overflow(3)
    worker.feature_flaws(unknown=1, missing=2, truncated=3)
    assert value(worker, "step_duration_seconds_bucket", le="0.025") == 1
    assert value(worker, "batch_records_bucket", le="1000.0") == 0
    assert value(worker, "batch_records_bucket", le="2000.0") == 1
    assert value(worker, "dead_letters_total") == 2
    assert value(worker, "records_lost_total") == 5
    assert value(worker, "pending_rows") == 1_000
    assert value(worker, "model_features") == 900
    assert value(worker, "model_features_limit") == 1_000
    assert value(worker, "model_overflow_total") == 3
    assert [value(worker, "feature_flaws_total", kind=kind) for kind in ("unknown", "missing", "truncated")] == [
        1,
        2,
        3,
    ]


def test_requests_are_counted_by_route_and_code(serving):
    serving.request("infer", 200, 0.0008, rows=50)
    serving.request("infer", 400, 0.0002)
    assert value(serving, "serve_requests_total", route="infer", code="200") == 1
    assert value(serving, "serve_requests_total", route="infer", code="400") == 1
    assert value(serving, "serve_rows_total", route="infer") == 50
    assert value(serving, "serve_request_duration_seconds_bucket", route="infer", le="0.0005") == 1
    assert value(serving, "serve_request_duration_seconds_count", route="infer") == 2


def test_a_swap_leaves_the_version_and_both_of_its_times(serving):
    assert value(serving, "serve_snapshot_version") == 0
    serving.loaded(version=7, created_ms=1_699_999_998_000, seconds=0.2)
    serving.load_failed("bad_file")
    assert value(serving, "serve_snapshot_version") == 7
    assert value(serving, "serve_snapshot_created_timestamp_seconds") == 1_699_999_998
    assert value(serving, "serve_snapshot_loaded_timestamp_seconds") == 1_700_000_000.5
    assert value(serving, "serve_swaps_total") == 1
    assert value(serving, "serve_load_failures_total", reason="bad_file") == 1


def test_names_follow_the_conventions(worker, serving):
    exposed = generate_latest(worker.registry).decode() + generate_latest(serving.registry).decode()
    families = [each for each in text_string_to_metric_families(exposed) if each.name.startswith("online_fm_")]
    assert len(families) > 40
    for family in families:
        assert family.documentation.endswith("."), family.name
        assert "_ms" not in family.name, family.name
        assert "_millis" not in family.name, family.name
