"""The port that shows a process: `/metrics`, `/health/live`, `/health/ready`.

It answers from a thread of its own, so that it still does when the training loop hangs; a live answer of 503 is
then the sign to restart. Health replies are 200 or 503 with the whole report as JSON. The socket is bound before the
thread starts: a port that is taken is a `ConfigError` at start, not a line in a log. `bind` and `metrics_route` are
also what the serving process uses for its own port.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import msgspec
import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from online_fm.errors import ConfigError, StateError
from online_fm.telemetry.health import HealthReport

__all__ = ["TelemetryServer", "application", "bind", "metrics_route"]

_START_WITHIN_S: Final = 10.0
_STOP_WITHIN_S: Final = 5.0


def bind(host: str, port: int, *, path: str) -> socket.socket:
    """A listening socket on `host:port`; what is wrong with them is a `ConfigError` at `path`, such as `serve`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (socket.gaierror, UnicodeError) as exc:
        raise ConfigError(f"{path}.host: {host} is not a name or address of this machine") from exc
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"{path}.port: {host}:{port} is taken by another process",
                hint=f"choose another {path}.port; 0 takes any free one",
            ) from exc
        raise ConfigError(f"{path}: cannot listen on {host}:{port}: {exc.strerror}") from exc


def metrics_route(registry: CollectorRegistry) -> Route:
    """`GET /metrics`, as OpenMetrics where the caller accepts it, else as Prometheus text."""

    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type)

    return Route("/metrics", metrics)


def application(registry: CollectorRegistry, report: Callable[[], HealthReport]) -> Starlette:
    """Metrics and health of one process; `report` is asked anew at each request."""

    def live(_: Request) -> Response:
        return _health(now := report(), ok=now.live)

    def ready(_: Request) -> Response:
        return _health(now := report(), ok=now.ready)

    routes = [metrics_route(registry), Route("/health/live", live), Route("/health/ready", ready)]
    return Starlette(routes=routes)


def _health(report: HealthReport, *, ok: bool) -> Response:
    body = msgspec.json.encode(report._asdict())
    return Response(body, status_code=200 if ok else 503, media_type="application/json")


class TelemetryServer:
    """Serves an application from a daemon thread until closed.

    >>> with TelemetryServer(application(registry, report), "127.0.0.1", 0) as server:
    ...     print(server.port)
    """

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        self._socket = bind(host, port, path="telemetry")
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def start(self) -> None:
        """Answer requests from now on."""
        self._thread.start()
        give_up_s = time.monotonic() + _START_WITHIN_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > give_up_s:
                raise StateError("the telemetry port did not come up")
            time.sleep(0.005)

    def close(self) -> None:
        """Finish the requests at hand and let go of the port; twice does no harm."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_STOP_WITHIN_S)
        self._socket.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])
