"""LiveScorer: the newest snapshot of a folder inside a user's own Python service.

It logs through the standard library (`logging.getLogger("online_fm.serve")`), as a library should.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from online_fm.errors import BadFile, StateError
from online_fm.serve.scorer import Features, Rng, Scorer
from online_fm.serve.slot import Slot
from online_fm.serve.watcher import Watcher
from online_fm.snapshot.store import FolderStore

__all__ = ["LiveScorer"]

_LOG = logging.getLogger("online_fm.serve")


class LiveScorer:
    """Scores with the newest good snapshot of a folder, and follows it.

    Entering looks once, so that an existing snapshot is ready at once. Before the first snapshot, `score` and `rank`
    raise `StateError`. Threads may share it. It may be entered again once it was left. `scorer` can do more: predict
    with a variance, explain.

    >>> with LiveScorer("snapshots") as live:
    ...     live.rank({"user": "u1"}, [{"item": "i7"}, {"item": "i8"}])
    array([0.0312, 0.0171], dtype=float32)
    """

    def __init__(self, path: str | os.PathLike[str], poll_interval_s: float = 1.0) -> None:
        self._slot = Slot()
        self._watcher = Watcher(FolderStore(path), self._slot, _Log())
        self._poll_interval_s = poll_interval_s

    @property
    def version(self) -> int | None:
        """The version that is served, None before the first."""
        return self._slot.scorer.version if self._slot.scorer else None

    @property
    def scorer(self) -> Scorer:
        """The scorer that is served, to keep for several calls; raises `StateError` before the first."""
        return self._slot.take()

    def score(self, features: Sequence[Features]) -> NDArray[np.float32]:
        """Scores f32[n]; see `Scorer.score`."""
        return self._slot.take().score(features)

    def rank(self, context: Features, candidates: Sequence[Features], rng: Rng | None = None) -> NDArray[np.float32]:
        """Scores f32[n] of candidates in one context, drawn ones with a generator or seed; see `Scorer.rank`."""
        return self._slot.take().rank(context, candidates, rng)

    def wait(self, timeout_s: float) -> None:
        """Until a snapshot is served; raises `StateError` after `timeout_s`."""
        give_up_s = time.monotonic() + timeout_s
        while self._slot.scorer is None:
            if time.monotonic() > give_up_s:
                raise StateError(f"no snapshot within {timeout_s} s", hint="does the worker publish to this folder?")
            time.sleep(0.01)

    def __enter__(self) -> Self:
        self._watcher.poll()
        self._watcher.start(self._poll_interval_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watcher.stop()


class _Log:
    def loaded(self, scorer: Scorer, seconds: float) -> None:
        _LOG.info("serving snapshot %d, loaded in %.3f s", scorer.version, seconds)

    def refused(self, error: BadFile) -> None:
        _LOG.warning("snapshot refused: %s", error)

    def unreachable(self, error: Exception) -> None:
        _LOG.warning("snapshots cannot be read: %s", error)

    def reachable(self) -> None:
        _LOG.info("snapshots can be read again")
