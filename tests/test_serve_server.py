"""The serving process: real sockets, real signals, snapshots that change under load."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from published import events, publish, snapshot, trained

from online_fm.errors import ConfigError
from online_fm.serve.config import ServeConfig
from online_fm.serve.server import listen, run
from online_fm.snapshot.store import FolderStore, MemoryStore, file_name, prune
from online_fm.telemetry.metrics import ServeMetrics

SERVER = """
import sys
from prometheus_client import CollectorRegistry
from online_fm.serve.config import ServeConfig
from online_fm.serve.server import run
from online_fm.snapshot.store import FolderStore
from online_fm.telemetry.config import TelemetryConfig
from online_fm.telemetry.logs import configure_logs
from online_fm.telemetry.metrics import ServeMetrics

configure_logs(TelemetryConfig(log_format="json"))
config = ServeConfig(port=0, poll_interval_s=0.02, drain_s=20)
run(config, FolderStore(sys.argv[1]), ServeMetrics(CollectorRegistry()), started=lambda port: print(port, flush=True))
print("left", flush=True)
"""
WITHIN_S = 60


class Process:
    """The serving process of a folder, and a client of it."""

    def __init__(self, folder) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.port = int(self.process.stdout.readline())
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=WITHIN_S)

    def infer(self, rows: list[dict]) -> httpx.Response:
        return self.client.post("/v2/models/ctr/infer", json=infer_body(rows))

    def until_serving(self, version: int) -> None:
        give_up_s = time.monotonic() + WITHIN_S
        while self.client.get(f"/v2/models/ctr/versions/{version}/ready").status_code != 200:
            assert time.monotonic() < give_up_s
            time.sleep(0.01)

    def sample(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def end(self, sign: int = signal.SIGTERM) -> tuple[int, str, list[dict]]:
        """Exit code, standard output, log lines."""
        self.process.send_signal(sign)
        self.client.close()
        out, err = self.process.communicate(timeout=WITHIN_S)
        return self.process.returncode, out, [json.loads(line) for line in err.splitlines()]


@pytest.fixture
def serve(tmp_path):
    started: list[Process] = []

    def serve(folder=tmp_path) -> Process:
        started.append(Process(folder))
        return started[-1]

    yield serve
    for each in started:
        each.client.close()
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


@pytest.fixture(scope="module")
def learner():
    return trained()[0]


def infer_body(rows: list[dict]) -> dict:
    user = {"name": "user", "shape": [len(rows)], "datatype": "BYTES", "data": [row.get("user") for row in rows]}
    item = {"name": "item", "shape": [len(rows)], "datatype": "INT64", "data": [row.get("item") for row in rows]}
    return {"inputs": [user, item]}


class Load(threading.Thread):
    """Asks without a pause until told to stop, and keeps what it got."""

    def __init__(self, port: int, rows: list[dict], stop: threading.Event) -> None:
        super().__init__()
        self.port, self.rows, self.stop = port, rows, stop
        self.replies: list[tuple[int, int, list[float]]] = []
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=WITHIN_S) as client:
                while not self.stop.is_set():
                    reply = client.post("/v2/models/ctr/infer", json=infer_body(self.rows))
                    body = reply.json()
                    data = body["outputs"][0]["data"]
                    self.replies.append((reply.status_code, int(body["model_version"]), data))
        except Exception as exc:  # noqa: BLE001 - any failure fails the test, which reads it
            self.failure = exc


def test_snapshots_change_under_load_without_one_failed_or_mixed_reply(serve, tmp_path):
    learner, encoder = trained(n=0)
    rows = [{"user": row.get("user"), "item": row.get("item")} for row in events(10)]
    encoded = encoder.encode(rows).rows
    once, all_ = np.ones(10, np.float32), np.ones(10, np.bool_)
    store, expected = FolderStore(tmp_path), {}

    def publish_next(version: int) -> None:
        learner.step(encoded, once, once, all_)
        expected[version] = learner.predict(encoded).p.tolist()
        publish(store, learner, version)

    publish_next(1)
    process, stop = serve(), threading.Event()
    process.until_serving(1)
    load = [Load(process.port, rows, stop) for _ in range(3)]
    for each in load:
        each.start()
    for version in range(2, 32):
        publish_next(version)
        if version % 5 == 0:
            store.put(file_name("snapshot", 900 + version), snapshot(learner, 900 + version)[:-1])
        if version % 3 == 0:
            process.until_serving(version)
        prune(store, "snapshot", keep=10)
    process.until_serving(31)
    stop.set()
    for each in load:
        each.join()
        assert each.failure is None
        versions = [version for _, version, _ in each.replies]
        assert versions == sorted(versions)
        assert len(set(versions)) >= 5
        for status, version, scores in each.replies:
            assert status == 200
            assert np.float32(scores).tolist() == expected[version]
    assert process.sample('online_fm_serve_load_failures_total{reason="bad_file"}') == 6
    assert process.sample("online_fm_serve_snapshot_version") == 31
    assert process.end()[0] == 0


def test_it_answers_before_the_first_snapshot_and_serves_it_when_it_comes(serve, tmp_path, learner):
    process = serve(tmp_path / "later")
    assert process.client.get("/v2/health/live").status_code == 200
    assert process.client.get("/v2/health/ready").status_code == 503
    assert process.infer([{"user": "u1"}]).status_code == 503
    store = FolderStore(tmp_path / "later")
    with store.lock():
        publish(store, learner, 4)
    process.until_serving(4)
    assert process.client.get("/v2/health/ready").status_code == 200
    assert process.infer([{"user": "u1"}]).json()["model_version"] == "4"
    code, out, log = process.end()
    assert (code, out) == (0, "left\n")
    assert sorted(line["event"] for line in log) == [
        "serving",
        "snapshot served",
        "snapshots can be read again",
        "snapshots cannot be read",
    ]


def test_a_folder_that_goes_away_stops_nothing(serve, tmp_path, learner):
    folder = tmp_path / "snapshots"
    folder.mkdir()
    publish(FolderStore(folder), learner, 1)
    process = serve(folder)
    process.until_serving(1)
    folder.rename(tmp_path / "elsewhere")
    give_up_s = time.monotonic() + WITHIN_S
    while process.sample('online_fm_serve_load_failures_total{reason="unreachable"}') == 0:
        assert time.monotonic() < give_up_s
    assert process.client.get("/v2/health/ready").status_code == 200
    assert process.infer([{"user": "u1"}]).status_code == 200
    (tmp_path / "elsewhere").rename(folder)
    publish(FolderStore(folder), learner, 2)
    process.until_serving(2)
    assert process.sample('online_fm_serve_load_failures_total{reason="unreachable"}') == 1


def test_a_request_at_hand_is_finished_after_sigterm(serve, tmp_path, learner):
    publish(FolderStore(tmp_path), learner, 1)
    process = serve()
    process.until_serving(1)
    body = json.dumps(infer_body([{"user": "u1"}])).encode()
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=WITHIN_S)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/v2/models/ctr/infer")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:10])
        time.sleep(0.2)
        process.process.send_signal(signal.SIGTERM)
        give_up_s = time.monotonic() + WITHIN_S
        while accepts(process.port):
            assert time.monotonic() < give_up_s
        connection.send(body[10:])
        reply = connection.getresponse()
        assert reply.status == 200
        assert json.loads(reply.read())["model_version"] == "1"
    out, _ = process.process.communicate(timeout=WITHIN_S)
    assert (process.process.returncode, out) == (0, "left\n")


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def test_a_caller_that_leaves_in_the_middle_is_counted_and_not_logged(serve, tmp_path, learner):
    publish(FolderStore(tmp_path), learner, 1)
    process = serve()
    process.until_serving(1)
    with socket.create_connection(("127.0.0.1", process.port)) as caller:
        caller.sendall(b"POST /v2/models/ctr/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    left = 'online_fm_serve_requests_total{code="499",route="/v2/models/{name}/infer"}'
    give_up_s = time.monotonic() + WITHIN_S
    while process.sample(left) == 0:
        assert time.monotonic() < give_up_s
    code, _, log = process.end()
    assert code == 0
    assert {line["event"] for line in log} == {"serving", "snapshot served"}


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_success_even_right_after_the_start(serve, tmp_path, sign):
    assert serve().end(sign)[:2] == (0, "left\n")


def terminate_once_it_listens() -> None:
    """SIGTERM to this process, which would end the tests before it is heard: kernels may still be compiled."""
    while signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGTERM)


def test_it_leaves_no_thread_and_no_signal_handler_behind(learner):
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    store = MemoryStore()
    publish(store, learner, 1)
    threads = threading.active_count()
    config = ServeConfig(port=0, poll_interval_s=0.01)
    run(
        config,
        store,
        ServeMetrics(CollectorRegistry()),
        started=lambda _: threading.Thread(target=terminate_once_it_listens, daemon=True).start(),
    )
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert threading.active_count() == threads


def test_connections_send_at_once():
    with listen(ServeConfig(port=0)) as listening, socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_port_that_is_taken_is_an_error_of_the_configuration():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = ServeConfig(port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match=r"serve\.port: 127\.0\.0\.1:\d+ is taken"):
            run(config, MemoryStore(), ServeMetrics(CollectorRegistry()))
