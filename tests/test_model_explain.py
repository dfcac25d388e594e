"""Explanations: the terms against the predictor and against pairs summed one by one; what fields weigh."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from model_cases import CASES, FIELDS, arrays, as_python, each_case, labels_of, near, random_examples, some_cases
from reference import Reference, rows_of

from online_fm.features.batch import Rows
from online_fm.model import make_learner, make_predictor
from online_fm.model.config import Committee, Ffm, Lr, Member, Mf, Poly2
from online_fm.model.explain import explain, report_fields
from online_fm.model.explore import mean_logit

pytestmark = as_python

UNSEEN = [[], [(0, 99, 1.0)], [(0, 99, 1.0), (0, 99, 1.0), (1, 98, -2.0), (3, 1, 0.5), (3, 2, 0.5)]]


def taught(config, n: int = 150):
    """A learner after n rows with repeated fields and values other than 1, and the examples."""
    examples = random_examples(n, seed=3, learn=1.0, keys=5)
    rng = np.random.default_rng(8)
    examples = [(row, float(rng.choice(labels_of(config))), weight, learn) for row, _, weight, learn in examples]
    learner = make_learner(config, FIELDS)
    learner.step(*arrays(examples))
    return learner, examples


def predictor_of(learner):
    return make_predictor(learner.config, FIELDS, learner.parameters())


def assert_sums(predictor, row) -> None:
    rows = rows_of([row])
    prediction, terms = predictor.predict(rows), explain(predictor, rows)
    expected = prediction.logit if terms.members else mean_logit(prediction, predictor.config.loss)
    assert terms.total() == near(float(expected[0]))


@each_case
def test_the_terms_add_up_to_the_logit_before_moderation(config) -> None:
    learner, examples = taught(config)
    predictor = predictor_of(learner)
    for row in [*UNSEEN, *(row for row, *_ in examples[:40])]:
        assert_sums(predictor, row)


@some_cases
def test_each_term_is_the_one_that_adding_pair_by_pair_gives(config) -> None:
    learner, examples = taught(config, 40)
    reference = Reference(config, FIELDS)
    for row, label, weight, learn in examples:
        reference.step(row, label, weight, learn)
    predictor = predictor_of(learner)
    names = (config.user, config.item) if isinstance(config, Mf) else FIELDS
    for row, *_ in examples[:20]:
        given = [term for term in reference.terms(row) if not isinstance(term.feature[0], tuple)]
        pairs: dict[tuple[str, str], float] = {}
        for a, b in reference.met(given):
            f, g = sorted((a.field, b.field))
            scale = reference.inner_scale(a) * reference.inner_scale(b) * reference.pair_scale(a, b)
            pairs[names[f], names[g]] = pairs.get((names[f], names[g]), 0.0) + scale * reference.product(a, b)
        for term in reference.terms(row)[len(given) :]:
            f, g = sorted((term.feature[0][0], term.feature[1][0]))
            term_of_pair = reference.outer_scale(term) * term.x * reference.weight(term).value
            pairs[names[f], names[g]] = pairs.get((names[f], names[g]), 0.0) + term_of_pair
        terms = explain(predictor, rows_of([row]))
        assert terms.bias == near(reference.w0.value)
        looked_at = [fld in reference.place for fld, _, _ in row]
        weights = [reference.outer_scale(term) * term.x * reference.weight(term).value for term in given]
        assert terms.weights[looked_at] == near(weights)
        assert not terms.weights[~np.array(looked_at, np.bool_)].any()
        assert set(terms.pairs) == (set() if isinstance(config, Lr) else set(pairs))
        for pair, term in terms.pairs.items():
            assert term == near(pairs[pair]), pair


def committee(*names: str) -> Committee:
    return Committee(members={name: Member(model=CASES[name], mixed=name != "fm-ftrl") for name in names}, rate=0.2)


@pytest.mark.parametrize(
    "config",
    [
        committee("lr-ftrl", "fm-kalman", "ffm-adagrad", "poly2-adagrad", "fm-ftrl"),
        committee("lr-kalman-squared", "mf-kalman-squared", "fm-adagrad-squared-plain"),
        committee("lr-adagrad-hinge", "fwfm-sparse-ftrl-hinge"),
    ],
    ids=["log", "squared", "hinge"],
)
def test_a_committee_s_terms_add_up_to_its_logit_and_to_what_its_members_add(config) -> None:
    learner, examples = taught(config)
    predictor = predictor_of(learner)
    mixed = {name for name, member in config.members.items() if member.mixed}
    for row in [*UNSEEN, *(row for row, *_ in examples[:40])]:
        assert_sums(predictor, row)
        terms = explain(predictor, rows_of([row]))
        assert set(terms.members) == mixed
        assert sum(terms.members.values()) == near(terms.total())


def test_a_member_s_logit_is_cut_as_it_is_in_the_mix() -> None:
    config = committee("lr-ftrl", "lr-kalman")
    learner, _ = taught(config)
    parameters = learner.parameters()
    parameters["lr-ftrl/w0"][0] = 100.0
    predictor = make_predictor(config, FIELDS, parameters)
    for row in UNSEEN:
        assert_sums(predictor, row)
        assert explain(predictor, rows_of([row])).members["lr-ftrl"] == near(12.0 * learner.weights()["lr-ftrl"])


def test_a_row_of_thousands_of_values_is_explained_in_parts() -> None:
    for name in ("fm-kalman", "ffm-kalman", "fwfm-kalman", "mf-adagrad"):
        learner, _ = taught(CASES[name])
        row = [(f % 4, f % 7, 0.01) for f in range(3000)]
        assert_sums(predictor_of(learner), row)


def test_features_that_were_never_learned_are_told_apart() -> None:
    learner, _ = taught(CASES["fm-adagrad"])
    predictor = predictor_of(learner)
    assert explain(predictor, rows_of([[(0, 1, 1.0), (1, 77, 1.0), (2, 3, 1.0)]])).learned.tolist() == [
        True,
        False,
        True,
    ]
    empty = predictor_of(make_learner(CASES["fm-adagrad"], FIELDS))
    assert explain(empty, rows_of([[(0, 1, 1.0)]])).learned.tolist() == [False]
    assert explain(empty, Rows.empty(1)).total() == 0.0


def test_explaining_changes_nothing() -> None:
    learner, examples = taught(CASES["ffm-kalman"])
    predictor = predictor_of(learner)
    rows = arrays(examples)[0]
    before, features = predictor.predict(rows).logit.tobytes(), predictor.features
    for row in UNSEEN:
        explain(predictor, rows_of([row]))
    assert (predictor.predict(rows).logit.tobytes(), predictor.features) == (before, features)


@some_cases
def test_fields_are_reported_with_their_scales_features_and_weights(config) -> None:
    learner, _ = taught(config)
    reports = {report.field: report for report in report_fields(predictor_of(learner))}
    scales = learner.field_scales()
    reference = Reference(config, FIELDS)
    for row, label, weight, learn in taught(config)[1]:
        reference.step(row, label, weight, learn)
    by_field: dict[int, list[float]] = {}
    for feature, weight in reference.w.items():
        by_field.setdefault(reference.field_of(feature), []).append(abs(weight.value))
    names = predictor_of(learner).fields
    assert {name for name, report in reports.items() if report.features} == {names[f] for f in by_field}
    for f, sizes in by_field.items():
        report = reports[names[f]]
        assert (report.w_scale, report.v_scale) == (scales["w"][names[f]], scales.get("v", {}).get(names[f]))
        assert (report.features, report.mean_weight) == (len(sizes), near(sum(sizes) / len(sizes), 1e-4))
    order = [(each.w_scale or 0) + (each.v_scale or 0) for each in reports.values()]
    assert order == sorted(order, reverse=True)
    assert sum(report.features for report in reports.values()) == learner.features


def test_without_scales_fields_come_by_their_weights() -> None:
    learner, _ = taught(CASES["ffm-adagrad-plain"])
    reports = report_fields(predictor_of(learner))
    assert [(report.w_scale, report.v_scale) for report in reports] == [(None, None)] * 4
    assert [a.mean_weight >= b.mean_weight for a, b in itertools.pairwise(reports)] == [True] * 3


def test_a_committee_reports_the_fields_of_its_largest_member() -> None:
    config = committee("lr-ftrl", "fm-kalman")
    learner, _ = taught(config)
    largest = max(learner.weights(), key=learner.weights().__getitem__)
    alone = make_predictor(config.members[largest].model, FIELDS, learner.members[largest].parameters())
    assert report_fields(predictor_of(learner)) == report_fields(alone)


def test_poly2_and_ffm_name_pairs_by_their_fields() -> None:
    row = [(1, 1, 1.0), (0, 1, 1.0), (1, 2, 1.0)]
    for config in (Poly2(), Ffm(init_sd=0.5)):
        predictor = predictor_of(taught(config)[0])
        assert sorted(explain(predictor, rows_of([row])).pairs) == [("a", "b"), ("b", "b")]
        assert math.isfinite(explain(predictor, rows_of([row])).pairs["a", "b"])
