"""Checkpoints: a death between any two steps of a commit loses nothing and learns nothing twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from traffic import fingerprint, pipeline, read_all, source

from online_fm.errors import BadFile, SourceError, StoreError
from online_fm.features.encode import Encoder
from online_fm.model import make_predictor
from online_fm.snapshot.format import FORMAT, Manifest, decode, encode
from online_fm.snapshot.store import MemoryStore, file_name, names_of
from online_fm.source.dead_letter import DeadLetter, DeadLetters
from online_fm.source.memory import MemorySource
from online_fm.train.checkpoint import Checkpoints
from online_fm.train.pipeline import Pipeline

KEPT = sorted((Path(__file__).parent / "data" / "checkpoints").glob("*.zst"))


class Shelf:
    """An outlet that remembers."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []

    def deliver(self, letters: list[DeadLetter]) -> None:
        self.letters += letters

    def close(self) -> None:
        pass


class Died(BaseException):
    """The process is gone: nothing catches it."""


class Mortal(MemoryStore):
    """Dies before or after the n-th call that changes something."""

    def __init__(self, die_at: int, before: bool) -> None:
        super().__init__()
        self.left, self.before = die_at, before

    def put(self, name: str, data: bytes) -> None:
        self.maybe(lambda: super(Mortal, self).put(name, data))

    def delete(self, name: str) -> None:
        self.maybe(lambda: super(Mortal, self).delete(name))

    def maybe(self, change) -> None:
        self.left -= 1
        if self.left == 0 and self.before:
            raise Died
        change()
        if self.left == 0:
            raise Died


def keeper(checkpoints: MemoryStore, snapshots: MemoryStore) -> Checkpoints:
    return Checkpoints(checkpoints, snapshots, keep=2, keep_snapshots=2)


def drive(learner: Pipeline, stream: MemorySource, kept: Checkpoints, shelf: Shelf) -> None:
    """A worker's turns, with a commit after each few."""
    letters = DeadLetters(shelf)
    stream.seek(learner.offsets())
    learner.assign(stream.positions())
    turn = 0
    while True:
        batch = stream.poll(97, 0, learner.ahead())
        letters.write(learner.step(batch, now_ms=0).rejects)
        turn += 1
        if turn % 4 == 0:
            kept.commit(learner, stream, letters, now_ms=turn)
        if not len(batch) and not learner.waiting():
            kept.commit(learner, stream, letters, now_ms=turn)
            return


@pytest.fixture(scope="module")
def whole():
    learner = pipeline()
    read_all(learner, source())
    return fingerprint(learner)


@pytest.mark.parametrize("which", ["checkpoints", "snapshots"])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("die_at", [1, 2, 3, 4, 5])
def test_a_death_around_any_durable_step_changes_nothing(whole, which, before, die_at) -> None:
    checkpoints, snapshots = MemoryStore(), MemoryStore()
    mortal = Mortal(die_at, before)
    shelf = Shelf()
    stores = (mortal, snapshots) if which == "checkpoints" else (checkpoints, mortal)
    with pytest.raises(Died):
        drive(pipeline(), source(), keeper(*stores), shelf)
    learner = pipeline()
    kept = keeper(*stores)
    kept.restore(learner)
    held = names_of(stores[0], "checkpoint")
    published = names_of(stores[1], "snapshot")
    if learner.counts()["learned"]:  # what was restored is what is served
        assert published[-1].removeprefix("snapshot") == held[-1].removeprefix("checkpoint")
    drive(learner, source(), kept, shelf)
    assert fingerprint(learner) == whole
    coordinates = {(letter.topic, letter.partition, letter.offset) for letter in shelf.letters}
    assert len(coordinates) == whole[1]["rejected"]  # every one kept, some perhaps twice


def test_a_snapshot_scores_as_the_learner_does_at_its_checkpoint() -> None:
    checkpoints, snapshots, learner, stream = MemoryStore(), MemoryStore(), pipeline(), source()
    drive(learner, stream, keeper(checkpoints, snapshots), Shelf())
    name = names_of(snapshots, "snapshot")[-1]
    manifest, parameters = decode(name, snapshots.get(name), kind="snapshot")
    encoder = Encoder(learner.config.features)
    predictor = make_predictor(learner.config.model, encoder.fields, parameters)
    rows = encoder.encode([{"user": f"u{i}", "item": f"i{i % 7}", "age": 30} for i in range(40)]).rows
    assert predictor.predict(rows).p.tobytes() == learner.learner.predict(rows).p.tobytes()
    assert manifest.counts["learned"] == learner.counts()["learned"]
    assert stream.committed == learner.offsets()


def test_a_damaged_newest_checkpoint_is_refused_and_the_one_before_is_used() -> None:
    checkpoints, snapshots, learner = MemoryStore(), MemoryStore(), pipeline()
    drive(learner, source(), keeper(checkpoints, snapshots), Shelf())
    older, newest = names_of(checkpoints, "checkpoint")
    data = bytearray(checkpoints.get(newest))
    data[-1] ^= 1
    checkpoints.put(newest, bytes(data))
    again = pipeline()
    restored = keeper(checkpoints, snapshots).restore(again)
    assert file_name("checkpoint", restored.manifest.version) == older
    assert [problem.name for problem in restored.refused] == [newest]
    drive(again, source(), keeper(checkpoints, snapshots), Shelf())
    assert fingerprint(again) == fingerprint(learner)
    assert names_of(checkpoints, "checkpoint")[-1] > newest  # a name is never used twice


def test_when_no_checkpoint_holds_the_worker_does_not_begin_anew_by_itself() -> None:
    checkpoints = MemoryStore()
    checkpoints.put(file_name("checkpoint", 3), b"half a file")
    with pytest.raises(BadFile, match="no older checkpoint holds"):
        keeper(checkpoints, MemoryStore()).restore(pipeline())


@pytest.mark.parametrize(
    ("setting", "named"),
    [("model.k=8", "model.k"), ("model.kind=lr", "model.kind"), ("features.fields=[user]", "features.fields")],
)
def test_a_checkpoint_of_another_configuration_is_refused_by_name(setting, named) -> None:
    checkpoints, snapshots = MemoryStore(), MemoryStore()
    drive(pipeline(), source(), keeper(checkpoints, snapshots), Shelf())
    with pytest.raises(BadFile, match=f"another configuration: .*{named}"):
        keeper(checkpoints, snapshots).restore(pipeline(setting))


def test_a_larger_table_and_another_window_may_go_on_from_the_same_checkpoint() -> None:
    checkpoints, snapshots, learner = MemoryStore(), MemoryStore(), pipeline()
    drive(learner, source(), keeper(checkpoints, snapshots), Shelf())
    other = pipeline("model.max_features=9000000", "join.window_s=60", "quality.window=1000")
    keeper(checkpoints, snapshots).restore(other)
    assert other.learner.state_hash() == learner.learner.state_hash()
    assert other.pending == learner.pending


def test_a_disk_that_fails_raises_and_leaves_the_previous_checkpoint_in_force() -> None:
    checkpoints, snapshots, learner, stream = MemoryStore(), MemoryStore(), pipeline(), source()
    kept = keeper(checkpoints, snapshots)
    learner.assign(stream.positions())
    learner.step(stream.poll(500, 0), now_ms=0)
    kept.commit(learner, stream, DeadLetters(Shelf()), 1)
    before = fingerprint(learner)
    learner.step(stream.poll(500, 0), now_ms=0)
    checkpoints.unreachable = StoreError("disk full")
    with pytest.raises(StoreError, match="disk full"):
        kept.commit(learner, stream, DeadLetters(Shelf()), 2)
    checkpoints.unreachable = None
    again = pipeline()
    kept.restore(again)
    assert fingerprint(again) == before


def test_a_group_that_takes_no_offsets_is_a_trouble_not_a_failure() -> None:
    class Deaf(MemorySource):
        def commit(self, offsets) -> None:
            raise SourceError("the broker is away")

    learner, stream = pipeline(), Deaf({})
    done = keeper(MemoryStore(), MemoryStore()).commit(learner, stream, DeadLetters(Shelf()), 1)
    assert [str(trouble) for trouble in done.troubles] == ["the broker is away"]


def test_snapshots_that_cannot_be_written_cost_no_checkpoint_and_fill_no_disk() -> None:
    checkpoints, snapshots, learner, stream = MemoryStore(), MemoryStore(), pipeline(), source()
    kept = keeper(checkpoints, snapshots)
    read_all(learner, stream)
    snapshots.unreachable = StoreError("disk full")
    for now_ms in range(10):
        done = kept.commit(learner, stream, DeadLetters(Shelf()), now_ms)
        assert "disk full" in str(done.troubles[0])
        assert not done.published
    assert len(checkpoints.names()) == 2
    assert stream.committed == learner.offsets()
    snapshots.unreachable = None
    kept.restore(pipeline())
    assert names_of(snapshots, "snapshot")[-1][-20:] == checkpoints.names()[-1][-20:]


def test_a_model_that_has_learned_nothing_is_not_published() -> None:
    checkpoints, snapshots, learner, stream = MemoryStore(), MemoryStore(), pipeline(), source()
    kept = keeper(checkpoints, snapshots)
    learner.assign(stream.positions())
    assert not kept.commit(learner, stream, DeadLetters(Shelf()), 1).published
    kept.restore(pipeline())
    assert (len(checkpoints.names()), snapshots.names()) == (1, [])


def test_rejects_that_cannot_be_kept_stop_the_commit_that_would_pass_them() -> None:
    class Full(Shelf):
        def deliver(self, letters: list[DeadLetter]) -> None:
            raise SourceError("disk full")

    checkpoints, learner, stream = MemoryStore(), pipeline(), source()
    letters = DeadLetters(Full())
    learner.assign(stream.positions())
    while not (rejects := learner.step(stream.poll(500, 0), now_ms=0).rejects):
        pass
    letters.write(rejects)
    with pytest.raises(SourceError, match="disk full"):
        keeper(checkpoints, MemoryStore()).commit(learner, stream, letters, 1)
    assert checkpoints.names() == []


def kept_file(packed: Path) -> tuple[MemoryStore, dict[str, Any]]:
    """A store with a file of `tests/data/checkpoints`, and what the file is known to hold."""
    checkpoints = MemoryStore()
    checkpoints.put(file_name("checkpoint", 1), zstandard.ZstdDecompressor().decompress(packed.read_bytes()))
    return checkpoints, json.loads(packed.with_name(packed.name.replace(".safetensors.zst", ".json")).read_text())


def test_the_current_format_is_among_those_that_are_kept() -> None:
    assert {f"format-{FORMAT}-{model}.safetensors.zst" for model in ("fm", "committee")} <= {each.name for each in KEPT}


@pytest.mark.parametrize("packed", KEPT, ids=lambda path: path.name)
def test_checkpoints_of_every_format_that_was_ever_written_go_on(packed) -> None:
    checkpoints, expected = kept_file(packed)
    learner, stream = pipeline(f"model={json.dumps(expected['model'])}"), source()
    keeper(checkpoints, MemoryStore()).restore(learner)
    assert learner.learner.state_hash() == expected["state_hash"]
    assert learner.counts() == {"unclicked": 0, **expected["counts"]}  # counted since then
    assert (learner.pending, learner.stream_time_ms) == (expected["pending"], expected["stream_time_ms"])
    assert {str(partition): offset for partition, offset in learner.offsets().items()} == expected["offsets"]
    assert learner.quality["learning"].since_start().log_loss == expected["log_loss"]
    stream.seek(learner.offsets())
    read_all(learner, stream)
    assert learner.counts()["learned"] == expected["end"]["learned"]
    assert learner.quality["learning"].since_start().log_loss == pytest.approx(expected["end"]["log_loss"], abs=1e-6)


def test_an_ffm_from_before_it_had_rho_goes_on_with_one_of_1_and_all_else_as_it_was() -> None:
    (packed,) = [each for each in KEPT if each.name.startswith("format-2-committee")]
    checkpoints, expected = kept_file(packed)
    learner = pipeline(f"model={json.dumps(expected['model'])}")
    keeper(checkpoints, MemoryStore()).restore(learner)
    _, tensors = decode("before", checkpoints.get(file_name("checkpoint", 1)))
    new = {name: array for name, array in learner.learner.state().items() if f"model.{name}" not in tensors}
    assert sorted(new) == ["fast/rho", "fast/rho_sum"]
    assert (new["fast/rho"] == 1).all()
    assert (new["fast/rho_sum"] == 0).all()
    kept = {name: array for name, array in learner.learner.state().items() if name not in new}
    assert all(array.tobytes() == tensors[f"model.{name}"].tobytes() for name, array in kept.items())


def test_a_checkpoint_from_before_there_were_scales_needs_a_configuration_without() -> None:
    checkpoints, expected = kept_file(KEPT[0])
    without = {name: value for name, value in expected["model"].items() if name != "scales"}
    for model, named in (
        (without, r"model\.scales was null \("),
        (
            {"kind": "fm", "k": 4},
            r"model\.scales was null, model\.v was {\"kind\":\"ftrl\",\"alpha\":0\.05,.*model\.w was",
        ),
    ):
        with pytest.raises(BadFile, match=f"was written with another configuration: {named}"):
            keeper(checkpoints, MemoryStore()).restore(pipeline(f"model={json.dumps(model)}"))


def test_a_checkpoint_of_a_newer_format_is_refused_by_name(monkeypatch) -> None:
    checkpoints, snapshots, learner = MemoryStore(), MemoryStore(), pipeline()
    monkeypatch.setattr("online_fm.snapshot.format.FORMAT", FORMAT + 1)
    manifest = Manifest(kind="checkpoint", version=7, created_ms=1)
    checkpoints.put(file_name("checkpoint", 7), encode(manifest, {}))
    monkeypatch.undo()
    newer = rf"checkpoint-000000000007\.safetensors: written by a newer online_fm: format {FORMAT + 1}"
    with pytest.raises(BadFile, match=newer):
        keeper(checkpoints, snapshots).restore(learner)


def test_only_the_newest_files_are_kept() -> None:
    checkpoints, snapshots = MemoryStore(), MemoryStore()
    drive(pipeline(), source(), keeper(checkpoints, snapshots), Shelf())
    assert len(names_of(checkpoints, "checkpoint")) == len(names_of(snapshots, "snapshot")) == 2
