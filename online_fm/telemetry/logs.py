"""Logs: structured lines to one stream, for people (`console`) or machines (`json`, one object a line).

Levels: `info`, an action succeeded; `warning`, unexpected and nothing lost; `error`, loss, or an operator is needed.
Nothing is logged per event. What libraries log through the standard library comes out in the same form from `WARNING`
up, whatever our own level: they tell too much below it. A value that JSON does not know is written as its `repr`, NaN
as null; tracebacks show no local variables, which may hold secrets.

Invariant: to log never raises. A line that cannot be written (a full disk, a reader that left, a closed stream) or put
into words (half of a surrogate pair in JSON) is dropped, and work goes on.
"""

from __future__ import annotations

import io
import logging
import sys
from contextlib import suppress
from typing import Any, Final, TextIO, cast

import msgspec
import structlog
from structlog.typing import EventDict, Processor

from online_fm.telemetry.config import TelemetryConfig

__all__ = ["configure_logs"]

_SHARED: Final[tuple[Processor, ...]] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
)


def configure_logs(config: TelemetryConfig, stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream`, standard error by default. May be called again."""
    stream = stream or sys.stderr or _closed()  # a process may be started without standard error: it is None
    lines = cast("TextIO", _Lines(stream))
    rendering = _rendering(config, stream)
    structlog.configure(
        processors=[*_SHARED, _or_drop(rendering)],
        wrapper_class=structlog.make_filtering_bound_logger(config.log_level),
        logger_factory=structlog.WriteLoggerFactory(lines),
        cache_logger_on_first_use=False,
    )
    _route_libraries(rendering, lines)


class _Lines:
    """A stream that drops what it cannot write, as handlers of the standard library do."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        with suppress(OSError, ValueError):  # a closed stream, and text that its encoding has not, are ValueErrors
            self._stream.write(line)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def _closed() -> TextIO:
    with io.StringIO() as stream:
        return stream


def _rendering(config: TelemetryConfig, stream: TextIO) -> list[Processor]:
    if config.log_format == "json":
        return [structlog.processors.format_exc_info, _json]
    return [
        structlog.dev.ConsoleRenderer(
            colors=_is_terminal(stream), exception_formatter=structlog.dev.plain_traceback, timestamp_key="time"
        )
    ]


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False


def _json(_: object, __: str, event: EventDict) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def _or_drop(rendering: list[Processor]) -> Processor:
    """The rendering, for which a line that it cannot render is none."""

    def rendered(logger: object, method: str, event: Any) -> Any:  # noqa: ANN401  # events, then a line
        try:
            for process in rendering:
                event = process(logger, method, event)
        except Exception as exc:  # of the `repr` of some value, say
            raise structlog.DropEvent from exc
        return event

    return rendered


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # its name in the standard library
        """Drop the line; the standard library would tell the whole story to standard error."""


def _route_libraries(rendering: list[Processor], stream: TextIO) -> None:
    handler = _Handler(stream)
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
