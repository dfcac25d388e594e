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
    """One comparison. What the goal is for, `goal_is` says:

    ours, ratio    more is better, and the ratio is ours / peer (rates)
    speedup        at least so many times as quick as the peer: peer / ours (times)
    cost           at most so many times the peer's time: ours / peer (times)
    most           less is better: ours is at most the goal (times, sizes)
    """

    name: str
    ours: float
    peer: float
    goal: float
    goal_is: str = "ours"

    @property
    def ratio(self) -> float:
        return self.peer / self.ours if self.goal_is == "speedup" else self.ours / self.peer

    @property
    def met(self) -> bool:
        if self.goal_is == "cost":
            return self.ratio <= self.goal
        if self.goal_is == "most":
            return self.ours <= self.goal
        return (self.ours if self.goal_is == "ours" else self.ratio) >= self.goal


def show(title: str, peer: str, rows: list[Row], *, as_json: bool) -> None:
    """Print the table, and with `as_json` a last line `{"rows": [...]}`."""
    table = Table("", "ours", peer, "ratio", "goal", "met", title=f"{title}\n{_machine()}")
    for row in rows:
        met = "yes" if row.met else "NO"
        table.add_row(row.name, f"{row.ours:,.0f}", f"{row.peer:,.0f}", _times(row.ratio), _goal(row), met)
    Console(width=110).print(table)
    if as_json:
        document = {"rows": [{**asdict(row), "ratio": row.ratio, "met": row.met} for row in rows]}
        print(msgspec.json.encode(document).decode())


def _times(ratio: float) -> str:
    return f"{ratio:,.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def _goal(row: Row) -> str:
    if row.goal_is == "ours":
        return f"{row.goal:,.0f}"
    if row.goal_is == "most":
        return f"at most {row.goal:,.0f}"
    return f"at most {row.goal:g}x" if row.goal_is == "cost" else f"{row.goal:g}x"


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"
