"""A committee: its mixing in a slow twin, its members as they are alone, and its promises as one learner."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from model_cases import CASES, FIELDS, arrays, as_python, labels_of, near, random_examples
from reference import Reference, rows_of
from reference_optim import error_of, sigmoid

from online_fm.model import make_learner, make_predictor
from online_fm.model.config import Committee, Member

pytestmark = as_python


def committee(*names: str, watched: str | None = None, rate: float = 0.1) -> Committee:
    members = {name: Member(model=CASES[name], mixed=name != watched) for name in names}
    return Committee(members=members, rate=rate)


COMMITTEES = {
    "log": committee("lr-ftrl", "fm-kalman", "ffm-adagrad"),
    "log-watched": committee("lr-kalman", "fm-adagrad", "fm-kalman", watched="fm-adagrad"),
    "squared": committee("lr-adam-squared", "lr-kalman-squared", "fm-adagrad-squared-plain"),
    "hinge": committee("lr-adagrad-hinge", "fm-adagrad-hinge"),
    "one": committee("fm-adagrad"),
}
each_committee = pytest.mark.parametrize("config", COMMITTEES.values(), ids=COMMITTEES.keys())


class Mixture:
    """Exponentiated gradient over members that know nothing of each other (Kivinen & Warmuth 1997)."""

    def __init__(self, config: Committee) -> None:
        self.config = config
        self.members = {name: Reference(member.model, FIELDS) for name, member in config.members.items()}
        mixed = [name for name, member in config.members.items() if member.mixed]
        self.omega = dict.fromkeys(mixed, 1 / len(mixed))
        self.squares = self.seen = 0.0

    def logits(self, row) -> dict[str, float]:
        cut = 12.0 if self.config.loss == "log" else math.inf
        return {name: min(max(self.members[name].logit(row), -cut), cut) for name in self.omega}

    def step(self, row, label: float, weight: float, learn: bool) -> float:
        loss, logits = self.config.loss, self.logits(row)
        m = sum(self.omega[name] * logit for name, logit in logits.items())
        if learn and weight:
            steepness = weight * error_of(loss, m, label)
            if loss == "squared":
                self.squares += weight * (m - label) ** 2
                self.seen += weight
                steepness /= self.squares / self.seen
            self.omega = {
                name: self.omega[name] * math.exp(-self.config.rate * steepness * logits[name]) for name in self.omega
            }
            total = sum(self.omega.values())
            self.omega = {name: omega / total for name, omega in self.omega.items()}
        for member in self.members.values():
            member.step(row, label, weight, learn)
        return sigmoid(m) if loss == "log" else m


def examples_of(config: Committee, n: int, seed: int = 3):
    label = labels_of(next(iter(config.members.values())).model)
    return [
        (row, label[i * 7 % len(label)], *rest) for i, (row, _, *rest) in enumerate(random_examples(n, seed, keys=8))
    ]


@each_committee
def test_a_committee_equals_its_slow_twin(config):
    learner, mixture = make_learner(config, FIELDS), Mixture(config)
    examples = examples_of(config, 60)
    outcome = learner.step(*arrays(examples))
    assert outcome.p == near([mixture.step(*e) for e in examples], 2e-4)
    expected = {name: mixture.omega.get(name, 0.0) for name in config.members}
    assert learner.weights() == near(expected, 1e-3)
    assert sum(learner.weights().values()) == pytest.approx(1.0)


@each_committee
def test_members_learn_as_they_would_alone(config):
    learner = make_learner(config, FIELDS)
    batch = arrays(examples_of(config, 200))
    outcome = learner.step(*batch)
    assert list(outcome.members) == list(config.members)
    for name, member in config.members.items():
        alone = make_learner(member.model, FIELDS)
        assert alone.step(*batch).p.tobytes() == outcome.members[name].tobytes()
        assert alone.state_hash() == learner.members[name].state_hash()


@each_committee
def test_a_committee_keeps_a_learners_promises_bit_for_bit(config):
    examples = examples_of(config, 200)
    whole, single, resumed = (make_learner(config, FIELDS) for _ in range(3))
    together = whole.step(*arrays(examples))
    apart = [single.step(*arrays([e])).p[0] for e in examples]
    assert together.p.tobytes() == np.array(apart, np.float32).tobytes()
    half = make_learner(config, FIELDS)
    half.step(*arrays(examples[:77]))
    resumed.restore(half.state())
    resumed.step(*arrays(examples[77:]))
    assert whole.state_hash() == single.state_hash() == resumed.state_hash()
    assert whole.features == sum(member.features for member in whole.members.values())
    rows = rows_of([row for row, *_ in examples_of(config, 100, seed=8)])
    before, served = whole.state_hash(), make_predictor(config, FIELDS, whole.parameters())
    for ours, theirs in zip(served.predict(rows), whole.predict(rows), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert served.weights() == whole.weights()
    assert whole.state_hash() == before


def test_a_committee_of_one_says_what_its_member_says():
    config = COMMITTEES["one"]
    batch = arrays(random_examples(200))
    outcome = make_learner(config, FIELDS).step(*batch)
    assert outcome.p == near(make_learner(CASES["fm-adagrad"], FIELDS).step(*batch).p, 1e-6)
    assert outcome.members["fm-adagrad"] == near(outcome.p, 1e-6)


def test_a_watched_member_changes_nothing_of_the_score():
    batch = arrays(random_examples(200))
    watched = make_learner(COMMITTEES["log-watched"], FIELDS)
    alone = make_learner(committee("lr-kalman", "fm-kalman"), FIELDS)
    assert watched.step(*batch).p.tobytes() == alone.step(*batch).p.tobytes()
    assert watched.weights() == {**alone.weights(), "fm-adagrad": 0.0}


def test_the_variance_of_a_committee_is_that_of_members_that_err_together():
    learner = make_learner(committee("lr-kalman", "fm-kalman"), FIELDS)
    learner.step(*arrays(random_examples(100)))
    rows = rows_of([row for row, *_ in random_examples(50, seed=4)])
    deviation = sum(
        weight * np.sqrt(learner.members[name].predict(rows).variance) for name, weight in learner.weights().items()
    )
    assert learner.predict(rows).variance == near(deviation**2)


def test_weight_goes_to_the_member_that_is_right():
    """The label is the parity of two fields, which a logistic regression cannot know."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (3000, 2)).tolist()
    examples = [([(0, a, 1.0), (1, b, 1.0)], float(a ^ b), 1.0, True) for a, b in bits]
    learner = make_learner(committee("lr-ftrl", "fm-adagrad"), FIELDS)
    learner.step(*arrays(examples))
    assert learner.weights()["fm-adagrad"] > 0.8
    assert learner.field_scales() == learner.members["fm-adagrad"].field_scales()


def test_an_outlier_is_quarantined_for_the_committee_and_moves_no_weight():
    learner = make_learner(COMMITTEES["log"], FIELDS)
    learner.step(*arrays(random_examples(100)))
    before = learner.state_hash(), learner.weights()
    outcome = learner.step(*arrays([([(0, 1, math.nan), (1, 1, 1.0)], 1.0, 1.0, True)]))
    assert outcome.quarantined.tolist() == [True]
    assert np.isfinite(outcome.p).all()
    assert (learner.state_hash(), learner.weights()) == before


def test_a_state_that_does_not_fit_a_member_is_refused_by_its_name_and_leaves_all_as_they_were():
    config = COMMITTEES["log"]
    state, learner = make_learner(config, FIELDS).state(), make_learner(config, FIELDS)
    learner.step(*arrays(random_examples(50)))
    before = learner.state_hash()
    for name in ("fm-kalman/v", "ffm-adagrad/pairs", "omega"):
        with pytest.raises(ValueError, match=f"^{name}: missing"):
            learner.restore({key: array for key, array in state.items() if key != name})
    bad = np.array([-1.0, 1.0, 1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"^omega: weights"):
        learner.restore({**state, "omega": bad})
    assert learner.state_hash() == before


def test_the_weights_of_a_challenger_that_fails_stay_numbers():
    config = msgspec.structs.replace(committee("lr-sgd-hinge", "fm-adagrad-hinge"), rate=10.0)
    learner = make_learner(config, FIELDS)
    for seed in range(5):
        learner.step(*arrays(random_examples(200, seed=seed)))
    assert sum(learner.weights().values()) == pytest.approx(1.0)
    assert min(learner.weights().values()) >= 0.0
