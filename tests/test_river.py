"""The River adapter: rows from dicts and frames, River's own checks, and River's own arithmetic."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import (
    checks,
    compose,
    datasets,
    evaluate,
    facto,
    feature_extraction,
    metrics,
    multiclass,
    optim,
    preprocessing,
)

import online_fm.river
from online_fm.errors import ConfigError
from online_fm.features.encode import Encoder as WorkersEncoder
from online_fm.features.spec import Categorical, FeaturesConfig, Multi, Number
from online_fm.model.config import AdaGrad, Fm, Ftrl, Sgd
from online_fm.model.kernels.table import draw
from online_fm.river import FFMClassifier, FMClassifier, FMRegressor, FwFMClassifier, LRClassifier
from online_fm.river.encode import Encoder
from online_fm.river.growing import GrowingLearner

EVERY = [getattr(online_fm.river, name) for name in online_fm.river.__all__]


def same_rows(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("ptr", "fld", "key", "val"))


def features_of(rows):
    return list(zip(rows.fld.tolist(), rows.key.tolist(), rows.val.tolist(), strict=True))


def clicks(n=200, fields=6, seed=7) -> Iterator[tuple[dict[str, Any], bool]]:
    random = np.random.default_rng(seed)
    for _ in range(n):
        x = {f"f{f}": f"v{random.integers(12)}" for f in range(fields) if random.random() < 0.9}
        yield {**x, "price": float(random.normal())}, bool(random.random() < 0.3)


# --- rows


def test_a_row_is_the_same_in_any_order_of_its_dict():
    x = {"b": 1.5, "a": "red", "d": ["p", "q"], "c": True}
    one, other = Encoder(None, 64), Encoder(None, 64)
    backwards = dict(reversed(x.items()))
    assert same_rows(one.one(x, learning=True), other.one(backwards, learning=True))
    assert one.fields == other.fields == ("a", "b", "c", "d")


def test_keys_are_those_of_the_worker():
    fields = (Categorical(name="city"), Number(name="price"), Multi(name="tags"), Categorical(name="vip"))
    x = {"city": "Graz", "price": 2.5, "tags": ["b", "a", 7], "vip": True}
    workers = WorkersEncoder(FeaturesConfig(fields=fields)).encode([x]).rows
    assert sorted(features_of(workers)) == features_of(Encoder(None, 64).one(x, learning=True))


def test_none_zero_and_what_no_float32_holds_are_absent():
    x = {"a": None, "b": 0, "c": float("nan"), "d": float("inf"), "e": 1e39, "f": [], "g": -0.0, "h": np.float32(2)}
    encoder = Encoder(None, 64)
    assert [val for _, _, val in features_of(encoder.one(x, learning=True))] == [2.0]
    assert encoder.fields == ("h",)


def test_a_value_that_is_no_feature_is_told_by_name():
    encoder = Encoder(None, 64)
    with pytest.raises(TypeError, match="feature 'when': a dict is no number, string, boolean or list of these"):
        encoder.one({"when": {}}, learning=True)
    with pytest.raises(TypeError, match="feature 'tags': a NoneType among its values is no category"):
        encoder.one({"tags": ["a", None]}, learning=True)


def test_several_values_have_length_one_together():
    row = Encoder(None, 64).one({"tags": {"a", "b", "c", "d"}}, learning=True)
    assert row.val.tolist() == [0.5] * 4
    assert row.fld.tolist() == [0] * 4
    assert len(set(row.key.tolist())) == 4


def test_predicting_adds_no_field_and_passes_over_unseen_names():
    encoder = Encoder(None, 64)
    encoder.one({"a": 1.0}, learning=True)
    row = encoder.one({"a": 2.0, "new": 3.0, "other": "x"}, learning=False)
    assert row.val.tolist() == [2.0]
    assert encoder.fields == ("a",)
    assert encoder.many(pd.DataFrame({"new": [1.0, 2.0]}), learning=False).ptr.tolist() == [0, 0, 0]


def test_a_separator_makes_features_of_names():
    encoder = Encoder("=", 64)
    row = encoder.one({"tag=red": 2.0, "tag=blue": 1, "city": "Graz", "tag=size": "XL"}, learning=True)
    assert encoder.fields == ("city", "tag")
    assert row.fld.tolist() == [0, 1, 1, 1]
    words = Encoder(None, 64).one({"tag": ["red", "blue", "size=XL"]}, learning=True)
    assert row.key[1:].tolist() == words.key.tolist()


def test_names_beyond_max_fields_share_the_last_field():
    encoder = Encoder(None, 3)
    encoder.one({"a": 1.0, "b": 1.0}, learning=True)
    assert encoder.fields == ("a", "b")
    row = encoder.one({"a": 1.0, "c": 2.0, "d": 3.0, "e": "x", "f": "x"}, learning=True)
    assert encoder.fields == ("a", "b", "")
    assert row.fld.tolist() == [0, 2, 2, 2, 2]
    assert len(set(row.key[1:].tolist())) == 4
    assert encoder.one({"never seen": 1.0}, learning=False).fld.tolist() == [2]
    restored = Encoder(None, 3)
    restored.restore(encoder.fields)
    x = {"b": 1.0, "c": 2.0, "g": "x"}
    assert same_rows(restored.one(x, learning=True), encoder.one(x, learning=True))
    assert restored.fields == encoder.fields


@pytest.mark.parametrize(("separator", "max_fields"), [("", 64), (None, 1), (None, 65_536)])
def test_settings_that_name_no_field_are_refused(separator, max_fields):
    with pytest.raises(ValueError, match=r"separator|max_fields"):
        Encoder(separator, max_fields)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(width=32), st.sampled_from(["", "a", "b"]),
    st.lists(st.sampled_from(["a", "b", 3]), max_size=3),
)  # fmt: skip
DICTS = st.dictionaries(st.sampled_from(["a", "b", "c", "c=1", "c=2", "d"]), VALUES)


@settings(max_examples=200, deadline=None)
@given(st.lists(DICTS, max_size=6), st.sampled_from([None, "="]), st.sampled_from([2, 3, 64]), st.booleans())
def test_a_frame_gives_the_rows_of_its_dicts(dicts, separator, max_fields, learning):
    names = sorted({name for x in dicts for name in x})
    frame = pd.DataFrame({name: pd.Series([x.get(name) for x in dicts], dtype=object) for name in names})
    frame = frame.reindex(range(len(dicts)))
    one, many = Encoder(separator, max_fields), Encoder(separator, max_fields)
    for encoder in (one, many):
        encoder.one({"b": 1.0}, learning=True)
    rows = [one.one(x, learning=learning) for x in dicts]
    found = many.many(frame, learning=learning)
    assert one.fields == many.fields
    assert [feature for row in rows for feature in features_of(row)] == features_of(found)
    assert found.ptr.tolist() == [0, *np.cumsum([len(row.key) for row in rows]).tolist()]


def test_columns_of_every_type_are_read():
    frame = pd.DataFrame(
        {
            "float": [1.5, np.nan],
            "int": [2, 0],
            "bool": [True, False],
            "nullable": pd.array([3, None], "Int64"),
            "category": pd.Categorical(["u", None]),
            "text": pd.array(["x", None], "string"),
            "sparse": pd.arrays.SparseArray([0.0, 4.0]),
        }
    )
    encoder = Encoder(None, 64)
    rows = encoder.many(frame, learning=True)
    first = encoder.one(
        {"float": 1.5, "int": 2, "bool": True, "nullable": 3, "category": "u", "text": "x"}, learning=False
    )
    second = encoder.one({"bool": False, "sparse": 4.0}, learning=False)
    assert features_of(rows) == features_of(first) + features_of(second)


# --- River's own checks


def checks_of(estimators) -> Iterator[Any]:
    for estimator in estimators:
        for i, check in enumerate(checks.yield_checks(estimator())):
            yield pytest.param(estimator, check, id=f"{estimator.__name__}-{check.__name__}-{i}")


@pytest.mark.parametrize(("estimator", "check"), list(checks_of(EVERY)))
def test_river_checks(estimator, check):
    assert not estimator()._unit_test_skips()
    check(estimator())


# --- in River's pipelines


def test_a_pipeline_beats_rivers_own_on_phishing():
    def loss(model):
        return evaluate.progressive_val_score(datasets.Phishing(), model, metrics.LogLoss()).get()

    ours = loss(preprocessing.StandardScaler() | FMClassifier())
    peer = loss(preprocessing.StandardScaler() | facto.FMClassifier(seed=1))
    assert ours < 0.30 < peer


def test_words_of_one_field_are_learned():
    model = feature_extraction.BagOfWords(lowercase=True) | compose.Prefixer("word=") | FMClassifier(separator="=")
    for text, y in [("good fine good", True), ("bad poor", False)] * 30:
        model.learn_one(text, y)
    assert model.predict_proba_one("good")[True] > 0.6
    assert model.predict_proba_one("poor")[True] < 0.4
    assert model["FMClassifier"].fields == ("word",)
    assert model["FMClassifier"].features == 4


def test_selected_features_and_one_versus_rest_work():
    model = (
        compose.Select("region-centroid-col", "region-centroid-row", "intensity-mean", "hue-mean", "saturation-mean")
        | preprocessing.StandardScaler()
        | multiclass.OneVsRestClassifier(FMClassifier())
    )
    assert evaluate.progressive_val_score(datasets.ImageSegments().take(1500), model, metrics.Accuracy()).get() > 0.6


def test_ratings_are_learned():
    model = FMRegressor(w=AdaGrad(eta=0.1), v=AdaGrad(eta=0.1))
    data = [({"user": f"u{u}", "item": f"i{i}"}, 1.0 + u % 2 + i % 3) for u in range(8) for i in range(9)]
    for _ in range(60):
        for x, y in data:
            model.learn_one(x, y)
    assert model.predict_one({"user": "u1", "item": "i2"}) == pytest.approx(4.0, abs=0.25)
    assert model.predict_many(pd.DataFrame([{"user": "u0", "item": "i0"}])).tolist() == [
        model.predict_one({"user": "u0", "item": "i0"})
    ]


def test_the_field_that_decides_has_the_largest_scale():
    model = FMClassifier()
    random = np.random.default_rng(4)
    for _ in range(3000):
        x = {name: f"{random.integers(40)}" for name in ("noise", "other", "site")}
        model.learn_one(x, int(x["site"]) % 2 == 0)
    scales = model.field_scales["w"]
    assert list(scales) == ["noise", "other", "site"]
    assert scales["site"] > 2.0 > 1.0 > max(scales["noise"], scales["other"])
    assert FMClassifier(scales=False).field_scales == {}


# --- the model's life


@pytest.mark.parametrize("estimator", EVERY)
def test_many_at_once_are_the_same_as_one_by_one(estimator):
    events = list(clicks())
    one, many = estimator(), estimator()
    for x, y in events:
        one.learn_one(x, y)
    frame, labels = pd.DataFrame([x for x, _ in events]), pd.Series([y for _, y in events])
    many.learn_many(frame[:90], labels[:90])
    many.learn_many(frame[90:], labels[90:])
    assert one._learner.predict_many(frame).p.tolist() == many._learner.predict_many(frame).p.tolist()
    assert one.fields == many.fields


@pytest.mark.parametrize("estimator", EVERY)
def test_predicting_unseen_features_grows_nothing(estimator):
    model = estimator()
    for x, y in clicks(50):
        model.learn_one(x, y)
    before = pickle.dumps(model)
    for i in range(50):
        model.predict_one({f"name{i}": 1.0, "f0": f"unseen{i}"})
    model.predict_many(pd.DataFrame({"another": ["x", "y"]}))
    assert pickle.dumps(model) == before


@pytest.mark.parametrize("estimator", EVERY)
@pytest.mark.parametrize("copied", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy])
def test_a_copy_goes_on_bit_for_bit(estimator, copied):
    events = list(clicks())
    model = estimator()
    for x, y in events[:100]:
        model.learn_one(x, y)
    other = copied(model)
    for x, y in events[100:]:
        assert model.predict_one(x) == other.predict_one(x)
        model.learn_one(x, y)
        other.learn_one(x, y)
    assert pickle.dumps(model) == pickle.dumps(other)


def test_a_clone_has_the_settings_and_nothing_else():
    model = FMClassifier(k=4, w=AdaGrad(eta=0.3), separator="=", seed=5)
    for x, y in clicks(50):
        model.learn_one(x, y)
    clone = model.clone({"k": 2})
    assert (clone.k, clone.w, clone.separator, clone.seed) == (2, AdaGrad(eta=0.3), "=", 5)
    assert (clone.features, clone.fields) == (0, ())
    assert clone.predict_proba_one({"f0": "v1"}) == {False: 0.5, True: 0.5}
    kept = model.clone(include_attributes=True)
    assert kept.features == model.features > 0


def test_weights_count_and_zero_teaches_nothing():
    model = FMClassifier(w=Sgd(eta=0.1), v=Sgd(eta=0.1), scales=False)
    x = {"a": "x", "b": "y"}
    model.learn_one(x, True, w=0.0)
    assert (model.features, model.fields) == (0, ())
    model.learn_one({"a": "x"}, True, w=3.0)
    assert model.predict_proba_one({"a": "x"})[True] == pytest.approx(1 / (1 + np.exp(-0.1 * 3.0 * 0.5 * 2)), abs=1e-6)
    other = FMClassifier(w=Sgd(eta=0.1), v=Sgd(eta=0.1), scales=False)
    other.learn_many(pd.DataFrame({"a": ["x", "x"]}), pd.Series([False, True]), w=pd.Series([0.0, 3.0]))
    assert other.predict_proba_one({"a": "x"}) == model.predict_proba_one({"a": "x"})


@pytest.mark.parametrize("label", ["click", 2, -1, None, float("nan")])
def test_labels_that_are_not_binary_are_refused(label):
    with pytest.raises(ValueError, match="labels are True or False"):
        FMClassifier().learn_one({"a": 1.0}, label)
    with pytest.raises(ValueError, match="labels are True or False"):
        FMClassifier().learn_many(pd.DataFrame({"a": [1.0]}), pd.Series([label]))


def test_an_update_that_is_not_finite_is_counted_and_left():
    model = FMRegressor()
    model.learn_one({"a": 1.0, "b": 2.0}, 1.0)
    before = model.predict_one({"a": 1.0, "b": 2.0})
    model.learn_one({"a": 1e30, "b": 1e30}, 1.0)
    model.learn_one({"a": 1.0, "b": 2.0}, 1e300)
    model.learn_one({"a": 1.0, "b": 2.0}, float("nan"))
    assert model.quarantined == 3
    assert model.predict_one({"a": 1.0, "b": 2.0}) == before


def test_a_row_that_cannot_be_encoded_leaves_a_model_that_works():
    model = FMClassifier()
    model.learn_one({"a": "x"}, True)
    before = model.predict_proba_one({"a": "x"})
    for broken in ({"b": "\ud800"}, {"\ud800": "x"}):
        with pytest.raises(UnicodeEncodeError):
            model.learn_one(broken, True)
    assert model.predict_proba_one({"a": "x", "c": "y"}) == before
    model.learn_one({"b": "z"}, True)
    assert model.features == 2


# --- settings


def test_optimizers_can_be_changed_on_the_way():
    slow, changed = FMClassifier(w=AdaGrad(eta=0.01)), FMClassifier(w=AdaGrad(eta=0.01))
    pipeline = preprocessing.StandardScaler() | changed
    slow.learn_one({"a": "x"}, True)
    changed.learn_one({"a": "x"}, True)
    assert slow.predict_proba_one({"a": "x"}) == changed.predict_proba_one({"a": "x"})
    pipeline.mutate({"FMClassifier": {"w": {"eta": 0.5}}})
    assert changed.w == AdaGrad(eta=0.5)
    slow.learn_one({"a": "x"}, True)
    changed.learn_one({"a": "x"}, True)
    assert changed.predict_proba_one({"a": "x"})[True] > slow.predict_proba_one({"a": "x"})[True] + 0.05


def test_what_cannot_change_is_refused_and_left():
    model = FMClassifier(w=AdaGrad(eta=0.1))
    with pytest.raises(ValueError, match="needs another state"):
        model.mutate({"w": Ftrl()})
    with pytest.raises(ValueError, match="'k' is not a mutable attribute"):
        model.mutate({"k": 3})
    with pytest.raises(ConfigError, match=r"Expected `float` > 0"):
        model.mutate({"w": {"eta": -1.0}})
    assert model.w == AdaGrad(eta=0.1)
    assert LRClassifier()._mutable_attributes == {"w"}


def test_settings_out_of_range_are_told():
    with pytest.raises(ConfigError, match=r"FMClassifier: Expected `int` >= 1 - at `\$.k`"):
        FMClassifier(k=0)


def test_defaults_are_the_shipped_ones():
    assert FMClassifier()._learner.config == Fm()
    assert FMClassifier(scales=False)._learner.config.scales is None
    assert FFMClassifier(pairs=False)._learner.config.pairs is None


# --- fields found on the way


@pytest.mark.parametrize("estimator", [FMClassifier, FFMClassifier, FwFMClassifier])
def test_fields_found_late_are_as_if_known_from_the_start(estimator):
    config = estimator()._learner.config
    late, early = GrowingLearner(config, None, 64), GrowingLearner(config, None, 64)
    events = [({f"f{f}": f"v{n % 3}" for f in range(1 + n // 4)}, float(n % 2)) for n in range(60)]
    early._encoder.restore(sorted((f"f{f}" for f in range(15)), key=lambda name: int(name[1:])))
    for x, y in events:
        late.learn_one(x, y, 1.0)
        early.learn_one(x, y, 1.0)
    assert late.fields == early.fields
    x = events[-1][0]
    assert late.predict_one(x).p.tolist() == early.predict_one(x).p.tolist()


def test_an_ffm_of_many_names_stays_small():
    model = FFMClassifier(max_fields=8)
    for n in range(300):
        model.learn_one({f"name{n}": 1.0, "a": "x"}, n % 2 == 0)
    assert len(model.fields) == 8
    assert model.features == 301


# --- River's arithmetic


def started_alike(ours, peer, events):
    """Give River's model our initial factors: a function of seed and feature there, drawn one after another here."""
    encoder = ours._learner._encoder
    for x, _ in events:
        encoder.one(x, learning=True)
        for name, value in x.items():
            rows = encoder.one({name: value}, learning=False)
            v = np.empty(ours.k, np.float32)
            draw(
                np.uint64(rows.fld[0]) << np.uint64(32) | np.uint64(rows.key[0]),
                np.uint64(ours.seed),
                ours.init_sd,
                v,
                0,
                ours.k,
            )
            peer.latents[f"{name}_{value}" if isinstance(value, str) else name] = v.astype(np.float64)


def test_sgd_equals_rivers_fm_classifier_step_by_step():
    events = list(clicks(400))
    ours = FMClassifier(k=5, w=Sgd(eta=0.05), v=Sgd(eta=0.03), scales=False, init_sd=0.1)
    peer = facto.FMClassifier(
        n_factors=5, weight_optimizer=optim.SGD(0.05), latent_optimizer=optim.SGD(0.03), intercept_lr=0.05
    )
    started_alike(ours, peer, events)
    for x, y in events:
        assert ours.predict_proba_one(x)[True] == pytest.approx(peer.predict_proba_one(x)[True], abs=1e-6)
        ours.learn_one(x, y)
        peer.learn_one(x, y)


def test_sgd_equals_rivers_fm_regressor_step_by_step():
    """River's squared loss is (m - y)^2, ours half of it: its rates are half of ours."""
    random = np.random.default_rng(3)
    events = [(x, float(random.normal() + 2.0 * y)) for x, y in clicks(400)]
    ours = FMRegressor(k=5, w=Sgd(eta=0.05), v=Sgd(eta=0.03), scales=False, init_sd=0.1)
    peer = facto.FMRegressor(
        n_factors=5, weight_optimizer=optim.SGD(0.025), latent_optimizer=optim.SGD(0.015), intercept_lr=0.025
    )
    started_alike(ours, peer, events)
    for x, y in events:
        assert ours.predict_one(x) == pytest.approx(peer.predict_one(x), abs=2e-6)
        ours.learn_one(x, y)
        peer.learn_one(x, y)


# --- without River


def test_without_river_the_import_says_what_to_install():
    code = "import sys; sys.modules['river'] = None; import online_fm.river"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.strip().endswith("ImportError: online_fm.river needs River: pip install 'online_fm[river]'")
