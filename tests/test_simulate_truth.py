"""The truths that a stream can have, read back from its events: fields, pairs, drift, a redraw, lists, short lives."""

from __future__ import annotations

from itertools import combinations

import msgspec
import numpy as np
import pytest

from online_fm.simulate import SimulateConfig, Simulator
from online_fm.simulate.shop import AGE_BOUNDS, PRICE_BOUNDS

START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
QUIET = {
    "start_ms": START_MS,
    "rate_per_s": None,
    "duplicate_rate": 0.0,
    "out_of_order_rate": 0.0,
    "malformed_rate": 0.0,
    "orphan_rate": 0.0,
    "drift_half_life_h": None,
}
VOCABULARY = {"ad": 3, "site": 40, "browser": 900}
LISTS = {"list_length": 10, "users": 200, "items": 50, "events": 50_000}
SHORT = {"items": 40, "item_life_h": 2.0, "event_rate_per_s": 10.0, "events": 100_000}
KINDS = {
    "shop": {},
    "shop, ffm": {"ffm_pairs": 0.3, "interaction_sd": 2.0},
    "vocabulary": {"vocabulary": VOCABULARY, "zipf": 1.1},
    "vocabulary, ffm": {"vocabulary": VOCABULARY, "zipf": 1.1, "ffm_pairs": 0.5},
    "drifting": {"drift_half_life_h": 0.01, "vocabulary": VOCABULARY, "drifting": ["ad", "site"]},
    "rare": {"vocabulary": VOCABULARY, "click_rate": 0.016},
    "redrawn": {"redraw_at": 10_001},
    "short-lived": SHORT,
    "lists": LISTS,
    "lists of short-lived": {**SHORT, **LISTS},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def simulator(**settings) -> Simulator:
    return Simulator(SimulateConfig(**{"events": 20_000, **QUIET, **settings}))


def read(sim: Simulator) -> tuple[list[dict], np.ndarray, np.ndarray]:
    """The events in the order in which they were made, their true probabilities, and which were clicked."""
    events, clicked = [], set()
    for chunk in sim.chunks():
        events += [msgspec.json.decode(value) for lines in chunk.impressions for value in lines.values]
        clicked |= {msgspec.json.decode(value)["impression_id"] for lines in chunk.clicks for value in lines.values}
    events.sort(key=lambda event: int(event["impression_id"].rpartition("-")[2]))
    p = np.array([event["score"] for event in events])
    return events, p, np.array([event["impression_id"] in clicked for event in events])


@kinds
def test_clicks_come_as_often_as_the_probabilities_say(kind):
    sim = simulator(**KINDS[kind])
    _, p, y = read(sim)
    expected = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    assert sim.best_log_loss == pytest.approx(expected.mean(), rel=1e-9)
    assert abs(y.mean() - p.mean()) < 4 * np.sqrt((p * (1 - p)).sum()) / len(p) + 1e-12
    for part in np.array_split(np.argsort(p), 10):
        assert abs(y[part].sum() - p[part].sum()) < 4.5 * np.sqrt((p[part] * (1 - p[part])).sum())


@kinds
def test_the_mean_probability_is_the_click_rate(kind):
    sim = simulator(**KINDS[kind])
    _, p, _ = read(sim)
    rate = 0.1 if sim.config.list_length == 10 else sim.config.click_rate
    wide = 0.1 if kind in ("drifting", "short-lived") else 0.03  # the bias is set once, for the truth of the start
    assert p.mean() == pytest.approx(rate, rel=wide)


@pytest.mark.parametrize("kind", ["shop", "shop, ffm", "vocabulary", "vocabulary, ffm", "rare"])
def test_every_probability_is_that_of_its_features(kind):
    sim = simulator(**KINDS[kind], events=500)
    events, p, _ = read(sim)
    assert [sim.truth.probability(event["features"]) for event in events] == pytest.approx(p, abs=2e-7)


def test_a_vocabulary_takes_the_place_of_the_shop():
    events, _, _ = read(simulator(vocabulary=VOCABULARY, zipf=1.1))
    for field, size in VOCABULARY.items():
        values = np.array([int(event["features"][field]) for event in events])
        shares = np.arange(1, size + 1) ** -1.1
        shares /= shares.sum()
        counts = np.bincount(values, minlength=size)
        assert (np.abs(counts - len(values) * shares) < 5 * np.sqrt(len(values) * shares) + 1).all()
    noise = [name for name in events[0]["features"] if name not in VOCABULARY]
    assert noise == ["x0", "x1", "x2", "x3", "x4"]  # up to the eight fields of the default


def test_names_of_a_vocabulary_may_be_any_text():
    events, p, _ = read(simulator(vocabulary={'a "b"\\': 4, "ü.x": 5}, events=50))
    assert set(events[0]["features"]) >= {'a "b"\\', "ü.x"}
    assert len(p) == 50


def rows(features: dict) -> list[tuple[str, int, float]]:
    """Field, number within the field and value of each feature of a shop, from scratch."""
    found = [(field, int(features[field][1:]), 1.0) for field in ("user", "item", "category")]
    found += [("device", ("mobile", "desktop", "tablet", "tv").index(features["device"]), 1.0)]
    found += [("hour", features["hour"], 1.0)]
    found += [("age", sum(features["age"] >= bound for bound in AGE_BOUNDS), 1.0)]
    found += [("price", sum(features["price"] >= bound for bound in PRICE_BOUNDS), 1.0)]
    return found + [("tags", int(tag[1:]), len(features["tags"]) ** -0.5) for tag in features["tags"]]


def linear(truth, features: dict) -> float:
    first, w = truth.population.layout.first, truth.effects[0].w
    return truth.bias + sum(w[first[f] + i] * x for f, i, x in rows(features))


def test_an_fm_truth_equals_its_sum_over_all_pairs_of_features():
    sim = simulator(events=300)
    first, v = sim.truth.population.layout.first, sim.truth.effects[1].v
    events, p, _ = read(sim)
    for event, expected in zip(events, p, strict=True):
        m = linear(sim.truth, event["features"])
        for (f, i, x), (g, j, y) in combinations(rows(event["features"]), 2):
            m += x * y * float(v[first[f] + i] @ v[first[g] + j])
        assert 1 / (1 + np.exp(-m)) == pytest.approx(expected, abs=2e-7)


def test_an_ffm_truth_equals_its_sum_over_the_pairs_of_fields_that_count():
    sim = simulator(events=300, ffm_pairs=0.5, interaction_sd=3.0)
    v, pairs = sim.truth.effects[1].v, sim.truth.effects[1].pairs
    assert len(pairs) == len(set(pairs)) == 14
    assert set(v) == set(pairs) | {(g, f) for f, g in pairs}
    events, p, _ = read(sim)
    moved = 0.0
    for event, expected in zip(events, p, strict=True):
        m = linear(sim.truth, event["features"])
        for (f, i, x), (g, j, y) in combinations(rows(event["features"]), 2):
            if (f, g) in pairs or (g, f) in pairs:
                term = x * y * float(v[f, g][i] @ v[g, f][j])
                m, moved = m + term, moved + abs(term)
        assert 1 / (1 + np.exp(-m)) == pytest.approx(expected, abs=2e-7)
    assert moved / len(events) > 1.0


@pytest.mark.parametrize(("share", "pairs"), [(0.01, 1), (0.3, 20), (1.0, 66)])
def test_the_set_share_of_the_pairs_counts(share, pairs):
    sim = simulator(vocabulary={f"f{i}": 3 + i for i in range(12)}, fields=12, ffm_pairs=share)
    assert len(sim.truth.effects[1].pairs) == pairs


@pytest.mark.parametrize("pairs", [None, 0.6])
def test_pairs_have_the_set_spread_whatever_their_share(pairs):
    even = {"vocabulary": dict.fromkeys("abcdef", 2000), "zipf": 0.0, "k": 4}
    truth = simulator(**even, ffm_pairs=pairs, effect_sd=0.7, interaction_sd=1.3).truth
    context = truth.draw(np.random.default_rng(5), np.zeros(50_000, np.int64))
    assert [effect.logit(context).std() for effect in truth.effects] == pytest.approx([0.7, 1.3], rel=0.05)


@pytest.mark.parametrize("pairs", [None, 1.0])
def test_only_the_fields_that_drift_move(pairs):
    settings = {"vocabulary": VOCABULARY, "drift_half_life_h": 1.0, "drifting": ["site"], "event_rate_per_s": 1.0}
    sim = simulator(**settings, ffm_pairs=pairs, events=4096 * 2)
    weights, factors = sim.truth.effects
    before = weights.w.copy()
    old = {"all": factors.v.copy()} if pairs is None else {pair: v.copy() for pair, v in factors.v.items()}
    read(sim)
    layout = sim.truth.population.layout
    moving = np.zeros(layout.total, bool)
    moving[layout.first["site"] :][: layout.size["site"]] = True
    assert ((weights.w != before) == moving).all()
    if pairs is None:
        assert ((factors.v != old["all"]).all(axis=1) == moving).all()
    else:
        assert all((v != old[f, g]).all() == (f == "site") for (f, g), v in factors.v.items())


def test_drift_forgets_half_in_its_half_life():
    sim = simulator(vocabulary={"a": 20_000, "b": 2}, drift_half_life_h=3.0, drifting=["a"])
    before = sim.truth.effects[0].w[:20_000].copy()
    sim.truth.advance(START_MS + 3 * HOUR_MS)
    after = sim.truth.effects[0].w[:20_000]
    assert np.polyfit(before, after, 1)[0] == pytest.approx(0.5, abs=0.03)
    assert after.std() == pytest.approx(before.std(), rel=0.03)


def test_the_truth_changes_exactly_at_the_redraw():
    settings = {"vocabulary": VOCABULARY, "events": 12_000}
    still, redrawn = simulator(**settings), simulator(**settings, redraw_at=5000)
    read(still)
    events, p, _ = read(redrawn)
    features = [event["features"] for event in events]
    before, after = (np.array([sim.truth.probability(each) for each in features]) for sim in (still, redrawn))
    assert p[:5000] == pytest.approx(before[:5000], abs=2e-7)
    assert p[5000:] == pytest.approx(after[5000:], abs=2e-7)
    assert np.abs(before - after).mean() > 0.02
    assert abs(p[5000:].mean() - 0.15) < 4 * p[5000:].std() / np.sqrt(7000)


def test_a_list_is_one_user_at_one_time_with_different_items_and_one_click():
    events, p, y = read(simulator(**LISTS, partitions=3))
    assert (y.reshape(-1, 10).sum(axis=1) == 1).all()
    assert np.abs(p.reshape(-1, 10).sum(axis=1) - 1).max() < 1e-6
    shown = [events[i : i + 10] for i in range(0, len(events), 10)]
    for rows_of_list in shown:
        assert len({event["features"]["item"] for event in rows_of_list}) == 10
        shared = {
            (e["list"], e["ts"], *(e["features"][f] for f in ("user", "age", "device", "hour"))) for e in rows_of_list
        }
        assert len(shared) == 1
    assert len({rows_of_list[0]["list"] for rows_of_list in shown}) == 5000


def test_the_probability_in_a_list_is_the_softmax_of_what_its_rows_have_alone():
    sim = simulator(**LISTS | {"events": 1000})
    events, p, _ = read(sim)
    alone = np.array([sim.truth.probability(event["features"]) for event in events])
    odds = (alone / (1 - alone)).reshape(-1, 10)
    assert p == pytest.approx((odds / odds.sum(axis=1, keepdims=True)).ravel(), abs=1e-4)
    assert p.reshape(-1, 10).std(axis=1).mean() > 0.02


def test_a_list_lies_in_one_partition_and_its_first_row_is_drawn_by_zipf():
    sim = simulator(**LISTS, partitions=3)
    where: dict[str, int] = {}
    first: dict[str, int] = {}
    for chunk in sim.chunks():
        for partition, lines in enumerate(chunk.impressions):
            for event in map(msgspec.json.decode, lines.values):
                assert where.setdefault(event["list"], partition) == partition
                first.setdefault(event["list"], int(event["features"]["item"][1:]))
    shares = np.arange(1, 51) ** -0.8
    expected = 5000 * shares / shares.sum()
    assert (np.abs(np.bincount(list(first.values()), minlength=50) - expected) < 5 * np.sqrt(expected)).all()


def test_items_live_as_long_as_is_set_and_keep_their_traits():
    events, _, _ = read(simulator(**SHORT))
    hours = (events[-1]["ts"] - events[0]["ts"]) / HOUR_MS
    step = 4096 / 10 / 3600  # items change between blocks
    expected = 40 * hours / step * -np.expm1(-step / 2.0)
    numbers = np.array([int(event["features"]["item"][1:]) for event in events])
    assert abs(numbers.max() + 1 - 40 - expected) < 5 * np.sqrt(expected)
    traits: dict[str, list] = {}
    for features in (event["features"] for event in events):
        seen = [features[name] for name in ("category", "price", "tags")]
        assert traits.setdefault(features["item"], seen) == seen
    assert all(len(set(numbers[i : i + 4096])) <= 40 for i in range(0, len(numbers), 4096))


def test_an_item_that_has_gone_has_no_effect_and_does_not_return():
    sim = simulator(**SHORT)
    events, p, _ = read(sim)
    first, last = ({e["features"]["item"] for e in part} for part in (events[:4096], events[-1696:]))
    assert len(first & last) < 15
    assert [sim.truth.probability(event["features"]) for event in events[-1000:]] == pytest.approx(p[-1000:], abs=2e-7)
    gone = min(first - last)
    now = sim.truth.probability({"user": "u1", "item": gone})
    assert now == sim.truth.probability({"user": "u1"})


@pytest.mark.parametrize("kind", ["vocabulary, ffm", "drifting", "redrawn", "lists of short-lived"])
def test_the_same_settings_give_the_same_bytes(kind):
    settings = {**KINDS[kind], "events": 12_000}
    assert read(simulator(**settings))[0] == read(simulator(**settings))[0]


def test_lists_of_a_set_duration_are_whole():
    assert SimulateConfig(duration_s=1.04, event_rate_per_s=100.0, list_length=10).impressions == 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": {"a": 3}, "drift_half_life_h": None}, "at least two fields"),
        ({"vocabulary": VOCABULARY}, "drifting names 'item', which is none of ad, site, browser"),
        ({"drifting": ["colour"]}, "drifting names 'colour'"),
        ({"vocabulary": {"a": 3, "x1": 3}, "drift_half_life_h": None}, "vocabulary names 'x1', which is noise"),
        ({"vocabulary": VOCABULARY, "list_length": 2, "drift_half_life_h": None}, "they exclude vocabulary"),
        ({"vocabulary": VOCABULARY, "item_life_h": 2.0, "drift_half_life_h": None}, "they exclude vocabulary"),
        ({"items": 5, "list_length": 10}, "at most items"),
        ({"events": 101, "list_length": 10}, "events must be a multiple of list_length"),
        ({"redraw_at": 15, "list_length": 10}, "redraw_at must be a multiple of list_length"),
    ],
)
def test_impossible_truths_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SimulateConfig(**settings)
