"""The daemon, as a process: it is killed, told to stop, fed with rubbish, and asked how it is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import msgspec
import pytest
from daemon import Folder, get, until
from traffic import START_MS, fingerprint, pipeline, read_all, records, source

from online_fm.snapshot.store import file_name, version_of
from online_fm.source.port import TopicPartition

EVENTS = 20_000
SHOWN, CLICKED = TopicPartition("impressions", 0), TopicPartition("clicks", 0)


@pytest.fixture(scope="module")
def whole():
    learner = pipeline()
    read_all(learner, source(events=EVENTS))
    return fingerprint(learner)


def test_files_are_learned_to_their_end_and_the_worker_leaves_with_0(tmp_path, whole) -> None:
    folder = Folder(tmp_path)
    folder.write(records(events=EVENTS))
    folder.run("train")
    assert fingerprint(folder.learned()) == whole


def test_a_worker_that_is_killed_again_and_again_ends_with_the_same_state(tmp_path, whole) -> None:
    folder = Folder(tmp_path)
    folder.write(records(events=EVENTS))
    deaths = 0
    while deaths < 4:
        before = newest(folder)
        worker = folder.start("train", "checkpoint.interval_s=0.05", batch_records=20)
        until(lambda before=before, worker=worker: newest(folder) >= before + 4 or worker.poll() is not None)
        time.sleep(0.013 * deaths)  # somewhere else each time
        worker.send_signal(signal.SIGKILL)
        if worker.wait() == -signal.SIGKILL:
            deaths += 1
    partly = folder.learned().counts()["learned"]
    assert 0 < partly < whole[1]["learned"]
    folder.run("train", batch_records=777)
    assert fingerprint(folder.learned()) == whole
    coordinates = {(d["topic"], d["partition"], d["offset"]) for d in folder.dead_letters()}
    assert len(coordinates) == whole[1]["rejected"]


def newest(folder: Folder) -> int:
    return max((version_of(name) or 0 for name in folder.checkpoints()), default=0)


def test_sigterm_finishes_the_batch_keeps_a_checkpoint_and_leaves_with_0(tmp_path) -> None:
    folder = Folder(tmp_path, checkpoint={"interval_s": 1000})
    folder.write(records())
    worker = folder.start("train", "source.follow=true")
    until(lambda: get(f"http://127.0.0.1:{folder.port}/health/ready")[0] == 200)
    until(lambda: folder.metric('online_fm_records_read_total{topic="impressions"}'))
    assert folder.checkpoints() == [file_name("checkpoint", 1)]  # of the first start: where it began
    folder.stop(worker)
    assert folder.learned().counts()["read"] == sum(map(len, records().values()))


def test_a_second_signal_leaves_at_once() -> None:
    code = """
import time
from online_fm.app import stop_on_signals
with stop_on_signals():
    print("up", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 128 + signal.SIGTERM


def test_a_quiet_stream_closes_its_windows_and_metrics_tell(tmp_path) -> None:
    now_ms = round(time.time() * 1000)
    folder = Folder(tmp_path, join={"window_s": 1, "grace_s": 0.2})
    folder.write({SHOWN: [impression(i, now_ms + i) for i in range(50)], CLICKED: [click(7, now_ms + 500)]})
    worker = folder.start("train", "source.follow=true")
    until(lambda: folder.metric('online_fm_events_total{outcome="learned"}') == 50.0)
    assert folder.metric('online_fm_events_total{outcome="positives"}') == 1.0
    assert folder.metric("online_fm_pending_rows") == 0.0
    folder.write({SHOWN: [impression(100, now_ms + 60_000)]})
    until(lambda: folder.metric("online_fm_pending_rows") == 1.0)
    until(lambda: folder.metric("online_fm_stream_time_seconds") > now_ms / 1000 + 60)
    state = json.loads(get(f"http://127.0.0.1:{folder.port}/health/ready")[1])
    assert state["state"] == "running"
    folder.stop(worker)
    assert folder.learned("join.window_s=1", "join.grace_s=0.2").counts()["positives"] == 1


GOOD = {"impression_id": 1, "ts": START_MS, "score": 0.5, "features": {"user": "u1"}}
BAD = [
    ("not_json", b"rubbish"),
    ("not_json", b'{"impression_id": 1,'),
    ("not_json", b'{"a": "\xff"}'),
    ("not_json", b'{"impression_id":1,"ts":1700000000000,"features":{"price":NaN}}'),
    ("bad_number", b'{"impression_id":1,"ts":1700000000000,"features":{"price":1e999}}'),
    ("not_an_object", b"[]"),
    ("no_id", GOOD | {"impression_id": None}),
    ("bad_id", GOOD | {"impression_id": {}}),
    ("no_time", {name: value for name, value in GOOD.items() if name != "ts"}),
    ("bad_time", GOOD | {"ts": "noon"}),
    ("time_too_old", GOOD | {"ts": 1_700_000_000}),
    ("time_ahead", GOOD | {"ts": 4_000_000_000_000}),
    ("no_features", GOOD | {"features": None}),
    ("bad_features", GOOD | {"features": "none"}),
    ("bad_value", GOOD | {"features": {"user": {"name": "u"}}}),
    ("bad_value", GOOD | {"features": {"age": "old"}}),
    ("bad_score", GOOD | {"score": 2}),
    ("too_long", GOOD | {"features": {"user": "u" * 70_000}}),
]


def test_every_bad_record_is_counted_kept_and_passed(tmp_path) -> None:
    values = [value if isinstance(value, bytes) else msgspec.json.encode(value) for _, value in BAD]
    shown: list[bytes] = []
    for i, value in enumerate(values):
        shown += [impression(i, START_MS + i), value]
    folder = Folder(tmp_path)
    folder.write({SHOWN: shown, CLICKED: [b"?", click(3, START_MS + 10)]})
    folder.run("train")
    letters = folder.dead_letters()
    expected = [("impressions", 2 * i + 1, reason) for i, (reason, _) in enumerate(BAD)] + [("clicks", 0, "not_json")]
    assert sorted((d["topic"], d["offset"], d["reason"]) for d in letters) == sorted(expected)
    kept = {d["offset"]: d["value"].encode() for d in letters if d["topic"] == "impressions" and "value" in d}
    assert all(values[offset // 2] == value for offset, value in kept.items())
    counts = folder.learned().counts()
    assert (counts["impressions"], counts["clicks"], counts["rejected"]) == (len(BAD), 1, len(BAD) + 1)


def test_fields_that_are_unknown_or_missing_are_counted_and_the_rest_is_learned(tmp_path) -> None:
    folder = Folder(tmp_path, features={"fields": ["user", "item"]}, join={"window_s": 1, "grace_s": 0})
    rows = [{"user": "u", "colour": "red", "size": 3}, {"user": "u", "item": "i"}, {"item": "i", "colour": "blue"}]
    folder.write({SHOWN: [impression(i, START_MS + i, row) for i, row in enumerate(rows)], CLICKED: []})
    worker = folder.start("train", "source.follow=true")
    until(lambda: folder.metric('online_fm_events_total{outcome="learned"}') == 3.0)
    assert folder.metric('online_fm_feature_flaws_total{kind="unknown"}') == 3.0
    assert folder.metric('online_fm_feature_flaws_total{kind="missing"}') == 2.0
    folder.stop(worker)


def test_an_example_that_would_break_the_model_is_quarantined_by_the_whole_worker(tmp_path) -> None:
    fields = {"fields": ["user", {"kind": "number", "name": "n"}]}
    folder = Folder(tmp_path, features=fields)
    shown = [impression(i, START_MS + i, {"user": "u", "n": 1e30 if i == 5 else 1.0}) for i in range(10)]
    folder.write({SHOWN: [*shown, impression(99, START_MS + 100_000)], CLICKED: []})
    folder.run("train")
    counts = folder.learned(f"features={json.dumps(fields)}").counts()
    assert (counts["learned"], counts["quarantined"]) == (9, 1)


def test_a_file_that_lost_its_lines_is_a_gap_that_stops_the_worker_by_name(tmp_path) -> None:
    folder = Folder(tmp_path)
    folder.write({SHOWN: [impression(i, START_MS + i) for i in range(10)], CLICKED: []})
    folder.run("train")
    (tmp_path / "events" / "impressions" / "0.jsonl").write_bytes(impression(1, START_MS) + b"\n")
    folder.run("train", code=1)
    assert "impressions-0: the next record to read is 10, but the partition now holds 0 to 1" in folder.log()
    assert "set source.on_gap to 'accept'" in folder.log()
    folder.run("train", "source.on_gap=accept")


def test_a_partition_that_is_gone_is_told_and_holds_nothing_back(tmp_path) -> None:
    folder = Folder(tmp_path)
    other = TopicPartition("impressions", 1)
    folder.write({SHOWN: [impression(1, START_MS)], other: [impression(2, START_MS)], CLICKED: []})
    folder.run("train")
    (tmp_path / "events" / "impressions" / "1.jsonl").unlink()
    folder.write({SHOWN: [impression(i, START_MS + 60_000 + i) for i in range(10, 20)]})
    folder.run("train", "source.on_gap=accept")
    assert "a partition is gone" in folder.log()
    assert folder.learned().counts()["read"] == 12


def test_while_the_clicks_topic_does_not_exist_nothing_is_learned_and_health_says_why(tmp_path) -> None:
    folder = Folder(tmp_path, telemetry={"health": {"stuck_after_s": 1}})
    folder.write({SHOWN: [impression(i, START_MS + 1000 * i) for i in range(100)]})
    worker = folder.start("train", "source.follow=true")
    until(lambda: get(f"http://127.0.0.1:{folder.port}/health/ready")[0] == 503)
    until(lambda: b"no partition yet of topic clicks" in get(f"http://127.0.0.1:{folder.port}/health/ready")[1])
    assert get(f"http://127.0.0.1:{folder.port}/health/live")[0] == 200
    assert folder.metric('online_fm_events_total{outcome="learned"}') == 0.0
    folder.write({CLICKED: [click(3, START_MS + 4000)]})
    until(lambda: folder.metric('online_fm_events_total{outcome="positives"}') == 1.0)
    folder.stop(worker)


def test_rejects_that_cannot_be_kept_hold_the_stream_until_they_can(tmp_path) -> None:
    folder = Folder(tmp_path, dead_letters={"kind": "file", "path": "/dev/full"})
    junk = [b"x" * 60_000] * 300
    folder.write({SHOWN: [*junk, *(impression(i, START_MS + 1000 * i) for i in range(100))], CLICKED: []})
    worker = folder.start("train", batch_records=50)
    until(lambda: "dead letters cannot be kept, reading waits" in folder.log())
    time.sleep(2)
    assert worker.poll() is None
    assert folder.metric("online_fm_dead_letters_total") == 0.0
    assert folder.metric('online_fm_records_read_total{topic="impressions"}') < 300
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 1  # what was learned is not durable, and the exit code says so


def test_a_checkpoint_of_another_model_stops_the_worker_and_says_what_to_do(tmp_path) -> None:
    folder = Folder(tmp_path)
    folder.write(records())
    folder.run("train")
    folder.run("train", "model.k=8", code=1)
    assert "was written with another configuration: model.k was 4 (" in folder.log()


def test_a_damaged_checkpoint_is_refused_and_the_one_before_goes_on(tmp_path, whole) -> None:
    folder = Folder(tmp_path)
    folder.write(records(events=EVENTS))
    folder.run("train", "checkpoint.interval_s=0.1", batch_records=50)
    newest = tmp_path / "checkpoints" / folder.checkpoints()[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    folder.run("train")
    assert "checkpoint refused, an older one is used" in folder.log()
    assert fingerprint(folder.learned()) == whole


def test_two_workers_do_not_write_one_folder(tmp_path) -> None:
    folder = Folder(tmp_path)
    folder.write(records())
    worker = folder.start("train", "source.follow=true")
    until((tmp_path / "snapshots" / ".lock").exists)
    folder.run("train", "telemetry.port=0", code=1)
    assert "another worker writes here" in folder.log()
    folder.stop(worker)


def test_a_port_that_is_taken_is_told_before_anything_is_read(tmp_path) -> None:
    folder = Folder(tmp_path)
    folder.write(records())
    worker = folder.start("train", "source.follow=true")
    until(lambda: get(f"http://127.0.0.1:{folder.port}/health/live")[0])
    folder.run("train", code=2)
    assert "telemetry.port" in folder.log()
    folder.stop(worker)


def impression(ident: int, ts: int, features: dict[str, object] | None = None) -> bytes:
    event = {"impression_id": ident, "ts": ts, "features": features or {"user": f"u{ident % 5}"}}
    return msgspec.json.encode(event)


def click(ident: int, ts: int) -> bytes:
    return msgspec.json.encode({"impression_id": ident, "ts": ts})
