"""The simulator: what it promises about the stream is read back from the stream's own bytes."""

from __future__ import annotations

import gc
from collections import Counter
from uuid import uuid4

import msgspec
import numpy as np
import pytest

from online_fm.errors import ConfigError, SourceError
from online_fm.events import EventDecoder, EventsConfig, Reason
from online_fm.features.encode import Encoder
from online_fm.features.spec import Bounds, FeaturesConfig, Multi
from online_fm.simulate import FileSink, SimulateConfig, Simulator, run
from online_fm.simulate.kafka_sink import ConfluentSink, KafkaPythonSink
from online_fm.simulate.malformed import CLICK_FAULTS, IMPRESSION_FAULTS, Fault, spoiled
from online_fm.simulate.shop import AGE_BOUNDS, PRICE_BOUNDS

START_MS = 1_700_000_000_000
QUIET = {"duplicate_rate": 0.0, "out_of_order_rate": 0.0, "malformed_rate": 0.0, "orphan_rate": 0.0}
DEMO = FeaturesConfig(
    fields=(
        *("user", "item", "category", "device", "hour"),
        Bounds(name="age", bounds=AGE_BOUNDS),
        Bounds(name="price", bounds=PRICE_BOUNDS),
        Multi(name="tags"),
    )
)


def simulator(**settings) -> Simulator:
    return Simulator(SimulateConfig(**{"start_ms": START_MS, "events": 20_000, "rate_per_s": None} | settings))


def records(sim: Simulator, slice_ms: float | None = None) -> tuple[list[list[bytes]], list[list[bytes]]]:
    """All values per partition: of the impressions, of the clicks."""
    n = sim.config.partitions
    impressions, clicks = [[] for _ in range(n)], [[] for _ in range(n)]
    for chunk in sim.chunks(slice_ms):
        for p in range(n):
            impressions[p] += chunk.impressions[p].values
            clicks[p] += chunk.clicks[p].values
    return impressions, clicks


def totals(sim: Simulator) -> tuple[Counter, Counter]:
    impressions, clicks = Counter(), Counter()
    for chunk in sim.chunks():
        impressions.update(chunk.impressions_by_kind)
        clicks.update(chunk.clicks_by_kind)
    return impressions, clicks


def decoded(partitions: list[list[bytes]]) -> list[dict]:
    return [msgspec.json.decode(value) for values in partitions for value in values]


def is_near(count: int, n: int, rate: float) -> bool:
    """Within five standard errors of a binomial."""
    return abs(count - n * rate) < 5 * np.sqrt(n * rate * (1 - rate)) + 1


def test_same_config_gives_the_same_bytes():
    assert records(simulator()) == records(simulator())


def test_another_seed_gives_another_truth_and_other_traffic():
    one, other = simulator(seed=1), simulator(seed=2)
    assert records(one)[0] != records(other)[0]
    assert abs(one.best_log_loss - other.best_log_loss) > 1e-3


@pytest.mark.parametrize("slice_ms", [0.7, 50.0, 3000.0])
def test_cutting_the_stream_otherwise_changes_only_the_cuts(slice_ms):
    noisy = {"events": 2000, "out_of_order_rate": 0.2, "duplicate_rate": 0.2, "click_delay_s": 1.0}
    assert records(simulator(**noisy), slice_ms) == records(simulator(**noisy))


def test_speed_changes_no_byte():
    paced = simulator(events=3000, rate_per_s=100.0, event_rate_per_s=1000.0)
    assert records(paced) == records(simulator(events=3000, event_rate_per_s=1000.0))


def test_a_shorter_run_is_the_beginning_of_a_longer_one():
    at_noon = {**QUIET, "start_ms": START_MS - START_MS % 86_400_000, "partitions": 1, "drift_half_life_h": None}
    short, long = (records(simulator(events=n, **at_noon))[0][0] for n in (100, 200))
    ids = [[msgspec.json.decode(v)["impression_id"] for v in values] for values in (short, long)]
    assert ids[0] == ids[1][:100]


def test_every_impression_is_sent_whole_at_least_once():
    sim = simulator(duplicate_rate=0.1, malformed_rate=0.1, out_of_order_rate=0.1)
    sent = Counter()
    for values in records(sim)[0]:
        found = EventDecoder(EventsConfig()).impressions(values, np.full(len(values), START_MS + 10**6))
        sent.update(ident for i, ident in enumerate(found.ids) if i not in found.reasons)
    whole = {f"{START_MS:x}-{i}" for i in range(20_000)}
    assert whole <= set(sent)
    assert all("bad" in ident for ident in set(sent) - whole)  # faults that only the encoder can see


def test_mean_probability_is_the_click_rate():
    for click_rate in (0.01, 0.15, 0.5):
        scores = [e["score"] for e in decoded(records(simulator(click_rate=click_rate, **QUIET))[0])]
        assert np.mean(scores) == pytest.approx(click_rate, rel=0.03)


def test_clicks_are_drawn_with_the_probability_that_the_score_says():
    impressions, clicks = records(simulator(events=200_000, **QUIET))
    clicked = {e["impression_id"] for e in decoded(clicks)}
    events = decoded(impressions)
    p = np.array([e["score"] for e in events])
    y = np.array([e["impression_id"] in clicked for e in events])
    for part in np.array_split(np.argsort(p), 10):
        error = np.sqrt((p[part] * (1 - p[part])).sum())
        assert abs(y[part].sum() - p[part].sum()) < 4.5 * error


def test_best_log_loss_is_that_of_the_scores():
    sim = simulator(events=200_000, **QUIET)
    impressions, clicks = records(sim)
    clicked = {e["impression_id"] for e in decoded(clicks)}
    events = decoded(impressions)
    p = np.array([e["score"] for e in events])
    y = np.array([e["impression_id"] in clicked for e in events])
    loss = -np.where(y, np.log(p), np.log1p(-p))
    expected = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    assert sim.made == 200_000
    assert sim.best_log_loss == pytest.approx(expected.mean(), rel=1e-9)
    assert abs(loss.mean() - sim.best_log_loss) < 4.5 * (loss - expected).std() / np.sqrt(len(loss))


def test_truth_gives_the_probability_of_an_event_from_its_features():
    sim = simulator(events=500, drift_half_life_h=None, **QUIET)
    for event in decoded(records(sim)[0]):
        assert sim.truth.probability(event["features"]) == pytest.approx(event["score"], abs=2e-7)


def test_truth_takes_no_effect_from_what_it_does_not_know():
    truth = simulator().truth
    known = {"user": "u3", "device": "tv"}
    strange = {
        "user": "u3",
        "device": "tv",
        "item": "i999999",
        "hour": 24,
        "x0": "00001",
        "tags": ["red"],
        "age": "old",
    }
    assert truth.probability(strange) == truth.probability(known)
    assert truth.probability({}) == pytest.approx(1 / (1 + np.exp(-truth.bias)), abs=1e-7)


def test_truth_is_a_factorization_machine_over_the_encoded_features():
    """Two impressions with the same row have the same probability, and a row is all that matters."""
    sim = simulator(drift_half_life_h=None, users=5, items=5, **QUIET)
    events = decoded(records(sim)[0])
    encoded = Encoder(DEMO).encode([e["features"] for e in events])
    rows, by_row = encoded.rows, {}
    assert (encoded.problems, encoded.unknown, encoded.missing) == ((), 0, 0)
    for i, event in enumerate(events):
        span = slice(rows.ptr[i], rows.ptr[i + 1])
        by_row.setdefault((rows.fld[span].tobytes(), rows.key[span].tobytes()), set()).add(event["score"])
    assert all(len(scores) == 1 for scores in by_row.values())
    assert len(by_row) > 50


def test_duplicates_are_the_same_bytes_at_the_set_rate():
    impressions, clicks = records(simulator(events=50_000, **QUIET | {"duplicate_rate": 0.05}))
    for partitions, total in ((impressions, 50_000), (clicks, None)):
        values = [value for part in partitions for value in part]
        n = len(set(values))
        assert total in (n, None)
        assert is_near(len(values) - n, n, 0.05)


def test_noise_comes_at_its_set_rates():
    noise = {"duplicate_rate": 0.03, "malformed_rate": 0.02, "orphan_rate": 0.04, "events": 50_000}
    impressions, clicks = totals(simulator(**noise))
    assert impressions["sent"] == 50_000
    assert is_near(impressions["duplicates"], 50_000, 0.03)
    assert is_near(impressions["malformed"], 50_000, 0.02)
    assert impressions["orphans"] == 0
    assert is_near(clicks["sent"], 50_000, 0.15)
    assert is_near(clicks["orphans"], clicks["sent"], 0.04)
    assert is_near(clicks["malformed"], clicks["sent"], 0.02)


def test_without_noise_records_lie_in_the_order_of_event_time():
    for partitions in records(simulator(**QUIET)):
        for values in partitions:
            times = [msgspec.json.decode(value)["ts"] for value in values]
            assert times == sorted(times)


def test_the_set_share_is_out_of_order_and_no_later_than_set():
    settings = {**QUIET, "out_of_order_rate": 0.1, "out_of_order_s": 3.0, "partitions": 1, "events": 30_000}
    behind = []
    for chunk in simulator(**settings).chunks():
        events = [msgspec.json.decode(value) for value in chunk.impressions[0].values]
        behind += (chunk.impressions[0].sent_ms - np.array([e["ts"] for e in events], np.int64)).tolist()
    assert max(behind) <= 3000
    assert min(behind) == 0
    assert is_near(sum(ms > 0 for ms in behind), 30_000, 0.1)
    assert np.mean([ms for ms in behind if ms > 0]) == pytest.approx(1500, rel=0.05)


def test_click_delays_have_the_set_mean_and_stay_below_the_maximum():
    settings = {**QUIET, "click_delay_s": 4.0, "click_delay_max_s": 200.0, "events": 100_000}
    impressions, clicks = records(simulator(**settings))
    shown = {e["impression_id"]: e["ts"] for e in decoded(impressions)}
    delays = np.array([e["ts"] - shown[e["impression_id"]] for e in decoded(clicks)])
    assert delays.mean() == pytest.approx(4000, abs=5 * 4000 / np.sqrt(len(delays)))
    cut = decoded(records(simulator(**settings | {"click_delay_max_s": 5.0}))[1])
    assert 4900 < max(e["ts"] - shown[e["impression_id"]] for e in cut) <= 5000


def test_a_click_goes_to_the_partition_of_its_impression():
    impressions, clicks = records(simulator(partitions=3, **QUIET))
    for p in range(3):
        shown = {msgspec.json.decode(value)["impression_id"] for value in impressions[p]}
        assert {msgspec.json.decode(value)["impression_id"] for value in clicks[p]} <= shown


def test_drift_moves_items_and_keeps_the_spread():
    settings = {**QUIET, "events": 100_000, "event_rate_per_s": 2.0}  # 14 hours
    still, moving = simulator(drift_half_life_h=None, **settings), simulator(drift_half_life_h=1.0, **settings)
    features = {"user": "u1", "item": "i1", "category": "c1", "device": "tv", "hour": 1}
    before = still.truth.probability(features), moving.truth.probability(features)
    spread = np.std(moving.truth.logit(moving.truth.draw(np.random.default_rng(1), np.zeros(10_000, np.int64))))
    records(still)
    records(moving)
    after = still.truth.probability(features), moving.truth.probability(features)
    assert before[0] == after[0]
    assert abs(before[1] - after[1]) > 0.005
    moved = np.std(moving.truth.logit(moving.truth.draw(np.random.default_rng(1), np.zeros(10_000, np.int64))))
    assert moved == pytest.approx(spread, rel=0.2)


REASONS = {
    Fault.NOT_JSON: Reason.NOT_JSON,
    Fault.NOT_AN_OBJECT: Reason.NOT_AN_OBJECT,
    Fault.NAN: Reason.NOT_JSON,
    Fault.INFINITE: Reason.BAD_NUMBER,
    Fault.NO_ID: Reason.NO_ID,
    Fault.BAD_ID: Reason.BAD_ID,
    Fault.NO_TIME: Reason.NO_TIME,
    Fault.BAD_TIME: Reason.BAD_TIME,
    Fault.FUTURE: Reason.TIME_AHEAD,
    Fault.ANCIENT: Reason.TIME_TOO_OLD,
    Fault.TOO_LONG: Reason.TOO_LONG,
    Fault.NO_FEATURES: Reason.NO_FEATURES,
    Fault.BAD_FEATURES: Reason.BAD_FEATURES,
}


@pytest.mark.parametrize("fault", Fault)
def test_each_fault_is_refused_for_its_reason(fault):
    value = spoiled(fault, "bad1", START_MS, ',"features":{"user":"u1","age":30}')
    found = EventDecoder(EventsConfig()).impressions([value], np.array([START_MS]))
    if fault is Fault.BAD_VALUE:
        assert Encoder(DEMO).encode(found.features).problems[0].field == "user"
    else:
        assert found.reasons == {0: REASONS[fault]}
    assert b"\n" not in value


def test_all_faults_appear_in_both_topics():
    decoder = EventDecoder(EventsConfig())
    impressions, clicks = records(simulator(malformed_rate=0.1, partitions=1))
    refused = decoder.impressions(impressions[0], np.full(len(impressions[0]), START_MS + 10**6))
    assert set(refused.reasons.values()) == {REASONS[f] for f in IMPRESSION_FAULTS if f in REASONS}
    assert len(Encoder(DEMO).encode(refused.features).problems) > 0
    refused = decoder.clicks(clicks[0], np.full(len(clicks[0]), START_MS + 10**6))
    assert set(refused.reasons.values()) == {REASONS[f] for f in CLICK_FAULTS}


def test_fields_without_effect_make_a_wide_event():
    sim = simulator(events=300, fields=39, **QUIET, drift_half_life_h=None)
    values = [value for part in records(sim)[0] for value in part]
    assert all(len(msgspec.json.decode(value)["features"]) == 39 for value in values)
    assert 580 < np.mean([len(value) for value in values]) < 680
    event = msgspec.json.decode(values[0])
    assert sim.truth.probability(event["features"]) == pytest.approx(event["score"], abs=2e-7)


def test_without_a_start_event_time_ends_before_the_wall_clock():
    now_s = 1_800_000_000.0
    sim = Simulator(SimulateConfig(events=5000, rate_per_s=None, event_rate_per_s=100.0), clock=lambda: now_s)
    last_ms = max(chunk.until_ms for chunk in sim.chunks())
    assert now_s * 1000 - 60_000 < last_ms <= now_s * 1000
    live = Simulator(SimulateConfig(events=5000, rate_per_s=100.0), clock=lambda: now_s)
    assert live.start_ms == now_s * 1000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"events": 1, "duration_s": 1.0}, "exclude each other"),
        ({"click_delay_s": 10.0, "click_delay_max_s": 5.0}, "click_delay_max_s"),
        ({"rate_per_s": None}, "ahead of the wall clock"),
        ({"rate_per_s": 20.0, "event_rate_per_s": 10.0}, "ahead of the wall clock"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SimulateConfig(**settings)


def test_duration_is_in_event_time():
    assert SimulateConfig(duration_s=20.0, event_rate_per_s=50.0).impressions == 1000


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Memory:
    """A sink that keeps what it got, and when."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.chunks, self.times_s = clock, [], []
        self.flushed = 0

    def write(self, chunk) -> None:
        self.chunks.append(chunk)
        self.times_s.append(self.clock())

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        pass


def test_a_paced_run_sends_at_its_rate():
    clock = Clock()
    sink = Memory(clock)
    run(simulator(events=5000, rate_per_s=1000.0, **QUIET), sink, clock=clock, sleep=clock.sleep)
    sent = np.array([sum(map(len, chunk.impressions)) for chunk in sink.chunks])
    half = np.searchsorted(sink.times_s, 2.5)
    assert sent[:half].sum() == pytest.approx(2500, rel=0.1)
    assert sent[:half].max() < 120
    assert sink.flushed == 1


def test_speed_and_event_time_are_apart():
    clock = Clock()
    settings = {"events": 4000, "rate_per_s": 1000.0, "event_rate_per_s": 10.0, "click_delay_max_s": 60.0}
    run(simulator(**settings), Memory(clock), clock=clock, sleep=clock.sleep)
    assert clock.now_s == pytest.approx(4.0 + 0.6, rel=0.1)


def test_a_run_stops_when_told_and_tells_its_progress():
    clock = Clock()
    sink, seen = Memory(clock), []
    endless = Simulator(SimulateConfig(rate_per_s=1000.0), clock=lambda: START_MS / 1000)
    run(endless, sink, clock=clock, sleep=clock.sleep, on_progress=seen.append, stop=lambda: len(seen) >= 30)
    assert seen == sink.chunks
    assert len(seen) == 30
    assert clock.now_s < 2.0


def test_files_hold_the_stream_one_file_a_partition(tmp_path):
    settings = {"events": 3000, "partitions": 3, "malformed_rate": 0.05}
    sink = FileSink(tmp_path, 3)
    run(simulator(**settings), sink)
    sink.close()
    assert read_files(tmp_path, 3) == records(simulator(**settings))


def test_files_are_appended_to(tmp_path):
    for start_ms in (START_MS, START_MS + 10**7):
        sink = FileSink(tmp_path, 2, impressions="shown", clicks="clicked")
        run(simulator(events=100, start_ms=start_ms, **QUIET), sink)
        sink.close()
    assert sum(map(len, read_files(tmp_path, 2, "shown", "clicked")[0])) == 200


def read_files(folder, partitions: int, *topics: str) -> tuple[list[list[bytes]], ...]:
    found = []
    for topic in topics or ("impressions", "clicks"):
        files = sorted((folder / topic).iterdir())
        assert len(files) == partitions
        found.append([file.read_bytes().split(b"\n")[:-1] for file in files])
    return tuple(found)


both_clients = pytest.mark.parametrize("sink_of", [KafkaPythonSink, ConfluentSink])


@pytest.mark.kafka
@both_clients
def test_kafka_holds_the_stream_as_files_do(kafka, sink_of, tmp_path):
    settings = {"events": 3000, "partitions": 3, "malformed_rate": 0.05, "out_of_order_rate": 0.1}
    topics = {"impressions": f"impressions-{uuid4().hex}", "clicks": f"clicks-{uuid4().hex}"}
    sinks = (sink_of([kafka.address], 3, **topics), FileSink(tmp_path, 3))
    for sink in sinks:
        run(simulator(**settings), sink)
        sink.close()
    held = tuple([read_topic(kafka.address, topic, p) for p in range(3)] for topic in topics.values())
    assert held == read_files(tmp_path, 3)


@pytest.mark.kafka
@both_clients
def test_kafka_topics_that_exist_must_have_the_partitions(kafka, sink_of):
    topics = {"impressions": f"impressions-{uuid4().hex}", "clicks": f"clicks-{uuid4().hex}"}
    of_a_consumer = {KafkaPythonSink: "fetch_max_bytes", ConfluentSink: "fetch.max.bytes"}[sink_of]
    sink_of([kafka.address], 2, **topics, options={of_a_consumer: 60_000_000}).close()
    sink_of([kafka.address], 1, **topics).close()
    with pytest.raises(ConfigError, match="has 2 partitions, the stream 3"):
        sink_of([kafka.address], 3, **topics)


@both_clients
def test_an_option_that_no_client_knows_is_a_mistake_in_the_configuration(sink_of):
    with pytest.raises(ConfigError, match=r"source\.options.*such"):
        sink_of(["127.0.0.1:1"], 1, options={"sasl_plain_user": "u"})


@pytest.mark.kafka
@both_clients
def test_the_options_that_a_source_takes_fit_a_sink(kafka, sink_of):
    topics = {"impressions": f"impressions-{uuid4().hex}", "clicks": f"clicks-{uuid4().hex}"}
    options = {
        "security_protocol": "PLAINTEXT",
        "sasl_plain_username": "u",
        "sasl_plain_password": "p",
        "fetch_max_bytes": 60_000_000,
    }
    sink = sink_of([kafka.address], 1, **topics, options=options)
    run(simulator(events=50, partitions=1, **QUIET), sink)
    sink.close()
    assert kafka.ends(topics["impressions"]) == 50


@pytest.mark.kafka
@both_clients
def test_what_the_broker_refuses_is_raised(kafka, sink_of):
    topics = {"impressions": f"impressions-{uuid4().hex}", "clicks": f"clicks-{uuid4().hex}"}
    size = {KafkaPythonSink: "max_request_size", ConfluentSink: "message.max.bytes"}[sink_of]
    sink = sink_of([kafka.address], 2, **topics, options={size: 50_000})
    with pytest.raises(SourceError, match="Kafka"):
        run(simulator(malformed_rate=1.0), sink)
    sink.close()


@both_clients
def test_a_broker_that_is_not_there_is_a_source_error_with_a_hint(sink_of, monkeypatch):
    monkeypatch.setattr("online_fm.simulate.kafka_sink._FLUSH_S", 0.5)
    options = {"bootstrap_timeout_ms": 500} if sink_of is KafkaPythonSink else {}
    with pytest.raises(SourceError, match=r"is (the|a) broker"):
        sink_of(["127.0.0.1:1"], 1, options=options)
    gc.collect()


def read_topic(address: str, topic: str, partition: int) -> list[bytes]:
    """Values of all records of a partition."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": address, "group.id": uuid4().hex})
    consumer.assign([TopicPartition(topic, partition, 0)])
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
    found = []
    while len(found) < end:
        found += [message.value() for message in consumer.consume(end - len(found), timeout=5)]
    consumer.close()
    return found
