"""The kernels against their slow twins, and what a learner promises whatever its kind and optimizers."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference, Row, difference_quotient, initial_factors, log_loss, rows_of, sigmoid

from online_fm.features.batch import Rows
from online_fm.model import AdaGrad, Ftrl, Learner, ModelConfig, Predictor
from online_fm.model.kernels import FINGERPRINT, ffm, fm, lr
from online_fm.model.kernels.table import make_table

FIELDS = 4
# With NUMBA_DISABLE_JIT=1 kernels run on NumPy scalars, which warn where machine words wrap around or overflow.
pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning")] if numba.config.DISABLE_JIT else []
OPTIMIZERS = {
    "ftrl": Ftrl(alpha=0.1, beta=1.0),
    "ftrl with l1 and l2": Ftrl(alpha=0.3, beta=0.5, l1=0.1, l2=0.2),
    "adagrad": AdaGrad(eta=0.2, a0=0.5),
    "adagrad with l2": AdaGrad(eta=0.1, a0=1.0, l2=0.01),
}
PAIRS = [("ftrl", "ftrl"), ("adagrad", "adagrad"), ("ftrl with l1 and l2", "adagrad with l2")]
PAIRS += [("adagrad with l2", "ftrl with l1 and l2")]
CONFIGS = [
    ModelConfig(kind=kind, k=k, w=OPTIMIZERS[w], v=OPTIMIZERS[v], init_sd=0.1, seed=7)
    for (kind, k), (w, v) in itertools.product([("lr", 1), ("fm", 1), ("fm", 5), ("fm", 8), ("ffm", 3)], PAIRS)
]
each_config = pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda c: f"{c.kind}-{c.k}-{type(c.w).__name__}{c.w.l2}-{type(c.v).__name__}{c.v.l2}"
)
KINDS = [c for c in CONFIGS if c.w == OPTIMIZERS["ftrl"] and c.k != 5]
each_kind = pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.kind}-{c.k}")

feature = st.tuples(
    st.integers(0, FIELDS - 1), st.integers(0, 3), st.sampled_from([1.0, 1.0, 1.0, 0.7, -1.3, 2.1, 0.0])
)
row = st.lists(feature, max_size=9)
example = st.tuples(row, st.sampled_from([0.0, 1.0]), st.sampled_from([1.0, 1.0, 0.5, 0.0, 3.0]), st.booleans())
stream = st.lists(example, min_size=1, max_size=10)


def arrays(examples):
    rows, label, weight, learn = zip(*examples, strict=True)
    return (
        rows_of(list(rows)),
        np.array(label, np.float32),
        np.array(weight, np.float32),
        np.array(learn, np.bool_),
    )


def random_examples(n: int, seed: int = 0, learn: float = 0.8, keys: int = 20):
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(n):
        size = int(rng.integers(0, 9))
        features = [
            (int(rng.integers(FIELDS)), int(rng.integers(keys)), float(rng.choice([1.0, 1.0, 0.5, -1.3])))
            for _ in range(size)
        ]
        weight = float(rng.choice([1.0, 1.0, 1.0, 0.3, 0.0]))
        examples.append((features, float(rng.random() < 0.4), weight, bool(rng.random() < learn)))
    return examples


def learner_after(config: ModelConfig, examples) -> Learner:
    learner = Learner(config, FIELDS)
    learner.step(*arrays(examples))
    return learner


def assert_equal_parameters(learner: Learner, reference: Reference) -> None:
    state = learner.state()
    assert learner.features == len(reference.w)
    assert state["w0"][0] == pytest.approx(reference.w0.value, rel=1e-6, abs=1e-6)
    for i, tag in enumerate(state["tags"].tolist()):
        feature = tag >> 32, tag & 0xFFFFFFFF
        assert state["w"][i] == pytest.approx(reference.w[feature].value, rel=1e-6, abs=1e-6)
        if "v" in state:
            assert state["v"][i] == pytest.approx([c.value for c in reference.v[feature]], rel=1e-6, abs=1e-6)


@each_config
@settings(max_examples=30, deadline=None)
@given(examples=stream)
def test_kernels_equal_their_slow_twins(config, examples):
    learner, reference = Learner(config, FIELDS), Reference(config, FIELDS)
    outcome = learner.step(*arrays(examples))
    expected = [reference.step(*e) for e in examples]
    assert outcome.p == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert not outcome.quarantined.any()
    assert_equal_parameters(learner, reference)


@each_kind
@pytest.mark.parametrize("n", [1, 300])
def test_rows_of_one_and_of_three_hundred_features_equal_their_slow_twins(config, n):
    rng = np.random.default_rng(n)
    wide: Row = [(int(rng.integers(FIELDS)), int(rng.integers(1000)), float(rng.choice([0.1, 0.2]))) for _ in range(n)]
    examples = [(wide, 1.0, 1.0, True), (wide[: n // 2], 0.0, 1.0, True), (wide, 0.0, 2.0, True)]
    learner, reference = Learner(config, FIELDS), Reference(config, FIELDS)
    assert learner.step(*arrays(examples)).p == pytest.approx([reference.step(*e) for e in examples], abs=1e-5)
    for i, tag in enumerate(learner.state()["tags"].tolist()):
        expected = reference.w[tag >> 32, tag & 0xFFFFFFFF].value
        assert learner.state()["w"][i] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "k"), [("lr", 1), ("fm", 1), ("fm", 8), ("fm", 64), ("ffm", 1), ("ffm", 4), ("ffm", 7)]
)
def test_gradients_equal_finite_differences(kind, k):
    """After one AdaGrad step from nothing, the state is the squared gradient, and the step has its opposite sign."""
    config = ModelConfig(kind=kind, k=k, w=AdaGrad(), v=AdaGrad(), init_sd=0.2)
    features: Row = [(0, 1, 1.0), (1, 5, 0.5), (1, 6, -2.0), (3, 2, 1.5)]
    learner, twin = Learner(config, FIELDS), Reference(config, FIELDS)
    learner.step(*arrays([(features, 1.0, 0.0, True), (features, 1.0, 0.7, True)]))
    state = learner.state()
    twin.step(features, 1.0, 1e-30)  # makes the coordinates, and changes none

    def loss_with(coordinate):
        def loss(value: float) -> float:
            before, coordinate.value = coordinate.value, value
            result = 0.7 * log_loss(twin.logit(features), 1.0)
            coordinate.value = before
            return result

        return loss

    def check(before, value, squared) -> None:
        expected = difference_quotient(loss_with(before), before.value)
        gradient = math.copysign(math.sqrt(squared), before.value - value)
        assert gradient == pytest.approx(expected, rel=1e-5, abs=1e-6)

    check(twin.w0, state["w0"][0], state["w0"][1])
    for i, (fld, key, _) in enumerate(features):
        check(twin.w[fld, key], state["w"][i], state["w_state"][i, 0])
        for c, coordinate in enumerate(twin.v[fld, key]):
            check(coordinate, state["v"][i, c], state["v_state"][i, 0, c])


def test_the_logit_of_fm_in_linear_time_equals_the_sum_over_all_pairs():
    for k in (1, 2, 3, 8, 13, 33, 64):
        config = ModelConfig(kind="fm", k=k, init_sd=0.5)
        features: Row = [(i % FIELDS, i, 0.3 + i / 10) for i in range(12)]
        p = Learner(config, FIELDS).predict(rows_of([features]))
        assert p[0] == pytest.approx(sigmoid(Reference(config, FIELDS).logit(features)), abs=1e-6)


@each_kind
def test_a_feature_twice_in_a_row_gets_both_gradients_of_the_forward_pass(config):
    twice: Row = [(0, 1, 1.0), (0, 1, 1.0), (2, 3, 0.5), (0, 1, -0.4)]
    learner, reference = Learner(config, FIELDS), Reference(config, FIELDS)
    for label in (1.0, 0.0, 1.0):
        p = learner.step(*arrays([(twice, label, 1.0, True)])).p
        assert p[0] == pytest.approx(reference.step(twice, label, 1.0), abs=1e-6)
    assert learner.features == 2
    assert_equal_parameters(learner, reference)


def test_ftrl_gives_the_numbers_worked_out_by_hand():
    """Alpha .1, beta 1. Row 1: g = -.5, n = .25, z = -.5, w = .5 / 15. Row 2: p = sigmoid(1 / 15) = .51666, g = p,
    n = .516938, sigma = 2.189840, z = -.056334, w = .056334 / 17.18984."""
    learner = Learner(ModelConfig(kind="lr"), 1)
    one: Row = [(0, 9, 1.0)]
    learner.step(*arrays([(one, 1.0, 1.0, True)]))
    assert learner.state()["w"].tolist() == pytest.approx([0.0333333], abs=1e-7)
    assert learner.state()["w_state"][0].tolist() == pytest.approx([-0.5, 0.25], abs=1e-7)
    outcome = learner.step(*arrays([(one, 0.0, 1.0, True)]))
    assert outcome.p.tolist() == pytest.approx([0.5166605], abs=1e-7)
    assert learner.state()["w"].tolist() == pytest.approx([0.0032772], abs=1e-7)
    assert learner.state()["w_state"][0].tolist() == pytest.approx([-0.0563342, 0.5169381], abs=1e-7)


def test_ftrl_sets_a_weight_back_to_exactly_zero():
    learner = Learner(ModelConfig(kind="lr", w=Ftrl(l1=0.3)), 1)
    one: Row = [(0, 9, 1.0)]
    learner.step(*arrays([(one, 1.0, 1.0, True)]))
    assert learner.state()["w"][0] == pytest.approx(0.2 / 15, abs=1e-8)
    learner.step(*arrays([(one, 0.0, 1.0, True)]))
    assert learner.state()["w"][0] == 0.0
    assert learner.state()["w_state"][0, 1] > 0.5


def test_adagrad_gives_the_numbers_worked_out_by_hand():
    learner = Learner(ModelConfig(kind="lr", w=AdaGrad(eta=0.1, a0=1.0)), 1)
    learner.step(*arrays([([(0, 9, 2.0)], 1.0, 1.0, True)]))  # g = -.5 and -1
    assert learner.state()["w0"].tolist() == pytest.approx([0.05 / math.sqrt(1.25), 0.25], abs=1e-8)
    assert learner.state()["w"][0] == pytest.approx(0.1 / math.sqrt(2.0), abs=1e-8)


def test_fm_and_ffm_give_the_logits_worked_out_by_hand():
    tags = np.array([0 << 32 | 5, 1 << 32 | 6], np.uint64)
    w, w0 = np.array([0.1, 0.2], np.float32), np.array([-0.3], np.float32)
    rows = rows_of([[(0, 5, 1.0), (1, 6, 2.0)]])
    factors = np.array([[1, 2], [3, -1]], np.float32)  # <v1, v2> = 1
    p = Predictor(ModelConfig(kind="fm", k=2), 2, {"tags": tags, "w": w, "v": factors, "w0": w0}).predict(rows)
    assert p[0] == pytest.approx(sigmoid(-0.3 + 0.1 + 2 * 0.2 + 2 * 1.0), abs=1e-7)
    aware = np.array([[9, 9, 1, 2], [0.5, -1, 7, 7]], np.float32)  # <v1 towards field 1, v2 towards field 0> = -1.5
    p = Predictor(ModelConfig(kind="ffm", k=2), 2, {"tags": tags, "w": w, "v": aware, "w0": w0}).predict(rows)
    assert p[0] == pytest.approx(sigmoid(-0.3 + 0.1 + 2 * 0.2 + 2 * -1.5), abs=1e-7)


@each_config
def test_a_batch_is_its_rows_one_by_one_bit_for_bit(config):
    examples = random_examples(300)
    whole, single, sevens = (Learner(config, FIELDS) for _ in range(3))
    together = whole.step(*arrays(examples))
    apart = [single.step(*arrays([e])).p[0] for e in examples]
    by_seven = [sevens.step(*arrays(examples[i : i + 7])).p for i in range(0, 300, 7)]
    assert together.p.tobytes() == np.array(apart, np.float32).tobytes() == np.concatenate(by_seven).tobytes()
    assert whole.state_hash() == single.state_hash() == sevens.state_hash()


@each_config
def test_a_learner_goes_on_from_its_state_bit_for_bit(config):
    examples = random_examples(200)
    whole = learner_after(config, examples)
    first = learner_after(config, examples[:77])
    second = Learner(config, FIELDS)
    second.restore(first.state())
    assert second.state_hash() == first.state_hash()
    second.step(*arrays(examples[77:]))
    assert second.state_hash() == whole.state_hash()


@each_config
def test_a_predictor_says_what_its_learner_says_bit_for_bit(config):
    learner = learner_after(config, random_examples(200))
    rows, *_ = arrays(random_examples(100, seed=1, keys=40))
    predictor = Predictor(config, FIELDS, learner.parameters())
    assert predictor.predict(rows).tobytes() == learner.predict(rows).tobytes()
    assert predictor.features == learner.features


@each_kind
def test_threads_may_share_a_predictor(config):
    learner = learner_after(config, random_examples(200))
    batches = [arrays(random_examples(300, seed=seed, keys=40))[0] for seed in range(8)]
    predictor = Predictor(config, FIELDS, learner.parameters())
    alone = [predictor.predict(rows).tobytes() for rows in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda rows: predictor.predict(rows).tobytes(), batches * 20))
    assert together == alone * 20


@each_config
def test_predicting_changes_nothing_and_equals_a_step_that_learns_nothing(config):
    learner = learner_after(config, random_examples(100))
    rows, label, weight, _ = arrays(random_examples(100, seed=1, keys=40))
    before = learner.state_hash(), learner.features
    p = learner.predict(rows)
    never = np.zeros(len(rows), np.bool_)
    assert learner.step(rows, label, weight, never).p.tobytes() == p.tobytes()
    assert learner.step(rows, label, np.zeros_like(weight), ~never).p.tobytes() == p.tobytes()
    assert (learner.state_hash(), learner.features) == before


@each_config
def test_inputs_are_not_changed_and_may_be_read_only(config):
    batch = arrays(random_examples(50))
    copies = [a.copy() for a in (batch[0].ptr, batch[0].fld, batch[0].key, batch[0].val, *batch[1:])]
    for a in copies:
        a.flags.writeable = False
    Learner(config, FIELDS).step(Rows(*copies[:4]), *copies[4:])
    for a, b in zip(copies, (batch[0].ptr, batch[0].fld, batch[0].key, batch[0].val, *batch[1:]), strict=True):
        assert np.array_equal(a, b)


def test_a_predicted_row_sees_only_what_earlier_learned_rows_brought():
    config = ModelConfig(kind="fm", k=4, init_sd=0.3)
    a, b = [(0, 1, 1.0), (1, 2, 1.0)], [(2, 3, 1.0)]
    learner = Learner(config, FIELDS)
    learner.step(*arrays([(a, 1.0, 1.0, False), (b, 1.0, 1.0, True), (a, 1.0, 0.0, True)]))
    assert learner.features == 1
    assert learner.state()["tags"].tolist() == [2 << 32 | 3]


@each_kind
def test_a_row_without_features_is_predicted_from_the_bias(config):
    learner = learner_after(config, [([], 1.0, 1.0, True)] * 5)
    assert learner.features == 0
    assert learner.predict(rows_of([[]]))[0] == pytest.approx(sigmoid(float(learner.state()["w0"][0])), abs=1e-7)
    assert learner.predict(rows_of([[]]))[0] > 0.52
    assert len(learner.predict(Rows.empty())) == 0
    assert len(learner.step(*(Rows.empty(), *(np.empty(0, t) for t in (np.float32, np.float32, np.bool_)))).p) == 0


@each_config
def test_loss_falls_on_a_planted_problem(config):
    rng = np.random.default_rng(3)
    n, keys = 6000, 6
    key = rng.integers(0, keys, (n, 2))
    planted = rng.normal(0, 1.5, (keys, keys)) if config.kind != "lr" else rng.normal(0, 1.5, keys)[:, None]
    m = np.broadcast_to(planted, (keys, keys))[key[:, 0], key[:, 1]]
    label = (rng.random(n) < 1 / (1 + np.exp(-m))).astype(np.float32)
    rows = Rows(
        np.arange(0, 2 * n + 1, 2, dtype=np.int64),
        np.tile(np.array([0, 1], np.uint16), n),
        key.ravel().astype(np.uint32),
        np.ones(2 * n, np.float32),
    )
    p = Learner(config, 2).step(rows, label, np.ones(n, np.float32), np.ones(n, np.bool_)).p.astype(np.float64)
    loss = -np.log(np.where(label > 0.5, p, 1 - p))
    bayes = -np.mean(label * -np.log1p(np.exp(-m)) + (1 - label) * -np.log1p(np.exp(m)))
    gain = loss[:500].mean() - loss[-2000:].mean()
    assert gain > 0.25 * (loss[:500].mean() - bayes)


def huge(config: ModelConfig) -> list[tuple[Row, float, float, bool]]:
    rows: list[Row] = [[(0, 1, 3e38), (1, 2, 3e38), (2, 3, -3e38)], [(0, 1, 1e30), (1, 2, 1.0)], [(0, 1, math.nan)]]
    rows += [[(0, 1, math.inf), (1, 2, 1.0)], [(0, 1, 1e10), (1, 2, 1.0), (2, 2, 1.0)]]
    examples = [(r, 1.0, 1.0, True) for r in rows]
    one: Row = [(0, 1, 1.0), (1, 2, 1.0)]
    examples += [(one, math.nan, 1.0, True), (one, 1.0, math.nan, True), (one, 1.0, math.inf, True)]
    return [*examples, (one, 1.0, -1.0, True), (one, 1.0, 1e12, True)]


@each_config
def test_updates_that_would_not_be_finite_are_quarantined_and_change_nothing(config):
    learner = learner_after(config, [*random_examples(60), ([(0, 1, 1.0), (1, 2, 1.0), (2, 3, 1.0)], 1.0, 1.0, True)])
    learner.step(*arrays([([(2, 2, 1.0)], 1.0, 1.0, True)]))
    before = learner.state_hash()
    rows, label, weight, learn = arrays(huge(config))
    outcome = learner.step(rows, label, weight, learn)
    assert (outcome.quarantined | (outcome.p == label)).all()  # where p is the label, there is nothing to learn
    assert outcome.quarantined[2:4].all()
    assert outcome.quarantined[5:].all()
    assert np.isfinite(outcome.p).all()
    assert ((outcome.p >= 0) & (outcome.p <= 1)).all()
    assert learner.state_hash() == before
    assert not learner.step(*arrays(random_examples(20))).quarantined.any()


@each_config
@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.floats(width=32)), max_size=5),
            st.floats(width=32, allow_nan=False),
            st.floats(width=32),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_no_input_makes_a_parameter_or_a_prediction_that_is_not_finite(config, examples):
    learner = Learner(config, FIELDS)
    outcome = learner.step(*arrays([(r, label, weight, True) for r, label, weight in examples]))
    assert np.isfinite(outcome.p).all()
    for name, array in learner.state().items():
        assert np.isfinite(array).all(), name


@each_kind
def test_the_table_grows_without_changing_what_is_learned(config):
    rng = np.random.default_rng(5)
    n = 9000
    rows = Rows(
        np.arange(0, 2 * n + 1, 2, dtype=np.int64),
        np.tile(np.array([0, 1], np.uint16), n),
        rng.integers(0, 20_000, 2 * n).astype(np.uint32),
        np.ones(2 * n, np.float32),
    )
    label, ones = (rng.random(n) < 0.3).astype(np.float32), np.ones(n, np.float32)
    grown, small = Learner(config, 2), Learner(config, 2)
    grown.step(rows, label, ones, ones > 0)
    for i in range(0, n, 1000):
        part = Rows(rows.ptr[:1001].copy(), *(a[2 * i : 2 * i + 2000] for a in (rows.fld, rows.key, rows.val)))
        small.step(part, label[i : i + 1000], ones[:1000], ones[:1000] > 0)
    assert grown.features == len({(f, k) for f, k in zip(rows.fld.tolist(), rows.key.tolist(), strict=True)}) > 8192
    assert grown.state_hash() == small.state_hash()
    assert grown.overflowed == 0


@each_kind
def test_a_full_table_counts_what_finds_no_place_and_learns_the_rest(config):
    config = msgspec.structs.replace(config, max_features=5)
    first: list[Row] = [[(0, i, 1.0), (1, i, 1.0)] for i in range(2)]
    learner = learner_after(config, [(r, 1.0, 1.0, True) for r in first])
    assert (learner.features, learner.overflowed) == (4, 0)
    outcome = learner.step(*arrays([([(0, 0, 1.0), (2, 7, 1.0), (2, 8, 1.0)], 1.0, 1.0, True)] * 2))
    assert (learner.features, learner.overflowed) == (5, 2)
    assert outcome.p[1] > outcome.p[0]
    again = Learner(config, FIELDS)
    again.restore(learner.state())
    assert (again.overflowed, again.state_hash()) == (2, learner.state_hash())
    batch = random_examples(50)
    one, many = Learner(config, FIELDS), Learner(config, FIELDS)
    many.step(*arrays(batch))
    for e in batch:
        one.step(*arrays([e]))
    assert one.state_hash() == many.state_hash()
    assert many.features == 5


def test_a_feature_that_found_no_place_contributes_its_initial_value():
    config = ModelConfig(kind="fm", k=4, init_sd=0.5, max_features=1)
    learner = learner_after(config, [([(0, 1, 1.0)], 1.0, 1.0, True)])
    v0 = learner.state()["v"][0]
    expected = float(learner.state()["w0"][0] + learner.state()["w"][0])
    expected += float(np.dot(v0, initial_factors(config.seed, 0.5, 1, 2, 4)))
    for _ in range(3):
        assert learner.predict(rows_of([[(0, 1, 1.0), (1, 2, 1.0)]]))[0] == pytest.approx(sigmoid(expected), abs=1e-6)
    assert learner.overflowed == 0


def test_initial_factors_depend_on_seed_and_feature_only_and_have_the_standard_deviation_asked_for():
    config = ModelConfig(kind="fm", k=8, init_sd=0.03, seed=5)
    examples = [([(f, key, 1.0)], 1.0, 1.0, True) for f in range(FIELDS) for key in range(2500)]
    v = learner_after(config, examples).state()["v"]  # alone in its row, a feature's factors have no gradient
    assert v[777].tolist() == initial_factors(5, 0.03, 0, 777, 8)
    assert v.std() == pytest.approx(0.03, rel=0.01)
    assert abs(v.mean()) < 4 * 0.03 / math.sqrt(v.size)
    assert abs(np.corrcoef(v.T) - np.eye(8)).max() < 0.05
    backwards = learner_after(config, examples[::-1]).state()["v"]
    assert np.array_equal(backwards[::-1], v)
    other = learner_after(msgspec.structs.replace(config, seed=6), examples).state()["v"]
    assert abs(np.corrcoef(other.ravel(), v.ravel())[0, 1]) < 0.02


@each_kind
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tags", lambda a: a.astype(np.int64)),
        ("tags", lambda a: np.append(a[:-1], a[0])),
        ("tags", lambda a: np.append(a[:-1], np.uint64(FIELDS << 32))),
        ("w", lambda a: a[:-1]),
        ("w", lambda a: np.where(a == a[0], np.float32(np.nan), a)),
        ("w_state", lambda a: a[:, :1]),
        ("w0", lambda a: a[:1]),
        ("overflowed", lambda a: a.astype(np.int32)),
    ],
)
def test_a_state_that_does_not_fit_is_refused_by_name_and_leaves_the_learner_as_it_was(config, name, change):
    state = learner_after(config, random_examples(50)).state()
    learner = learner_after(config, random_examples(30, seed=9))
    before = learner.state_hash()
    with pytest.raises(ValueError, match=f"^{name}: "):
        learner.restore({**state, name: change(state[name])})
    with pytest.raises(ValueError, match=f"^{name}: missing"):
        learner.restore({n: a for n, a in state.items() if n != name})
    assert learner.state_hash() == before


def test_a_state_of_another_model_is_refused():
    state = Learner(ModelConfig(kind="fm", k=8), FIELDS)
    state.step(*arrays(random_examples(20)))
    with pytest.raises(ValueError, match=r"^v: float32\[\d+, 8\] where float32\[\d+, 4\] is needed"):
        Learner(ModelConfig(kind="fm", k=4), FIELDS).restore(state.state())
    with pytest.raises(ValueError, match=r"^tags: .* max_features is 3"):
        Learner(ModelConfig(kind="fm", k=8, max_features=3), FIELDS).restore(state.state())


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="there is no compiled code to keep")
def test_compiled_code_is_kept_under_integers_only_one_of_them_the_fingerprint_of_all_kernel_sources():
    kernels = [*make_table(), lr.make_step(0), lr.make_predict()]
    kernels += [make for room in (fm, ffm) for make in (room.make_step(3, 0, 0), room.make_predict(3))]
    for kernel in kernels:
        cells = [cell.cell_contents for cell in kernel.py_func.__closure__]
        assert all(type(cell) is int for cell in cells)
        assert FINGERPRINT in cells


def test_columns_whose_lengths_differ_are_refused():
    rows, label, weight, learn = arrays(random_examples(5))
    with pytest.raises(ValueError, match="5 rows with 4 labels, 5 weights, 5 to learn"):
        Learner(ModelConfig(), FIELDS).step(rows, label[:4], weight, learn)
    with pytest.raises(ValueError, match=r"rows of \d+ features with"):
        Learner(ModelConfig(), FIELDS).predict(Rows(rows.ptr, rows.fld[:-1], rows.key, rows.val))


def test_a_field_that_the_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match="field 4, but the model has 4 fields"):
        Learner(ModelConfig(), FIELDS).predict(rows_of([[(4, 0, 1.0)]]))


@pytest.mark.parametrize(
    "text",
    [
        '{"k": 0}',
        '{"k": 65}',
        '{"kind": "gbdt"}',
        '{"rank": 4}',
        '{"max_features": 0}',
        '{"w": {"kind": "sgd"}}',
        '{"w": {"kind": "ftrl", "eta": 0.1}}',
        '{"v": {"kind": "ftrl", "alpha": 1e9}}',
        '{"v": {"kind": "adagrad", "eta": 0}}',
    ],
)
def test_a_configuration_that_cannot_be_is_refused(text):
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=ModelConfig)


def test_a_configuration_survives_its_round_trip():
    config = ModelConfig(kind="ffm", k=4, w=AdaGrad(eta=0.3), v=Ftrl(alpha=0.2, l1=0.5))
    assert msgspec.json.decode(msgspec.json.encode(config), type=ModelConfig) == config
