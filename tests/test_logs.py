"""Log lines as they come out of the stream."""

from __future__ import annotations

import io
import json
import logging

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
    logging.getLogger("kafka.client").info("chatter")
    logging.getLogger("kafka.client").warning("broker %s is away", 1)
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("broker 1 is away", "warning", "kafka.client")


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
