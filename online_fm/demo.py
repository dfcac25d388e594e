"""The demo: the whole loop in one terminal, for about a minute, in a folder that is removed at the end.

Simulated traffic and serving run as processes of their own, by the commands that a user would type; the worker runs
in a thread here, so that the table can show what it knows. Another thread asks serving for rankings all the while and
counts what goes wrong. The simulator scores its impressions with the true probability, so the quality of the *served*
score is the best reachable over exactly the events that were learned.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from online_fm import app
from online_fm.config import Config, load
from online_fm.errors import OnlineFMError, StateError
from online_fm.train.pipeline import Pipeline, StepReport

__all__ = ["run"]

_START_S = 8.0  # of the time asked for goes into starting three processes, closing windows, and stopping
_ROW_EVERY_S = 3.0
_LEVEL_WITHIN_S = 120.0
_LAST_QUARTER = 0.75
_ASK_EVERY_S = 0.02
_RANKING = {
    "context": {"user": "u1", "device": "mobile", "hour": 12, "age": 30},
    "candidates": [{"id": f"i{i}", "features": {"item": f"i{i}"}} for i in range(20)],
}


def run(seconds: float) -> dict[str, Any]:
    """Run the loop; give log-loss, the best reachable and AUC over the last quarter of events, and serving's record."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="online-fm-")))
        settings = _settings(folder, seconds)
        config = load(_configuration(), settings)
        interrupted = stack.enter_context(app.stop_on_signals())
        worker = stack.enter_context(_Worker(config))
        traffic = stack.enter_context(_process("simulate", settings))
        serving = stack.enter_context(_process("serve", settings))
        caller = stack.enter_context(_Caller(config, interrupted))
        _watch(interrupted, worker, caller, traffic, serving)
        worker.finish()
        caller.wait_for_version(worker.version, 0.0 if interrupted.is_set() else 10.0)
        return {**worker.result(), **caller.result()}


def _configuration() -> Path:
    """`config/demo.yaml`, as it lies in the package or, in a checkout, beside it."""
    packaged = Path(str(files("online_fm"))) / "demo.yaml"
    return packaged if packaged.exists() else packaged.parent.parent / "config" / "demo.yaml"


def _settings(folder: Path, seconds: float) -> list[str]:
    """What the demo sets on top of its configuration, the same for all three processes."""
    rate = load(_configuration()).simulate.rate_per_s or 1.0
    return [
        f"source.path={folder / 'events'}",
        f"checkpoint.path={folder / 'checkpoints'}",
        f"snapshot.path={folder / 'snapshots'}",
        f"simulate.events={max(1, round(rate * (seconds - _START_S)))}",
        f"serve.port={_free_port()}",
        "telemetry.port=0",
        "telemetry.log_level=error",
    ]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def _process(command: str, settings: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """`online-fm COMMAND` with the demo's configuration, terminated at the end."""
    arguments = [sys.executable, "-m", "online_fm", command, "-c", str(_configuration())]
    for setting in settings:
        arguments += ["--set", setting]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)  # noqa: S603  # our own command
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


class _Worker:
    """The worker in a thread, and what can be told about it while it runs."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = Event()
        self._thread = Thread(target=self._run, name="worker", daemon=True)
        self._problem: BaseException | None = None
        self._quarter_at = round((config.simulate.events or 0) * _LAST_QUARTER)
        self._marks: dict[str, Any] = {}
        self._pipeline: Pipeline | None = None
        self.learned = self.pending = 0
        self.level = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            app.train(self._config, self._stop, on_report=self._report)
        except BaseException as problem:  # noqa: BLE001  # it is raised again where the demo waits
            self._problem = problem

    def _report(self, pipeline: Pipeline, report: StepReport) -> None:
        """Called by the worker after each batch, in its thread."""
        self._pipeline = pipeline
        self.learned, self.pending = pipeline.counts()["learned"], pipeline.pending
        self.level = not report.records and not self.pending and not pipeline.waiting()
        if not self._marks and self.learned >= self._quarter_at:
            self._marks = {moment: quality.mark() for moment, quality in pipeline.quality.items()}

    def check(self) -> None:
        """Raise what ended the worker, if something did."""
        if self._problem is not None:
            raise self._problem

    def finish(self) -> None:
        """Stop as SIGTERM would: finish the batch, write a checkpoint, publish."""
        self._stop.set()
        self._thread.join()
        self.check()

    @property
    def version(self) -> int:
        """The version that was published last, 0 where there is none."""
        names = sorted(Path(self._config.snapshot.path).glob("snapshot-*"))
        return int(names[-1].stem.rpartition("-")[2]) if names else 0

    def scores(self) -> tuple[float, float, float] | None:
        """Log-loss, the best reachable, and AUC, all over the sliding window."""
        if self._pipeline is None:
            return None
        quality = self._pipeline.quality
        learning = quality["learning"].window()
        return learning.log_loss, quality["served"].window().log_loss, learning.auc

    def result(self) -> dict[str, Any]:
        """Over the last quarter of the events that were expected; from the start where the demo was cut short."""
        if self._pipeline is None:
            raise StateError("the worker never read a batch")
        quality = self._pipeline.quality
        scores = {m: q.since(self._marks[m]) if self._marks else q.since_start() for m, q in quality.items()}
        learned = scores["learning"]
        best = scores["served"].log_loss
        return {
            "learned": self.learned,
            "log_loss": learned.log_loss,
            "best_log_loss": best,
            "above_best": learned.log_loss / best - 1.0,
            "auc": learned.auc,
            "best_auc": scores["served"].auc,
        }


class _Caller:
    """Asks serving for a ranking again and again, from the moment that it is ready.

    Ctrl-C reaches all processes of the terminal: what fails because serving heard it too is no failure.
    """

    def __init__(self, config: Config, interrupted: Event) -> None:
        self._port, self._path = config.serve.port, f"/v2/models/{config.serve.name}/rank"
        self._interrupted = interrupted
        self._body = json.dumps(_RANKING)
        self._stop = Event()
        self._thread = Thread(target=self._run, name="caller", daemon=True)
        self._asked = self._failed = 0
        self.versions: set[int] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set() and self._get("/v2/health/ready") != http.client.OK:
            self._stop.wait(0.1)
        while not self._stop.wait(_ASK_EVERY_S):
            self._asked += 1
            try:
                self._ask()
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                self._failed += not self._interrupted.wait(_ASK_EVERY_S)

    def _get(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("POST", self._path, self._body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            reply = json.loads(response.read())
            if response.status != http.client.OK:
                raise ValueError(reply)
            self.versions.add(int(reply["model_version"]))
        finally:
            connection.close()

    def wait_for_version(self, version: int, seconds: float) -> None:
        """Until a reply came from this version; what never comes shows in the result."""
        give_up_s = time.monotonic() + seconds
        while version not in self.versions and time.monotonic() < give_up_s:
            time.sleep(0.05)

    def result(self) -> dict[str, Any]:
        return {"versions_served": len(self.versions), "requests": self._asked, "failed_requests": self._failed}


def _watch(
    interrupted: Event,
    worker: _Worker,
    caller: _Caller,
    traffic: subprocess.Popen[bytes],
    serving: subprocess.Popen[bytes],
) -> None:
    """Show a row every few seconds until all traffic is learned, or somebody interrupts."""
    console = Console(stderr=True)
    table = Table("seconds", "learned", "events/s", "log-loss", "best reachable", "AUC", "snapshot served")
    began_s = shown_s = time.monotonic()
    learned = 0
    give_up_s = float("inf")
    with Live(table, console=console, refresh_per_second=4, transient=False):
        while not interrupted.wait(0.2) and not (traffic.poll() is not None and worker.level):
            worker.check()
            _check_running(traffic, serving)
            now_s = time.monotonic()
            if traffic.poll() is not None:
                give_up_s = min(give_up_s, now_s + _LEVEL_WITHIN_S)
            if now_s > give_up_s:
                raise StateError(f"not all traffic was learned within {_LEVEL_WITHIN_S} s of its end")
            if now_s - shown_s >= _ROW_EVERY_S and (scores := worker.scores()) and worker.learned:
                rate = (worker.learned - learned) / (now_s - shown_s)
                shown_s, learned = now_s, worker.learned
                numbers = (f"{number:.4f}" for number in scores)
                served = str(max(caller.versions, default="-"))
                table.add_row(f"{now_s - began_s:.0f}", f"{learned:,}", f"{rate:,.0f}", *numbers, served)


def _check_running(traffic: subprocess.Popen[bytes], serving: subprocess.Popen[bytes]) -> None:
    if serving.poll() is not None:
        raise OnlineFMError(f"the serving process ended with exit code {serving.returncode}")
    if traffic.poll():
        raise OnlineFMError(f"the simulator ended with exit code {traffic.returncode}")
