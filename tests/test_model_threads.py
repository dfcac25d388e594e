"""An FFM that several threads learn: what may differ from one that learns alone, and what may not."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from model_cases import ADAGRAD, FACTORS, FIELDS, JITTED, KALMAN, SPARSE, as_python

from online_fm.features.batch import Rows
from online_fm.model import make_learner
from online_fm.model.config import Ffm

pytestmark = as_python

ALONE = Ffm(w=ADAGRAD, v=ADAGRAD, init_sd=0.2)
TOGETHER = msgspec.structs.replace(ALONE, threads=3)


def stream(n: int, seed: int = 1) -> tuple[Rows, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of one feature per field; who meets whom decides the label."""
    rng = np.random.default_rng(seed)
    width = len(FIELDS)
    key = rng.integers(0, 12, (n, width)).astype(np.uint32)
    taste = np.random.default_rng(9).normal(0.0, 1.5, (12, 12))
    p = 1.0 / (1.0 + np.exp(-taste[key[:, 0], key[:, 1]] - taste[key[:, 2], key[:, 3]]))
    fld = np.tile(np.arange(width, dtype=np.uint16), n)
    rows = Rows(np.arange(0, n * width + 1, width), fld, key.ravel(), np.ones(n * width, np.float32))
    return rows, (rng.random(n) < p).astype(np.float32), np.ones(n, np.float32), np.ones(n, np.bool_)


def learned(config: Ffm, n: int = 6000, at_once: int = 2000):
    learner = make_learner(config, FIELDS)
    rows, *columns = stream(n)
    given = []
    for start in range(0, n, at_once):
        end = min(start + at_once, n)
        given.append(learner.step(rows.part(start, end), *(column[start:end] for column in columns)))
    p = np.concatenate([outcome.p for outcome in given])
    label = columns[0]
    late = slice(n // 2, None)
    return learner, float(-np.log(np.where(label > 0, p, 1 - p))[late].mean()), given


@pytest.mark.skipif(not JITTED, reason="kernels in Python are parted in the middle of a row all the time")
def test_threads_learn_as_well_as_one_and_lose_no_row():
    alone, its_loss, _ = learned(ALONE)
    together, their_loss, given = learned(TOGETHER)
    assert together.features == alone.features
    assert sum(len(outcome.p) for outcome in given) == 6000
    assert not any(outcome.quarantined.any() for outcome in given)
    assert its_loss < 0.60  # of a coin .69
    assert their_loss < 0.60


def test_predicting_is_bit_for_bit_what_one_thread_predicts():
    alone, _, _ = learned(ALONE)
    together = make_learner(TOGETHER, FIELDS)
    together.restore(alone.state())
    rows, *_ = stream(1001, seed=5)
    for given, expected in zip(together.predict(rows), alone.predict(rows), strict=True):
        assert given.tobytes() == expected.tobytes()


def test_a_few_rows_are_learned_by_one_thread_bit_for_bit():
    alone, _, _ = learned(ALONE, n=600, at_once=60)
    together, _, _ = learned(TOGETHER, n=600, at_once=60)
    assert together.state_hash() == alone.state_hash()


def test_an_update_that_is_not_finite_is_left_out_whichever_thread_finds_it():
    learner = make_learner(TOGETHER, FIELDS)
    rows, label, weight, learn = stream(999)
    rows.val[4 * 700] = np.float32(3e38)
    outcome = learner.step(rows, label, weight, learn)
    assert np.flatnonzero(outcome.quarantined).tolist() == [700]
    assert all(np.isfinite(array).all() for array in learner.state().values())


@pytest.mark.parametrize("learns", [{"w": KALMAN}, {"v": FACTORS}, {"w": KALMAN, "v": FACTORS}])
def test_sums_over_rows_are_not_shared(learns):
    with pytest.raises(ValueError, match="threads"):
        Ffm(**{"w": SPARSE, "v": ADAGRAD, "threads": 2} | learns)
