"""What every benchmark prints: the machine, a table of ours, the peer in the same run, their ratio and the goal."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

__all__ = ["Row", "show"]


@dataclass(frozen=True)
class Row:
    """One comparison; `goal` is for `ours` or for `ratio`, as `goal_is` says."""

    name: str
    ours: float
    peer: float
    goal: float
    goal_is: str = "ours"

    @property
    def ratio(self) -> float:
        return self.ours / self.peer

    @property
    def met(self) -> bool:
        return getattr(self, self.goal_is) >= self.goal


def show(title: str, peer: str, rows: list[Row], *, as_json: bool) -> None:
    """Print the table, and with `as_json` a last line `{"rows": [...]}`."""
    table = Table("", "ours", peer, "ratio", "goal", "met", title=f"{title}\n{_machine()}")
    for row in rows:
        goal = f"{row.goal:,.0f}{'x' if row.goal_is == 'ratio' else ''}"
        met = "yes" if row.met else "NO"
        table.add_row(row.name, f"{row.ours:,.0f}", f"{row.peer:,.0f}", f"{row.ratio:,.1f}x", goal, met)
    Console(width=110).print(table)
    if as_json:
        document = {"rows": [{**asdict(row), "ratio": row.ratio, "met": row.met} for row in rows]}
        print(msgspec.json.encode(document).decode())


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"
