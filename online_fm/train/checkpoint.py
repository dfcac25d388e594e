"""Checkpoints: all of the trainer's state in one atomic file, and the order of the steps that make it count.

Whoever is killed anywhere goes on from the newest checkpoint that holds: parameters, optimizer state, pending rows,
quality and offsets lie in it together, so its offsets win over what the group has committed. A snapshot is published
only of a state that a checkpoint holds, so that no served model belongs to a history that a crash has erased; where
the process died between the two, the next start publishes it.

Versions rise by one from the newest file of either kind, damaged ones included: a name is never used twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from online_fm.errors import BadFile, SourceError, StoreError
from online_fm.snapshot.format import Manifest, Tensors, encode
from online_fm.snapshot.store import Store, file_name, names_of, newest_good, next_version, prune, verify
from online_fm.source.dead_letter import DeadLetters
from online_fm.source.port import Source, TopicPartition
from online_fm.train.pipeline import Pipeline, PipelineState

__all__ = ["CheckpointConfig", "Checkpoints", "Committed", "SnapshotConfig"]


class CheckpointConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where checkpoints rest, how often one is made, how many are kept.

    A crash learns again what came since the last one, at the speed of a backlog; a minute of 5,000 events/s takes
    seconds. A snapshot is published with each.
    """

    path: Annotated[str, Meta(min_length=1)] = "state/checkpoints"
    interval_s: Annotated[float, Meta(gt=0)] = 60.0
    keep: Annotated[int, Meta(ge=1)] = 3


class SnapshotConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where snapshots are published and found by serving, and how many are kept."""

    path: Annotated[str, Meta(min_length=1)] = "state/snapshots"
    keep: Annotated[int, Meta(ge=1)] = 5


@dataclass(frozen=True, slots=True)
class Committed:
    """What one commit did. `troubles` lose nothing: a group that took no offsets, a file that was not deleted."""

    version: int
    size_bytes: int
    troubles: tuple[SourceError | StoreError, ...]


class Checkpoints:
    """Makes and reads back checkpoints of one pipeline."""

    def __init__(self, checkpoints: Store, snapshots: Store, *, keep: int, keep_snapshots: int) -> None:
        self._checkpoints, self._snapshots = checkpoints, snapshots
        self._keep, self._keep_snapshots = keep, keep_snapshots

    def commit(self, pipeline: Pipeline, source: Source, dead_letters: DeadLetters, now_ms: int) -> Committed:
        """Make what was learned durable.

        1 flush    dead letters, whose records the checkpoint's offsets pass
        2 freeze   the pipeline's state
        3 put      the checkpoint; from here on a restart goes on from it
        4 verify   it, as it lies in the store
        5 publish  the snapshot of the same state
        6 commit   the offsets to the group, for its monitoring only
        7 prune    old checkpoints and snapshots

        Up to 4 a failure raises `StoreError` or `SourceError`, and all stays as it was but for a repeated dead letter.
        """
        dead_letters.flush()  # 1
        state = pipeline.state()  # 2
        version = max(next_version(self._checkpoints, "checkpoint"), next_version(self._snapshots, "snapshot"))
        manifest = _manifest(pipeline, state, version, now_ms)
        data = encode(manifest, state.tensors)
        name = file_name("checkpoint", version)
        self._checkpoints.put(name, data)  # 3
        verify(self._checkpoints, name)  # 4
        self._publish(pipeline, manifest)  # 5
        troubles: list[SourceError | StoreError] = []
        try:
            source.commit(state.offsets)  # 6
        except SourceError as trouble:
            troubles.append(trouble)
        troubles += prune(self._checkpoints, "checkpoint", self._keep).failed  # 7
        troubles += prune(self._snapshots, "snapshot", self._keep_snapshots).failed
        return Committed(version, len(data), tuple(troubles))

    def restore(self, pipeline: Pipeline) -> tuple[Manifest | None, tuple[BadFile, ...]]:
        """Bring the pipeline to the newest checkpoint that holds: its manifest (None: a first start), and newer damage.

        Raises BadFile where it is of another configuration, or where there are checkpoints and none holds.
        """
        found = newest_good(self._checkpoints, "checkpoint")
        if found.name is None or found.manifest is None:
            if found.refused:
                raise BadFile(
                    found.refused[0].name,
                    f"{found.refused[0].why}; and no older checkpoint holds",
                    hint="restore the folder from a copy, or move it away to learn anew from the beginning",
                )
            return None, ()
        _check_same(found.name, found.manifest, pipeline)
        try:
            offsets = {_partition(name): offset for name, offset in found.manifest.offsets.items()}
            pipeline.restore(PipelineState(found.tensors, offsets, found.manifest.extra))
        except (ValueError, KeyError, msgspec.ValidationError) as problem:
            raise BadFile(found.name, f"does not fit this configuration: {problem}", hint=_OTHER) from problem
        if file_name("snapshot", found.manifest.version) not in names_of(self._snapshots, "snapshot"):
            self._publish(pipeline, found.manifest)
        return found.manifest, tuple(found.refused)

    def _publish(self, pipeline: Pipeline, checkpoint: Manifest) -> None:
        manifest = msgspec.structs.replace(checkpoint, kind="snapshot", offsets={}, extra={})
        parameters: Tensors = pipeline.learner.parameters()
        self._snapshots.put(file_name("snapshot", manifest.version), encode(manifest, parameters))


_OTHER = "go back to the configuration it was written with, or give checkpoint.path and snapshot.path new folders"


def _learning_of(pipeline: Pipeline) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and features as a manifest holds them: what must be equal for parameters to mean the same."""
    config = pipeline.config
    model, features = (msgspec.json.decode(msgspec.json.encode(part)) for part in (config.model, config.features))
    return model, features


def _manifest(pipeline: Pipeline, state: PipelineState, version: int, now_ms: int) -> Manifest:
    model, features = _learning_of(pipeline)
    first_ms = pipeline.first_time_ms
    return Manifest(
        kind="checkpoint",
        version=version,
        created_ms=now_ms,
        model=model,
        features=features,
        counts={**pipeline.counts(), "features": pipeline.learner.features, "pending": pipeline.pending},
        event_time=None if first_ms is None else (first_ms, pipeline.stream_time_ms),
        offsets={str(partition): offset for partition, offset in state.offsets.items()},
        extra=state.rest,
    )


def _check_same(name: str, manifest: Manifest, pipeline: Pipeline) -> None:
    model, features = _learning_of(pipeline)
    odd = [f"model.{key}" for key in _differing(manifest.model, model) if key != "max_features"]
    odd += [f"features.{key}" for key in _differing(manifest.features, features)]
    if odd:
        raise BadFile(name, f"was written with another configuration: {', '.join(odd)} differ", hint=_OTHER)


def _differing(a: Mapping[str, object], b: Mapping[str, object]) -> list[str]:
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _partition(name: str) -> TopicPartition:
    topic, _, number = name.rpartition("-")
    return TopicPartition(topic, int(number))
