"""Health as a timetable: each line is a moment in seconds, what the loop says then, and what the port answers."""

from __future__ import annotations

import pytest

from online_fm.telemetry.config import HealthConfig
from online_fm.telemetry.health import Health, State

CONFIG = HealthConfig(
    stuck_after_s=60.0, long_work_within_s=300.0, checkpoints_within_s=600.0, catching_up_records=1_000
)


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


def test_a_long_checkpoint_is_not_a_loop_that_hangs(health):
    health.beat(0, read=10, lag=500)
    health.checkpointing(1)
    assert seen(health, 300.9) == (State.RUNNING, True, True)
    assert seen(health, 301) == (State.STUCK, False, False)
    assert health.report(301).reason == "no sign of the loop for 300 s"
    health.beat(302, read=0, lag=500)
    assert seen(health, 302) == (State.RUNNING, True, True)
    assert seen(health, 362) == (State.STUCK, False, False)


def test_reading_nothing_between_checkpoints_is_stuck_but_their_time_does_not_count(health):
    health.beat(0, read=10, lag=500)
    for start_s in range(0, 300, 100):
        health.beat(start_s + 20, read=0, lag=500)
        assert seen(health, start_s + 20)[0] is (State.STUCK if start_s == 200 else State.RUNNING)
        health.checkpointing(start_s + 20)
        health.beat(start_s + 100, read=0, lag=500)
    assert health.report(300).reason == "500 records to read and none read for 60 s"


def test_brokers_that_do_not_answer_for_long_are_stuck_but_no_reason_to_restart(health):
    health.beat(0, read=10, lag=0)
    for now_s in range(10, 75, 5):
        assert seen(health, now_s) == (State.RUNNING, True, True)
        health.beat(now_s, read=0, lag=0, answering=False)
    assert seen(health, 70) == (State.STUCK, True, False)
    assert health.report(70).reason == "the brokers have not answered for 60 s"
    health.beat(75, read=0, lag=0)
    assert seen(health, 75) == (State.RUNNING, True, True)
    health.beat(76, read=0, lag=0, answering=False)
    assert seen(health, 76) == (State.RUNNING, True, True)


def test_what_else_the_loop_waits_for_is_the_reason_when_it_takes_long(health):
    health.beat(0, read=10, lag=0)
    for now_s in range(1, 62):
        health.beat(now_s, read=0, lag=500, waiting_for="dead letters cannot be kept")
    assert seen(health, 61) == (State.STUCK, True, False)
    assert health.report(61).reason == "dead letters cannot be kept: waiting for 60 s"
    health.beat(62, read=500, lag=0)
    assert seen(health, 62) == (State.RUNNING, True, True)


def test_a_worker_held_ever_since_its_start_is_not_ready(health):
    health.beat(10, read=0, lag=0, answering=False, waiting_for="no partition yet of clicks")
    assert seen(health, 10) == (State.CATCHING_UP, True, False)
    assert health.report(10).reason == "the brokers have not answered; no partition yet of clicks: waiting"
    health.beat(15, read=0, lag=0, waiting_for="no partition yet of clicks")
    assert health.report(15).reason == "no partition yet of clicks: waiting"
    health.beat(69, read=0, lag=0, waiting_for="no partition yet of clicks")
    assert seen(health, 69) == (State.CATCHING_UP, True, False)
    health.beat(70, read=0, lag=0, waiting_for="no partition yet of clicks")
    assert seen(health, 70) == (State.STUCK, True, False)
    health.beat(71, read=0, lag=0)
    assert seen(health, 71) == (State.RUNNING, True, True)


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
