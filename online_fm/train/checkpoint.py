"""Checkpoints: all of the trainer's state in one atomic file, and the order of the steps that make it count.

Whoever is killed anywhere goes on from the newest checkpoint that holds: parameters, optimizer state, pending rows,
quality and offsets lie in it together, so its offsets win over what the group has committed. A snapshot is published
only of a state that a checkpoint holds, so that no served model belongs to a history that a crash has erased; where
the process died between the two, the next start publishes it.

Versions rise by one from the newest file of either kind, damaged ones included: a name is never used twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from online_fm.errors import BadFile, SourceError, StoreError
from online_fm.model.config import read_config
from online_fm.snapshot.format import Manifest, Tensors, encode
from online_fm.snapshot.store import Store, file_name, names_of, newest_good, next_version, prune, verify
from online_fm.source.dead_letter import DeadLetters
from online_fm.source.port import Source, TopicPartition
from online_fm.train.pipeline import Pipeline, PipelineState

__all__ = ["CheckpointConfig", "Checkpoints", "Committed", "Restored", "SnapshotConfig", "names_in"]


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
    """What one commit did. `troubles` lose nothing: a snapshot not published, offsets not taken, a file not deleted."""

    version: int
    size_bytes: int
    letters_kept: int
    published: bool
    troubles: tuple[SourceError | StoreError, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored: the manifest (None: a first start), newer files that are damaged, and troubles as above."""

    manifest: Manifest | None
    refused: tuple[BadFile, ...]
    troubles: tuple[StoreError, ...] = ()


class Checkpoints:
    """Makes and reads back checkpoints of one pipeline. Only one may write to its stores."""

    def __init__(self, checkpoints: Store, snapshots: Store, *, keep: int, keep_snapshots: int) -> None:
        self._checkpoints, self._snapshots = checkpoints, snapshots
        self._keep, self._keep_snapshots = keep, keep_snapshots
        self._next = max(next_version(checkpoints, "checkpoint"), next_version(snapshots, "snapshot"))

    def commit(self, pipeline: Pipeline, source: Source, dead_letters: DeadLetters, now_ms: int) -> Committed:
        """Make what was learned durable.

        1 flush    dead letters, whose records the checkpoint's offsets pass
        2 freeze   the pipeline's state
        3 put      the checkpoint; from here on a restart goes on from it
        4 verify   it, as it lies in the store
        5 publish  the snapshot of the same state, once something was learned
        6 commit   the offsets to the group, for its monitoring only
        7 prune    old checkpoints and snapshots

        Up to 4 a failure raises `StoreError` or `SourceError`, and the next commit does all of it again; after that it
        is a trouble to be told: the checkpoint is in force.
        """
        letters_kept = dead_letters.flush()  # 1
        state = pipeline.state()  # 2
        manifest = _manifest(pipeline, state, self._next, now_ms, source.names())
        name = file_name("checkpoint", manifest.version)
        self._next += 1
        data = encode(manifest, state.tensors)
        size_bytes, offsets = len(data), state.offsets
        del state
        self._checkpoints.put(name, data)  # 3
        del data  # a large table is not held three times
        verify(self._checkpoints, name)  # 4
        troubles: list[SourceError | StoreError] = list(self._publish(pipeline, manifest))  # 5
        published = not troubles and bool(manifest.counts["learned"])
        try:
            source.commit(offsets)  # 6
        except SourceError as trouble:
            troubles.append(trouble)
        troubles += prune(self._checkpoints, "checkpoint", self._keep).failed  # 7
        troubles += prune(self._snapshots, "snapshot", self._keep_snapshots).failed
        return Committed(manifest.version, size_bytes, letters_kept, published, tuple(troubles))

    def restore(self, pipeline: Pipeline) -> Restored:
        """Bring the pipeline to the newest checkpoint that holds.

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
            return Restored(None, ())
        _check_same(found.name, found.manifest, pipeline)
        try:
            offsets = {partition_of(name): offset for name, offset in found.manifest.offsets.items()}
            pipeline.restore(PipelineState(found.tensors, offsets, found.manifest.extra))
        except (ValueError, KeyError, msgspec.ValidationError) as problem:
            raise BadFile(found.name, f"does not fit this configuration: {problem}", hint=_OTHER) from problem
        published = file_name("snapshot", found.manifest.version) in names_of(self._snapshots, "snapshot")
        troubles = () if published else self._publish(pipeline, found.manifest)
        return Restored(found.manifest, tuple(found.refused), troubles)

    def _publish(self, pipeline: Pipeline, checkpoint: Manifest) -> tuple[StoreError, ...]:
        """Put the snapshot of a checkpoint's state; a model that has learned nothing is nobody's to serve."""
        if not checkpoint.counts["learned"]:
            return ()
        manifest = msgspec.structs.replace(checkpoint, kind="snapshot", offsets={}, extra={})
        parameters: Tensors = pipeline.learner.parameters()
        try:
            self._snapshots.put(file_name("snapshot", manifest.version), encode(manifest, parameters))
        except StoreError as trouble:
            return (trouble,)
        return ()


_TOLD_MAX = 120  # characters: all that an optimizer may be set to
_OTHER = "go back to the configuration it was written with, or give checkpoint.path and snapshot.path new folders"


def _learning_of(pipeline: Pipeline) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and features as a manifest holds them: what must be equal for parameters to mean the same."""
    config = pipeline.config
    model, features = (msgspec.json.decode(msgspec.json.encode(part)) for part in (config.model, config.features))
    return model, features


def names_in(manifest: Manifest) -> dict[TopicPartition, str]:
    """What the partitions were called when this checkpoint was made, as `Source.seek` takes it."""
    return {partition_of(partition): name for partition, name in manifest.extra.get("names", {}).items()}


def partition_of(text: str) -> TopicPartition:
    """The partition that `str()` made this text of."""
    topic, _, number = text.rpartition("-")
    return TopicPartition(topic, int(number))


def _manifest(
    pipeline: Pipeline, state: PipelineState, version: int, now_ms: int, names: Mapping[TopicPartition, str]
) -> Manifest:
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
        extra={**state.rest, "names": {str(partition): name for partition, name in names.items()}},
    )


def _check_same(name: str, manifest: Manifest, pipeline: Pipeline) -> None:
    model, features = _learning_of(pipeline)
    try:
        written = msgspec.to_builtins(read_config(manifest.model, manifest.format))
    except (msgspec.ValidationError, TypeError) as problem:
        raise BadFile(name, f"is of a model that this version does not know: {problem}", hint=_OTHER) from problem
    if written["kind"] != model["kind"]:
        odd = [f"model.kind was {written['kind']}"]
    else:
        odd = [*_differing(written, model, "model"), *_differing(manifest.features, features, "features")]
    if odd:
        raise BadFile(name, f"was written with another configuration: {', '.join(odd)}", hint=_OTHER)


def _differing(then: Mapping[str, Any], now: Mapping[str, Any], path: str) -> Iterator[str]:
    """What is other by now, and what it was; the bounds of tables may change from one start to the next."""
    for key in sorted((then.keys() | now.keys()) - {"max_features"}):
        old, new = then.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and old.get("kind") == new.get("kind"):
            yield from _differing(old, new, f"{path}.{key}")
        elif old != new:
            yield f"{path}.{key} was {_told(old) if key in then else 'not there'}"


def _told(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _TOLD_MAX else "another"
