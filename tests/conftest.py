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

SKIPPED = pytest.StashKey[str]()
"""Why the Kafka tests were left out, in one line."""


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the Kafka tests out, with one line in the summary, where there is no Java; with CI=true they fail."""
    marked = [item for item in items if item.get_closest_marker("kafka")]
    missing = missing_tools() if marked and os.environ.get("CI") != "true" else None
    if missing:
        config.stash[SKIPPED] = f"{len(marked)} Kafka tests were skipped: {missing}"
        items[:] = [item for item in items if item not in set(marked)]
        config.hook.pytest_deselected(items=marked)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if SKIPPED in config.stash:
        terminalreporter.write_line(config.stash[SKIPPED], yellow=True)
