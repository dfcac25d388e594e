"""One dead letter, and what can go wrong with it on its way out.

Invariant: a letter holds the record's bytes as they came; what cannot be kept of them is cut only where it is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from online_fm.errors import SourceError

__all__ = ["DeadLetter", "RefusedError", "UndeliveredError"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that was rejected: its coordinates, its timestamp in ms, why, and its bytes as they came."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    reason: str
    value: bytes


class RefusedError(SourceError):
    """One letter is not taken for what it is: too large, or not to the topic's taste."""

    retriable = False


class UndeliveredError(SourceError):
    """Some letters, `left`, are not known to be durable; the others are."""

    def __init__(self, left: list[DeadLetter], why: SourceError) -> None:
        super().__init__(why.args[0], hint=why.hint)
        self.left, self.retriable = left, why.retriable
