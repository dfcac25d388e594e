"""The kernels against their slow twins, and what a learner promises whatever its kind, loss and optimizers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import (
    CASES,
    FIELDS,
    JITTED,
    arrays,
    as_python,
    assert_equal_predictions,
    assert_equal_states,
    each_case,
    labels_of,
    learner_after,
    near,
    random_examples,
    some_cases,
    streams_of,
    weights_of,
)
from reference import Reference, Row, rows_of

from online_fm.features.batch import Rows
from online_fm.model import Predictor, make_learner
from online_fm.model.config import Fm, Lr, Poly2

pytestmark = as_python


@each_case
@settings(max_examples=30 if JITTED else 5, deadline=None)
@given(data=st.data())
def test_kernels_equal_their_slow_twins(config, data):
    examples = data.draw(streams_of(config))
    learner, reference = make_learner(config, FIELDS), Reference(config, FIELDS)
    outcome = learner.step(*arrays(examples))
    expected = [(reference.logit(row), reference.variance(row), reference.step(row, *rest)) for row, *rest in examples]
    assert np.column_stack([outcome.logit, outcome.variance, outcome.p]) == near(np.array(expected))
    assert not outcome.quarantined.any()
    assert_equal_states(learner, reference)
    rows = [row for row, *_ in examples]
    assert_equal_predictions(learner.predict(rows_of(rows)), reference, rows)


@each_case
@pytest.mark.parametrize("n", [1, 300])
def test_rows_of_one_and_of_three_hundred_features_equal_their_slow_twins(config, n):
    n = 40 if n > 1 and isinstance(config, Poly2) else n  # 40 features have 780 pairs
    rng = np.random.default_rng(n)
    wide: Row = [
        (int(rng.integers(len(FIELDS))), int(rng.integers(1000)), float(rng.choice([0.1, 0.2]))) for _ in range(n)
    ]
    examples = [(wide, 1.0, 1.0, True), (wide[: n // 2], 0.0, 1.0, True), (wide, 0.0, weights_of(config)[2], True)]
    learner, reference = make_learner(config, FIELDS), Reference(config, FIELDS)
    assert learner.step(*arrays(examples)).p == near([reference.step(*e) for e in examples], 1e-4)
    assert_equal_states(learner, reference, 1e-4)


@each_case
def test_a_long_stream_equals_its_slow_twin(config):
    """Where sums grow, variances shrink and scales move, on ten keys a field."""
    examples = random_examples(300, seed=11, keys=10)
    label = labels_of(config)
    examples = [(row, label[i % len(label)], weight, learn) for i, (row, _, weight, learn) in enumerate(examples)]
    learner, reference = make_learner(config, FIELDS), Reference(config, FIELDS)
    outcome = learner.step(*arrays(examples))
    assert outcome.p == near([reference.step(*e) for e in examples], 2e-4)
    assert_equal_states(learner, reference, 3e-4)


@each_case
def test_a_feature_twice_in_a_row_gets_both_gradients_of_the_forward_pass(config):
    twice: Row = [(1, 1, 1.0), (1, 1, 1.0), (3, 3, 0.5), (1, 1, -0.4), (0, 2, 1.0)]
    learner, reference = make_learner(config, FIELDS), Reference(config, FIELDS)
    for label in (1.0, 0.0, 1.0):
        outcome = learner.step(*arrays([(twice, label, 1.0, True)]))
        assert outcome.p[0] == near(reference.step(twice, label, 1.0))
    assert_equal_states(learner, reference)


@each_case
def test_a_batch_is_its_rows_one_by_one_bit_for_bit(config):
    examples = random_examples(300)
    whole, single, sevens = (make_learner(config, FIELDS) for _ in range(3))
    together = whole.step(*arrays(examples))
    apart = [single.step(*arrays([e])).p[0] for e in examples]
    by_seven = [sevens.step(*arrays(examples[i : i + 7])).p for i in range(0, 300, 7)]
    assert together.p.tobytes() == np.array(apart, np.float32).tobytes() == np.concatenate(by_seven).tobytes()
    assert whole.state_hash() == single.state_hash() == sevens.state_hash()


@each_case
def test_two_runs_are_equal_and_a_learner_goes_on_from_its_state_bit_for_bit(config):
    examples = random_examples(200)
    whole = learner_after(config, examples)
    assert learner_after(config, examples).state_hash() == whole.state_hash()
    first = learner_after(config, examples[:77])
    second = make_learner(config, FIELDS)
    second.restore(first.state())
    assert second.state_hash() == first.state_hash()
    second.step(*arrays(examples[77:]))
    assert second.state_hash() == whole.state_hash()


@each_case
def test_a_predictor_says_what_its_learner_says_bit_for_bit(config):
    learner = learner_after(config, random_examples(200))
    rows, *_ = arrays(random_examples(100, seed=1, keys=40))
    predictor = Predictor(config, FIELDS, learner.parameters())
    for ours, theirs in zip(predictor.predict(rows), learner.predict(rows), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert predictor.features == learner.features
    assert predictor.field_scales() == learner.field_scales()


@some_cases
def test_threads_may_share_a_predictor(config):
    learner = learner_after(config, random_examples(200))
    n, often = (300, 20) if JITTED else (30, 1)
    batches = [arrays(random_examples(n, seed=seed, keys=40))[0] for seed in range(8)]
    predictor = Predictor(config, FIELDS, learner.parameters())
    alone = [predictor.predict(rows).p.tobytes() for rows in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda rows: predictor.predict(rows).p.tobytes(), batches * often))
    assert together == alone * often


@each_case
def test_predicting_changes_nothing_and_equals_a_step_that_learns_nothing(config):
    learner = learner_after(config, random_examples(100))
    rows, label, weight, _ = arrays(random_examples(100, seed=1, keys=40))
    before = learner.state_hash(), learner.features
    said = learner.predict(rows)
    never = np.zeros(len(rows), np.bool_)
    for outcome in (
        learner.step(rows, label, weight, never),
        learner.step(rows, label, np.zeros_like(weight), ~never),
    ):
        for name in ("p", "logit", "variance"):
            assert getattr(outcome, name).tobytes() == getattr(said, name).tobytes()
    assert (learner.state_hash(), learner.features) == before


@each_case
def test_inputs_are_not_changed_and_may_be_read_only(config):
    batch = arrays(random_examples(50))
    copies = [a.copy() for a in (batch[0].ptr, batch[0].fld, batch[0].key, batch[0].val, *batch[1:])]
    for a in copies:
        a.flags.writeable = False
    make_learner(config, FIELDS).step(Rows(*copies[:4]), *copies[4:])
    for a, b in zip(copies, (batch[0].ptr, batch[0].fld, batch[0].key, batch[0].val, *batch[1:]), strict=True):
        assert np.array_equal(a, b)


def test_a_predicted_row_sees_only_what_earlier_learned_rows_brought():
    a, b = [(0, 1, 1.0), (1, 2, 1.0)], [(2, 3, 1.0)]
    learner = make_learner(CASES["fm-adagrad"], FIELDS)
    learner.step(*arrays([(a, 1.0, 1.0, False), (b, 1.0, 1.0, True), (a, 1.0, 0.0, True)]))
    assert learner.features == 1
    assert learner.state()["tags"].tolist() == [2 << 32 | 3]


@each_case
def test_a_row_without_features_is_predicted_from_the_bias(config):
    learner = learner_after(config, [([], 1.0, 1.0, True)] * 5)
    twin = Reference(config, FIELDS)
    for _ in range(5):
        twin.step([], 1.0, 1.0)
    assert learner.features == 0
    assert_equal_predictions(learner.predict(rows_of([[]])), twin, [[]])
    assert twin.w0.value > 0.04
    assert len(learner.predict(Rows.empty()).p) == 0
    nothing = (np.empty(0, t) for t in (np.float32, np.float32, np.bool_))
    assert len(learner.step(Rows.empty(), *nothing).p) == 0


@each_case
def test_loss_falls_on_a_planted_problem(config):
    """Two fields of six values; the label depends on the pair where the model can see pairs."""
    rng = np.random.default_rng(3)
    n, keys, fields = 6000, 6, ("b", "d") if config is not CASES["mf-kalman-squared"] else ("d", "a")
    key = rng.integers(0, keys, (n, 2))
    planted = rng.normal(0, 1.5, keys)[:, None] if isinstance(config, Lr) else rng.normal(0, 1.5, (keys, keys))
    m = np.broadcast_to(planted, (keys, keys))[key[:, 0], key[:, 1]]
    label = (rng.random(n) < 1 / (1 + np.exp(-m))).astype(np.float32)
    label = m.astype(np.float32) if config.loss == "squared" else label
    rows = Rows(
        np.arange(0, 2 * n + 1, 2, dtype=np.int64),
        np.tile(np.array([0, 1], np.uint16), n),
        key.ravel().astype(np.uint32),
        np.ones(2 * n, np.float32),
    )
    ones = np.ones(n, np.float32)
    p = make_learner(config, fields).step(rows, label, ones, ones > 0).p.astype(np.float64)
    losses = {
        "log": lambda p: -np.log(np.where(label > 0.5, p, 1 - p)),
        "squared": lambda p: (p - label) ** 2 / 2,
        "hinge": lambda p: np.maximum(0.0, 1 - (2 * label - 1) * p),
    }
    truth = {"log": 1 / (1 + np.exp(-m)), "squared": m, "hinge": np.sign(m)}[config.loss]
    loss, best = losses[config.loss](p), losses[config.loss](truth).mean()
    nothing = losses[config.loss](
        np.full(n, {"log": label.mean(), "squared": m.mean(), "hinge": 0.0}[config.loss])
    ).mean()
    assert nothing - loss[-2000:].mean() > 0.2 * (nothing - best)


@each_case
def test_a_change_of_the_seed_changes_only_what_has_factors(config):
    if isinstance(config, Lr | Poly2):
        assert not hasattr(config, "seed")
        return
    rows = rows_of([[(1, 1, 1.0), (3, 2, 1.0), (0, 3, 1.0)]])
    other = msgspec.structs.replace(config, seed=99)
    a, b = (make_learner(c, FIELDS).predict(rows) for c in (config, other))
    assert (a.logit[0] == b.logit[0]) == config.v_needs_w


def test_columns_whose_lengths_differ_are_refused():
    rows, label, weight, learn = arrays(random_examples(5))
    with pytest.raises(ValueError, match="5 rows with 4 labels, 5 weights, 5 to learn"):
        make_learner(Lr(), FIELDS).step(rows, label[:4], weight, learn)
    with pytest.raises(ValueError, match=r"rows of \d+ features with"):
        make_learner(Fm(), FIELDS).predict(Rows(rows.ptr, rows.fld[:-1], rows.key, rows.val))


def test_a_field_that_the_model_does_not_have_is_refused():
    for config in (Lr(), Poly2(), CASES["mf-adagrad"]):
        with pytest.raises(ValueError, match="field 4, but the model has 4 fields"):
            make_learner(config, FIELDS).predict(rows_of([[(4, 0, 1.0)]]))
