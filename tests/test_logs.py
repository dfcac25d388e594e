"""Log lines as they come out of the stream."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import sys
from pathlib import Path

import pytest
import structlog

from online_fm.telemetry.config import TelemetryConfig
from online_fm.telemetry.logs import configure_logs


@pytest.fixture
def stream():
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield io.StringIO()
    root.setLevel(level)
    root.handlers[:] = handlers
    structlog.reset_defaults()


class BrokenStream(io.StringIO):
    """A stream whose writes fail, as long as there is an `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def configure(stream: io.StringIO, log_format: str = "json", log_level: str = "info") -> None:
    configure_logs(TelemetryConfig(log_format=log_format, log_level=log_level), stream)


def connect(password: str) -> None:
    raise ValueError(len(password))


def test_a_json_line_has_event_level_time_and_fields(stream):
    configure(stream)
    structlog.get_logger().info("checkpoint kept", version=3, seconds=0.25)
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {"event": "checkpoint kept", "level": "info", "version": 3, "seconds": 0.25}


def test_lines_below_the_level_are_left_out(stream):
    configure(stream, log_level="warning")
    log = structlog.get_logger()
    log.info("no")
    log.warning("yes")
    assert [line["event"] for line in lines(stream)] == ["yes"]


def test_libraries_come_out_in_the_same_form_from_warning_up(stream):
    configure(stream, log_level="debug")
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("broker %s is away", 1)
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("broker 1 is away", "warning", "some.library")


def test_what_json_does_not_know_is_written_all_the_same(stream):
    configure(stream)
    structlog.get_logger().info("odd", loss=float("nan"), path={1}, error=ValueError("x"))
    (line,) = lines(stream)
    assert line["loss"] is None
    assert line["path"] == [1]
    assert line["error"] == "ValueError('x')"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_is_logged_without_local_variables(stream, log_format):
    configure(stream, log_format)
    try:
        connect(password="hunter" + "2")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "ValueError: 7" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_the_console_form_is_plain_where_it_is_not_a_terminal(stream):
    configure(stream, "console")
    structlog.get_logger().info("snapshot published", version=3)
    assert "snapshot published" in stream.getvalue()
    assert "version=3" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_configuring_twice_does_not_double_the_lines(stream):
    configure(stream)
    configure(stream)
    logging.getLogger("uvicorn.error").error("once")
    assert len(lines(stream)) == 1


@pytest.mark.usefixtures("stream")
@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)),
        UnicodeEncodeError("ascii", "\xe9", 0, 1, "not in range"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_line_that_cannot_be_written_is_dropped_and_the_next_comes_out(error, log_format, capsys):
    broken = BrokenStream(error)
    configure(broken, log_format)
    structlog.get_logger().error("lost")
    logging.getLogger("some.library").error("lost")
    broken.error = None
    structlog.get_logger().error("told")
    logging.getLogger("some.library").error("told")
    assert (broken.getvalue().count("lost"), broken.getvalue().count("told")) == (0, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("stream")
def test_a_full_disk_and_a_closed_stream_take_no_lines_and_stop_nobody():
    with Path("/dev/full").open("wb", buffering=0) as full:
        configure(io.TextIOWrapper(full, write_through=True))
        structlog.get_logger().error("lost")
        logging.getLogger("some.library").error("lost")
    closed = io.StringIO()
    closed.close()
    for log_format in ("json", "console"):
        configure(closed, log_format)
        structlog.get_logger().error("lost")
        logging.getLogger("some.library").error("lost")


@pytest.mark.parametrize("value", ["half of a pair: \ud800", Unspeakable()], ids=["surrogate", "repr"])
def test_a_line_that_json_cannot_express_is_dropped_and_the_next_comes_out(stream, value):
    configure(stream)
    structlog.get_logger().error("lost", value=value)
    logging.getLogger("some.library").error("lost: \ud800")
    structlog.get_logger().error("told")
    assert [line["event"] for line in lines(stream)] == ["told"]


@pytest.mark.usefixtures("stream")
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_process_without_standard_error_logs_nothing(log_format, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    configure_logs(TelemetryConfig(log_format=log_format))
    structlog.get_logger().error("lost")
    logging.getLogger("some.library").error("lost")
