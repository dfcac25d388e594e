"""The serving process: HTTP in the main thread, the watcher in another.

It answers before the first snapshot (live, not ready). SIGTERM and SIGINT close the port, finish the requests at
hand within `drain_s`, and return.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import structlog
import uvicorn

from online_fm.errors import BadFile
from online_fm.serve.config import ServeConfig
from online_fm.serve.http import application
from online_fm.serve.scorer import Scorer
from online_fm.serve.slot import Slot
from online_fm.serve.watcher import Watcher
from online_fm.snapshot.store import Store
from online_fm.telemetry.http import bind
from online_fm.telemetry.metrics import ServeMetrics

__all__ = ["listen", "run"]


def run(config: ServeConfig, store: Store, metrics: ServeMetrics, started: Callable[[int], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; `started` is told the port. Raises `ConfigError` where it cannot be had."""
    listening = listen(config)
    port: int = listening.getsockname()[1]
    slot = Slot()
    watcher = Watcher(store, slot, _Reports(metrics))
    server = uvicorn.Server(
        uvicorn.Config(
            application(slot, config, metrics, lambda: watcher.running),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=config.drain_s,
        )
    )
    watcher.start(config.poll_interval_s)
    structlog.get_logger().info("serving", url=f"http://{config.host}:{port}/v2/models/{config.name}")
    if started is not None:
        started(port)
    try:
        _serve(server, listening)
    finally:
        watcher.stop()


def listen(config: ServeConfig) -> socket.socket:
    """A listening socket whose connections send at once.

    A reply is two writes, head and body. With Nagle's algorithm the second waits for the caller's delayed
    acknowledgement of the first: 40 ms. Asyncio turns it off only on sockets made with an explicit protocol number;
    connections inherit it from this one.
    """
    listening = bind(config.host, config.port, path="serve")
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _serve(server: uvicorn.Server, listening: socket.socket) -> None:
    with _leaving_with_success(server):
        server.run(sockets=[listening])


@contextlib.contextmanager
def _leaving_with_success(server: uvicorn.Server) -> Iterator[None]:
    """Hear the signal that uvicorn, once it is done, raises again; unheard, it would end the process with -15."""

    def leave(_: int, __: FrameType | None) -> None:
        server.should_exit = True

    before = {sign: signal.signal(sign, leave) for sign in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _settle() -> None:
    """Take what start-up and the compiler made out of the garbage collector's sight.

    A full collection over it takes 100 ms and more, in the middle of a request: 1,000 rows, p99 150 ms with it and
    16 ms without.
    """
    gc.collect()
    gc.freeze()


class _Reports:
    """What the watcher tells, as metrics and log lines."""

    def __init__(self, metrics: ServeMetrics) -> None:
        self._metrics = metrics
        self._settled = False

    def loaded(self, scorer: Scorer, seconds: float) -> None:
        if not self._settled:
            _settle()
            self._settled = True
        self._metrics.loaded(scorer.version, scorer.manifest.created_ms, seconds)
        structlog.get_logger().info("snapshot served", version=scorer.version, load_s=round(seconds, 3))

    def refused(self, error: BadFile) -> None:
        self._metrics.load_failed("bad_file")
        structlog.get_logger().error("snapshot refused", file=error.name, why=error.why)

    def unreachable(self, error: Exception) -> None:
        self._metrics.load_failed("unreachable")
        structlog.get_logger().warning("snapshots cannot be read", error=str(error))

    def reachable(self) -> None:
        structlog.get_logger().info("snapshots can be read again")
