"""The merge and the join again, slow and obvious, from section 4 of the design: lists, dictionaries, one loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Record(NamedTuple):
    """One record of a partition; `kind` is 'impression', 'click' or 'reject'; `label` is what a click brings."""

    kind: str
    ident: str
    ts: int
    label: float = 1.0


def merge(lanes: dict[tuple[int, int], list[Record]]) -> list[tuple[int, Record]]:
    """All records of complete partitions in merged order, with their keys."""
    keyed = []
    for lane, records in lanes.items():
        key = 0
        for offset, record in enumerate(records):
            key = max(key, record.ts)
            keyed.append(((key, *lane, offset), record))
    return [(place[0], record) for place, record in sorted(keyed, key=lambda each: each[0])]


@dataclass
class Join:
    """Impressions and clicks to a list of ('predict' | 'learn', id, label); without `unclicked` only clicks teach."""

    window: int
    grace: int
    max_pending: int = 10**9
    unclicked: bool = True
    stream: int = 0
    arrivals: int = 0
    impressions: dict[str, tuple[int, int, float | None]] = field(default_factory=dict)  # id -> (ts, arrival, label)
    early: list[tuple[str, int, float]] = field(default_factory=list)  # (id, ts, label)
    operations: list[tuple[str, str, float]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def record(self, key: int, record: Record) -> None:
        self.advance(key)
        if record.kind == "impression":
            self.impression(record.ident, record.ts)
        elif record.kind == "click":
            self.click(record.ident, record.ts, record.label)

    def advance(self, stream: int) -> None:
        self.stream = max(self.stream, stream)
        horizon = self.window + self.grace
        due = [(ts, arrival, ident) for ident, (ts, arrival, _) in self.impressions.items()]
        for ts, _, ident in sorted(due):
            if ts + horizon <= self.stream:
                label = self.impressions.pop(ident)[2]
                if label is None and not self.unclicked:
                    self.count("unclicked")
                    continue
                self.operations.append(("learn", ident, label or 0.0))
                self.count("learned")
                if label is not None:
                    self.count("positives")
        for click in list(self.early):
            if click[1] + horizon <= self.stream:
                self.early.remove(click)
                self.count("orphans")

    def full(self) -> bool:
        return len(self.impressions) + len(self.early) >= self.max_pending

    def impression(self, ident: str, ts: int) -> None:
        self.count("impressions")
        if ts + self.window + self.grace <= self.stream:
            self.count("late")
        elif ident in self.impressions:
            self.count("duplicates")
        elif self.full():
            self.count("dropped")
        else:
            label = None
            for click in [click for click in self.early if click[0] == ident]:
                self.early.remove(click)
                if not ts <= click[1] <= ts + self.window:
                    self.count("outside_window")
                elif label is not None:
                    self.count("duplicate_clicks")
                else:
                    label = click[2]
            self.impressions[ident] = (ts, self.arrivals, label)
            self.arrivals += 1
            self.operations.append(("predict", ident, 0))

    def click(self, ident: str, ts: int, brought: float) -> None:
        self.count("clicks")
        if ts + self.window + self.grace <= self.stream:
            self.count("late_clicks")
        elif ident in self.impressions:
            shown, arrival, label = self.impressions[ident]
            if not shown <= ts <= shown + self.window:
                self.count("outside_window")
            elif label is not None:
                self.count("duplicate_clicks")
            else:
                self.impressions[ident] = (shown, arrival, brought)
        elif (ident, ts) in [each[:2] for each in self.early] or sum(each[0] == ident for each in self.early) >= 16:
            self.count("duplicate_clicks")
        elif self.full():
            self.count("dropped_clicks")
        else:
            self.early.append((ident, ts, brought))
