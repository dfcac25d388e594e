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


def numbers(n: int, seed: int = 0):
    """Predictions of numbers, the numbers, and weights."""
    rng = np.random.default_rng(seed)
    label = rng.gamma(2.0, 30.0, n)
    weight = rng.choice([0.5, 1.0, 3.0], n)
    return (label + rng.normal(5, 20, n)).astype(np.float32), label.astype(np.float32), weight.astype(np.float32)


def quality_of(p, label, weight, window: int = 100_000, loss: str = "log") -> Quality:
    quality = Quality(window, loss)
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


def test_errors_of_numbers_are_those_worked_out_by_hand():
    p, label = np.array([1.0, 3.0, 100.0], np.float32), np.array([2.0, 5.0, -1.0], np.float32)
    scores = quality_of(p, label, np.array([3.0, 1.0, 0.0], np.float32), loss="squared").since_start()
    mean = 11 / 4
    assert (scores.examples, scores.weight, scores.ctr) == (2, 4.0, mean)
    assert (scores.mse, scores.rmse, scores.mae) == (7 / 4, math.sqrt(7 / 4), 5 / 4)
    assert scores.r2 == pytest.approx(1 - 7 / (3 * (2 - mean) ** 2 + (5 - mean) ** 2), rel=1e-12)
    assert scores.calibration == 6 / 11
    ranked = (scores.log_loss, scores.log_loss_sum, scores.auc, scores.auc_error, scores.normalized_entropy)
    assert all(math.isnan(x) for x in (*ranked, scores.hinge_loss))


def test_errors_of_numbers_equal_river_s():
    from river import metrics

    p, label, weight = numbers(2000)
    theirs = metrics.MSE(), metrics.RMSE(), metrics.MAE(), metrics.R2()
    for y, m, w in zip(label.tolist(), p.tolist(), weight.tolist(), strict=True):
        for metric in theirs:
            metric.update(y, m, w)
    scores = quality_of(p, label, weight, loss="squared").since_start()
    assert [scores.mse, scores.rmse, scores.mae] == pytest.approx([metric.get() for metric in theirs[:3]], rel=1e-9)
    assert scores.r2 == pytest.approx(theirs[3].get(), rel=1e-3)


def test_r2_of_always_saying_the_mean_is_zero():
    _, label, weight = numbers(5000)
    mean = np.full(5000, np.average(label.astype(np.float64), weights=weight), np.float32)
    assert quality_of(mean, label, weight, loss="squared").since_start().r2 == pytest.approx(0.0, abs=1e-9)


def test_hinge_loss_counts_what_is_within_the_margin_or_on_its_wrong_side():
    margin, label = np.array([2.0, 0.25, -0.5, -3.0], np.float32), np.array([1, 1, 1, 0], np.float32)
    scores = quality_of(margin, label, np.array([1, 2, 1, 4], np.float32), loss="hinge").since_start()
    assert scores.hinge_loss == (0 + 2 * 0.75 + 1.5 + 0) / 8
    assert scores.auc == 1.0
    assert all(math.isnan(x) for x in (scores.log_loss, scores.calibration, scores.normalized_entropy, scores.mse))


def test_auc_by_margin_equals_the_exact_rank_statistic_within_its_stated_error():
    rng = np.random.default_rng(3)
    margin = rng.normal(-0.5, 0.6, 200_000).astype(np.float32)
    label = (rng.random(200_000) < 1 / (1 + np.exp(-4 * margin))).astype(np.float32)
    scores = quality_of(margin, label, np.ones(200_000, np.float32), loss="hinge").since_start()
    assert abs(scores.auc - rank_auc(margin, label)) <= scores.auc_error < 0.001


def test_margins_of_any_size_are_ranked():
    margin, label = np.array([np.inf, 3e38, -3e38], np.float32), np.array([1, 1, 0], np.float32)
    assert quality_of(margin, label, np.ones(3, np.float32), loss="hinge").since_start().auc == 1.0


@pytest.mark.parametrize("loss", ["squared", "hinge"])
def test_other_losses_have_windows_marks_and_states_too(loss):
    p, label, weight = numbers(5000)
    if loss == "hinge":
        p, label = p / 50 - 1, (label > 50).astype(np.float32)
    whole, first, second = quality_of(p, label, weight, 1000, loss), Quality(1000, loss), Quality(1000, loss)
    first.observe(p[:3333], label[:3333], weight[:3333])
    mark = first.mark()
    second.restore(first.state())
    for i in range(3333, 5000, 7):
        second.observe(p[i : min(i + 7, 5000)], label[i : min(i + 7, 5000)], weight[i : min(i + 7, 5000)])
    assert as_bytes(second) == as_bytes(whole)
    after, alone = second.since(mark), quality_of(p[3333:], label[3333:], weight[3333:], loss=loss).since_start()
    names = ("mse", "mae", "r2") if loss == "squared" else ("hinge_loss", "auc")
    assert [getattr(after, x) for x in names] == pytest.approx([getattr(alone, x) for x in names], rel=1e-9)
    last = quality_of(p[-1000:], label[-1000:], weight[-1000:], loss=loss).since_start()
    assert [getattr(whole.window(), x) for x in names] == pytest.approx([getattr(last, x) for x in names], rel=1e-9)


@pytest.mark.parametrize("loss", ["squared", "hinge"])
def test_nothing_judged_yet_is_nan_for_other_losses_too(loss):
    empty = Quality(100, loss).since_start()
    assert all(math.isnan(x) for x in (empty.mse, empty.rmse, empty.mae, empty.r2, empty.hinge_loss, empty.auc))


def test_a_state_of_another_loss_is_refused_by_name():
    state = quality_of(*examples(50, -2.0)).state()
    with pytest.raises(ValueError, match=r"^sums: float64\[7\] is needed"):
        Quality(100_000, "squared").restore(state)


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


@pytest.mark.parametrize("loss", ["log", "squared", "hinge"])
def test_what_has_no_weight_or_no_prediction_is_no_example(loss):
    p, label, weight = examples(3000, -1.0)
    whole, part = Quality(1000, loss), Quality(1000, loss)
    weight[::3], p[1::3] = 0.0, np.nan
    whole.observe(p, label, weight)
    part.observe(p[2::3].copy(), label[2::3].copy(), weight[2::3].copy())
    assert whole.since_start() == part.since_start()
    assert whole.since_start().examples == 1000
    assert whole.window() == part.window()
