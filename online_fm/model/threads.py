"""Threads that share out the rows of a batch: a kernel runs without the interpreter's lock.

In prediction rows do not touch each other. In learning they do: threads work in the same arrays without locks (Hogwild:
Niu et al., NIPS 2011), so that an update may be lost to another one of the same record in the same nanoseconds, and a
row does not know of those beside it. Numbers are never torn, for float32 are written whole.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

__all__ = ["Threads"]

STRETCH = 32  # rows: what handing them to a thread costs is little beside them


class Threads:
    """n threads, the caller's among them."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._others = ThreadPoolExecutor(n - 1, "learner") if n > 1 else None

    def share(self, work: Callable[[int, int], None], rows: int) -> None:
        """Do `work(start, end)` for stretches that make up all rows; for few of them at once."""
        parts = min(self._n, rows // STRETCH)
        if self._others is None or parts < 2:
            work(0, rows)
            return
        first, *rest = pairwise(rows * part // parts for part in range(parts + 1))
        waiting = [self._others.submit(work, *ends) for ends in rest]
        work(*first)
        for other in waiting:
            other.result()
