"""Fixtures that several rooms share."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator

import pytest
import structlog
from broker import Broker, missing_tools
from command import Done


@pytest.fixture(scope="session")
def running_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def kafka(request: pytest.FixtureRequest) -> Broker:
    """A real broker, for tests that are marked `kafka`."""
    missing = missing_tools()
    if missing:
        pytest.fail(missing)
    return request.getfixturevalue("running_broker")


@pytest.fixture
def run(monkeypatch, capsys):
    """`online-fm ARGUMENTS`, in this process."""
    from online_fm.cli import main

    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["online-fm", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as left:
            code = left.code
        return Done(code, *capsys.readouterr())

    yield call
    root.setLevel(level)
    root.handlers[:] = handlers
    structlog.reset_defaults()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests that need Kafka share a process, where there are several (pytest-xdist), and its broker."""
    if item.get_closest_marker("kafka"):
        item.add_marker(pytest.mark.xdist_group("kafka"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the Kafka tests out where there is no Java; with CI=true they fail."""
    marked = [item for item in items if item.get_closest_marker("kafka")]
    if marked and left_out():
        items[:] = [item for item in items if item not in set(marked)]
        config.hook.pytest_deselected(items=marked)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if why := left_out():
        terminalreporter.write_line(f"left out: {why}", yellow=True)


def left_out() -> str | None:
    """Why Kafka tests are left out, if they are."""
    return None if os.environ.get("CI") == "true" else missing_tools()
