"""Health of the worker: where it is between starting and stopping, and whether a restart would help.

    starting ──first turn──> catching_up <──lag──> running
                                  │                   │
                                  └──> stuck <────────┘      stopping from anywhere

Stuck has three reasons: the loop gives no sign; there are records to read and none are read; checkpoints fail. Each
goes by itself when what it waits for happens. Invariant: what `report` says is a function of the calls made so far and
of `now_s`, a time handed in (monotonic seconds); nothing here has a clock, so a loop that hangs is found out by whoever
asks.

*Live* is false only where a restart helps: the loop gives no sign. It stays true while the broker is away or the disk
is full, since to kill the worker then loses work and mends nothing. *Ready* says that the model is fresh: it is false
while catching up, which tells a rolling update to wait and an operator why.

The loop calls from its thread, the port reports from another. Each field is replaced whole, and a report that mixes
two turns of the loop is at worst one turn old.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from online_fm.telemetry.config import HealthConfig

__all__ = ["Health", "HealthReport", "State"]


class State(StrEnum):
    """Where the worker is."""

    STARTING = "starting"
    CATCHING_UP = "catching_up"
    RUNNING = "running"
    STUCK = "stuck"
    STOPPING = "stopping"


class HealthReport(NamedTuple):
    """Health at one moment; `heartbeat_age_s` since the loop's last sign, `lag_records` at that sign."""

    state: State
    reason: str
    live: bool
    ready: bool
    heartbeat_age_s: float
    lag_records: int


class Health:
    """Told by the loop, asked by the port. `now_s` is monotonic seconds everywhere."""

    def __init__(self, config: HealthConfig, now_s: float) -> None:
        self._config = config
        self._beat_s = self._read_s = now_s
        self._lag = 0
        self._failing_since_s: float | None = None
        self._looping = self._stopping = False

    def beat(self, now_s: float, *, read: int, lag: int) -> None:
        """Say that the loop has made a turn: records read in it, records left to read."""
        if read or not lag or not self._looping:
            self._read_s = now_s
        self._lag, self._beat_s, self._looping = lag, now_s, True

    def checkpoint_kept(self) -> None:
        """Say that a checkpoint was kept."""
        self._failing_since_s = None

    def checkpoint_failed(self, now_s: float) -> None:
        """Say that a checkpoint could not be kept."""
        if self._failing_since_s is None:
            self._failing_since_s = now_s

    def stop(self) -> None:
        """Say that the worker was asked to stop."""
        self._stopping = True

    def report(self, now_s: float) -> HealthReport:
        """The state now, and why."""
        dead = self._dead(now_s)
        state, reason = self._state(now_s, dead)
        return HealthReport(
            state=state,
            reason=reason,
            live=not dead,
            ready=state is State.RUNNING,
            heartbeat_age_s=now_s - self._beat_s,
            lag_records=self._lag,
        )

    def _dead(self, now_s: float) -> bool:
        """Whether the loop gives no sign. A worker that stops is not restarted, however long it takes."""
        limit_s = self._config.stuck_after_s if self._looping else self._config.start_within_s
        return not self._stopping and now_s - self._beat_s >= limit_s

    def _state(self, now_s: float, dead: bool) -> tuple[State, str]:
        config = self._config
        silent_s, idle_s = now_s - self._beat_s, now_s - self._read_s
        if self._stopping:
            return State.STOPPING, "asked to stop"
        if dead:
            return State.STUCK, f"no sign of the loop for {silent_s:.0f} s"
        if not self._looping:
            return State.STARTING, "reading back the checkpoint"
        if self._lag and idle_s >= config.stuck_after_s:
            return State.STUCK, f"{self._lag} records to read and none read for {idle_s:.0f} s"
        if self._failing_since_s is not None and now_s - self._failing_since_s >= config.checkpoints_within_s:
            return State.STUCK, f"checkpoints have been failing for {now_s - self._failing_since_s:.0f} s"
        if self._lag > config.catching_up_records:
            return State.CATCHING_UP, f"{self._lag} records to read"
        return State.RUNNING, "reading as records come"
