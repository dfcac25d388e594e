"""Draws: their mean and variance, their reproducibility, and which models have any."""

from __future__ import annotations

import math

import numpy as np
import pytest
from model_cases import CASES

from online_fm.model.config import Committee, Member
from online_fm.model.explore import draw, has_variance, mean_logit
from online_fm.model.learner import Prediction


def predictions(m: float, variance: float, n: int, loss: str = "log") -> Prediction:
    """The same prediction n times, as the kernels report it."""
    kappa = 1.0 / math.sqrt(1.0 + math.pi / 8.0 * variance) if loss == "log" else 1.0
    logit = np.full(n, kappa * m, np.float32)
    p = 1.0 / (1.0 + np.exp(-logit)) if loss == "log" else logit
    return Prediction(p, logit, np.full(n, variance, np.float32))


@pytest.mark.parametrize(("m", "variance"), [(-2.0, 0.25), (1.5, 4.0), (0.0, 1e-4)])
@pytest.mark.parametrize("loss", ["log", "squared"])
def test_drawn_logits_have_the_mean_before_moderation_and_the_variance(m, variance, loss) -> None:
    n = 200_000
    given = predictions(m, variance, n, loss)
    assert mean_logit(given, loss)[0] == pytest.approx(m, abs=1e-6)
    p = draw(given, loss, np.random.default_rng(1)).astype(np.float64)
    logits = np.log(p / (1 - p)) if loss == "log" else p
    assert logits.mean() == pytest.approx(m, abs=4 * math.sqrt(variance / n) + 1e-6)
    assert logits.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / n) + 1e-4)


@pytest.mark.parametrize(("m", "variance"), [(-3.0, 0.3), (0.5, 1.0), (-1.0, 3.0)])
def test_draws_scatter_around_the_prediction(m, variance) -> None:
    given = predictions(m, variance, 100_000)
    p = draw(given, "log", np.random.default_rng(2)).astype(np.float64)
    within = 4 * p.std() / math.sqrt(len(p))
    assert p.mean() == pytest.approx(float(given.p[0]), abs=within + 0.01)  # MacKay's approximation is .01 off at most


def test_the_same_seed_gives_the_same_draws_and_rows_their_own() -> None:
    given = predictions(-1.0, 1.0, 5)
    first, again, other = (draw(given, "log", np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert len(set(first.tolist())) == 5


def test_without_variance_a_draw_is_the_prediction() -> None:
    given = predictions(-1.0, 0.0, 3)
    assert draw(given, "log", np.random.default_rng(1)) == pytest.approx(given.p, rel=1e-6)


def test_a_draw_is_a_number_whatever_the_logit_is() -> None:
    odd = np.array([math.inf, -math.inf, math.nan, 800.0, -800.0], np.float32)
    given = Prediction(np.full(5, 0.5, np.float32), odd, np.ones(5, np.float32))
    assert draw(given, "log", np.random.default_rng(1)).tolist() == [0.5, 0.5, 0.5, 1.0, 0.0]
    assert draw(given, "squared", np.random.default_rng(1))[:3].tolist() == [0.0, 0.0, 0.0]


def test_a_model_has_a_variance_where_weights_or_factors_are_gaussian() -> None:
    with_one = {name for name, config in CASES.items() if has_variance(config)}
    assert with_one == {name for name in CASES if "kalman" in name}


@pytest.mark.parametrize(("mixed", "expected"), [(True, True), (False, False)])
def test_a_committee_has_a_variance_where_a_mixed_member_has(mixed, expected) -> None:
    members = {"a": Member(model=CASES["lr-ftrl"]), "b": Member(model=CASES["fm-kalman"], mixed=mixed)}
    assert has_variance(Committee(members=members)) is expected
