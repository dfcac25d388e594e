"""Health of the worker: where it is between starting and stopping, and whether a restart would help.

    starting ──first turn──> catching_up <──lag──> running
                                  │                   │
                                  └──> stuck <────────┘      stopping from anywhere

Stuck has four reasons: the loop gives no sign; it is held (the brokers do not answer, or it waits for something
else); there are records to read and none are read; checkpoints fail. Each goes by itself when what it waits for
happens. Invariant: what `report` says is a function of the calls made so far and of `now_s`, a time handed in
(monotonic seconds); nothing here has a clock, so a loop that hangs is found out by whoever asks.

*Live* is false only where a restart helps: the loop gives no sign. It stays true while the broker is away or the disk
is full, since to kill the worker then loses work and mends nothing. *Ready* says that the model is fresh: it is false
while catching up, which tells a rolling update to wait and an operator why. A hold shorter than `stuck_after_s` leaves
it as it was, since the model is at most that much older and a broker's restart is routine; but a worker that was held
ever since its start has not seen its lag yet, and is catching up.

Before long work, which gives no sign, the loop says so and is given `long_work_within_s`; time spent in it does not
count as time in which nothing was read.

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
        self._lag = 0
        self._idle_s = 0.0
        self._held: dict[str, float] = {}  # what holds the loop -> since when
        self._failing_since_s: float | None = None
        self._looping = self._lag_known = self._long_work = self._stopping = False
        self._begin_long_work(now_s)

    def beat(
        self, now_s: float, *, read: int, lag: int, answering: bool = True, waiting_for: str | None = None
    ) -> None:
        """Say that the loop has made a turn.

        read, lag: records read in it, records left to read as far as is known.
        answering: whether the brokers answer.
        waiting_for: what else holds the loop, such as "no partition yet of topic clicks".
        """
        if read or not lag:
            self._idle_s = 0.0
        elif not self._long_work:
            self._idle_s += now_s - self._beat_s
        holds = [] if answering else ["the brokers have not answered"]
        holds += [] if waiting_for is None else [f"{waiting_for}: waiting"]
        self._lag_known |= not holds
        self._held = {hold: self._held.get(hold, now_s) for hold in holds}
        self._lag, self._looping, self._long_work = lag, True, False
        self._sign(now_s, self._config.stuck_after_s)

    def checkpointing(self, now_s: float) -> None:
        """Say that a checkpoint is written now; the next sign is the next turn."""
        self._begin_long_work(now_s)

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

    def _begin_long_work(self, now_s: float) -> None:
        self._long_work = True
        self._sign(now_s, self._config.long_work_within_s)

    def _sign(self, now_s: float, within_s: float) -> None:
        """Note a sign of the loop; the next one is due before `within_s` are over."""
        self._beat_s, self._due_s = now_s, now_s + within_s

    def _dead(self, now_s: float) -> bool:
        """Whether the loop gives no sign. A worker that stops is not restarted, however long it takes."""
        return not self._stopping and now_s >= self._due_s

    def _state(self, now_s: float, dead: bool) -> tuple[State, str]:
        if self._stopping:
            return State.STOPPING, "asked to stop"
        if dead:
            return State.STUCK, f"no sign of the loop for {now_s - self._beat_s:.0f} s"
        if not self._looping:
            return State.STARTING, "reading back the checkpoint"
        if trouble := self._trouble(now_s):
            return State.STUCK, trouble
        if not self._lag_known:
            return State.CATCHING_UP, "; ".join(self._held)
        if self._lag > self._config.catching_up_records:
            return State.CATCHING_UP, f"{self._lag} records to read"
        return State.RUNNING, "reading as records come"

    def _trouble(self, now_s: float) -> str | None:
        """Why a loop that turns is stuck all the same, as of its last sign."""
        config = self._config
        for hold, since_s in self._held.items():
            if (held_s := self._beat_s - since_s) >= config.stuck_after_s:
                return f"{hold} for {held_s:.0f} s"
        if self._idle_s >= config.stuck_after_s:
            return f"{self._lag} records to read and none read for {self._idle_s:.0f} s"
        if self._failing_since_s is not None and now_s - self._failing_since_s >= config.checkpoints_within_s:
            return f"checkpoints have been failing for {now_s - self._failing_since_s:.0f} s"
        return None
