"""Logs: structured lines to one stream, for people (`console`) or machines (`json`, one object a line).

Levels: `info`, an action succeeded; `warning`, unexpected and nothing lost; `error`, loss, or an operator is needed.
Nothing is logged per event. What libraries log through the standard library comes out in the same form from `WARNING`
up, whatever our own level: kafka-python and uvicorn tell too much below it. A value that JSON does not know is written
as its `repr`, NaN as null; tracebacks show no local variables, which may hold secrets.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, TextIO

import msgspec
import structlog
from structlog.typing import Processor

from online_fm.telemetry.config import TelemetryConfig

__all__ = ["configure_logs"]

_SHARED: Final[tuple[Processor, ...]] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
)


def configure_logs(config: TelemetryConfig, stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream`, standard error by default. May be called again."""
    stream = sys.stderr if stream is None else stream
    rendering = _rendering(config, stream)
    structlog.configure(
        processors=[*_SHARED, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(config.log_level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    _route_libraries(rendering, stream)


def _rendering(config: TelemetryConfig, stream: TextIO) -> list[Processor]:
    if config.log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
    return [
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, timestamp_key="time"
        )
    ]


def _json(event: object, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def _route_libraries(rendering: list[Processor], stream: TextIO) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    for old in [known for known in root.handlers if isinstance(known.formatter, structlog.stdlib.ProcessorFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
