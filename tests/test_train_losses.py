"""Ratings and margins end to end: from the bytes of events to the quality of what was learned."""

from __future__ import annotations

from functools import cache

import msgspec
import numpy as np
import pytest
from daemon import Folder
from traffic import START_MS, pipeline, read_all

from online_fm.source.memory import MemorySource
from online_fm.source.port import TopicPartition

SHOWN, CLICKED = TopicPartition("impressions", 0), TopicPartition("clicks", 0)
EVENTS, RATED, NOISE = 12_000, 0.7, 0.25
COMMON = (
    "events.impression.score=null",
    "features.fields=[user, item]",
    "join={window_s: 1, grace_s: 0}",
    "quality.window=2000",
)
RATINGS = (*COMMON, "events.click={value: stars}", "join.unclicked=skip")


@cache
def taste() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users and items of n impressions, and what the user thinks of the item: effects of both and a taste in common."""
    rng = np.random.default_rng(4)
    user, item = rng.integers(0, 25, EVENTS), rng.integers(0, 15, EVENTS)
    effects = rng.normal(0, 0.5, 25)[user] + rng.normal(0, 0.5, 15)[item]
    return user, item, effects + (rng.normal(0, 0.6, (25, 2))[user] * rng.normal(0, 0.8, (15, 2))[item]).sum(axis=1)


def stream(clicked: np.ndarray, **value: np.ndarray) -> dict[TopicPartition, list[bytes]]:
    """The events as bytes: an impression every .1 s, and its click, where there is one, .05 s later."""
    user, item, _ = taste()
    numbers = np.arange(EVENTS)
    shown = [
        {"impression_id": i, "ts": START_MS + 100 * i, "features": {"user": f"u{user[i]}", "item": f"i{item[i]}"}}
        for i in numbers.tolist()
    ]
    clicks = [
        {"impression_id": i, "ts": START_MS + 100 * i + 50, **{name: float(of[i]) for name, of in value.items()}}
        for i in numbers[clicked].tolist()
    ]
    return {SHOWN: list(map(msgspec.json.encode, shown)), CLICKED: list(map(msgspec.json.encode, clicks))}


@cache
def ratings() -> dict[TopicPartition, list[bytes]]:
    """Stars around 3, by 70 % of those who were asked."""
    rng = np.random.default_rng(5)
    stars = 3.0 + taste()[2] + rng.normal(0, NOISE, EVENTS)
    return stream(rng.random(EVENTS) < RATED, stars=stars)


@cache
def choices() -> dict[TopicPartition, list[bytes]]:
    """A click wherever the user likes the item, but for one in fifty."""
    return stream((taste()[2] > 0.2) ^ (np.random.default_rng(6).random(EVENTS) < 0.02))


def learned(records: dict[TopicPartition, list[bytes]], *settings: str):
    learner = pipeline(*settings)
    read_all(learner, MemorySource(records))
    learner.drain()
    return learner


MODELS = {
    "fm-adagrad": "{kind: fm, loss: squared}",
    "fm-ftrl": "{kind: fm, loss: squared, w: {kind: ftrl}, v: {kind: ftrl}}",
    "fm-kalman": "{kind: fm, loss: squared, w: {kind: kalman}, v: {kind: kalman}, noise: 0.1}",
    "ffm": "{kind: ffm, loss: squared}",
    "committee": "{kind: committee, members: {"
    "fm: {model: {kind: fm, loss: squared}}, lr: {model: {kind: lr, loss: squared}}}}",
}


@pytest.mark.parametrize("model", MODELS)
def test_the_error_of_predicted_ratings_falls_to_their_noise(model) -> None:
    learner = learned(ratings(), *RATINGS, f"model={MODELS[model]}")
    start, now = learner.quality["learning"].since_start(), learner.quality["learning"].window()
    assert np.std(taste()[2]) > 1.0
    assert 0.97 * NOISE < now.rmse < 1.2 * NOISE < start.rmse
    assert 0.92 < now.r2 < 1.0
    assert now.calibration == pytest.approx(1.0, abs=0.01)
    counts = learner.counts()
    assert start.examples == counts["learned"] == pytest.approx(RATED * EVENTS, rel=0.02)
    assert counts["unclicked"] == EVENTS - counts["learned"]


def test_a_linear_model_is_left_with_the_taste_that_it_cannot_say() -> None:
    (judged,) = learned(ratings(), *RATINGS, f"model={MODELS['committee']}").learners
    scores = {name: quality.window() for name, quality in judged.members.items()}
    assert scores["fm"].rmse < 1.2 * NOISE < 2 * NOISE < scores["lr"].rmse
    assert judged.weights()["fm"] > 0.95


@pytest.mark.parametrize("model", ["kind: fm", "kind: ffm, w: {kind: ftrl}"])
def test_margins_part_those_who_click_from_those_who_do_not(model) -> None:
    learner = learned(choices(), *COMMON, f"model={{{model}, loss: hinge}}")
    start, now = learner.quality["learning"].since_start(), learner.quality["learning"].window()
    assert (start.examples, start.ctr) == (EVENTS, pytest.approx(0.4, abs=0.02))
    assert now.hinge_loss < 0.08 < start.hinge_loss < 0.2
    assert now.auc > 0.97


def test_ratings_in_files_are_replayed_by_configuration_alone(run, tmp_path) -> None:
    folder = Folder(tmp_path)
    folder.write(ratings())
    given = [word for setting in (*RATINGS, f"model={MODELS['committee']}") for word in ("--set", setting)]
    said = run("replay", "-c", folder.config, "--drain", "--json", *given).last
    pipelined = learned(ratings(), *RATINGS, f"model={MODELS['committee']}")
    assert said["rmse"] == pipelined.quality["learning"].since_start().rmse < 0.45
    assert said["rmse_at_impression"] == pipelined.quality["impression"].since_start().rmse
    assert [list(member) for member in said["members"].values()] == [["weight", "rmse", "mae", "r2", "calibration"]] * 2
    assert "auc" not in said
