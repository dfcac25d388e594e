"""A real Prometheus, with the project's own configuration, against a real worker and a real serving process."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROMETHEUS = ROOT / "docker" / "prometheus"
ONLINE_FM = Path(sys.executable).with_name("online-fm")
ASKED = {
    "inputs": [
        {"name": "user", "shape": [2], "datatype": "BYTES", "data": ["u1", "u2"]},
        {"name": "item", "shape": [2], "datatype": "BYTES", "data": ["i1", "i2"]},
    ]
}

# no series where clicks are learned by log loss
OF_OTHER_LOSSES = re.compile(r"online_fm_(member_)?(squared_error|hinge|rmse|mae|r2)")

pytestmark = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="prometheus (Debian's package of that name) is not installed"
)


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        listening = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [each.getsockname()[1] for each in listening]


@pytest.fixture
def ports():
    return dict(zip(("train:9100", "serve:8080", "prometheus"), free_ports(3), strict=True))


@pytest.fixture
def run(tmp_path):
    """Start commands that are ended, and seen to end well, when the test is over."""
    running: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(name: str, *command: object) -> None:
        log = tmp_path / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=out, cwd=tmp_path)
        running.append((process, log))

    yield start
    for process, _ in running:
        process.terminate()
    codes = {log.name: process.wait(60) for process, log in running}
    assert set(codes.values()) == {0}, "\n".join(log.read_text() for _, log in running)


@pytest.fixture
def loop(run, ports, tmp_path):
    """Traffic, worker and serving, one after the other through files; every kind of noise at a visible rate."""
    config = {
        "source": {"kind": "files", "path": "traffic", "follow": True},
        "dead_letters": {"kind": "file", "path": "dead.jsonl"},
        "features": {"fields": ["user", "item", "category", "device"]},
        "join": {"window_s": 2.0, "grace_s": 0.5},
        "model": {
            "kind": "committee",
            "members": {
                "champion": {"model": {"kind": "fm", "max_features": 10_000}},
                "challenger": {"model": {"kind": "lr", "max_features": 10_000}, "mixed": False},
            },
        },
        "checkpoint": {"path": "checkpoints", "interval_s": 1.0},
        "snapshot": {"path": "snapshots"},
        "telemetry": {"port": ports["train:9100"], "log_format": "json"},
        "serve": {"port": ports["serve:8080"], "poll_interval_s": 0.2},
        "simulate": {
            "rate_per_s": 500.0,
            "click_delay_s": 0.5,
            "click_delay_max_s": 1.0,
            "out_of_order_s": 0.2,
            "malformed_rate": 0.05,
        },
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    for command in ("simulate", "train", "serve"):
        run(command, ONLINE_FM, command, "-c", path)


@pytest.fixture
def prometheus(run, ports, tmp_path):
    """Prometheus as `docker/prometheus/prometheus.yml` sets it up, with the services' names turned into ports."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"]["scrape_interval"] = config["global"]["evaluation_interval"] = "1s"
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        for static in job["static_configs"]:
            static["targets"] = [f"127.0.0.1:{ports[target]}" for target in static["targets"]]
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    port = ports["prometheus"]
    run(
        "prometheus",
        "prometheus",
        f"--config.file={path}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        yield client


def answers(prometheus: httpx.Client, query: str) -> list[dict[str, object]]:
    reply = prometheus.get("/api/v1/query", params={"query": query.replace("$__rate_interval", "10s")})
    assert reply.status_code == 200, reply.text
    return reply.json()["data"]["result"]


def up(prometheus: httpx.Client) -> bool:
    try:  # it listens before it is ready, and answers 503 meanwhile
        return prometheus.get("/-/ready").status_code == 200 and len(answers(prometheus, "up == 1")) == 2
    except httpx.TransportError:
        return False


def eventually(ask, within_s: float):
    """The first true answer; the last one where none came in time."""
    give_up_s = time.monotonic() + within_s
    while not (answer := ask()) and time.monotonic() < give_up_s:
        time.sleep(0.5)
    return answer


@pytest.mark.usefixtures("loop")
def test_every_panel_of_the_dashboard_gets_an_answer_and_no_alert_cannot_be_evaluated(prometheus, ports):
    dashboard = json.loads((ROOT / "dashboards" / "online_fm.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    queries = {target["expr"] for panel in panels for target in panel["targets"]}
    queries -= {query for query in queries if OF_OTHER_LOSSES.search(query)}
    model = f"http://127.0.0.1:{ports['serve:8080']}/v2/models/ctr"
    assert eventually(lambda: up(prometheus), within_s=120)
    assert eventually(lambda: httpx.get(f"{model}/ready", trust_env=False).status_code == 200, within_s=120)
    unanswered = set(queries)

    def all_answered() -> bool:
        httpx.post(f"{model}/infer", json=ASKED, trust_env=False)
        unanswered.difference_update({query for query in unanswered if answers(prometheus, query)})
        return not unanswered

    eventually(all_answered, within_s=60)
    assert unanswered == set()
    (served,) = answers(prometheus, 'online_fm_serve_requests_total{route=~".*infer", code="200"}')
    assert float(served["value"][1]) > 0
    groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
    firing = {alert["labels"]["alertname"] for alert in prometheus.get("/api/v1/alerts").json()["data"]["alerts"]}
    assert not firing & {"OnlineFmStuck", "OnlineFmDown", "OnlineFmEventsDropped", "OnlineFmRequestsFail"}
