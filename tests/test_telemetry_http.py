"""The telemetry port, over a real socket."""

from __future__ import annotations

import socket

import httpx
import pytest
from prometheus_client import CollectorRegistry

from online_fm.errors import ConfigError
from online_fm.telemetry.config import HealthConfig
from online_fm.telemetry.health import Health
from online_fm.telemetry.http import TelemetryServer, application, bind
from online_fm.telemetry.metrics import WorkerMetrics


@pytest.fixture
def health() -> Health:
    return Health(HealthConfig(stuck_after_s=60.0), now_s=0.0)


@pytest.fixture
def get(health):
    """Ask the port at a moment: `get(path, now_s)`."""
    now = [0.0]
    metrics = WorkerMetrics(CollectorRegistry())
    metrics.watch_state(lambda: health.report(now[0]).state)
    app = application(metrics.registry, lambda: health.report(now[0]))
    with TelemetryServer(app, "127.0.0.1", 0) as server:

        def ask(path: str, now_s: float = 0.0, **headers: str) -> httpx.Response:
            now[0] = now_s
            return httpx.get(f"http://127.0.0.1:{server.port}{path}", headers=headers, trust_env=False)

        yield ask


def test_ready_follows_the_loop_and_live_fails_only_when_it_is_silent(get, health):
    assert get("/health/live").status_code == 200
    assert get("/health/ready").status_code == 503
    health.beat(5, read=10, lag=0)
    assert get("/health/ready", 6).status_code == 200
    assert get("/health/live", 65).status_code == 503
    assert get("/health/ready", 65).status_code == 503


def test_a_health_reply_says_why(get, health):
    health.beat(5, read=10, lag=3)
    assert get("/health/ready", 7).json() == {
        "state": "running",
        "reason": "reading as records come",
        "live": True,
        "ready": True,
        "heartbeat_age_s": 2.0,
        "lag_records": 3,
    }


def test_metrics_come_as_text_or_as_openmetrics(get):
    plain = get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert 'online_fm_worker_state{state="starting"} 1.0' in plain.text
    open_metrics = get("/metrics", accept="application/openmetrics-text;version=1.0.0")
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")


def test_the_state_in_the_metrics_is_that_of_the_scrape(get, health):
    health.beat(0, read=1, lag=0)
    assert 'online_fm_worker_state{state="running"} 1.0' in get("/metrics", 1).text
    assert 'online_fm_worker_state{state="stuck"} 1.0' in get("/metrics", 100).text


def test_an_unknown_path_is_404(get):
    assert get("/").status_code == 404


def test_a_port_that_is_taken_is_a_configuration_error_with_a_remedy():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            bind("127.0.0.1", port, path="telemetry")
    assert str(caught.value) == (
        f"telemetry.port: 127.0.0.1:{port} is taken by another process "
        "(choose another telemetry.port; 0 takes any free one)"
    )


def test_a_host_that_is_not_this_machine_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"^telemetry\.host: a\.\.b is not a name"):
        bind("a..b", 0, path="telemetry")
    with pytest.raises(ConfigError, match=r"^telemetry: cannot listen on 192\.0\.2\.1:0: "):
        bind("192.0.2.1", 0, path="telemetry")


def test_the_port_is_free_again_after_close():
    app = application(CollectorRegistry(), lambda: None)
    with TelemetryServer(app, "127.0.0.1", 0) as server:
        port = server.port
    server.close()
    with bind("127.0.0.1", port, path="telemetry"):
        pass
