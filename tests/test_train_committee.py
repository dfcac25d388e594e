"""A committee in the worker: its members judged one by one, kept, told and shown."""

from __future__ import annotations

import pytest
from daemon import Folder, until
from traffic import fingerprint, pipeline, read_all, records, source

from online_fm.errors import BadFile
from online_fm.features.encode import Encoder
from online_fm.model import make_predictor
from online_fm.quality import SCORED_BY
from online_fm.snapshot.format import decode
from online_fm.snapshot.store import MemoryStore, names_of
from online_fm.source.dead_letter import DeadLetters
from online_fm.train.checkpoint import Checkpoints
from online_fm.train.replay import replay

MEMBERS = {
    "kalman": "{kind: fm, k: 4, w: {kind: kalman}, v: {kind: kalman}}",
    "fast": "{kind: ffm, k: 2, w: {kind: adagrad, eta: 0.3, a0: 10}}",
    "challenger": "{kind: lr, w: {kind: ftrl}}",
}


def committee(**more: str) -> str:
    """The committee of `MEMBERS`, as a setting; a member's text can be another one."""
    members = [f"{name}: {{model: {model}, mixed: {name != 'challenger'}}}" for name, model in (MEMBERS | more).items()]
    return f"model={{kind: committee, members: {{{', '.join(members)}}}}}"


@pytest.fixture(scope="module")
def whole():
    learner = pipeline(committee())
    read_all(learner, source())
    return learner


def test_a_member_is_judged_as_its_replay_alone_is(whole) -> None:
    (learned,) = whole.learners
    assert list(learned.members) == list(MEMBERS)
    for name, model in MEMBERS.items():
        alone = pipeline(f"model={model}")
        read_all(alone, source())
        ours, theirs = learned.members[name], alone.quality["learning"]
        assert (ours.since_start(), ours.window()) == (theirs.since_start(), theirs.window())


@pytest.mark.parametrize("batch_records", [7, 1000])
def test_batches_and_a_restart_change_nothing_of_a_committee(whole, batch_records) -> None:
    stream, learner = source(), pipeline(committee())
    learner.assign(stream.positions())
    for _ in range(700 // batch_records + 1):
        learner.step(stream.poll(batch_records, 0), now_ms=0)
    state, stream, learner = learner.state(), source(), pipeline(committee())
    assert {f"quality.member.{name}.masses" for name in MEMBERS} < state.tensors.keys()
    learner.restore(state)
    stream.seek(learner.offsets())
    read_all(learner, stream, batch_records)
    assert fingerprint(learner) == fingerprint(whole)


def test_a_replay_says_each_members_weight_and_scores_and_a_single_learner_has_none(whole) -> None:
    said = replay(source(), pipeline(committee()), batch_records=5000)
    assert [list(member) for member in said["members"].values()] == [["weight", *SCORED_BY["log"]]] * 3
    weights = {name: member["weight"] for name, member in said["members"].items()}
    assert weights == whole.learners[0].weights()
    assert weights["challenger"] == 0.0
    assert sum(weights.values()) == pytest.approx(1.0)
    assert said["log_loss"] < max(member["log_loss"] for member in said["members"].values())
    assert "members" not in replay(source(), pipeline(), batch_records=5000)


def test_people_see_a_row_for_each_member(run, tmp_path) -> None:
    folder = Folder(tmp_path)
    folder.write(records())
    done = run("replay", "-c", folder.config, "--set", committee())
    said = run("replay", "-c", folder.config, "--set", committee(), "--json").last["members"]
    assert [line.split(",")[0].split()[1:5] for line in done.out.splitlines() if "members: " in line] == [
        ["members:", name, "│", "weight"] for name in MEMBERS
    ]
    for member in said.values():
        assert f"weight {member['weight']:.5f}, log_loss {member['log_loss']:.5f}, auc {member['auc']:.5f}," in done.out


def kept(stores: tuple[MemoryStore, MemoryStore]) -> Checkpoints:
    return Checkpoints(*stores, keep=2, keep_snapshots=2)


@pytest.fixture(scope="module")
def stores(whole):
    made = MemoryStore(), MemoryStore()
    kept(made).commit(whole, source(), DeadLetters(None), now_ms=1)
    return made


def test_a_snapshot_of_a_committee_scores_as_it_does(whole, stores) -> None:
    (name,) = names_of(stores[1], "snapshot")
    _, parameters = decode(name, stores[1].get(name), kind="snapshot")
    encoder = Encoder(whole.config.features)
    predictor = make_predictor(whole.config.model, whole.config.field_names, parameters)
    rows = encoder.encode([{"user": f"u{i}", "item": f"i{i % 7}", "age": 30} for i in range(40)]).rows
    assert predictor.predict(rows).p.tobytes() == whole.learner.predict(rows).p.tobytes()
    assert not any(name.startswith("quality") for name in parameters)


def test_members_may_get_larger_tables_and_nothing_else(whole, stores) -> None:
    larger = pipeline(committee(challenger="{kind: lr, w: {kind: ftrl}, max_features: 9000000}"))
    kept(stores).restore(larger)
    assert fingerprint(larger) == fingerprint(whole)
    with pytest.raises(
        BadFile, match=r"another configuration: model\.members\.challenger\.model\.w was {\"kind\":\"ftrl\""
    ):
        kept(stores).restore(pipeline(committee(challenger="{kind: lr, w: {kind: adagrad}}")))


def test_the_workers_metrics_tell_members_and_scales_of_fields(tmp_path) -> None:
    folder = Folder(tmp_path)
    folder.write(records())
    worker = folder.start("train", "source.follow=true", committee())
    until(lambda: (folder.metric('online_fm_examples_total{moment="learning"}') or 0.0) > 1000)
    until(lambda: (folder.metric('online_fm_member_log_loss{member="challenger",span="start"}') or 1.0) < 0.69)
    assert folder.metric('online_fm_member_weight{member="challenger"}') == 0.0
    mixed = [folder.metric(f'online_fm_member_weight{{member="{name}"}}') for name in ("kalman", "fast")]
    assert sum(mixed) == pytest.approx(1.0)
    assert 0.4 < folder.metric('online_fm_member_auc{member="fast",span="window"}') < 1.0
    assert folder.metric('online_fm_member_rmse{member="fast",span="window"}') is None
    scales = [folder.metric(f'online_fm_field_scale{{field="{name}",of="w"}}') for name in ("user", "item_device")]
    assert all(0.05 <= scale != 1.0 for scale in scales)
    folder.stop(worker)
