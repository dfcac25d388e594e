"""Configurations of models: what is refused, what round-trips, what an old manifest means."""

from __future__ import annotations

import msgspec
import pytest

from online_fm.model.config import (
    AdaGrad,
    Committee,
    Ffm,
    Fm,
    Ftrl,
    Kalman,
    KalmanFactors,
    Lr,
    Member,
    Mf,
    ModelConfig,
    Poly2,
    read_config,
)

MIXED_LOSSES = """{"kind": "committee", "members": {
  "a": {"model": {"kind": "lr"}}, "b": {"model": {"kind": "lr", "loss": "squared"}}}}"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "gbdt"}', "gbdt"),
        ('{"kind": "lr", "k": 8}', "unknown field `k`"),
        ('{"kind": "fm", "k": 0}', ">= 1"),
        ('{"kind": "fm", "k": 65}', "<= 64"),
        ('{"kind": "fm", "rank": 4}', "unknown field `rank`"),
        ('{"kind": "fm", "max_features": 0}', ">= 1"),
        ('{"kind": "fm", "pairs": {}}', "unknown field `pairs`"),
        ('{"kind": "fwfm", "pairs": null}', "Expected `object`, got `null`"),
        ('{"kind": "mf", "user": "a"}', "missing required field `item`"),
        ('{"kind": "fm", "w": {"kind": "rmsprop"}}', "rmsprop"),
        ('{"kind": "fm", "w": {"kind": "ftrl", "eta": 0.1}}', "unknown field `eta`"),
        ('{"kind": "fm", "v": {"kind": "ftrl", "alpha": 1e9}}', "<= 1000"),
        ('{"kind": "fm", "v": {"kind": "adagrad", "eta": 0}}', "> 0"),
        ('{"kind": "fm", "v": {"kind": "kalman", "evidence": 1}}', "unknown field `evidence`"),
        ('{"kind": "fm", "v": {"kind": "adam", "beta2": 1}}', "< 1"),
        ('{"kind": "fm", "scales": {"floor": 0}}', ">= 0.001"),
        ('{"kind": "lr", "loss": "hinge", "w": {"kind": "kalman"}}', "no likelihood, which w of kind kalman needs"),
        ('{"kind": "fm", "loss": "hinge", "v": {"kind": "kalman"}}', "no likelihood, which v of kind kalman needs"),
        ('{"kind": "fm", "v_needs_w": true}', "only FTRL with l1 for w"),
        ('{"kind": "lr", "half_life_h": 0}', "> 0"),
        ('{"kind": "committee", "members": {}}', "length >= 1"),
        (
            '{"kind": "committee", "members": {"a": {"model": {"kind": "lr"}, "mixed": false}}}',
            "at least one must be mixed",
        ),
        (MIXED_LOSSES, "all must have the same loss"),
        ('{"kind": "committee", "members": {"a/b": {"model": {"kind": "lr"}}}}', "matching regex"),
        ('{"kind": "committee", "members": {"a": {"model": {"kind": "committee"}}}}', "committee"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_with_its_reason(text, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.json.decode(text, type=ModelConfig)


@pytest.mark.parametrize(
    "config",
    [
        Lr(loss="squared", w=Kalman(evidence=None), noise=0.3),
        Poly2(w=Ftrl(l1=0.5), scales=None),
        Mf(user="user", item="video", k=16, half_life_h=24.0),
        Ffm(k=4, w=AdaGrad(eta=0.3), v=KalmanFactors(), pairs=None),
        Committee(members={"slow": Member(model=Fm()), "fast": Member(model=Ffm(), mixed=False)}, rate=0.1),
    ],
    ids=lambda config: type(config).__name__,
)
def test_a_configuration_survives_its_round_trip(config):
    assert msgspec.json.decode(msgspec.json.encode(config), type=ModelConfig) == config


def test_a_committee_has_the_loss_and_the_places_of_its_members():
    members = {
        "a": Member(model=Lr(loss="squared", max_features=7)),
        "b": Member(model=Fm(loss="squared", max_features=5)),
    }
    committee = Committee(members=members)
    assert (committee.loss, committee.max_features) == ("squared", 12)


def test_a_manifest_of_format_1_is_a_model_without_scales():
    adagrad = {"kind": "adagrad", "eta": 0.1, "a0": 1.0, "l2": 0.0}
    old = {"k": 4, "seed": 1, "init_sd": 0.01, "w": adagrad, "v": adagrad, "max_features": 9}
    for kind in ("lr", "fm", "ffm"):
        config = read_config({"kind": kind, **old}, 1)
        assert (config.scales, config.w, config.max_features) == (None, AdaGrad(), 9)
    assert read_config({"kind": "ffm", **old}, 1).pairs is None
    assert read_config({"kind": "ffm", "k": 4}, 2).pairs is not None
