"""Fixtures that several rooms share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from broker import Broker, missing_tools


@pytest.fixture(scope="session")
def running_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="session", autouse=True)
def _sockets_collected() -> Iterator[None]:
    """Let garbage go while the filters below are still in force."""
    yield
    gc.collect()


@pytest.fixture
def kafka(request: pytest.FixtureRequest) -> Broker:
    """A real broker; without Java and Maven the test is skipped, or fails where CI=true."""
    missing = missing_tools()
    if missing is None:
        return request.getfixturevalue("running_broker")
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    return pytest.skip(missing)


def pytest_configure(config: pytest.Config) -> None:
    """Silence two habits of kafka-python that are not ours to mend.

    It reads its schemas by functions of importlib that Python 3.11 and 3.12 deprecate, and leaves a socket that could
    not connect to the garbage collector; such a socket has a local address of zeros and no remote one.
    """
    config.addinivalue_line("filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning")
    config.addinivalue_line("filterwarnings", r"ignore:unclosed <socket.*laddr=..0\.0\.0\.0., \d+.>:ResourceWarning")
