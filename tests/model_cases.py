"""Models to test, examples to test them on, and the comparison of a learner with its slow twin."""

from __future__ import annotations

import msgspec
import numba
import numpy as np
import pytest
from hypothesis import strategies as st
from reference import Reference, Row, rows_of

from online_fm.model import make_learner
from online_fm.model.config import (
    AdaGrad,
    Adam,
    Ffm,
    Fm,
    Ftrl,
    Fwfm,
    Kalman,
    KalmanFactors,
    Lr,
    Mf,
    PairScales,
    Poly2,
    Scales,
    Sgd,
    SingleConfig,
)

FIELDS = ("a", "b", "c", "d")
JITTED = not numba.config.DISABLE_JIT
# With NUMBA_DISABLE_JIT=1 kernels run on NumPy scalars, which warn where machine words wrap around or overflow.
as_python = [] if JITTED else [pytest.mark.filterwarnings("ignore::RuntimeWarning")]

FTRL = Ftrl(alpha=0.1, beta=1.0)
SPARSE = Ftrl(alpha=0.3, beta=0.5, l1=0.1, l2=0.2)
ADAGRAD = AdaGrad(eta=0.2, a0=0.5)
SHRINKING = AdaGrad(eta=0.1, a0=1.0, l2=0.01, decay=0.05)
KALMAN = Kalman(q=0.01)
ADAM = Adam(eta=0.02, beta1=0.875, beta2=0.984375, eps=1e-2, l2=0.01)  # 1 - beta is exact in float32
SGD = Sgd(eta=0.02, decay=0.1, l2=0.01)
FACTORS = KalmanFactors(prior=0.1, q=0.01)

# Kind, k and the kinds of the optimizers are compiled, a few seconds each; loss, scales and rates are arguments.
CASES: dict[str, SingleConfig] = {
    "lr-ftrl": Lr(w=FTRL),
    "lr-ftrl-sparse-decay": Lr(w=msgspec.structs.replace(SPARSE, decay=0.1)),
    "lr-ftrl-squared": Lr(w=SPARSE, loss="squared", scales=None),
    "lr-adagrad": Lr(w=SHRINKING),
    "lr-adagrad-hinge": Lr(w=ADAGRAD, loss="hinge", scales=None),
    "lr-kalman": Lr(w=KALMAN),
    "lr-kalman-squared": Lr(w=Kalman(evidence=None, q=0), loss="squared", scales=None, noise=0.5),
    "lr-adam-squared": Lr(w=ADAM, loss="squared"),
    "lr-sgd-hinge": Lr(w=SGD, loss="hinge"),
    "poly2-adagrad": Poly2(w=ADAGRAD),
    "poly2-kalman-squared": Poly2(w=KALMAN, loss="squared", noise=2.0),
    "mf-adagrad": Mf(user="b", item="d", w=ADAGRAD, v=ADAGRAD, init_sd=0.2),
    "mf-kalman-squared": Mf(user="d", item="a", w=KALMAN, v=FACTORS, loss="squared", init_sd=0.2),
    "fm-adagrad": Fm(w=ADAGRAD, v=ADAGRAD, init_sd=0.1, seed=7),
    "fm-adagrad-squared-plain": Fm(w=SHRINKING, v=SHRINKING, loss="squared", scales=None, init_sd=0.2),
    "fm-adagrad-hinge": Fm(w=ADAGRAD, v=ADAGRAD, loss="hinge", init_sd=0.2),
    "fm-kalman": Fm(w=KALMAN, v=FACTORS, init_sd=0.2),
    "fm-kalman-squared-plain": Fm(w=Kalman(evidence=None), v=FACTORS, loss="squared", scales=None, init_sd=0.3),
    "fm-ftrl": Fm(k=5, w=FTRL, v=FTRL, init_sd=0.1),
    "fm-sparse-ftrl-needs-w": Fm(k=5, w=SPARSE, v=SPARSE, init_sd=0.2, v_needs_w=True),
    "fm-kalman-adagrad": Fm(k=1, w=KALMAN, v=ADAGRAD, init_sd=0.3),
    "fm-kalman-adagrad-squared": Fm(k=1, w=KALMAN, v=ADAGRAD, loss="squared", noise=0.5, init_sd=0.3),
    "fm-ftrl-kalman": Fm(k=5, w=SPARSE, v=FACTORS, init_sd=0.3, v_needs_w=True),
    "fm-ftrl-kalman-squared": Fm(k=5, w=FTRL, v=FACTORS, loss="squared", noise=2.0, init_sd=0.3),
    "fm-adam-squared": Fm(k=3, w=ADAM, v=ADAM, loss="squared", init_sd=0.2),
    "fm-sgd": Fm(k=1, w=SGD, v=SGD, init_sd=0.2),
    "fm-adagrad-sgd-squared": Fm(k=3, w=ADAGRAD, v=SGD, loss="squared", init_sd=0.2, scales=Scales(eta=0.02)),
    "ffm-adagrad": Ffm(w=ADAGRAD, v=ADAGRAD, init_sd=0.2),
    "ffm-adagrad-plain": Ffm(w=ADAGRAD, v=SHRINKING, init_sd=0.2, scales=None, pairs=None),
    "ffm-kalman": Ffm(w=KALMAN, v=FACTORS, init_sd=0.2),
    "ffm-sparse-ftrl-squared": Ffm(k=3, w=SPARSE, v=SPARSE, loss="squared", init_sd=0.2, v_needs_w=True),
    "ffm-adam-kalman": Ffm(k=3, w=ADAM, v=FACTORS, init_sd=0.3, pairs=None),
    "ffm-kalman-sgd": Ffm(k=1, w=KALMAN, v=SGD, init_sd=0.3, scales=None),
    "fwfm-adagrad": Fwfm(w=ADAGRAD, v=ADAGRAD, init_sd=0.2),
    "fwfm-kalman": Fwfm(k=5, w=KALMAN, v=FACTORS, init_sd=0.2),
    "fwfm-sparse-ftrl-hinge": Fwfm(k=5, w=SPARSE, v=SPARSE, loss="hinge", init_sd=0.2, v_needs_w=True),
    "fwfm-sgd-adam": Fwfm(k=3, w=SGD, v=ADAM, init_sd=0.2, scales=None, pairs=PairScales(start=0.3, eta=0.05)),
}
# One of each kind and kind of optimizer, for what depends on neither rates nor loss.
SOME = ["lr-ftrl", "lr-kalman", "poly2-adagrad", "mf-adagrad", "fm-adagrad", "fm-kalman", "fm-ftrl", "fm-adam-squared"]
SOME += ["ffm-adagrad", "ffm-kalman", "fwfm-adagrad", "fwfm-kalman"]
each_case = pytest.mark.parametrize("config", CASES.values(), ids=CASES.keys())
some_cases = pytest.mark.parametrize("config", [CASES[name] for name in SOME], ids=SOME)

Example = tuple[Row, float, float, bool]

features = st.tuples(
    st.integers(0, len(FIELDS) - 1), st.integers(0, 3), st.sampled_from([1.0, 1.0, 1.0, 0.7, -1.3, 2.1, 0.0])
)


def labels_of(config: SingleConfig) -> list[float]:
    return [0.0, 1.0, -1.5, 2.5] if config.loss == "squared" else [0.0, 1.0]


def weights_of(config: SingleConfig) -> list[float]:
    """Large ones but for the optimizers whose steps they would make unstable."""
    v = None if isinstance(config, Lr | Poly2) else config.v
    return [1.0, 1.0, 0.5, 0.0, 2.0 if isinstance(config.w, Sgd) or isinstance(v, Sgd) else 50.0]


def streams_of(config: SingleConfig) -> st.SearchStrategy[list[Example]]:
    """A few rows with repeated and multi-valued fields and values other than 1."""
    rows = st.lists(features, max_size=9)
    labels, weights = st.sampled_from(labels_of(config)), st.sampled_from(weights_of(config))
    return st.lists(st.tuples(rows, labels, weights, st.booleans()), min_size=1, max_size=10)


def arrays(examples: list[Example]):
    rows, label, weight, learn = zip(*examples, strict=True)
    return (
        rows_of(list(rows)),
        np.array(label, np.float32),
        np.array(weight, np.float32),
        np.array(learn, np.bool_),
    )


def random_examples(n: int, seed: int = 0, learn: float = 0.8, keys: int = 20) -> list[Example]:
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(n):
        size = int(rng.integers(0, 9))
        row = [
            (int(rng.integers(len(FIELDS))), int(rng.integers(keys)), float(rng.choice([1.0, 1.0, 0.5, -1.3])))
            for _ in range(size)
        ]
        weight = float(rng.choice([1.0, 1.0, 1.0, 0.3, 0.0]))
        examples.append((row, float(rng.random() < 0.4), weight, bool(rng.random() < learn)))
    return examples


def learner_after(config: SingleConfig, examples: list[Example]):
    learner = make_learner(config, FIELDS)
    learner.step(*arrays(examples))
    return learner


def near(expected, tolerance: float = 1e-5):
    """Relatively ten times as far: a gradient of weight 50 whose terms cancel keeps four digits of float32's seven."""
    return pytest.approx(expected, rel=10 * tolerance, abs=tolerance)


def assert_equal_predictions(prediction, reference: Reference, rows: list[Row], tolerance: float = 1e-5) -> None:
    assert prediction.p == near([reference.forward(row).p for row in rows], tolerance)
    assert prediction.logit == near([reference.logit(row) for row in rows], tolerance)
    assert prediction.variance == near([reference.variance(row) for row in rows], tolerance)


def assert_equal_states(learner, reference: Reference, tolerance: float = 1e-5) -> None:
    """Parameters and optimizer state, by feature; poly2's pairs, whose keys are hashes, by field and size."""
    state = learner.state()
    assert learner.features == len(reference.w)
    assert state["w0"] == near(reference.w0.numbers(), tolerance)
    w = np.column_stack([state["w"], state["w_state"]])
    pairs: dict[int, list[int]] = {}
    for i, tag in enumerate(state["tags"].tolist()):
        field, feature = tag >> 32, (tag >> 32, tag & 0xFFFFFFFF)
        if field >= len(FIELDS):
            pairs.setdefault(field, []).append(i)
            continue
        assert w[i] == near(reference.w[feature].numbers(), tolerance), feature
        if reference.n_v:
            v = np.vstack([state["v"][i], state["v_state"][i]])
            expected = np.array([c.numbers() for c in reference.v[feature]]).T
            assert v == near(expected, tolerance), feature
    assert_equal_pairs(w, pairs, reference, tolerance)
    assert_equal_fields(state, reference, tolerance)


def assert_equal_pairs(w: np.ndarray, pairs: dict[int, list[int]], reference: Reference, tolerance: float) -> None:
    expected: dict[int, list[list[float]]] = {}
    for feature, weight in reference.w.items():
        if isinstance(feature[0], tuple):
            expected.setdefault(reference.field_of(feature), []).append(weight.numbers())
    assert sorted(pairs) == sorted(expected)
    for field, at in pairs.items():
        assert np.sort(w[at], axis=0) == near(np.sort(expected[field], axis=0), tolerance), field


def assert_equal_fields(state, reference: Reference, tolerance: float) -> None:
    config = reference.config
    expected: dict[str, list[float]] = {}
    if config.scales:
        expected |= {"tau": [tau.value for tau in reference.tau], "tau_sum": [tau.sum for tau in reference.tau]}
    if config.scales and isinstance(config, Fm | Mf):
        expected |= {"rho": [rho.value for rho in reference.rho], "rho_sum": [rho.sum for rho in reference.rho]}
    if isinstance(config.w, Kalman):
        expected["precision"] = [1 / prior.variance for prior in reference.priors]
    for name, numbers in expected.items():
        assert state[name] == near(numbers, tolerance), name
    if isinstance(config.w, Kalman) and config.w.evidence is not None:
        assert state["evidence"][0] == near([prior.squares for prior in reference.priors], tolerance)
        assert state["evidence"][1] == near([prior.fixed for prior in reference.priors], tolerance)
    for (f, g), scale in reference.r.items():
        for a, b in ((f, g), (g, f)):
            assert (state["pairs"][a, b], state["pairs_sum"][a, b]) == near((scale.value, scale.sum), tolerance), (a, b)
