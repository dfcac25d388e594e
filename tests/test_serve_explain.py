"""Explanations of scores, and what fields weigh: by the scorer, over HTTP and on the command line."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from published import FEATURES, events, publish, snapshot, trained
from served import MODEL, Site, refused

from online_fm.model import make_learner
from online_fm.model.config import Lr
from online_fm.serve.scorer import FeatureError, Scorer
from online_fm.snapshot.format import Manifest
from online_fm.snapshot.store import FolderStore, file_name

KALMAN = {"w": {"kind": "kalman"}, "v": {"kind": "kalman"}}
FM = {"kind": "fm", "k": 4}
KINDS = {
    "lr": ("lr", {}),
    "poly2": ("poly2", {}),
    "mf": ("mf", {"user": "user", "item": "item"}),
    "fm": ("fm", {}),
    "fm-kalman": ("fm", KALMAN),
    "fm-squared": ("fm", {"loss": "squared"}),
    "fwfm": ("fwfm", {}),
    "ffm": ("ffm", {}),
    "committee": ("committee", {"members": {"sure": {"model": FM | KALMAN}, "plain": {"model": FM}}}),
}
ROW = {
    "user": "u3",
    "item": 4,
    "device": {"os": "ios"},
    "tags": ["t1", "t2", "[red]"],
    "age": 40,
    "price": 2.5,
    "not a field": 1,
}
VALUES = [
    ("age", "40"),
    ("item", "4"),
    ("os", "ios"),
    ("price", "2.5"),
    ("tags", "[red]"),
    ("tags", "t1"),
    ("tags", "t2"),
    ("user", "u3"),
    ("user_item", "u3, 4"),
]


def scorer_of(kind: str) -> Scorer:
    name, settings = KINDS[kind]
    return Scorer.from_bytes("s", snapshot(trained(name, **settings)[0], 12))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three versions: an FM, one that is sure of itself, a committee."""
    path = tmp_path_factory.mktemp("snapshots")
    for version, kind in enumerate(("fm", "fm-kalman", "committee"), start=1):
        name, settings = KINDS[kind]
        publish(FolderStore(path), trained(name, **settings)[0], version)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_terms_add_up_to_the_total_and_come_largest_first(kind) -> None:
    scorer = scorer_of(kind)
    for row in [*events(20, seed=5), ROW, {}]:
        given = scorer.explain(row)
        p, logit, variance = (float(column[0]) for column in scorer.predict([row]))
        terms = [each.term for each in (*given.weights, *given.pairs)]
        assert given.bias + math.fsum(terms) == pytest.approx(given.total, abs=1e-9)
        moderation = math.sqrt(1 + math.pi / 8 * variance) if kind == "fm-kalman" else 1.0
        assert given.total == pytest.approx(logit * moderation, rel=1e-5, abs=1e-5)
        assert (given.p, given.logit) == (p, logit)
        assert given.variance == (variance if kind in ("fm-kalman", "committee") else None)
        for parts in (given.weights, given.pairs):
            sizes = [abs(each.term) for each in parts]
            assert sizes == sorted(sizes, reverse=True)


def test_each_value_is_named_as_it_was_sent_and_whether_it_was_ever_learned() -> None:
    given = scorer_of("fm").explain(ROW)
    assert sorted((each.field, each.value) for each in given.weights) == VALUES
    assert [each.value for each in given.weights if not each.learned and each.field != "user_item"] == ["[red]"]
    there = ["user", "item", "os", "tags", "age", "price", "user_item"]
    expected = Counter((f, g) for i, f in enumerate(there) for g in there[i + 1 :]) + Counter([("tags", "tags")])
    assert Counter(each.fields for each in given.pairs) == expected


def test_a_value_adds_what_the_logit_loses_without_it() -> None:
    scorer = scorer_of("lr")
    given = scorer.explain(ROW)
    term = {each.field: each.term for each in given.weights}
    without = {name: value for name, value in ROW.items() if name != "age"}
    lost = scorer.predict([ROW]).logit[0] - scorer.predict([without]).logit[0]
    assert term["age"] == pytest.approx(lost, abs=1e-5)


def test_values_beyond_what_a_list_or_a_cross_takes_are_not_named() -> None:
    fields = ["a", {"kind": "multi", "name": "b", "max_values": 3}, {"kind": "multi", "name": "c", "input": "d.c"}]
    fields += [{"kind": "cross", "name": "abc", "of": ["b", "a", "c"], "max_values": 4}]
    names = ["a", "b", "c", "abc"]
    manifest = Manifest(kind="snapshot", version=1, created_ms=0, model={"kind": "lr"}, features={"fields": fields})
    scorer = Scorer(manifest, make_learner(Lr(), names).parameters())
    given = scorer.explain({"a": True, "b": [1, "2", 3, 4], "d": {"c": ["x", "y"]}})
    assert [(each.field, each.value) for each in given.weights] == [
        ("a", "true"),
        ("b", "1"),
        ("b", "2"),
        ("b", "3"),
        ("c", "x"),
        ("c", "y"),
        ("abc", "1, true, x"),
        ("abc", "1, true, y"),
        ("abc", "2, true, x"),
        ("abc", "2, true, y"),
    ]
    assert [each.value for each in scorer.explain({"a": 7.0, "b": 1, "d": "no object"}).weights] == ["7.0", "1"]


def test_what_cannot_be_scored_cannot_be_explained() -> None:
    with pytest.raises(FeatureError, match="row 0, field 'age'"):
        scorer_of("fm").explain({"age": "old"})


def test_a_version_of_a_folder_may_be_chosen(folder) -> None:
    assert Scorer.from_folder(folder).version == 3
    assert Scorer.from_folder(folder, 1).version == 1


@pytest.fixture
def site():
    return Site(scorer_of("committee"))


class TestHttp:
    def test_the_explanation_is_the_scorer_s(self, site) -> None:
        reply = site.explain(features=ROW, id="7").json()
        given = reply.pop("explanation")
        assert reply == {"model_name": "ctr", "model_version": "12", "id": "7"}
        expected = site.slot.take().explain(ROW)
        assert [each["term"] for each in given["weights"]] == [each.term for each in expected.weights]
        assert [tuple(each["fields"]) for each in given["pairs"]] == [each.fields for each in expected.pairs]
        assert {name: given[name] for name in ("p", "logit", "total", "variance", "bias", "members")} == {
            "p": expected.p,
            "logit": expected.logit,
            "total": expected.total,
            "variance": expected.variance,
            "bias": expected.bias,
            "members": expected.members,
        }
        assert set(given["weights"][0]) == {"field", "value", "learned", "term"}

    def test_of_a_version_that_is_served_and_no_other(self, site) -> None:
        for version, status in ((12, 200), (11, 404)):
            reply = site.ask("POST", f"{MODEL}/versions/{version}/explain", json={"features": {}})
            assert reply.status_code == status

    @pytest.mark.parametrize(
        ("body", "why"),
        [({}, "missing required field `features`"), ({"features": [1]}, "Expected `object`, got `array`")],
    )
    def test_a_request_that_is_none_is_refused(self, site, body, why) -> None:
        assert why in refused(site.explain(**body), 400)

    def test_a_value_that_cannot_be_used_is_refused_with_its_field(self, site) -> None:
        assert "field 'age'" in refused(site.explain(features={"age": "old"}), 400)

    def test_before_the_first_snapshot_there_is_nothing_to_explain(self) -> None:
        assert "no snapshot" in refused(Site(None).explain(features={}), 503)


class TestCommands:
    def test_a_table_shows_the_largest_terms_and_the_sum_of_the_others(self, run, folder) -> None:
        done = run("explain", str(folder), json.dumps(ROW), "--version", "1", "--top", "3")
        assert (done.code, done.err) == (0, "")
        given = Scorer.from_folder(folder, 1).explain(ROW)
        terms = sorted([*given.weights, *given.pairs], key=lambda each: -abs(each.term))
        assert all(f" {each.term:.5f} " in done.out for each in terms[:3])
        assert f" {len(terms) - 3} others " in done.out
        assert f" {given.p:.5f} " in done.out
        assert "moderated" not in done.out

    def test_a_value_is_shown_as_it_is(self, run, folder) -> None:
        done = run("explain", str(folder), json.dumps(ROW), "--top", "99")
        assert " [red] " in done.out
        assert "never learned" in done.out

    @pytest.mark.parametrize(("version", "moderated", "members"), [(2, True, False), (3, False, True)])
    def test_moderation_or_members_are_shown_where_there_are_any(
        self, run, folder, version, moderated, members
    ) -> None:
        done = run("explain", str(folder), json.dumps(ROW), "--version", str(version))
        assert (" variance " in done.out, "moderated" in done.out, " sure " in done.out) == (True, moderated, members)

    def test_json_has_all_terms(self, run, folder) -> None:
        said = run("explain", str(folder), json.dumps(ROW), "--top", "1", "--json").last
        assert said["version"] == 3
        assert sorted((each["field"], each["value"]) for each in said["weights"]) == VALUES
        sums = said["bias"] + sum(each["term"] for each in (*said["weights"], *said["pairs"]))
        assert sums == pytest.approx(said["total"], abs=1e-9)
        assert sum(said["members"].values()) == pytest.approx(said["total"], abs=1e-9)

    def test_features_may_come_from_a_file(self, run, folder, tmp_path) -> None:
        (tmp_path / "row.json").write_text(json.dumps(ROW))
        command = ("explain", str(folder), "--json")
        from_file = run(*command, str(tmp_path / "row.json")).last
        assert from_file == run(*command, json.dumps(ROW)).last

    @pytest.mark.parametrize(
        ("features", "why"),
        [
            ("nowhere.json", "neither a JSON object nor a file: No such file"),
            ("{", "Input data was truncated"),
            ('{"age": "old"}', "field 'age'"),
        ],
    )
    def test_features_that_cannot_be_used_leave_with_2(self, run, folder, features, why) -> None:
        done = run("explain", str(folder), features)
        assert (done.code, done.out) == (2, "")
        assert why in done.err

    def test_a_version_that_is_not_there_leaves_with_1(self, run, folder, tmp_path) -> None:
        done = run("explain", str(folder), "{}", "--version", "9")
        assert (done.code, done.out, file_name("snapshot", 9) in done.err) == (1, "", True)
        assert run("fields", str(tmp_path)).err == f"error: no snapshot in {tmp_path}\n"

    @pytest.mark.parametrize("version", [1, 2])
    def test_fields_come_with_their_scales_the_largest_first(self, run, folder, version) -> None:
        said = run("fields", str(folder), "--version", str(version), "--json").last
        learner, _ = trained("fm", **(KALMAN if version == 2 else {}))
        scales = learner.field_scales()
        assert said["version"] == version
        assert {each["field"]: (each["w_scale"], each["v_scale"]) for each in said["fields"]} == {
            name: (scales["w"][name], scales["v"][name]) for name in scales["w"]
        }
        order = [each["w_scale"] + each["v_scale"] for each in said["fields"]]
        assert order == sorted(order, reverse=True)
        assert sum(each["features"] for each in said["fields"]) == learner.features
        table = run("fields", str(folder), "--version", str(version))
        assert (table.code, table.err) == (0, "")
        assert all(f" {each['w_scale']:.5f} " in table.out for each in said["fields"])
        assert len(said["fields"]) == len(FEATURES.fields)
        assert all(np.isfinite(each["mean_weight"]) for each in said["fields"])
