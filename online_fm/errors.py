"""Every error that online_fm raises on purpose.

OnlineFMError
├── ConfigError            the configuration cannot be used; names the dotted path
├── SourceError            those who hold the records do not answer as they should: reading, committing, sending
│   ├── OffsetGap          a stored offset is no longer (or not yet) in its partition
│   └── ProcessGoneError   the process that holds the Kafka client has ended, or does not answer
├── StoreError             a folder of checkpoints or snapshots cannot be read or written
│   └── BadFile            one file is truncated, altered, too new, or of another configuration
└── StateError             the process was asked for what its state does not allow

A malformed *event* is none of these: it is data, a `Reject` with a bounded reason (`events.Reason`).
Foreign exceptions are translated where they enter, with `raise ... from exc`. What is not listed here is a
bug and ends the process before anything is committed.
"""

from __future__ import annotations

__all__ = ["BadFile", "ConfigError", "OffsetGap", "OnlineFMError", "SourceError", "StateError", "StoreError"]


class OnlineFMError(Exception):
    """Root of the tree. `hint` says what to do; `retriable`, whether trying again may help."""

    retriable = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message


class ConfigError(OnlineFMError):
    """The configuration cannot be used; the message names the dotted path."""


class SourceError(OnlineFMError):
    """Those who hold the records do not answer as they should: reading, committing, sending."""

    retriable = True


class OffsetGap(SourceError):
    """A stored offset is no longer in its partition: retention passed it, or the topic was made anew."""

    retriable = False

    def __init__(self, partition: str, stored: int, first: int, end: int) -> None:
        super().__init__(
            f"{partition}: the next record to read is {stored}, but the partition now holds {first} to {end}",
            hint="records were lost to retention or the topic was made anew; "
            "set source.on_gap to 'accept' to go on from what there is, and count the loss",
        )
        self.partition, self.stored, self.first, self.end = partition, stored, first, end


class StoreError(OnlineFMError):
    """A folder of checkpoints or snapshots cannot be read or written."""


class BadFile(StoreError):
    """One file is truncated, altered, of a newer format, or of another configuration."""

    def __init__(self, name: str, why: str, *, hint: str | None = None) -> None:
        super().__init__(f"{name}: {why}", hint=hint)
        self.name, self.why = name, why


class StateError(OnlineFMError):
    """The process was asked for what its state does not allow."""
