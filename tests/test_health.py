"""Health as a timetable: each line is a moment in seconds, what the loop says then, and what the port answers."""

from __future__ import annotations

import pytest

from online_fm.telemetry.config import HealthConfig
from online_fm.telemetry.health import Health, State

CONFIG = HealthConfig(start_within_s=300.0, stuck_after_s=60.0, checkpoints_within_s=600.0, catching_up_records=1_000)


@pytest.fixture
def health() -> Health:
    return Health(CONFIG, now_s=0.0)


def seen(health: Health, now_s: float) -> tuple[State, bool, bool]:
    report = health.report(now_s)
    return report.state, report.live, report.ready


def test_a_worker_starts_catches_up_and_runs(health):
    assert seen(health, 1) == (State.STARTING, True, False)
    health.beat(20, read=0, lag=50_000)
    assert seen(health, 20) == (State.CATCHING_UP, True, False)
    health.beat(21, read=49_000, lag=1_001)
    assert seen(health, 21) == (State.CATCHING_UP, True, False)
    health.beat(22, read=1, lag=1_000)
    assert seen(health, 22) == (State.RUNNING, True, True)
    health.stop()
    assert seen(health, 23) == (State.STOPPING, True, False)


def test_a_loop_that_gives_no_sign_is_not_live_until_it_does(health):
    health.beat(0, read=10, lag=0)
    assert seen(health, 59.9) == (State.RUNNING, True, True)
    assert seen(health, 60) == (State.STUCK, False, False)
    assert health.report(75).reason == "no sign of the loop for 75 s"
    health.beat(80, read=10, lag=0)
    assert seen(health, 80) == (State.RUNNING, True, True)


def test_starting_has_a_longer_patience_but_an_end(health):
    assert seen(health, 299) == (State.STARTING, True, False)
    assert seen(health, 300) == (State.STUCK, False, False)


def test_records_to_read_and_none_read_is_stuck_but_no_reason_to_restart(health):
    health.beat(0, read=10, lag=500)
    for now_s in range(1, 60):
        health.beat(now_s, read=0, lag=500)
    assert seen(health, 59) == (State.RUNNING, True, True)
    health.beat(60, read=0, lag=500)
    assert seen(health, 60) == (State.STUCK, True, False)
    assert health.report(60).reason == "500 records to read and none read for 60 s"
    health.beat(61, read=5, lag=495)
    assert seen(health, 61) == (State.RUNNING, True, True)


def test_a_quiet_night_is_not_stuck(health):
    for now_s in range(0, 40_000, 10):
        health.beat(now_s, read=0, lag=0)
    assert seen(health, 39_999) == (State.RUNNING, True, True)
    health.beat(40_000, read=0, lag=7)
    assert seen(health, 40_000) == (State.RUNNING, True, True)


def test_a_long_start_does_not_count_as_reading_nothing(health):
    health.beat(250, read=0, lag=100)
    assert seen(health, 250) == (State.RUNNING, True, True)


def test_checkpoints_that_fail_for_long_are_stuck_until_one_is_kept(health):
    health.checkpoint_failed(100)
    for now_s in range(100, 700):
        health.beat(now_s, read=1, lag=0)
    health.checkpoint_failed(650)
    assert seen(health, 699) == (State.RUNNING, True, True)
    health.beat(700, read=1, lag=0)
    assert seen(health, 700) == (State.STUCK, True, False)
    assert health.report(700).reason == "checkpoints have been failing for 600 s"
    health.checkpoint_kept()
    assert seen(health, 700) == (State.RUNNING, True, True)


def test_a_worker_that_stops_is_left_to_finish(health):
    health.beat(0, read=1, lag=0)
    health.stop()
    assert seen(health, 3_600) == (State.STOPPING, True, False)


def test_a_report_tells_the_age_of_the_last_sign_and_the_lag(health):
    health.beat(10, read=1, lag=42)
    report = health.report(12.5)
    assert (report.heartbeat_age_s, report.lag_records) == (2.5, 42)
