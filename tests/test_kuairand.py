"""KuaiRand-Pure, real feed logs, through a real Kafka into the daemon, with serving beside it.

The data is not part of the project: two files as `config/kuairand.yaml` describes them, in the folder that the
variable ONLINE_FM_KUAIRAND names, or in shared/data/kuairand beside the checkout.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from daemon import IN_BATCHES_OF, free_port, get, until

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("ONLINE_FM_KUAIRAND", ROOT.parent / "shared" / "data" / "kuairand"))
IMPRESSIONS = 222_444

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(not (DATA / "impressions.jsonl.gz").exists(), reason=f"KuaiRand is not in {DATA}"),
]


def online_fm(
    *arguments: str, stdout: int = subprocess.DEVNULL, program: Sequence[str] = ("-m", "online_fm"), **settings: object
) -> subprocess.Popen[bytes]:
    command = [sys.executable, *program, *arguments, "-c", str(ROOT / "config" / "kuairand.yaml")]
    for name, value in settings.items():
        command += ["--set", f"{name.replace('__', '.')}={value}"]
    return subprocess.Popen(command, stdout=stdout)


def replayed(*arguments: str, **settings: object) -> dict[str, float]:
    with online_fm("replay", "--json", *arguments, stdout=subprocess.PIPE, source__path=DATA, **settings) as process:
        out, _ = process.communicate()
        assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def whole() -> dict[str, float]:
    return replayed("--drain")


def test_a_replay_meets_the_goals_and_accounts_for_every_impression(whole) -> None:
    assert whole["log_loss"] <= 0.5985
    assert whole["auc"] >= 0.730
    assert whole["auc_error"] < 0.001
    assert whole["impressions"] == IMPRESSIONS == whole["learned"] + whole["pending"]
    assert whole["read"] == whole["impressions"] + whole["clicks"] + whole["rejected"]


def test_batches_of_seven_give_the_same_state(whole) -> None:
    assert replayed("--drain", program=["-c", IN_BATCHES_OF, "7"])["state_hash"] == whole["state_hash"]


def test_kafka_daemon_killed_in_the_middle_ends_as_the_replay_while_serving_never_fails(tmp_path, kafka, whole) -> None:
    topics = {name: kafka.topic(name) for name in ("impressions", "clicks")}
    for name, topic in topics.items():
        with gzip.open(DATA / f"{name}.jsonl.gz") as lines:
            kafka.produce(topic, (line.rstrip(b"\n") for line in lines), timestamp_ms=round(time.time() * 1000))
    port, health = free_port(), free_port()
    settings = {
        "source": json.dumps({"kind": "kafka_python", "brokers": [kafka.address], **topics}),
        "checkpoint__path": tmp_path / "checkpoints",
        "checkpoint__interval_s": 1,
        "snapshot__path": tmp_path / "snapshots",
        "telemetry__port": health,
        "serve__port": port,
    }
    worker = online_fm("train", **settings)
    serving = online_fm("serve", **settings)
    versions: set[str] = set()
    asked = 0

    def ask() -> int:
        nonlocal asked
        asked += 1
        body = {
            "context": {"user_id": "712", "tab": "1"},
            "candidates": [{"id": "a", "features": {"video_id": "5239"}}],
        }
        code, reply = get(f"http://127.0.0.1:{port}/v2/models/ctr/rank", body)
        assert code == 200, reply
        versions.add(json.loads(reply)["model_version"])
        return len(versions)

    def score(name: str) -> float:
        _, text = get(f"http://127.0.0.1:{health}/metrics")
        values = [line.rpartition(" ")[2] for line in text.decode().splitlines() if line.startswith(f"{name} ")]
        return float(values[0]) if values else 0.0

    def learned() -> float:
        return score('online_fm_log_loss_weight_total{moment="learning"}')

    try:
        until(lambda: get(f"http://127.0.0.1:{port}/v2/health/ready")[0] == 200)
        until(lambda: ask() >= 2)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        partly = max(int(version) for version in versions)
        worker = online_fm("train", **settings)
        until(lambda: ask() > 3 and int(max(versions, key=int)) > partly and learned() > 0, 120)
        until(lambda: ask() and get(f"http://127.0.0.1:{health}/health/ready")[0] == 200, 120)
        until(
            lambda: ask() and score("online_fm_pending_rows") == 0 and score('online_fm_worker_state{state="running"}'),
            120,
        )
        log_loss = score('online_fm_log_loss{moment="learning",span="start"}')
        auc = score('online_fm_auc{moment="learning",span="start"}')
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
        until(lambda: ask() and max(map(int, versions)) == newest(tmp_path / "snapshots"))
    finally:
        for process in (worker, serving):
            process.terminate()
            process.wait()
    assert log_loss == pytest.approx(whole["log_loss"], abs=1e-5)  # the gauges are at most a second old
    assert auc == pytest.approx(whole["auc"], abs=1e-5)
    assert state_hash(tmp_path / "checkpoints") == whole["state_hash"]
    assert asked > 50


def newest(folder: Path) -> int:
    return max(int(path.stem.rpartition("-")[2]) for path in folder.glob("snapshot-*"))


def state_hash(folder: Path) -> str:
    """Of the model in the newest checkpoint."""
    from online_fm.config import learning, load
    from online_fm.model import make_learner
    from online_fm.snapshot.store import FolderStore, newest_good

    config = learning(load(ROOT / "config" / "kuairand.yaml"))
    learner = make_learner(config.model, config.field_names)
    tensors = newest_good(FolderStore(folder), "checkpoint").tensors
    learner.restore({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
    return learner.state_hash()
