"""What a learner keeps: its table as it grows and fills, first values, refused states, and what it quarantines."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import (
    CASES,
    FIELDS,
    SOME,
    Example,
    arrays,
    as_python,
    each_case,
    learner_after,
    random_examples,
    some_cases,
)
from reference import Row, rows_of
from reference_factors import initial_factors
from reference_optim import sigmoid

from online_fm.errors import ConfigError
from online_fm.features.batch import Rows
from online_fm.model import make_learner
from online_fm.model.config import Ffm, Fm, Lr, Mf, Poly2
from online_fm.model.kernels import FINGERPRINT
from online_fm.model.kernels.mix import make_mix
from online_fm.model.kernels.pairs import make_pairs, make_select
from online_fm.model.kernels.table import make_table
from online_fm.model.state import reserved

pytestmark = as_python


def huge() -> list[Example]:
    rows: list[Row] = [[(1, 1, 3e38), (3, 2, 3e38), (2, 3, -3e38)], [(1, 1, 1e30), (3, 2, 1.0)], [(1, 1, math.nan)]]
    rows += [[(1, 1, math.inf), (3, 2, 1.0)], [(1, 1, 1e10), (3, 2, 1.0), (2, 2, 1.0)]]
    examples = [(r, 1.0, 1.0, True) for r in rows]
    one: Row = [(1, 1, 1.0), (3, 2, 1.0)]
    examples += [(one, math.nan, 1.0, True), (one, 1.0, math.nan, True), (one, 1.0, math.inf, True)]
    return [*examples, (one, 1.0, -1.0, True), (one, 1.0, 1e12, True)]


@each_case
def test_updates_that_would_not_be_finite_are_quarantined_and_change_nothing(config):
    if isinstance(config, Mf):
        config = msgspec.structs.replace(config, user="b", item="d")
    seen: list[Example] = [([(1, 1, 1.0), (3, 2, 1.0), (2, 3, 1.0), (2, 2, 1.0)], 0.0, 1.0, True)] * 3
    learner = learner_after(config, [*random_examples(60), *seen])
    if isinstance(config, Poly2):  # the pairs of the rows to come
        learner.step(*arrays([(row, 0.0, 1e-6, True) for row, *_ in [([(1, 1, 1.0), (3, 2, 1.0)], 0)]]))
    for example in huge():
        before = learner.state_hash()
        rows, label, weight, learn = arrays([example])
        outcome = learner.step(rows, label, weight, learn)
        assert np.isfinite(outcome.p[0])
        assert config.loss != "log" or 0 <= outcome.p[0] <= 1
        certain = outcome.p[0] == label[0] or (config.loss == "hinge" and not outcome.p[0] < 1)
        hopeless = not np.isfinite([*rows.val, *label, *weight]).all() or weight[0] < 0
        if hopeless and not (config.loss == "hinge" and np.isnan(label[0])):  # to which a NaN has no side to be on
            assert outcome.quarantined[0]
        if hopeless or certain or outcome.quarantined[0]:
            assert learner.state_hash() == before
    assert not learner.step(*arrays(random_examples(20))).quarantined.any()


@each_case
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
    learner = make_learner(config, FIELDS)
    outcome = learner.step(*arrays([(r, label, weight, True) for r, label, weight in examples]))
    assert np.isfinite(outcome.p).all()
    for name, array in learner.state().items():
        assert np.isfinite(array).all(), name


@some_cases
def test_a_state_and_parameters_are_copies_that_later_learning_does_not_change(config):
    one: Row = [(1, 1, 1.0)]
    learner = make_learner(config, FIELDS)
    for examples in ([(one, 1.0, 1.0, True)] * 3, random_examples(50)):
        learner.step(*arrays(examples))
        state, parameters = learner.state(), learner.parameters()
        kept = [{name: array.copy() for name, array in part.items()} for part in (state, parameters)]
        learner.step(*arrays([([(1, 1, 1.0), (3, 1, 1.0)], 0.0, 1.0, True)] * 3))
        for part, copy in zip((state, parameters), kept, strict=True):
            for name, array in part.items():
                assert np.array_equal(array, copy[name]), name


@some_cases
def test_the_table_grows_without_changing_what_is_learned(config):
    rng = np.random.default_rng(5)
    n, fields = 9000, (1, 3)
    rows = Rows(
        np.arange(0, 2 * n + 1, 2, dtype=np.int64),
        np.tile(np.array(fields, np.uint16), n),
        rng.integers(0, 20_000, 2 * n).astype(np.uint32),
        np.ones(2 * n, np.float32),
    )
    label, ones = (rng.random(n) < 0.3).astype(np.float32), np.ones(n, np.float32)
    grown, small = make_learner(config, FIELDS), make_learner(config, FIELDS)
    grown.step(rows, label, ones, ones > 0)
    for i in range(0, n, 1000):
        part = Rows(rows.ptr[:1001].copy(), *(a[2 * i : 2 * i + 2000] for a in (rows.fld, rows.key, rows.val)))
        small.step(part, label[i : i + 1000], ones[:1000], ones[:1000] > 0)
    seen = len({(f, k) for f, k in zip(rows.fld.tolist(), rows.key.tolist(), strict=True)})
    assert grown.features >= seen > 8192
    assert (grown.features == seen) is not isinstance(config, Poly2)
    assert grown.state_hash() == small.state_hash()
    assert grown.overflowed == 0


def test_a_table_takes_memory_only_as_it_is_used():
    def resident_bytes() -> int:
        fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields["VmRSS"].split()[0]) * 1024

    before = resident_bytes()
    records = reserved(1 << 28, 64)  # 64 GiB
    records[:1024] = 1.0
    assert records.ctypes.data % 64 == 0
    assert not records[1024:2048].any()
    assert resident_bytes() - before < 1 << 20
    records[: 1 << 16] = 1.0
    assert not records[-1].any()
    assert resident_bytes() - before < 24 << 20
    with pytest.raises(ConfigError, match="max_features"):
        reserved(1 << 44, 64)


@pytest.mark.parametrize("name", [name for name in SOME if "poly2" not in name])
def test_a_full_table_counts_what_finds_no_place_and_learns_the_rest(name):
    config = msgspec.structs.replace(CASES[name], max_features=5)
    first: list[Row] = [[(1, i, 1.0), (3, i, 1.0)] for i in range(2)]
    learner = learner_after(config, [(r, 1.0, 1.0, True) for r in first])
    assert (learner.features, learner.overflowed) == (4, 0)
    outcome = learner.step(*arrays([([(1, 0, 1.0), (3, 7, 1.0), (3, 8, 1.0)], 1.0, 1.0, True)] * 2))
    assert (learner.features, learner.overflowed) == (5, 2)
    assert outcome.p[1] > outcome.p[0]
    again = make_learner(config, FIELDS)
    again.restore(learner.state())
    assert (again.overflowed, again.state_hash()) == (2, learner.state_hash())
    batch = random_examples(50)
    one, many = make_learner(config, FIELDS), make_learner(config, FIELDS)
    many.step(*arrays(batch))
    for e in batch:
        one.step(*arrays([e]))
    assert one.state_hash() == many.state_hash()
    assert many.features == 5


def test_the_pairs_of_poly2_take_places_too():
    learner = make_learner(Poly2(max_features=5), FIELDS)
    learner.step(*arrays([([(0, 1, 1.0), (1, 2, 1.0)], 1.0, 1.0, True)]))
    assert (learner.features, learner.overflowed) == (3, 0)
    learner.step(*arrays([([(0, 1, 1.0), (1, 2, 1.0), (2, 3, 1.0)], 1.0, 1.0, True)]))
    assert (learner.features, learner.overflowed) == (5, 1)


def test_a_feature_that_found_no_place_contributes_its_initial_value():
    config = msgspec.structs.replace(CASES["fm-ftrl"], init_sd=0.5, max_features=1)
    learner = learner_after(config, [([(0, 1, 1.0)], 1.0, 1.0, True)])
    v0 = learner.state()["v"][0]
    expected = float(learner.state()["w0"][0] + learner.state()["w"][0])
    expected += float(np.dot(v0, initial_factors(config.seed, 0.5, 1, 2, 5)))
    for _ in range(3):
        said = learner.predict(rows_of([[(0, 1, 1.0), (1, 2, 1.0)]]))
        assert said.p[0] == pytest.approx(sigmoid(expected), abs=1e-6)
    assert learner.overflowed == 0


def test_initial_factors_depend_on_seed_and_feature_only_and_have_the_standard_deviation_asked_for():
    config = msgspec.structs.replace(CASES["fm-adagrad"], init_sd=0.03, seed=5)
    examples = [([(f, key, 1.0)], 1.0, 1.0, True) for f in range(len(FIELDS)) for key in range(2500)]
    v = learner_after(config, examples).state()["v"]  # alone in its row, a feature's factors have no gradient
    assert v[777].tolist() == initial_factors(5, 0.03, 0, 777, 8)
    assert v.std() == pytest.approx(0.03, rel=0.01)
    assert abs(v.mean()) < 4 * 0.03 / math.sqrt(v.size)
    assert abs(np.corrcoef(v.T) - np.eye(8)).max() < 0.05
    backwards = learner_after(config, examples[::-1]).state()["v"]
    assert np.array_equal(backwards[::-1], v)
    other = learner_after(msgspec.structs.replace(config, seed=6), examples).state()["v"]
    assert abs(np.corrcoef(other.ravel(), v.ravel())[0, 1]) < 0.02


@some_cases
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tags", lambda a: a.astype(np.int64)),
        ("tags", lambda a: np.append(a[:-1], a[0])),
        ("tags", lambda a: np.append(a[:-1], np.uint64(99 << 32))),
        ("w", lambda a: a[:-1]),
        ("w", lambda a: np.where(a == a[0], np.float32(np.nan), a)),
        ("w_state", lambda a: a[:, :0]),
        ("w0", lambda a: a[:1]),
        ("tau", lambda a: a[:-1]),
        ("tau", lambda a: a * np.float32(0)),
        ("tau_sum", lambda a: a.astype(np.float64)),
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


@some_cases
def test_parts_of_a_state_that_only_some_models_have_are_refused_alike(config):
    state = learner_after(config, random_examples(50)).state()
    learner = learner_after(config, random_examples(30, seed=9))
    before = learner.state_hash()
    for name in set(state) & {"v", "v_state", "rho", "rho_sum", "precision", "evidence", "pairs", "pairs_sum", "tick"}:
        bad = state[name].copy()
        bad.flat[0] = np.nan
        with pytest.raises(ValueError, match=f"^{name}: "):
            learner.restore({**state, name: bad})
        with pytest.raises(ValueError, match=f"^{name}: "):
            learner.restore({**state, name: state[name][:-1]})
        with pytest.raises(ValueError, match=f"^{name}: missing"):
            learner.restore({n: array for n, array in state.items() if n != name})
    assert learner.state_hash() == before


def test_a_model_over_more_fields_keeps_the_count_of_what_found_no_place():
    rows = arrays([([(0, key, 1.0)], 1.0, 1.0, True) for key in range(6)])
    narrow, wide = (make_learner(Lr(max_features=3), fields) for fields in (("a",), ("a", "b")))
    narrow.step(*rows)
    wide.step(*rows)
    assert narrow.widened(("a", "b")).overflowed == wide.overflowed == 3


def test_a_state_of_another_model_is_refused():
    state = learner_after(CASES["fm-adagrad"], random_examples(20)).state()
    with pytest.raises(ValueError, match=r"^v: float32\[\d+, 8\] where float32\[\d+, 5\] is needed"):
        make_learner(Fm(k=5, w=CASES["fm-ftrl"].w, v=CASES["fm-ftrl"].v), FIELDS).restore(
            {**state, "w0": np.zeros(3, np.float32), "w_state": np.zeros((len(state["tags"]), 2), np.float32)}
        )
    with pytest.raises(ValueError, match=r"^tags: .* max_features is 3"):
        make_learner(msgspec.structs.replace(CASES["fm-adagrad"], max_features=3), FIELDS).restore(state)
    with pytest.raises(ValueError, match=r"^tau"):
        make_learner(CASES["fm-adagrad"], (*FIELDS, "e")).restore(state)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="there is no compiled code to keep")
def test_compiled_code_is_kept_under_integers_only_one_of_them_the_fingerprint_of_all_kernel_sources():
    kernels = [*make_table(), make_mix(), make_pairs(), make_select()]
    for name in SOME:
        learner = make_learner(CASES[name], FIELDS)
        kernels += [learner._step, learner._predict]
    for kernel in kernels:
        cells = [cell.cell_contents for cell in kernel.py_func.__closure__]
        assert all(type(cell) is int for cell in cells)
        assert FINGERPRINT in cells


def test_fields_that_a_model_must_know_are_refused_by_name_where_they_are_missing():
    with pytest.raises(ValueError, match=r"^user: there is no field 'viewer'"):
        make_learner(Mf(user="viewer", item="b"), FIELDS)
    with pytest.raises(ValueError, match=r"^item: there is no field 'film'"):
        make_learner(Mf(user="a", item="film"), FIELDS)


@pytest.mark.parametrize(("config", "n"), [(Ffm(), 4097), (Poly2(), 301)], ids=["ffm", "poly2"])
def test_more_fields_than_a_model_of_pairs_can_keep_are_refused(config, n):
    with pytest.raises(ValueError, match=f"{n} fields"):
        make_learner(config, [f"f{i}" for i in range(n)])
    assert make_learner(Lr(), [f"f{i}" for i in range(n)]).features == 0
