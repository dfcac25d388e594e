"""Traffic as records: impressions and clicks in the order in which they are sent.

    impression  {"impression_id": "...", "ts": ms, "score": the true probability, "features": {"user": "u7", ...}}
    click       {"impression_id": "...", "ts": ms}

The rows of a list share time and partition, and have `"list": "..."` beside the score.
Invariant: the records are a function of the config and the start alone. They are made in blocks of `BLOCK`
impressions and held until their time comes; how the stream is then cut into chunks changes nothing but the cuts.
Within a partition records lie in the order of sending: that of event time, but for what is late or repeated on
purpose. The score is what a perfect server would have served, so its log-loss over the same examples is the best
reachable one. Times are in ms since the epoch; an id holds the start, so that two runs do not share ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from online_fm.simulate.config import SimulateConfig
from online_fm.simulate.malformed import CLICK_FAULTS, IMPRESSION_FAULTS, Fault, spoiled
from online_fm.simulate.parts import Context, Floats, Ints
from online_fm.simulate.truth import Truth

__all__ = ["BLOCK", "Chunk", "Lines", "Simulator"]

BLOCK = 4096  # impressions made at once: large enough for NumPy, small enough for the cache
_CALIBRATION = 100_000
_DAY_S = 86_400.0
_REPEAT_WITHIN_MS = 5000  # a producer tries again within seconds
_NOISE_VALUES = 10_000
_KINDS = ("sent", "duplicates", "malformed", "orphans")
_SENT, _DUPLICATE, _MALFORMED, _ORPHAN = range(4)


@dataclass(frozen=True, slots=True)
class Lines:
    """Records of one partition: n values, and when each was sent (i64[n], ms of event time)."""

    values: list[bytes]
    sent_ms: Ints

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The records sent in `[from_ms, until_ms)`, per partition of both topics.

    `impressions_by_kind`, `clicks_by_kind`: how many were `sent` as they should be, and how many are noise:
    `duplicates`, `malformed`, `orphans`.
    """

    from_ms: int
    until_ms: int
    impressions: tuple[Lines, ...]
    clicks: tuple[Lines, ...]
    impressions_by_kind: dict[str, int]
    clicks_by_kind: dict[str, int]

    def __len__(self) -> int:
        return sum(map(len, self.impressions + self.clicks))


class _Held:
    """Records of one topic that wait for their time."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._sent_ms, self._partition, self._kind = (np.empty(0, np.int64) for _ in range(3))
        self._values: NDArray[np.object_] = np.empty(0, object)

    def add(self, kind: int, sent_ms: Ints, partition: Ints, values: Sequence[bytes]) -> None:
        boxed = np.empty(len(values), object)
        boxed[:] = values
        self._values = np.concatenate([self._values, boxed])
        self._sent_ms = np.concatenate([self._sent_ms, sent_ms])
        self._partition = np.concatenate([self._partition, partition])
        self._kind = np.concatenate([self._kind, np.full(len(values), kind)])

    def take(self, until_ms: int) -> tuple[tuple[Lines, ...], dict[str, int]]:
        """What is sent before `until_ms`, in the order of sending, and how many of each kind."""
        due = self._sent_ms < until_ms
        order = np.flatnonzero(due)
        order = order[np.argsort(self._sent_ms[order], kind="stable")]
        counts = np.bincount(self._kind[order], minlength=len(_KINDS)).tolist()
        parts = [order[self._partition[order] == p] for p in range(self._partitions)]
        lines = tuple(Lines(self._values[part].tolist(), self._sent_ms[part]) for part in parts)
        keep = ~due
        self._sent_ms, self._partition = self._sent_ms[keep], self._partition[keep]
        self._kind, self._values = self._kind[keep], self._values[keep]
        return lines, dict(zip(_KINDS, counts, strict=True))

    @property
    def last_ms(self) -> int:
        return int(self._sent_ms.max(initial=0))


class Simulator:
    """Makes the stream; iterate over `chunks` once.

    `truth` is what decides about clicks, as of the impressions made last; `start_ms` the event time of the start.
    """

    def __init__(self, config: SimulateConfig, *, clock: Callable[[], float] = time.time) -> None:
        self.config = config
        self.start_ms = config.first_ms(int(clock() * 1000))
        truth_seed, traffic_seed, self._sample_seed = np.random.SeedSequence(config.seed).spawn(3)
        self.truth = Truth(config, np.random.default_rng(truth_seed), self.start_ms)
        self._rng = np.random.default_rng(traffic_seed)
        self._calibrate()
        self._noise = _Noise(config)
        self._impressions, self._clicks = _Held(config.partitions), _Held(config.partitions)
        self._made = self._faults = self._orphans = 0
        self._now = float(self.start_ms)  # event time, with the fraction that `ts` drops
        self._entropy = 0.0

    def _calibrate(self) -> None:
        rng = np.random.default_rng(self._sample_seed)
        n = self.config.impressions
        span_s = min(n / self.config.density_per_s, _DAY_S) if n else _DAY_S
        ts = self.start_ms + np.arange(_CALIBRATION) * (1000 * span_s / _CALIBRATION)
        self.truth.calibrate(self.truth.draw(rng, ts.astype(np.int64)))

    @property
    def made(self) -> int:
        """Impressions made so far; those of the last block may still be held."""
        return self._made

    @property
    def best_log_loss(self) -> float:
        """The expected log-loss of the truth over the impressions made so far: no learner is better in the mean."""
        return self._entropy / self._made if self._made else float("nan")

    def chunks(self, slice_ms: float | None = None) -> Iterator[Chunk]:
        """The stream in chunks of so much event time, or else of about a block; those without a record are left out.

        Clicks go on after the last impression until the last one is sent.
        """
        mark = float(self.start_ms)
        while self._make_block():
            mark = yield from self._send(mark, int(self._now), slice_ms)
        yield from self._send(mark, max(self._impressions.last_ms, self._clicks.last_ms) + 1, slice_ms)

    def _send(self, mark: float, until_ms: int, slice_ms: float | None) -> Generator[Chunk, None, float]:
        while mark < until_ms:
            following = min(mark + slice_ms, until_ms) if slice_ms else until_ms
            if int(following) > int(mark):
                impressions, by_kind = self._impressions.take(int(following))
                clicks, clicks_by_kind = self._clicks.take(int(following))
                chunk = Chunk(int(mark), int(following), impressions, clicks, by_kind, clicks_by_kind)
                if len(chunk):
                    yield chunk
            mark = following
        return mark

    def _make_block(self) -> bool:
        """Make the next impressions and their clicks; False where there are no more."""
        c, rng = self.config, self._rng
        n = self._block_size()
        if n <= 0:
            return False
        self.truth.advance(self._now)
        if self._made == c.redraw_at:
            self.truth.redraw()
            self._calibrate()
        gaps_ms = rng.exponential(1000.0 * c.list_length / c.density_per_s, BLOCK // c.list_length or 1)
        moments = self._now + np.cumsum(gaps_ms)[: n // c.list_length]
        ts = moments.astype(np.int64).repeat(c.list_length)
        context = self.truth.draw(rng, ts)
        p = self.truth.probabilities(context)
        self._entropy -= float((p * np.log(p) + (1.0 - p) * np.log1p(-p)).sum())
        number = np.arange(self._made, self._made + n)
        head = f"{self.start_ms:x}-"
        names = [f"{head}{i}" for i in number.tolist()]
        lists = number // c.list_length
        partition = lists % c.partitions
        self._add(self._impressions, names, ts, partition, self._rests(context, p, lists), IMPRESSION_FAULTS)
        self._click(names, ts, partition, self.truth.clicked(rng, p))
        self._made += n
        self._now = float(moments[-1])
        return True

    def _block_size(self) -> int:
        """Impressions of the next block: whole lists, and none from before and after the truth is drawn anew."""
        c = self.config
        n = max(1, BLOCK // c.list_length) * c.list_length
        if c.impressions is not None:
            n = min(n, c.impressions - self._made)
        if c.redraw_at is not None and c.redraw_at > self._made:
            n = min(n, c.redraw_at - self._made)
        return n

    def _rests(self, context: Context, p: Floats, lists: Ints) -> list[str]:
        """What follows id and time of impressions: score, list and features."""
        texts = zip(p.tolist(), self.truth.texts(context), self._noise.of(len(p), self._rng), strict=True)
        if self.config.list_length == 1:
            return [f',"score":{score},"features":{{{members}{more}}}' for score, members, more in texts]
        head = f"{self.start_ms:x}-list"
        return [
            f',"score":{score},"list":"{head}{number}","features":{{{members}{more}}}'
            for number, (score, members, more) in zip(lists.tolist(), texts, strict=True)
        ]

    def _click(self, names: list[str], ts: Ints, partition: Ints, clicked: NDArray[np.bool_]) -> None:
        which = np.flatnonzero(clicked)
        at_ms = ts[which] + self._delays_ms(len(which))
        self._add(self._clicks, [names[i] for i in which.tolist()], at_ms, partition[which], None, CLICK_FAULTS)
        lost = self._rng.random(len(which)) < self.config.orphan_rate
        values = []
        for t in at_ms[lost].tolist():
            self._orphans += 1
            values.append(f'{{"impression_id":"{self.start_ms:x}-lost{self._orphans}","ts":{t}}}'.encode())
        self._clicks.add(_ORPHAN, at_ms[lost], partition[which][lost], values)

    def _delays_ms(self, n: int) -> Ints:
        """Exponential delays, given that they are at most the maximum (by the inverse of the distribution)."""
        mean_s, most_s = self.config.click_delay_s, self.config.click_delay_max_s
        below = -np.expm1(-most_s / mean_s)
        delays: Floats = -1000.0 * mean_s * np.log1p(-below * self._rng.random(n))
        return delays.astype(np.int64)

    def _add(
        self,
        held: _Held,
        names: list[str],
        ts: Ints,
        partition: Ints,
        rests: list[str] | None,
        faults: Sequence[Fault],
    ) -> None:
        """Hold these events until they are sent, and the noise that comes with them."""
        c, rng, n = self.config, self._rng, len(names)
        rests = rests or [""] * n
        values = [
            f'{{"impression_id":"{name}","ts":{t}{rest}}}'.encode()
            for name, t, rest in zip(names, ts.tolist(), rests, strict=True)
        ]
        late_ms = np.ceil(1000.0 * c.out_of_order_s * rng.random(n)).astype(np.int64)
        sent_ms = ts + np.where(rng.random(n) < c.out_of_order_rate, late_ms, 0)
        held.add(_SENT, sent_ms, partition, values)
        twice = np.flatnonzero(rng.random(n) < c.duplicate_rate)
        again_ms = sent_ms[twice] + rng.integers(1, _REPEAT_WITHIN_MS, len(twice))
        held.add(_DUPLICATE, again_ms, partition[twice], [values[i] for i in twice.tolist()])
        broken = np.flatnonzero(rng.random(n) < c.malformed_rate)
        bad = [self._spoiled(faults, int(ts[i]), rests[i]) for i in broken.tolist()]
        held.add(_MALFORMED, sent_ms[broken], partition[broken], bad)

    def _spoiled(self, faults: Sequence[Fault], ts: int, rest: str) -> bytes:
        self._faults += 1
        return spoiled(faults[int(self._rng.integers(len(faults)))], f"{self.start_ms:x}-bad{self._faults}", ts, rest)


class _Noise:
    """Fields without effect; the value's number is geometric in scale, so a few are frequent and most are rare."""

    def __init__(self, config: SimulateConfig) -> None:
        self._fields = len(config.noise_fields)
        self._template = "".join(f',"{name}":"%05x"' for name in config.noise_fields)

    def of(self, n: int, rng: np.random.Generator) -> list[str]:
        """Members of n impressions, each with its comma before it."""
        if not self._fields:
            return [""] * n
        numbers = np.exp(rng.random((n, self._fields)) * np.log(_NOISE_VALUES)).astype(np.int64)
        return [self._template % tuple(row) for row in numbers.tolist()]
