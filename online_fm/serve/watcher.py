"""The watcher: which snapshots exist, which to load, and the load, aside.

Invariant: what is served is only ever replaced by a snapshot that was read, verified, built and has scored; what
goes wrong on the way leaves it as it is. Nothing is unloaded: a store that cannot be reached, or holds nothing, or
only what is damaged, changes nothing.

The policy has no memory but the refused files, by name, time and size: each is reported once and read again
only if it is replaced. Of the versions above the served one the newest that is good wins. It goes back only where
every version in the store is older: the served one was then withdrawn, or training began anew in an emptied folder,
and serving the forgotten one for ever would be the surprise.

What is told may not get through: a log on a full disk, a pipe that nobody reads. That ends nothing here.

`poll` is one look, made by a thread or by hand. TensorFlow Serving separates the same four: source, loader, policy,
manager.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, Protocol

from online_fm.errors import BadFile, StateError, StoreError
from online_fm.serve.scorer import Scorer
from online_fm.serve.slot import Slot
from online_fm.snapshot.store import Stamp, Store, names_of, version_of

__all__ = ["Reports", "Watcher", "to_try"]

Told = ParamSpec("Told")


class Reports(Protocol):
    """Who is told. Called by the thread that polls; what it raises is dropped."""

    def loaded(self, scorer: Scorer, seconds: float) -> None:
        """It is served from now on; reading, verifying and warming up took this long."""

    def refused(self, error: BadFile) -> None:
        """A file was refused; said once per file."""

    def unreachable(self, error: Exception) -> None:
        """The store, or a file in it, cannot be read; said when it begins."""

    def reachable(self) -> None:
        """All can be read again."""


def to_try(names: Sequence[str], served: int | None) -> list[str]:
    """Names to try in turn, newest first, given all names and the version that is served."""
    newest_first = sorted(names, reverse=True)
    versions = [version_of(name) or 0 for name in newest_first]
    if served is None or (versions and versions[0] < served):
        return newest_first
    return [name for name, version in zip(newest_first, versions, strict=True) if version > served]


class Watcher:
    """Keeps the slot filled with the newest good snapshot of a store."""

    def __init__(self, store: Store, slot: Slot, reports: Reports) -> None:
        self._store = store
        self._slot = slot
        self._reports = reports
        self._refused: dict[str, Stamp] = {}
        self._reachable = True
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def poll(self) -> bool:
        """Look once, load what is to be loaded, and say whether another version is served now."""
        try:
            names = names_of(self._store, "snapshot")
        except StoreError as exc:
            self._tell(exc)
            return False
        self._refused = {name: stamp for name, stamp in self._refused.items() if name in names}
        trouble: StoreError | None = None
        served = self._slot.scorer.version if self._slot.scorer else None
        for name in to_try(names, served):
            try:
                if self._load(name):
                    self._tell(trouble)
                    return True
            except StoreError as exc:
                trouble = trouble or exc
        self._tell(trouble)
        return False

    @property
    def running(self) -> bool:
        """Whether the thread lives."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, interval_s: float) -> None:
        """Poll now and then every `interval_s`, in a thread, until `stop`; raises `StateError` while one runs."""
        if self.running:
            raise StateError("the snapshots are followed already")
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, args=(interval_s,), name="snapshots", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the poll at hand; twice does no harm, and `start` may follow."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, interval_s: float) -> None:
        while not self._stopping.is_set():
            try:
                self.poll()
            except Exception as exc:  # noqa: BLE001 - a watch that ends would serve an old model for ever
                self._tell(exc)
            self._stopping.wait(interval_s)

    def _load(self, name: str) -> bool:
        stamp = self._store.stamp(name)
        if self._refused.get(name) == stamp:
            return False
        started_s = time.perf_counter()
        data = self._store.get(name)
        try:
            scorer = _built(name, data)
        except BadFile as exc:
            self._refused[name] = stamp
            _say(self._reports.refused, exc)
            return False
        self._slot.swap(scorer)
        _say(self._reports.loaded, scorer, time.perf_counter() - started_s)
        return True

    def _tell(self, trouble: Exception | None) -> None:
        """Report the change, not the state."""
        if trouble is not None and self._reachable:
            _say(self._reports.unreachable, trouble)
        if trouble is None and not self._reachable:
            _say(self._reports.reachable)
        self._reachable = trouble is None


def _say(tell: Callable[Told, None], *told: Told.args, **named: Told.kwargs) -> None:
    with contextlib.suppress(Exception):
        tell(*told, **named)


def _built(name: str, data: bytes) -> Scorer:
    """Raises only `BadFile`: whatever a file makes us trip over, the others are still to be served."""
    try:
        scorer = Scorer.from_bytes(name, data)
    except BadFile:
        raise
    except Exception as exc:
        raise BadFile(name, f"cannot be loaded: {type(exc).__name__}: {exc}") from exc
    if scorer.version != version_of(name):
        raise BadFile(name, f"holds version {scorer.version}: it was renamed or copied over")
    return scorer
