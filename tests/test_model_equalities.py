"""Models that must be the same model, numbers worked out by hand, and the filter written with matrices."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from model_cases import ADAGRAD, CASES, FACTORS, FIELDS, KALMAN, arrays, as_python, learner_after, near, random_examples
from reference import Reference, Row, rows_of
from reference_optim import sigmoid

from online_fm.model import Predictor, make_learner
from online_fm.model.config import AdaGrad, Adam, Ffm, Fm, Ftrl, Fwfm, Kalman, Lr, Mf, PairScales, Scales, Sgd

pytestmark = as_python

ONE: Row = [(0, 9, 1.0)]
SGD = Sgd(eta=0.1)


def one_hot(n: int, seed: int = 4) -> list[tuple[Row, float, float, bool]]:
    """Rows of a user and an item."""
    rng = np.random.default_rng(seed)
    key, label = rng.integers(0, 8, (n, 2)).tolist(), rng.integers(0, 2, n).tolist()
    return [([(0, u, 1.0), (1, i, 1.0)], float(y), 1.0, True) for (u, i), y in zip(key, label, strict=True)]


@pytest.mark.parametrize("k", [1, 3, 5, 8])
def test_the_logit_of_fm_in_linear_time_equals_the_sum_over_all_pairs(k):
    w, v = {1: (KALMAN, ADAGRAD), 3: (ADAGRAD, SGD), 5: (ADAGRAD, ADAGRAD), 8: (ADAGRAD, ADAGRAD)}[k]
    row: Row = [(i % len(FIELDS), i, 0.3 + i / 10) for i in range(12)]
    for kind in (Fm, Fwfm):
        config = kind(k=k, init_sd=0.5, w=w, v=v)
        said = make_learner(config, FIELDS).predict(rows_of([row]))
        assert said.logit[0] == near(Reference(config, FIELDS).logit(row))


@pytest.mark.parametrize(("w", "v"), [(ADAGRAD, ADAGRAD), (KALMAN, FACTORS)], ids=["adagrad", "kalman"])
def test_fm_over_two_one_hot_fields_is_mf_bit_for_bit(w, v):
    examples = arrays(one_hot(300))
    fm = make_learner(Fm(w=w, v=v, init_sd=0.2), ("user", "item"))
    mf = make_learner(Mf(user="user", item="item", w=w, v=v, init_sd=0.2), ("user", "item"))
    assert fm.step(*examples).logit.tobytes() == mf.step(*examples).logit.tobytes()
    assert fm.state_hash() == mf.state_hash()


def test_mf_looks_at_its_two_fields_only_whatever_their_places():
    examples = one_hot(300)
    noise = [[(0, i % 7, 1.3), (3, i % 5, -2.0), (3, 9, 1.0)] for i in range(300)]
    moved = [
        ([*extra[:2], (2, row[0][1], 1.0), (1, row[1][1], 1.0), extra[2]], *rest)
        for (row, *rest), extra in zip(examples, noise, strict=True)
    ]
    config = Mf(user="user", item="item", w=ADAGRAD, v=ADAGRAD, init_sd=0.2)
    alone, among = make_learner(config, ("user", "item")), make_learner(config, ("age", "item", "user", "hour"))
    assert alone.step(*arrays(examples)).logit.tobytes() == among.step(*arrays(moved)).logit.tobytes()
    assert alone.state_hash() == among.state_hash()


def tied(config: Ffm, fm) -> Predictor:
    """An FFM whose vectors are those of an FM towards every field."""
    parameters = make_learner(config, FIELDS).parameters() | fm.parameters()
    return Predictor(config, FIELDS, parameters | {"v": np.tile(parameters["v"], (1, len(FIELDS)))})


def test_ffm_with_every_features_vectors_tied_across_fields_is_fm():
    examples = random_examples(300, keys=10)
    rows = rows_of([row for row, *_ in examples])
    fm = learner_after(Fm(k=4, w=ADAGRAD, v=ADAGRAD, init_sd=0.3, scales=None), examples)
    ffm = tied(Ffm(w=ADAGRAD, v=ADAGRAD, scales=None, pairs=None), fm)
    assert ffm.predict(rows).logit == near(fm.predict(rows).logit)
    assert np.ptp(fm.predict(rows).logit) > 1.0


def test_the_steps_of_tied_ffm_vectors_add_up_to_that_of_the_fm_vector():
    config = Fm(k=1, w=KALMAN, v=Sgd(eta=1.0), init_sd=0.3, scales=None)
    row: Row = [(0, 1, 1.0), (1, 5, 0.5), (1, 6, -2.0), (3, 2, 1.5)]
    fm, ffm = Reference(config, FIELDS), Reference(Ffm(k=1, w=KALMAN, v=Sgd(eta=1.0), scales=None, pairs=None), FIELDS)
    for twin in (fm, ffm):
        twin.step(row, 1.0, 1e-30)
    for feature, factors in ffm.v.items():
        for c in factors:
            c.value = fm.v[feature][0].value
    before = {feature: factors[0].value for feature, factors in fm.v.items()}
    assert fm.step(row, 1.0, 1.0) == pytest.approx(ffm.step(row, 1.0, 1.0), rel=1e-12)
    for feature, start in before.items():
        moved = sum(c.value - start for c in ffm.v[feature])
        assert moved == pytest.approx(fm.v[feature][0].value - start, rel=1e-12)


def test_fwfm_whose_pairs_all_have_weight_one_is_fm_and_with_weight_zero_it_is_lr():
    rows = rows_of([row for row, *_ in random_examples(100)])
    plain = {"k": 8, "w": ADAGRAD, "v": ADAGRAD, "init_sd": 0.4}
    fm, fwfm = make_learner(Fm(**plain), FIELDS), make_learner(Fwfm(**plain, pairs=PairScales(start=1.0)), FIELDS)
    assert fwfm.predict(rows).logit == near(fm.predict(rows).logit)
    nothing = make_learner(Fwfm(**plain, pairs=PairScales(start=0.0)), FIELDS)
    assert not nothing.predict(rows).logit.any()


def test_kalman_lr_is_a_kalman_filter_whose_covariance_is_cut_to_its_diagonal():
    """mu += P x (y - x mu) / (x P x + r),  P = diag(P - P x x P / (x P x + r)): one number per weight, and the bias."""
    noise, prior, n = 0.5, 0.3, 12
    rng = np.random.default_rng(8)
    learner = make_learner(
        Lr(w=Kalman(prior=prior, evidence=None, q=0.0), loss="squared", noise=noise, scales=None), FIELDS
    )
    mean, covariance = np.zeros(n + 1), np.diag([1.0] + [prior] * n)
    for _ in range(200):
        at = rng.choice(n, 4, replace=False)
        x = np.zeros(n + 1)
        x[0], x[1 + at] = 1.0, rng.choice([1.0, 0.5, -1.5], 4)
        y, weight = float(rng.normal()), float(rng.choice([1.0, 1.0, 3.0, 0.25]))
        row = [(int(i % 4), int(i), float(x[1 + i])) for i in at]
        outcome = learner.step(*arrays([(row, y, weight, True)]))
        spread = float(x @ covariance @ x)
        assert (outcome.logit[0], outcome.variance[0]) == near((float(x @ mean), spread))
        gain = covariance @ x / (spread + noise / weight)
        mean = mean + gain * (y - x @ mean)
        covariance = np.diag(np.diag(covariance - np.outer(gain, x @ covariance)))
    state = learner.state()
    assert state["w0"] == near([mean[0], covariance[0, 0]])
    found = {int(tag & 0xFFFFFFFF): i for i, tag in enumerate(state["tags"].tolist())}
    for i in range(n):
        precision = 1 / prior + state["w_state"][found[i], 0]
        assert 1 / precision == near(covariance[1 + i, 1 + i])
        assert state["w"][found[i]] / precision == near(mean[1 + i])


def test_a_feature_that_comes_twice_moves_twice_where_an_example_brings_no_precision():
    """p = 1 - 1e-26: its variance is 0 in float32, so that D stays as it was."""
    config = Lr(w=Kalman(q=0.0, evidence=None), scales=None)
    learner, twin = make_learner(config, FIELDS), Reference(config, FIELDS)
    learner.restore({**learner.state(), "w0": np.array([60.0, 1.0], np.float32)})
    twin.w0.value = 60.0
    row = [(0, 5, 1.0), (0, 5, 1.0)]
    learner.step(*arrays([(row, 0.0, 1.0, True)]))
    twin.step(row, 0.0, 1.0)
    (eta,), ((d,),) = learner.state()["w"], learner.state()["w_state"][:, :1]
    assert d == 0.0
    assert eta * config.w.prior == near(twin.w[0, 5].value) == pytest.approx(-0.165, abs=1e-3)


def test_ftrl_gives_the_numbers_worked_out_by_hand():
    """Alpha .1, beta 1. Row 1: g = -.5, n = .25, z = -.5, w = .5 / 15. Row 2: p = sigmoid(1 / 15) = .51666, g = p,
    n = .516938, sigma = 2.189840, z = -.056334, w = .056334 / 17.18984."""
    learner = make_learner(Lr(w=Ftrl(), scales=None), ["a"])
    learner.step(*arrays([(ONE, 1.0, 1.0, True)]))
    assert learner.state()["w"].tolist() == pytest.approx([0.0333333], abs=1e-7)
    assert learner.state()["w_state"][0].tolist() == pytest.approx([-0.5, 0.25], abs=1e-7)
    outcome = learner.step(*arrays([(ONE, 0.0, 1.0, True)]))
    assert outcome.p.tolist() == pytest.approx([0.5166605], abs=1e-7)
    assert learner.state()["w"].tolist() == pytest.approx([0.0032772], abs=1e-7)
    assert learner.state()["w_state"][0].tolist() == pytest.approx([-0.0563342, 0.5169381], abs=1e-7)


def test_ftrl_sets_a_weight_back_to_exactly_zero():
    learner = make_learner(Lr(w=Ftrl(l1=0.3), scales=None), ["a"])
    learner.step(*arrays([(ONE, 1.0, 1.0, True)]))
    assert learner.state()["w"][0] == pytest.approx(0.2 / 15, abs=1e-8)
    learner.step(*arrays([(ONE, 0.0, 1.0, True)]))
    assert learner.state()["w"][0] == 0.0
    assert learner.state()["w_state"][0, 1] > 0.5


def test_factors_wait_for_their_weight_where_they_need_it():
    """|z| of the weight is .5 after one row: with l1 = .6 it is 0, and the initial factors neither count nor move."""
    config = msgspec.structs.replace(CASES["fm-ftrl"], w=Ftrl(l1=0.6), v_needs_w=True, init_sd=0.5, scales=None)
    pair: Row = [(0, 9, 1.0), (1, 8, 1.0)]
    learner = make_learner(config, FIELDS)
    first = learner.step(*arrays([(pair, 1.0, 1.0, True)]))
    started = learner.state()
    assert first.logit[0] == 0.0
    assert not started["w"].any()
    assert not started["v_state"].any()
    learner.step(*arrays([(pair, 1.0, 1.0, True)] * 2))
    assert learner.state()["w"].all()
    assert learner.state()["v_state"].any()


def test_adagrad_gives_the_numbers_worked_out_by_hand():
    learner = make_learner(Lr(w=AdaGrad(eta=0.1, a0=1.0), scales=None), ["a"])
    learner.step(*arrays([([(0, 9, 2.0)], 1.0, 1.0, True)]))  # g = -.5 and -1
    assert learner.state()["w0"].tolist() == pytest.approx([0.05 / math.sqrt(1.25), 0.25], abs=1e-8)
    assert learner.state()["w"][0] == pytest.approx(0.1 / math.sqrt(2.0), abs=1e-8)


def test_adam_moves_by_eta_at_first_whatever_the_gradient():
    learner = make_learner(Lr(w=Adam(eta=0.01, eps=1e-12), loss="squared", scales=None), ["a"])
    learner.step(*arrays([([(0, 9, 1e-3), (0, 8, 1.0)], 1.0, 1.0, True)]))
    assert learner.state()["w"].tolist() == pytest.approx([0.01, 0.01], rel=1e-4)


def test_a_learned_scale_gives_the_numbers_worked_out_by_hand():
    """Row 1: e = -.5, w = .1 * .5 / sqrt(1.25) = .0447214, tau stays (w was 0). Row 2: m = bias + w = .0894427,
    e = -.4776542, d = e w = -.0213613, T = .0004563, tau = 1 + .1 * .0213613 / sqrt(.1004563)."""
    learner = make_learner(Lr(w=AdaGrad(), scales=Scales(eta=0.1)), ["a"])
    learner.step(*arrays([(ONE, 1.0, 1.0, True)]))
    assert learner.state()["tau"].tolist() == [1.0]
    learner.step(*arrays([(ONE, 1.0, 1.0, True)]))
    assert learner.state()["tau"][0] == pytest.approx(1.0 + 0.1 * 0.0213613 / math.sqrt(0.1004563), abs=1e-6)
    assert learner.state()["tau_sum"][0] == pytest.approx(0.0004563, abs=1e-7)
    assert learner.field_scales() == {"w": {"a": pytest.approx(1.00674, abs=1e-5)}}


def test_a_kalman_step_gives_the_numbers_worked_out_by_hand():
    """As for the twin: S = 1.1, g = -.417833, D = .177687, mean .0417833; eta = mean (10 + D)."""
    learner = make_learner(Lr(w=Kalman(q=0.0, evidence=None), scales=None), ["a"])
    outcome = learner.step(*arrays([(ONE, 1.0, 1.0, True)]))
    assert (outcome.p[0], outcome.variance[0]) == pytest.approx((0.5, 1.1))
    assert learner.state()["w0"] == pytest.approx([0.417833, 0.825415], abs=2e-6)
    assert learner.state()["w_state"][0, 0] == pytest.approx(0.177687, abs=2e-6)
    assert learner.state()["w"][0] == pytest.approx(0.0417833 * 10.177687, abs=2e-6)


def test_fm_and_ffm_give_the_logits_worked_out_by_hand():
    tags = np.array([0 << 32 | 5, 1 << 32 | 6], np.uint64)
    given = {"tags": tags, "w": np.array([0.1, 0.2], np.float32), "w0": np.array([-0.3], np.float32)}
    rows = rows_of([[(0, 5, 1.0), (1, 6, 2.0)]])
    factors = np.array([[1, 2, 0], [3, -1, 5]], np.float32)  # <v1, v2> = 1
    adam = {"k": 3, "w": Adam(), "v": Adam(), "scales": None}
    said = Predictor(Fm(**adam), ["a", "b"], {**given, "v": factors}).predict(rows)
    assert said.p[0] == pytest.approx(sigmoid(-0.3 + 0.1 + 2 * 0.2 + 2 * 1.0), abs=1e-7)
    aware = np.array([[9, 9, 9, 1, 2, 0], [0.5, -1, 0, 7, 7, 7]], np.float32)  # <v1 to field 1, v2 to field 0> = -1.5
    ffm = Ffm(k=3, scales=None, pairs=None)
    said = Predictor(ffm, ["a", "b"], {**given, "v": aware}).predict(rows)
    assert said.p[0] == pytest.approx(sigmoid(-0.3 + 0.1 + 2 * 0.2 + 2 * -1.5), abs=1e-7)
    squared = msgspec.structs.replace(ffm, loss="squared")
    assert Predictor(squared, ["a", "b"], {**given, "v": aware}).predict(rows).p[0] == pytest.approx(-2.8, abs=1e-6)
