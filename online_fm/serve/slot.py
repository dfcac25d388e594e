"""The slot: who holds the scorer that is served.

Invariant: one reference, replaced whole. A request takes it once and keeps it to its end, so that a swap never
mixes two versions in one reply; the old scorer's memory goes with the last request that holds it.
"""

from __future__ import annotations

from online_fm.errors import StateError
from online_fm.serve.scorer import Scorer

__all__ = ["Slot"]


class Slot:
    """Holds the scorer that is served, None before the first."""

    def __init__(self) -> None:
        self.scorer: Scorer | None = None

    def swap(self, scorer: Scorer) -> None:
        """Serve this one from now on."""
        self.scorer = scorer

    def take(self) -> Scorer:
        """The scorer that is served; raises `StateError` before the first."""
        scorer = self.scorer
        if scorer is None:
            raise StateError("no snapshot is loaded yet", hint="does a worker publish to this folder?")
        return scorer
