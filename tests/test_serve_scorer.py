"""The scorer, and the scorer that follows a folder."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from published import events, publish, snapshot, trained

from online_fm.errors import BadFile, StateError, StoreError
from online_fm.serve.live import LiveScorer
from online_fm.serve.scorer import FeatureError, Scorer
from online_fm.snapshot.format import FORMAT, decode, encode
from online_fm.snapshot.store import FolderStore, file_name


@pytest.fixture(scope="module")
def learner():
    return trained()[0]


@pytest.fixture(scope="module")
def scorer(learner):
    return Scorer.from_bytes("s", snapshot(learner, 3))


@pytest.mark.parametrize("kind", ["lr", "fm", "ffm"])
def test_scores_are_the_learner_s_bit_for_bit(kind):
    learner, encoder = trained(kind)
    scorer = Scorer.from_bytes("s", snapshot(learner, 3))
    unseen = [*events(200, seed=9), {}, {"user": "nobody", "item": 77, "what": "is this"}]
    expected = learner.predict(encoder.encode(unseen).rows).p
    assert scorer.score(unseen).tobytes() == expected.tobytes()
    assert len(set(expected.tolist())) > 100
    assert scorer.version == 3


def test_a_candidate_s_score_is_that_of_context_and_candidate_together(scorer):
    context = {"user": "u3", "age": 40, "price": 1.0}
    candidates = [{"item": 4}, {"item": 5, "price": 2.0}, {}]
    together = [
        {"user": "u3", "age": 40, "price": 1.0, "item": 4},
        {"user": "u3", "age": 40, "price": 2.0, "item": 5},
        context,
    ]
    assert scorer.rank(context, candidates).tolist() == scorer.score(together).tolist()
    assert scorer.rank(context, []).shape == (0,)


class Counted(Mapping):
    """Features that count how often one of them is read."""

    def __init__(self, features: dict) -> None:
        self._features = features
        self.reads = 0

    def __getitem__(self, name):
        self.reads += 1
        return self._features[name]

    def __iter__(self):
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)


def test_of_context_and_candidates_only_what_a_field_reads_is_taken_and_once(scorer):
    odd = {f"a{number}": number for number in range(1000)}
    context = Counted({"user": "u3", "device": {"os": "ios"}, **odd})
    candidates = [Counted({"item": item, **odd}) for item in range(3)]
    expected = scorer.rank({"user": "u3", "device": {"os": "ios"}}, [{"item": item} for item in range(3)])
    assert scorer.rank(context, candidates).tolist() == expected.tolist()
    assert context.reads == 2
    assert [each.reads for each in candidates] == [1, 1, 1]
    assert scorer.known(context) == {"user": "u3", "device": {"os": "ios"}}


def test_scoring_changes_nothing(scorer):
    rows = events(50, seed=4)
    before, alone = scorer.score(rows), [scorer.score([row])[0] for row in rows]
    assert scorer.score(rows).tobytes() == before.tobytes() == np.array(alone).tobytes()


def test_a_value_that_cannot_be_used_names_its_row_and_field(scorer):
    with pytest.raises(FeatureError, match=r"row 1, field 'age': .*not a number, and 1 more") as caught:
        scorer.score([{"age": 1}, {"age": "old"}, {"price": float("nan")}])
    assert (caught.value.row, caught.value.field) == (1, "age")


def test_threads_may_share_a_scorer(scorer):
    rows = events(100, seed=5)
    expected, found = scorer.score(rows).tobytes(), []

    def score() -> None:
        found.extend(scorer.score(rows).tobytes() == expected for _ in range(30))

    threads = [threading.Thread(target=score) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 120


def test_a_checkpoint_is_not_served(learner):
    manifest, tensors = decode("s", snapshot(learner, 3))
    data = encode(msgspec.structs.replace(manifest, kind="checkpoint"), tensors)
    with pytest.raises(BadFile, match="is a checkpoint, not a snapshot"):
        Scorer.from_bytes("s", data)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": {"kind": "transformer"}}, "transformer"),
        ({"model": {"kind": "fm", "k": 5}}, "make no model"),
        ({"features": {"fields": []}}, "make no model"),
        ({"features": {}}, "fields"),
    ],
)
def test_a_manifest_that_makes_no_model_is_refused(learner, change, why):
    manifest, tensors = decode("s", snapshot(learner, 3))
    with pytest.raises(BadFile, match=why):
        Scorer.from_bytes("s", encode(msgspec.structs.replace(manifest, **change), tensors))


def test_a_model_too_large_to_score_with_is_refused(learner):
    manifest, tensors = decode("s", snapshot(learner, 3))
    change = {"model": {"kind": "ffm", "k": 4}, "features": {"fields": [f"f{number}" for number in range(4097)]}}
    with pytest.raises(BadFile, match="an FFM of 4097 fields and k = 4 needs 257 MiB"):
        Scorer.from_bytes("s", encode(msgspec.structs.replace(manifest, **change), tensors))


def test_parameters_that_are_no_numbers_are_refused(learner):
    manifest, tensors = decode("s", snapshot(learner, 3))
    tensors["w"][7] = np.nan
    with pytest.raises(BadFile, match="w: holds values that are not finite"):
        Scorer.from_bytes("s", encode(manifest, tensors))


def test_a_folder_gives_its_newest_good_snapshot(tmp_path, learner):
    store = FolderStore(tmp_path)
    with pytest.raises(StoreError, match="no snapshot in"):
        Scorer.from_folder(tmp_path)
    publish(store, learner, 1)
    publish(store, learner, 2)
    store.put(file_name("snapshot", 3), b"half")
    assert Scorer.from_folder(tmp_path).version == 2
    store.delete(file_name("snapshot", 1))
    store.delete(file_name("snapshot", 2))
    with pytest.raises(BadFile, match="snapshot-000000000003"):
        Scorer.from_folder(tmp_path)


KEPT = sorted((Path(__file__).parent / "data" / "snapshots").glob("*.safetensors"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_every_format_that_was_ever_written_still_scores_as_it_did(path):
    expected = json.loads(path.with_suffix(".json").read_text())
    scorer = Scorer.from_bytes(path.name, path.read_bytes())
    predicted = scorer.predict(expected["rows"])
    assert predicted.p == pytest.approx(expected["scores"], abs=1e-6)
    assert predicted.variance == pytest.approx(expected.get("variances", [0.0] * 5), abs=1e-6)


def test_the_current_format_is_among_those_that_are_kept():
    kinds = {path.stem for path in KEPT}
    models = ("lr", "poly2", "mf", "fm", "fm-kalman", "fwfm", "ffm", "committee")
    assert {f"format-{FORMAT}-{model}" for model in models} <= kinds


class TestLive:
    def test_is_ready_at_once_where_a_snapshot_exists(self, tmp_path, learner):
        publish(FolderStore(tmp_path), learner, 1)
        rows = events(20)
        with LiveScorer(tmp_path, poll_interval_s=60) as live:
            assert live.version == 1
            assert live.score(rows).tolist() == Scorer.from_folder(tmp_path).score(rows).tolist()
            assert live.rank(rows[0], rows[1:3]).shape == (2,)

    def test_follows_again_when_it_is_entered_again(self, tmp_path, learner):
        store = FolderStore(tmp_path)
        publish(store, learner, 1)
        live = LiveScorer(tmp_path, poll_interval_s=0.01)
        with live:
            assert live.version == 1
        with live:
            publish(store, learner, 2)
            give_up_s = time.monotonic() + 30
            while live.version != 2:
                assert time.monotonic() < give_up_s
                time.sleep(0.01)
            with pytest.raises(StateError, match="followed already"), live:
                pass

    def test_says_that_it_has_nothing_yet_and_follows_the_folder_from_there(self, tmp_path, learner, caplog):
        caplog.set_level(logging.INFO, "online_fm.serve")
        with LiveScorer(tmp_path / "later", poll_interval_s=0.01) as live:
            assert live.version is None
            with pytest.raises(StateError, match="no snapshot is loaded yet"):
                live.score([{}])
            with pytest.raises(StateError, match=r"no snapshot within 0\.02 s"):
                live.wait(0.02)
            (tmp_path / "later").mkdir()
            publish(FolderStore(tmp_path / "later"), learner, 5)
            live.wait(30)
            assert live.scorer.version == 5
            assert live.score([{}]).shape == (1,)
        lines = [record.getMessage() for record in caplog.records]
        assert lines[0].startswith("snapshots cannot be read: cannot list the folder")
        assert sum(line.startswith("serving snapshot 5") for line in lines) == 1
        assert "snapshots can be read again" in lines
