"""Scores against exact ones, and a window that is a function of the examples only."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from reference import rank_auc

from online_fm.quality import PANES, Quality, QualityConfig, Scores


def examples(n: int, rate_logit: float, spread: float = 1.0, seed: int = 0, shift: float = 0.0):
    """Predictions with labels drawn from them (after a shift of the logit), weights of 1."""
    rng = np.random.default_rng(seed)
    m = rng.normal(rate_logit, spread, n)
    label = rng.random(n) < 1 / (1 + np.exp(-m - shift))
    return (1 / (1 + np.exp(-m))).astype(np.float32), label.astype(np.float32), np.ones(n, np.float32)


def quality_of(p, label, weight, window: int = 100_000) -> Quality:
    quality = Quality(window)
    quality.observe(p, label, weight)
    return quality


def as_bytes(quality: Quality) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in quality.state().items()}


@pytest.mark.parametrize(("rate_logit", "rate"), [(0.0, 0.5), (-4.3, 0.02), (-7.4, 0.001)])
def test_auc_equals_the_exact_rank_statistic_within_its_stated_error(rate_logit, rate):
    p, label, weight = examples(1_000_000, rate_logit)
    scores = quality_of(p, label, weight).since_start()
    assert scores.ctr == pytest.approx(rate, rel=0.15)
    exact = rank_auc(p, label)
    assert 0.0 < scores.auc_error < 0.001
    assert abs(scores.auc - exact) <= scores.auc_error
    assert scores.auc == pytest.approx(exact, abs=1e-4)


def test_auc_is_right_where_river_s_thresholds_are_not():
    from river.metrics import ROCAUC

    p, label, weight = examples(20_000, -6.9, spread=1.5)
    theirs = ROCAUC()
    for one_label, one_p in zip(label.tolist(), p.tolist(), strict=True):
        theirs.update(one_label > 0.5, {True: one_p, False: 1 - one_p})
    exact = rank_auc(p, label)
    assert abs(quality_of(p, label, weight).since_start().auc - exact) < 1e-3
    assert abs(theirs.get() - exact) > 0.03


def test_auc_of_ties_is_one_half_and_says_so():
    p, label = np.full(1000, 0.1, np.float32), (np.arange(1000) % 10 == 0).astype(np.float32)
    scores = quality_of(p, label, np.ones(1000, np.float32)).since_start()
    assert (scores.auc, scores.auc_error) == (0.5, 0.5)


def test_auc_of_a_perfect_and_of_a_perfectly_wrong_order():
    p = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    label, weight = np.array([0, 0, 1, 1], np.float32), np.ones(4, np.float32)
    assert quality_of(p, label, weight).since_start().auc == 1.0
    assert quality_of(p, 1 - label, weight).since_start().auc == 0.0


def test_scores_are_the_numbers_worked_out_by_hand():
    p = np.array([0.5, 0.25, 0.75, 0.25], np.float32)
    label, weight = np.array([1, 0, 1, 0], np.float32), np.array([1, 2, 1, 0], np.float32)
    scores = quality_of(p, label, weight).since_start()
    loss = math.log(2) - 2 * math.log(0.75) - math.log(0.75)
    entropy = math.log(2)  # the mean label is one half
    assert scores == Scores(
        examples=3,
        weight=4.0,
        log_loss=pytest.approx(loss / 4),
        log_loss_sum=pytest.approx(loss),
        auc=1.0,
        auc_error=0.0,
        normalized_entropy=pytest.approx(loss / 4 / entropy),
        calibration=pytest.approx(1.75 / 2),
        ctr=0.5,
    )


def test_normalized_entropy_of_always_saying_the_click_rate_is_one():
    label = (np.arange(10_000) % 8 == 0).astype(np.float32)
    scores = quality_of(np.full(10_000, 0.125, np.float32), label, np.ones(10_000, np.float32)).since_start()
    assert scores.normalized_entropy == pytest.approx(1.0, abs=1e-12)
    assert scores.calibration == pytest.approx(1.0, abs=1e-12)


def test_calibration_tells_a_model_that_promises_too_much():
    p, label, weight = examples(200_000, -4.0, shift=-math.log(2))
    assert quality_of(p, label, weight).since_start().calibration == pytest.approx(2.0, rel=0.06)


def test_a_certain_and_wrong_prediction_costs_what_the_clip_says():
    p, label = np.array([0.0, 1.0], np.float32), np.array([1, 0], np.float32)
    scores = quality_of(p, label, np.ones(2, np.float32)).since_start()
    assert scores.log_loss == pytest.approx(24 * math.log(2), rel=1e-12)


def test_what_is_not_defined_is_nan():
    empty = Quality(100).since_start()
    assert (empty.examples, empty.weight) == (0, 0.0)
    assert all(math.isnan(x) for x in (empty.log_loss, empty.auc, empty.auc_error, empty.calibration, empty.ctr))
    one_class = quality_of(*(np.array([x], np.float32) for x in (0.3, 0, 1))).since_start()
    assert one_class.log_loss == pytest.approx(-math.log(0.7), rel=1e-6)
    assert all(math.isnan(x) for x in (one_class.auc, one_class.normalized_entropy, one_class.calibration))


def test_scores_do_not_depend_on_the_batches_bit_for_bit():
    p, label, _ = examples(5000, -2.0)
    weight = np.random.default_rng(1).choice([0.0, 0.3, 1.0, 2.5], 5000).astype(np.float32)
    whole = quality_of(p, label, weight, window=1000)
    for size in (1, 7, 999):
        parts = Quality(1000)
        for i in range(0, 5000, size):
            parts.observe(p[i : i + size], label[i : i + size], weight[i : i + size])
        assert as_bytes(parts) == as_bytes(whole)


@pytest.mark.parametrize("n", [500, 1000, 1049, 1050, 1051, 20_000])
def test_the_window_holds_the_last_examples_and_no_others(n):
    p, label, weight = examples(n, -1.0)
    window = quality_of(p, label, weight, window=1000).window()
    assert window.examples == n if n < 1000 else 950 < window.examples <= 1000
    last = quality_of(p[n - window.examples :], label[n - window.examples :], weight[: window.examples]).since_start()
    assert window.log_loss == pytest.approx(last.log_loss, rel=1e-12)
    assert (window.auc, window.auc_error) == pytest.approx((last.auc, last.auc_error), rel=1e-12)


def test_a_jump_in_quality_shows_in_the_window_long_before_it_shows_since_start():
    good, bad = examples(50_000, -1.0, spread=2.0), examples(2000, -1.0, spread=2.0, shift=3.0, seed=2)
    quality = quality_of(*good, window=2000)
    before = quality.window().log_loss
    quality.observe(*bad)
    assert quality.window().log_loss > before + 0.5
    assert quality.since_start().log_loss < before + 0.1


def test_scores_since_a_mark_are_those_of_what_came_after_it():
    first, second = examples(3000, -1.0), examples(2000, -3.0, seed=4)
    quality = quality_of(*first)
    mark = quality.mark()
    quality.observe(*second)
    after, alone = quality.since(mark), quality_of(*second).since_start()
    assert (after.examples, after.auc) == (2000, pytest.approx(alone.auc, rel=1e-9))
    assert after.log_loss == pytest.approx(alone.log_loss, rel=1e-9)


def test_a_stream_goes_on_from_its_state_bit_for_bit():
    p, label, weight = examples(5000, -2.0)
    whole, first, second = quality_of(p, label, weight, window=1000), Quality(1000), Quality(1000)
    first.observe(p[:2222], label[:2222], weight[:2222])
    second.restore(first.state())
    second.observe(p[2222:], label[2222:], weight[2222:])
    assert as_bytes(second) == as_bytes(whole)


def test_a_window_of_another_size_begins_anew_and_the_rest_goes_on():
    first = quality_of(*examples(5000, -2.0), window=1000)
    second = Quality(2000)
    second.restore(first.state())
    assert second.since_start() == first.since_start()
    assert second.window().examples == 0


def test_a_state_that_does_not_fit_is_refused_by_name():
    state = quality_of(*examples(50, -2.0)).state()
    with pytest.raises(ValueError, match=r"^masses: float64\[2, 8192\] is needed"):
        Quality(100).restore({**state, "masses": state["masses"][:, :10]})
    with pytest.raises(ValueError, match=r"^cursor: outside"):
        Quality(100_000).restore({**state, "cursor": np.array([99, 0, 5000])})


def test_the_shipped_window_is_a_hundred_thousand_examples():
    assert QualityConfig().window == 100_000


def test_a_pane_never_has_more_examples_than_a_bin_can_count() -> None:
    assert msgspec.convert({"window": 2**28}, QualityConfig).window / PANES < 2**24
    with pytest.raises(msgspec.ValidationError, match="window"):
        msgspec.convert({"window": 2**28 + 1}, QualityConfig)
