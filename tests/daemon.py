"""Real processes for tests: `online-fm COMMAND` with a configuration in a folder of the test's own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml
from traffic import CONFIG, config

from online_fm.config import learning
from online_fm.snapshot.store import FolderStore, names_of
from online_fm.source.port import TopicPartition
from online_fm.train.checkpoint import Checkpoints
from online_fm.train.pipeline import Pipeline

__all__ = ["IN_BATCHES_OF", "Folder", "children", "free_port", "get", "until"]

IN_BATCHES_OF = """
import sys
from online_fm import app, cli
app.BATCH_RECORDS = int(sys.argv.pop(1))
cli.main()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def get(url: str, body: object = None) -> tuple[int, bytes]:
    """Status and body of a reply; (0, b"") where nobody answers."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as reply:
        with reply:
            return reply.code, reply.read()
    except OSError:
        return 0, b""


def until(what: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait for something to become true."""
    give_up_s = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < give_up_s, "it did not happen in time"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """The processes that this one has started to hold a Kafka client."""
    found = subprocess.run(
        ["pgrep", "-P", str(pid), "-f", "client_process"], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]


class Folder:
    """A configuration, its events, checkpoints and snapshots, and the processes that use them."""

    def __init__(self, path: Path, **changes: object) -> None:
        self.path = path
        self.port = free_port()
        tree = yaml.safe_load(CONFIG) | {
            "source": {"kind": "files", "path": str(path / "events")},
            "dead_letters": {"kind": "file", "path": str(path / "dead.jsonl")},
            "checkpoint": {"path": str(path / "checkpoints"), "interval_s": 0.2},
            "snapshot": {"path": str(path / "snapshots")},
            "telemetry": {"port": self.port},
        }
        for name, change in changes.items():
            tree[name] = tree.get(name, {}) | change if name not in ("source", "dead_letters") else change
        self.config = path / "config.yaml"
        self.config.write_text(yaml.safe_dump(tree))

    def write(self, records: Mapping[TopicPartition, list[bytes]]) -> None:
        """Append records as the files source reads them: a topic a folder, a partition a file."""
        for (topic, partition), values in records.items():
            folder = self.path / "events" / topic
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"{partition}.jsonl").open("ab") as file:
                file.writelines(value + b"\n" for value in values)

    def start(self, command: str, *settings: str, batch_records: int | None = None) -> subprocess.Popen[bytes]:
        program = ["-m", "online_fm"] if batch_records is None else ["-c", IN_BATCHES_OF, str(batch_records)]
        arguments = [sys.executable, *program, command, "-c", str(self.config)]
        for setting in settings:
            arguments += ["--set", setting]
        log = (self.path / f"{command}.log").open("ab")
        with log:
            return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=log, env=os.environ)

    def run(self, command: str, *settings: str, code: int = 0, batch_records: int | None = None) -> None:
        """To its end."""
        process = self.start(command, *settings, batch_records=batch_records)
        assert process.wait(240) == code, self.log(command)

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """As an orchestrator does."""
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, self.log("train")

    def log(self, command: str = "train") -> str:
        return (self.path / f"{command}.log").read_text()

    def checkpoints(self) -> list[str]:
        folder = self.path / "checkpoints"
        return names_of(FolderStore(folder), "checkpoint") if folder.is_dir() else []

    def learned(self, *settings: str, topics: tuple[str, str] = ("impressions", "clicks")) -> Pipeline:
        """A pipeline with the state of the newest checkpoint."""
        learner = Pipeline(learning(config(*settings)), impressions=topics[0], clicks=topics[1])
        stores = FolderStore(self.path / "checkpoints"), FolderStore(self.path / "snapshots")
        Checkpoints(*stores, keep=9, keep_snapshots=9).restore(learner)
        return learner

    def dead_letters(self) -> list[dict[str, object]]:
        path = self.path / "dead.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def metric(self, name: str) -> float | None:
        """A sample of the worker's metrics, by its full name with labels."""
        _, text = get(f"http://127.0.0.1:{self.port}/metrics")
        values = [line.rpartition(" ")[2] for line in text.decode().splitlines() if line.startswith(f"{name} ")]
        return float(values[0]) if values else None
