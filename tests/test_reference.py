"""The slow twins themselves: their gradients are difference quotients of the loss, their parts the papers' numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from model_cases import FIELDS
from reference import Reference, Row, difference_quotient
from reference_optim import Evidence, error_of, loss_of, sigmoid

from online_fm.model.config import Ffm, Fm, Fwfm, Kalman, KalmanFactors, Lr, Mf, PairScales, Poly2, Scales, Sgd

ROW: Row = [(0, 1, 1.0), (1, 5, 0.5), (1, 6, -2.0), (3, 2, 1.5), (1, 5, 0.7)]
PLAIN = Sgd(eta=1.0)  # a step is the gradient itself
KINDS = {
    "lr": Lr(w=PLAIN),
    "poly2": Poly2(w=PLAIN),
    "mf": Mf(user="b", item="d", k=3, w=PLAIN, v=PLAIN, init_sd=0.3),
    "fm": Fm(k=3, w=PLAIN, v=PLAIN, init_sd=0.3),
    "ffm": Ffm(k=2, w=PLAIN, v=PLAIN, init_sd=0.3),
    "ffm-plain": Ffm(k=2, w=PLAIN, v=PLAIN, init_sd=0.3, scales=None, pairs=None),
    "fwfm": Fwfm(k=3, w=PLAIN, v=PLAIN, init_sd=0.3),
}


def prepared(config, loss: str) -> Reference:
    """A twin with no parameter at its start, for a scale only shows in the gradient of what is not 1 or 0."""
    twin = Reference(msgspec.structs.replace(config, loss=loss), FIELDS)
    rng = np.random.default_rng(3)
    twin.step(ROW, 0.0, 1e-9)  # makes the coordinates
    for w in (twin.w0, *twin.w.values()):
        w.value = rng.normal(0, 0.2)
    for scale in (*twin.tau, *twin.rho, *twin.r.values()):
        if scale:
            scale.value, scale.sum = rng.uniform(0.4, 1.6), 0.0
    return twin


def quotient_by(learned, result: Callable[[], float]) -> float:
    """The difference quotient of a result by a coordinate or scale of a twin."""

    def at(value: float) -> float:
        before, learned.value = learned.value, value
        found = result()
        learned.value = before
        return found

    return difference_quotient(at, learned.value)


def slope_by(twin: Reference, learned, label: float, weight: float) -> float:
    """That of the weighted loss."""
    return quotient_by(learned, lambda: weight * loss_of(twin.config.loss, twin.raw(ROW), label))


@pytest.mark.parametrize("loss", ["log", "squared", "hinge"])
@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS.keys())
def test_the_step_of_every_parameter_is_the_difference_quotient_of_the_loss(config, loss):
    twin = prepared(config, loss)
    label = 0.0 if twin.raw(ROW) > 0.0 else 1.0  # the hinge's slope is 0 where the row is well on its side
    learned = [twin.w0, *twin.w.values(), *(c for factors in twin.v.values() for c in factors)]
    before = [c.value for c in learned]
    expected = [slope_by(twin, c, label, 0.7) for c in learned]
    twin.step(ROW, label, 0.7)
    assert [b - c.value for b, c in zip(before, learned, strict=True)] == pytest.approx(expected, rel=1e-6, abs=1e-8)
    assert sum(value != 0.0 for value in expected) > len(expected) / 2


@pytest.mark.parametrize("loss", ["log", "squared", "hinge"])
@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS.keys())
def test_the_step_of_every_scale_has_the_difference_quotient_of_the_loss(config, loss):
    twin = prepared(config, loss)
    label = 0.0 if twin.raw(ROW) > 0.0 else 1.0
    learned = [scale for scale in (*twin.tau, *twin.rho, *twin.r.values()) if scale]
    before = [scale.value for scale in learned]
    expected = [slope_by(twin, scale, label, 0.7) for scale in learned]
    twin.step(ROW, label, 0.7)
    found = [math.copysign(math.sqrt(scale.sum), b - scale.value) for b, scale in zip(before, learned, strict=True)]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)
    assert any(value != 0.0 for value in expected) == (config is not KINDS["ffm-plain"])


@pytest.mark.parametrize("loss", ["log", "squared", "hinge"])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_the_error_of_a_loss_is_its_difference_quotient(loss, label):
    for m in (-3.0, -0.2, 0.4, 2.5):
        expected = difference_quotient(lambda at: loss_of(loss, at, label), m)
        assert error_of(loss, m, label) == pytest.approx(expected, abs=1e-8)


def test_the_hinge_is_flat_beyond_its_margin():
    assert [error_of("hinge", m, 1.0) for m in (0.9, 1.0, 1.1)] == [-1.0, 0.0, 0.0]
    assert [error_of("hinge", m, 0.0) for m in (-1.1, -1.0, -0.9)] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("k", [1, 4])
def test_the_variance_of_a_factor_machine_is_the_squared_difference_quotients_times_the_variances(k):
    shared = {"k": k, "w": Kalman(), "v": KalmanFactors(), "init_sd": 0.3}
    for config in (Fm(**shared), Ffm(**shared), Fwfm(**shared), Mf(user="b", item="d", **shared)):
        twin = Reference(config, FIELDS)
        for label in (1.0, 0.0, 0.0):
            twin.step(ROW[:4], label, 1.0)
        total = 0.0
        for c in (twin.w0, *(c for factors in twin.v.values() for c in factors)):
            total += quotient_by(c, lambda twin=twin: twin.raw(ROW[:4])) ** 2 * c.variance
        terms = twin.terms(ROW[:4])
        total += sum((twin.outer_scale(t) * t.x) ** 2 * twin.weight(t).variance for t in terms)
        assert twin.variance(ROW[:4]) == pytest.approx(total, rel=1e-6)


def test_an_example_of_weight_three_is_three_examples_of_a_linear_gaussian_model():
    """Squared loss, variance S and noise n: the mean moves as three updates of one number do, one after another."""
    m, variance, y, noise = 0.3, 2.0, 1.5, 0.5
    once = Evidence.of((m - y) / (variance + noise), 1 / (variance + noise), variance, 3.0)
    at, left = m, variance
    for _ in range(3):
        gain = left / (left + noise)
        at, left = at + gain * (y - at), left - gain * left
    assert m - variance * once.g == pytest.approx(at, rel=1e-12)
    assert variance - variance**2 * once.lam == pytest.approx(left, rel=1e-12)


def test_a_kalman_step_gives_the_numbers_worked_out_by_hand():
    """One feature, prior .1, bias 1: S = 1.1, kappa = 1 / sqrt(1 + 1.1 pi / 8) = .835666, p = .5, g = -.417833,
    lam = kappa^2 / 4 = .174585; mu_b = .417833, s_b = .825415; mu = .0417833; lamx = .216082,
    D = .216082 / (1 + .216082) = .177687, variance = 1 / 10.177687."""
    twin = Reference(Lr(w=Kalman(q=0.0, evidence=None), scales=None), ["a"])
    row: Row = [(0, 9, 1.0)]
    assert twin.variance(row) == pytest.approx(1.1)
    assert twin.step(row, 1.0, 1.0) == 0.5
    assert twin.w0.numbers() == pytest.approx([0.417833, 0.825415], abs=2e-6)
    assert twin.w[0, 9].value == pytest.approx(0.0417833, abs=2e-7)
    assert twin.w[0, 9].precision == pytest.approx(0.177687, abs=2e-6)
    assert twin.w[0, 9].variance == pytest.approx(1 / 10.177687, abs=1e-7)


def test_the_steps_of_sgd_shrink_with_the_touches_of_a_coordinate():
    twin = Reference(Lr(w=Sgd(eta=0.1, decay=1.0), scales=None), ["a"])
    twin.step([], 1.0, 1.0)
    first = twin.w0.value
    twin.step([], 1.0, 1.0)
    assert first == pytest.approx(0.05)
    assert twin.w0.value == pytest.approx(0.05 + 0.05 * (1 - sigmoid(0.05)))


def test_the_scale_of_a_field_stops_at_its_floor():
    twin = Reference(Lr(w=Sgd(eta=1.0), scales=Scales(eta=1.0, a0=1e-12, floor=0.9)), ["a"])
    twin.w0.value = 5.0
    twin.step([(0, 1, 1.0)], 1.0, 1.0)
    assert twin.tau[0].value == 1.0  # w was 0
    twin.step([(0, 1, 1.0)], 0.0, 1.0)
    assert twin.tau[0].value == 0.9


def test_the_scale_of_a_pair_may_change_its_sign():
    ends = []
    for label in (0.0, 1.0):
        twin = Reference(Ffm(k=1, w=Sgd(), pairs=PairScales(start=0.1, eta=1.0, a0=1e-12)), ["a", "b"])
        twin.step([(0, 1, 1.0), (1, 2, 1.0)], label, 1.0)
        ends.append(twin.r[0, 1].value)
    assert sorted(ends) == pytest.approx([-0.9, 1.1], abs=1e-3)
