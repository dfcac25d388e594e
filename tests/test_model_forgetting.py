"""Forgetting: per touch and by event time, in the twins' numbers and in what it is for."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from model_cases import CASES, FIELDS, arrays, as_python, assert_equal_states, each_case, near, random_examples
from reference import Reference, Row, rows_of

from online_fm.features.batch import Rows
from online_fm.model import make_learner
from online_fm.model.config import AdaGrad, Ftrl, Kalman, Lr, SingleConfig

pytestmark = as_python

HOUR_MS = 3_600_000
TICK_MS = HOUR_MS // 64
ONE: Row = [(0, 9, 1.0)]


def times(n: int, seed: int = 2) -> np.ndarray:
    """Event times: mostly within a tick, now and then some ticks or hours on."""
    gaps = np.random.default_rng(seed).choice([0, 900, 20_000, 200_000, 5 * HOUR_MS], n, p=[0.2, 0.4, 0.3, 0.08, 0.02])
    return 1_700_000_000_000 + np.cumsum(gaps)


def hourly(config: SingleConfig) -> SingleConfig:
    return msgspec.structs.replace(config, half_life_h=1.0)


@each_case
def test_a_stream_over_hours_equals_its_slow_twin(config):
    examples, at = random_examples(120, seed=5, keys=6), times(120)
    learner, reference = make_learner(hourly(config), FIELDS), Reference(hourly(config), FIELDS)
    outcome = learner.step(*arrays(examples), at)
    expected = [reference.step(*e, t) for e, t in zip(examples, at.tolist(), strict=True)]
    assert outcome.p == near(expected, 1e-4)
    assert learner.state()["tick"][0] == reference.tick == at[-1] // TICK_MS
    assert_equal_states(learner, reference, 2e-4)


@each_case
def test_batches_and_restarts_change_nothing_of_what_is_forgotten(config):
    examples, at = random_examples(200, seed=5), times(200)
    whole, single, resumed = (make_learner(hourly(config), FIELDS) for _ in range(3))
    together = whole.step(*arrays(examples), at)
    apart = [single.step(*arrays([e]), at[i : i + 1]).p[0] for i, e in enumerate(examples)]
    assert together.p.tobytes() == np.array(apart, np.float32).tobytes()
    half = make_learner(hourly(config), FIELDS)
    half.step(*arrays(examples[:90]), at[:90])
    resumed.restore(half.state())
    resumed.step(*arrays(examples[90:]), at[90:])
    assert whole.state_hash() == single.state_hash() == resumed.state_hash()


def test_a_half_life_halves_sums_of_squares_and_precisions_and_leaves_weights():
    later = np.array([HOUR_MS], np.int64)
    never = ([], 1.0, 1.0, False)
    for config in (CASES["lr-ftrl"], CASES["lr-adagrad"], CASES["lr-kalman"]):
        learner = make_learner(hourly(config), FIELDS)
        learner.step(*arrays([(ONE, 1.0, 1.0, True)] * 3), np.array([0, 0, 0], np.int64))
        before = learner.state()
        said = learner.predict(rows_of([ONE])).logit
        learner.step(*arrays([never]), later)
        after = learner.state()
        assert after["tau_sum"] == near(before["tau_sum"] / 2)
        if isinstance(config.w, Kalman):
            assert after["w_state"][0, :3] == near(before["w_state"][0] * [0.5, 1.0, 1.0])
            assert after["w"] == near(before["w"] / 2)
            assert 1 / after["w0"][1] - 1 == near((1 / before["w0"][1] - 1) / 2)
        else:
            squares = 1 if isinstance(config.w, Ftrl) else 0
            assert after["w_state"][0, squares] == near(before["w_state"][0, squares] / 2)
            assert after["w0"][1 + squares] == near(before["w0"][1 + squares] / 2)
            assert after["w"].tobytes() == before["w"].tobytes()
            assert learner.predict(rows_of([ONE])).logit == near(said)


def test_a_moved_z_leaves_an_ftrl_weight_where_it_was_and_zeros_at_zero():
    """The next row has the loss's slope 0 almost, so that the weight is what z and n say."""
    config = hourly(Lr(w=Ftrl(alpha=0.3, l1=0.2, l2=0.1), scales=None, loss="squared"))
    learner = make_learner(config, FIELDS)
    rare: Row = [(1, 4, 0.05)]
    learner.step(*arrays([(ONE, 1.0, 1.0, True), (rare, 1.0, 1.0, True)]), np.zeros(2, np.int64))
    before = learner.state()["w"].tolist()
    m = float(learner.predict(rows_of([ONE])).logit[0])
    learner.step(*arrays([(ONE, m + 1e-4, 1.0, True)]), np.array([3 * HOUR_MS]))
    assert learner.state()["w"][0] == pytest.approx(before[0], abs=1e-4)
    assert before[1] == learner.state()["w"][1] == 0.0
    assert before[0] > 0.1


def test_times_that_go_back_and_rows_without_a_half_life_forget_nothing():
    examples = arrays(random_examples(50))
    falling = 1_700_000_000_000 - np.arange(50, dtype=np.int64) * HOUR_MS
    for config in (Lr(w=AdaGrad()), Lr(w=Kalman())):
        plain, back, given = (
            make_learner(config, FIELDS),
            make_learner(hourly(config), FIELDS),
            make_learner(config, FIELDS),
        )
        plain.step(*examples)
        back.step(*examples, falling)
        given.step(*examples, falling[::-1].copy())
        assert plain.state_hash() == given.state_hash()
        assert plain.parameters()["w"].tobytes() == back.parameters()["w"].tobytes()


def test_a_kalman_weight_that_is_not_seen_returns_to_its_prior():
    learner = make_learner(hourly(Lr(w=Kalman(evidence=None))), FIELDS)
    learner.step(*arrays([(ONE, 1.0, 1.0, True)] * 50), np.zeros(50, np.int64))
    seen = learner.predict(rows_of([ONE]))
    learner.step(*arrays([([], 1.0, 1.0, False)]), np.array([40 * HOUR_MS]))
    later, never = learner.predict(rows_of([ONE])), learner.predict(rows_of([[(0, 77, 1.0)]]))
    assert seen.logit[0] > later.logit[0]
    assert (later.logit[0], later.variance[0]) == near((never.logit[0], never.variance[0]))


def redrawn(n: int) -> tuple[Rows, np.ndarray, np.ndarray, np.ndarray]:
    """A stream of one feature of 20 values a row, whose click rates are drawn anew at half time."""
    rng = np.random.default_rng(6)
    key = rng.integers(0, 20, n)
    rate = rng.beta(1, 1, (2, 20))[(np.arange(n) >= n // 2).astype(int), key]
    label = (rng.random(n) < rate).astype(np.float32)
    rows = Rows(np.arange(n + 1, dtype=np.int64), np.zeros(n, np.uint16), key.astype(np.uint32), np.ones(n, np.float32))
    return rows, label, rate, np.arange(n, dtype=np.int64) * (24 * HOUR_MS // n)


@pytest.mark.parametrize(
    ("frozen", "forgetting"),
    [
        (Ftrl(), Ftrl(decay=0.01)),
        (AdaGrad(), AdaGrad(decay=0.01)),
        (Kalman(q=0.0), Kalman(q=0.003)),
        (Ftrl(), None),
        (AdaGrad(), None),
        (Kalman(q=0.0), None),
    ],
    ids=["ftrl", "adagrad", "kalman", "ftrl-by-time", "adagrad-by-time", "kalman-by-time"],
)
def test_what_forgets_finds_a_stream_again_that_is_redrawn_at_half_time(frozen, forgetting):
    """Excess over the Bayes loss in the quarter after the jump: forgetting, per touch or by time, has less of it."""
    n = 40_000
    rows, label, rate, at = redrawn(n)
    ones = np.ones(n, np.float32)
    kept = make_learner(Lr(w=frozen, scales=None), ["a"])
    config = Lr(w=forgetting, scales=None) if forgetting else Lr(w=frozen, scales=None, half_life_h=1.0)
    forgets = make_learner(config, ["a"])
    excess = []
    for learner in (kept, forgets):
        p = learner.step(rows, label, ones, ones > 0, at).p.astype(np.float64)
        loss = -(rate * np.log(p / rate) + (1 - rate) * np.log((1 - p) / (1 - rate)))
        excess.append(loss[n // 2 : 3 * n // 4].mean())
    assert excess[1] < 0.8 * excess[0]
