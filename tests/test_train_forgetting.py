"""Forgetting by event time in the pipeline: a function of the stream, not of batches, restarts or clocks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traffic import fingerprint, pipeline, read_all, source

from online_fm.source.memory import MemorySource

HALF_LIFE_H = 0.01  # 36 s of the 75 s that the stream spans: it is swept every .6 s
MODELS = {
    "fm-adagrad": f"{{kind: fm, k: 4, half_life_h: {HALF_LIFE_H}}}",
    "ffm-ftrl": f"{{kind: ffm, k: 2, w: {{kind: ftrl}}, v: {{kind: ftrl}}, half_life_h: {HALF_LIFE_H}}}",
    "committee": "{kind: committee, members: {"
    f"short: {{model: {{kind: fm, k: 4, w: {{kind: kalman}}, v: {{kind: kalman}}, half_life_h: {HALF_LIFE_H}}}}}, "
    f"long: {{model: {{kind: lr, half_life_h: {50 * HALF_LIFE_H}}}}}}}}}",
}
each_model = pytest.mark.parametrize("name", MODELS)


def learner_of(name: str):
    return pipeline(f"model={MODELS[name]}")


@pytest.fixture(scope="module")
def whole():
    found = {}
    for name in MODELS:
        learner = learner_of(name)
        read_all(learner, source())
        found[name] = fingerprint(learner)
    return found


@each_model
@pytest.mark.parametrize("batch_records", [1, 7, 1000])
def test_what_is_forgotten_does_not_depend_on_batches(whole, name, batch_records) -> None:
    learner = learner_of(name)
    read_all(learner, source(), batch_records)
    assert fingerprint(learner) == whole[name]


@each_model
@settings(max_examples=6, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(1, 600), st.integers(1, 300)), min_size=1, max_size=4))
def test_a_restart_anywhere_forgets_what_the_whole_run_does(whole, name, cuts) -> None:
    stream, learner = source(), learner_of(name)
    learner.assign(stream.positions())
    for records, batch_records in cuts:
        for _ in range(records // batch_records + 1):
            learner.step(stream.poll(batch_records, 0), now_ms=0)
        state = learner.state()
        stream, learner = source(), learner_of(name)
        learner.restore(state)
        stream.seek(learner.offsets())
    read_all(learner, stream)
    assert fingerprint(learner) == whole[name]


def test_a_night_without_events_closes_windows_and_forgets_nothing() -> None:
    drained, waited = learner_of("fm-adagrad"), learner_of("fm-adagrad")
    read_all(drained, source())
    drained.drain()
    read_all(waited, source())
    waited.step(end_of(waited), now_ms=0)
    waited.step(end_of(waited), now_ms=10**9)
    assert waited.pending == drained.pending == 0
    assert waited.learner.state_hash() == drained.learner.state_hash()


def end_of(learner):
    """A look at partitions that are read to their end."""
    stream = MemorySource({partition: [] for partition in learner.offsets()})
    return stream.poll(1, 0)


def test_what_was_learned_has_faded_by_its_age_in_event_time() -> None:
    """Rows are learned 25 s after they come: two thirds of the 75 s are 0 to 50 s old, the last third is drained."""
    forgetting, keeping = learner_of("fm-adagrad"), pipeline("model={kind: fm, k: 4}")
    for learner in (forgetting, keeping):
        read_all(learner, source())
        learner.drain()
    sums = [learner.learner.state()["w0"][1] for learner in (forgetting, keeping)]
    lives = 50 / (3600 * HALF_LIFE_H)
    left = 1 / 3 + 2 / 3 * (1 - 0.5**lives) / (math.log(2) * lives)
    assert sums[0] / sums[1] == pytest.approx(left, abs=0.02)
