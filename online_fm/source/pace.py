"""Event-time speed: when the lines of a file are due.

Invariant: a line is due no earlier than the lines before it. The line with event time `t` is due when
`(t - t0) / speed` ms have passed since the beginning, `t` being the running maximum of event time within its file
and `t0` the earliest event time that any file begins with. Lines without an event time are due with the one before
them. All files share one clock, so at any moment what is due of all of them is one cut through event time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import islice

__all__ = ["Pace", "Schedule"]


class Pace:
    """The clock of all files: which event time is due now; `begin` sets it going."""

    def __init__(self, speed: float, time_of: Callable[[bytes], int | None]) -> None:
        self._speed, self._time_of = speed, time_of
        self._began_ms: int | None = None
        self._first_ms = 0

    @property
    def began(self) -> bool:
        """Whether the clock is going."""
        return self._began_ms is not None

    def begin(self, now_ms: int, heads: Sequence[Sequence[bytes]]) -> None:
        """Set the clock going, where a file has a line to begin with; heads: the first lines of each file."""
        firsts = [t for head in heads for t in self._first_time(head)]
        if any(heads):
            self._began_ms, self._first_ms = now_ms, min(firsts, default=0)

    def stop(self) -> None:
        """Forget when the clock began; the next `begin` starts from there."""
        self._began_ms = None

    def event_time_ms(self, now_ms: int) -> float:
        """The event time that is due now; nothing is before `begin`."""
        if self._began_ms is None:
            return float("-inf")
        return self._first_ms + (now_ms - self._began_ms) * self._speed

    def time_of(self, line: bytes) -> float:
        """The line's event time, before all others where it has none."""
        time_ms = self._time_of(line)
        return float("-inf") if time_ms is None else time_ms

    def _first_time(self, lines: Sequence[bytes]) -> list[int]:
        return list(islice((t for t in map(self._time_of, lines) if t is not None), 1))


class Schedule:
    """The lines of one file that were read and not given, by the event time at which each is due."""

    def __init__(self, pace: Pace) -> None:
        self._pace, self._last = pace, float("-inf")
        self._keys: list[float] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, lines: Sequence[bytes]) -> None:
        """Append lines; each is due with the running maximum of event time."""
        for line in lines:
            self._last = max(self._last, self._pace.time_of(line))
            self._keys.append(self._last)

    def due(self, now_ms: int) -> int:
        """How many lines are due now."""
        return bisect_right(self._keys, self._pace.event_time_ms(now_ms))

    def drop(self, n: int) -> None:
        """Forget the first `n` lines: they were given."""
        del self._keys[:n]
