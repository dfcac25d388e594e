"""The composition root: the only place that constructs things and plugs them together."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any, TypeVar

import structlog
from prometheus_client import CollectorRegistry

from online_fm.config import Config, learning
from online_fm.errors import ConfigError, OnlineFMError, SourceError
from online_fm.events import EventDecoder
from online_fm.serve import server
from online_fm.simulate import Chunk, FileSink, Simulator, Sink
from online_fm.simulate import run as run_simulator
from online_fm.simulate.kafka_sink import ConfluentSink, KafkaPythonSink
from online_fm.snapshot.store import FolderStore
from online_fm.source.background import BackgroundSource
from online_fm.source.config import ConfluentConfig, FilesConfig, SourceConfig, reveal
from online_fm.source.dead_letter import open_dead_letters
from online_fm.source.files import FilesSource
from online_fm.source.open import open_source
from online_fm.source.port import Source, TopicPartition
from online_fm.telemetry.health import Health
from online_fm.telemetry.http import TelemetryServer, application
from online_fm.telemetry.logs import configure_logs
from online_fm.telemetry.metrics import ServeMetrics, WorkerMetrics
from online_fm.train.checkpoint import Checkpoints
from online_fm.train.compare import alike
from online_fm.train.compare import compare as run_comparison
from online_fm.train.pipeline import Pipeline, StepReport
from online_fm.train.replay import replay as run_replay
from online_fm.train.worker import Worker, WorkerParts

__all__ = ["check", "compare", "replay", "serve", "simulate", "stop_on_signals", "train"]

_T = TypeVar("_T")
BATCH_RECORDS = 5000  # tens of ms of work; larger batches cost as much per event
_RETRY_S = 1.0
_log = structlog.get_logger("worker")


def check(config: Config) -> str:
    """Check what `train` would need, connecting to nothing, and say in a line what the configuration describes."""
    fields = learning(config).features.fields
    source = _source_of(config)
    return f"{config.model.kind}, {len(fields)} fields, {source.impressions} and {source.clicks} from {_kind(source)}"


def train(config: Config, stop: Event, *, on_report: Callable[[Pipeline, StepReport], None] | None = None) -> None:
    """Run the worker until `stop` is set, or a source that is not followed has ended."""
    configure_logs(config.telemetry)
    source_config = _source_of(config)
    health = Health(config.telemetry.health, time.monotonic())
    described = learning(config)
    metrics = WorkerMetrics(CollectorRegistry(), described.loss, described.members)
    metrics.watch_state(lambda: health.report(time.monotonic()).state)
    with ExitStack() as stack:
        app = application(metrics.registry, lambda: health.report(time.monotonic()))
        stack.enter_context(TelemetryServer(app, config.telemetry.host, config.telemetry.port))
        stores = FolderStore(config.checkpoint.path), FolderStore(config.snapshot.path)
        for store in stores:
            stack.enter_context(store.lock())
        pipeline = _pipeline(config)
        if (source := _patiently(lambda: _open(config), stop)) is None:
            return
        stack.enter_context(closing(source))
        dead_letters = _patiently(lambda: open_dead_letters(config.dead_letters, source_config), stop)
        if dead_letters is None:
            return
        parts = WorkerParts(
            source=source,
            pipeline=pipeline,
            dead_letters=stack.enter_context(closing(dead_letters)),
            checkpoints=Checkpoints(*stores, keep=config.checkpoint.keep, keep_snapshots=config.snapshot.keep),
            metrics=metrics,
            health=health,
        )
        worker = Worker(
            parts,
            batch_records=BATCH_RECORDS,
            checkpoint_interval_s=config.checkpoint.interval_s,
            bounded=isinstance(source_config, FilesConfig) and not source_config.follow,
            on_report=on_report and (lambda report: on_report(pipeline, report)),
        )
        worker.run(stop)


def serve(config: Config) -> None:
    """Run the serving process until SIGTERM or SIGINT."""
    configure_logs(config.telemetry)
    server.run(config.serve, FolderStore(config.snapshot.path), ServeMetrics(CollectorRegistry()))


def replay(config: Config, *, drain: bool, on_progress: Callable[[float], None]) -> dict[str, Any]:
    """Learn a source's history and give the summary; `on_progress` is told the part that was read, 0 to 1."""
    configure_logs(config.telemetry)
    _check_ends(config)
    pipeline = _pipeline(config)
    with closing(_open(config)) as source:
        return run_replay(
            source,
            pipeline,
            batch_records=BATCH_RECORDS,
            until=_ends(source),
            drain=drain,
            on_progress=partial(_tell, on_progress, source, 0, 1),
        )


def compare(configs: Sequence[Config], *, drain: bool, on_progress: Callable[[float], None]) -> list[dict[str, Any]]:
    """As `replay`, of several configurations; the summaries come in the same order.

    Those that are alike up to the model share a pass over the source; passes go one after another, to the same end.
    """
    configure_logs(configs[0].telemetry)
    for config in configs:
        _check_ends(config)
    passes = _passes(configs)
    ends: list[tuple[SourceConfig, dict[TopicPartition, int] | None]] = []
    results: dict[int, dict[str, Any]] = {}
    for numbers in passes:
        config = configs[numbers[0]]
        source_config = _source_of(config)
        with closing(_open(config)) as source:
            ends.append((source_config, _ends(source)))
            summaries = run_comparison(
                source,
                [learning(configs[number]) for number in numbers],
                topics=(source_config.impressions, source_config.clicks),
                batch_records=BATCH_RECORDS,
                until=next(end for known, end in ends if known == source_config),
                drain=drain,
                on_progress=partial(_tell, on_progress, source, len(ends) - 1, len(passes)),
            )
        results |= zip(numbers, summaries, strict=True)
    return [results[number] for number in range(len(configs))]


def _passes(configs: Sequence[Config]) -> list[list[int]]:
    """The numbers of the configurations that can share a pass over the source, pass by pass."""
    passes: list[list[int]] = []
    for number, config in enumerate(configs):
        for others in passes:
            first = configs[others[0]]
            if first.source == config.source and alike(learning(first), learning(config)):
                others.append(number)
                break
        else:
            passes.append([number])
    return passes


def _check_ends(config: Config) -> None:
    """Refuse, before anything is read, what cannot be learned or has no end."""
    learning(config)
    source = _source_of(config)
    if isinstance(source, FilesConfig) and source.follow:
        raise ConfigError("source.follow: replay reads what there is; set it to false")


def _ends(source: Source) -> dict[TopicPartition, int] | None:
    """Where a topic that is still written to ends now; files that are not followed end by themselves."""
    return None if isinstance(source, FilesSource) else source.end_offsets()


def _tell(on_progress: Callable[[float], None], source: Source, done: int, passes: int, read: int) -> None:
    """Tell the part of all passes that was read, 0 to 1, after `done` of them and `read` records of the next."""
    behind = sum(source.lag().values())
    part = source.progress if isinstance(source, FilesSource) else read / max(1, read + behind)
    on_progress((done + part) / passes)


def simulate(config: Config, stop: Event, on_progress: Callable[[Simulator, Chunk], None]) -> Simulator:
    """Send synthetic traffic to where `source` reads; give the simulator, which knows the best reachable log-loss."""
    configure_logs(config.telemetry)
    simulator = Simulator(config.simulate)
    try:
        with closing(_sink(config)) as sink:
            run_simulator(simulator, sink, on_progress=lambda chunk: on_progress(simulator, chunk), stop=stop.is_set)
    except OSError as problem:
        raise OnlineFMError(f"cannot write events: {problem}") from problem
    return simulator


@contextmanager
def stop_on_signals() -> Iterator[Event]:
    """An event that SIGTERM or SIGINT sets; a second signal leaves at once, without a checkpoint."""
    stop = Event()

    def hear(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _patiently(connect: Callable[[], _T], stop: Event) -> _T | None:
    """Connect to something outside, again and again while it does not answer; None where `stop` is set first."""
    while not stop.is_set():
        try:
            return connect()
        except SourceError as problem:
            if not problem.retriable:
                raise
            _log.warning("cannot connect yet, trying again", why=str(problem))
            stop.wait(_RETRY_S)
    return None


def _source_of(config: Config) -> SourceConfig:
    if config.source is None:
        raise ConfigError("source: say where impressions and clicks come from: kind files, kafka_python or confluent")
    return config.source


def _kind(source: SourceConfig) -> str:
    return f"files in {source.path}" if isinstance(source, FilesConfig) else f"Kafka at {', '.join(source.brokers)}"


def _open(config: Config) -> Source:
    """The source; a client of Kafka gets a thread, so that it works while the learner does."""
    connect = partial(open_source, _source_of(config), time_of=EventDecoder(config.events).time_ms)
    if isinstance(config.source, FilesConfig):
        return connect()
    return BackgroundSource(connect, ahead_records=2 * BATCH_RECORDS)


def _pipeline(config: Config) -> Pipeline:
    source = _source_of(config)
    return Pipeline(
        learning(config),
        impressions=source.impressions,
        clicks=source.clicks,
        batch_records=BATCH_RECORDS,
    )


def _sink(config: Config) -> Sink:
    source = _source_of(config)
    partitions = config.simulate.partitions
    if isinstance(source, FilesConfig):
        return FileSink(Path(source.path), partitions, impressions=source.impressions, clicks=source.clicks)
    sink = ConfluentSink if isinstance(source, ConfluentConfig) else KafkaPythonSink
    return sink(
        source.brokers, partitions, impressions=source.impressions, clicks=source.clicks, options=reveal(source.options)
    )
