"""The truth: a factorization machine drawn from a seed, whose click probabilities are known exactly.

    m = b + sum_j w_j x_j + sum_{i<j} <v_i, v_j> x_i x_j,    p = 1 / (1 + exp(-m))

over the features of an impression as `features.Encoder` makes them: user, item, category, device, hour are
categories, age and price are cut at `AGE_BOUNDS` and `PRICE_BOUNDS`, each of n tags has the value 1 / sqrt(n). A
learner with these fields can therefore reach the truth, and its log-loss is the best that there is.

A user always has the same age, an item the same category, price and tags. The sum over pairs needs only, of a user
and of an item, `w x` and `v x` summed: `m` takes four look-ups an impression.
Drift is an Ornstein-Uhlenbeck walk of the items' `w` and `v`: a random walk that keeps its spread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from online_fm.simulate.config import BASE_FIELDS, SimulateConfig

__all__ = ["AGE_BOUNDS", "DEVICES", "PRICE_BOUNDS", "Context", "Truth"]

AGE_BOUNDS = (18.0, 25.0, 35.0, 45.0, 55.0, 65.0)
PRICE_BOUNDS = (5.0, 10.0, 20.0, 50.0, 100.0)
DEVICES = ("mobile", "desktop", "tablet", "tv")
_DEVICE_SHARES = (0.6, 0.25, 0.1, 0.05)
_BOUNDS = {"age": AGE_BOUNDS, "price": PRICE_BOUNDS}
_NUMBERED = frozenset(("user", "item", "category", "tags"))  # their values are a letter and a number
_MAX_TAGS = 3
_HOUR_MS = 3_600_000
_DRIFT_STEPS = 200  # a half-life of drift goes by in so many steps, each 0.35 % of the way

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Context:
    """n impressions as numbers: user, item, device, hour of the day, all i64[n]."""

    user: Ints
    item: Ints
    device: Ints
    hour: Ints


@dataclass(frozen=True, slots=True)
class _Bundle:
    """Features that always come together, summed: `linear` f64[n], `factors` f64[n, k], `square` f64[n]."""

    linear: Floats
    factors: Floats
    square: Floats


class Truth:
    """Users and items with their traits, and the model that decides about clicks."""

    def __init__(self, config: SimulateConfig, rng: np.random.Generator) -> None:
        self._config, self._rng = config, rng
        self._draw_population()
        self._draw_model()
        self.bias = 0.0

    def _draw_population(self) -> None:
        c, rng = self._config, self._rng
        self.age = np.clip(np.round(rng.gamma(6.0, 6.5, c.users)), 13, 90).astype(np.int64)
        self.category = rng.integers(c.categories, size=c.items)
        self.price = np.round(np.exp(rng.normal(3.0, 1.0, c.items)), 2)
        n_tags = rng.integers(1, 1 + min(_MAX_TAGS, c.tags), size=c.items)
        self.tags = [np.sort(rng.choice(c.tags, size=n, replace=False)) for n in n_tags]
        self._user_cdf, self._item_cdf = _zipf(c.users, c.zipf), _zipf(c.items, c.zipf)
        self._device_cdf = np.cumsum(_DEVICE_SHARES)

    def _draw_model(self) -> None:
        c = self._config
        pairs = BASE_FIELDS * (BASE_FIELDS - 1) / 2
        self._w_sd = c.effect_sd / np.sqrt(BASE_FIELDS)
        self._v_sd = np.sqrt(c.interaction_sd / np.sqrt(pairs * c.k))
        self._size = {
            "user": c.users,
            "item": c.items,
            "category": c.categories,
            "device": len(DEVICES),
            "hour": 24,
            "age": len(AGE_BOUNDS) + 1,
            "price": len(PRICE_BOUNDS) + 1,
            "tags": c.tags,
        }
        starts = accumulate(self._size.values(), initial=0)
        self._first = dict(zip(self._size, starts, strict=False))
        total = sum(self._size.values())
        self._w = self._rng.normal(0.0, self._w_sd, total)
        self._v = self._rng.normal(0.0, self._v_sd, (total, c.k))
        self._bundle_all()

    def _bundle_all(self) -> None:
        first = self._first
        age = first["age"] + np.searchsorted(AGE_BOUNDS, self.age, side="right")
        users = np.stack([first["user"] + np.arange(len(self.age)), age], axis=1)
        self._users = self._bundle(users, np.ones(users.shape))
        self._devices = self._bundle_field("device", len(DEVICES))
        self._hours = self._bundle_field("hour", 24)
        n = len(self.price)
        price = first["price"] + np.searchsorted(PRICE_BOUNDS, self.price, side="right")
        self._item_rows = np.zeros((n, 3 + _MAX_TAGS), np.int64)
        self._item_vals = np.zeros((n, 3 + _MAX_TAGS))
        self._item_rows[:, 0] = first["item"] + np.arange(n)
        self._item_rows[:, 1] = first["category"] + self.category
        self._item_rows[:, 2] = price
        self._item_vals[:, :3] = 1.0
        for i, tags in enumerate(self.tags):
            self._item_rows[i, 3 : 3 + len(tags)] = first["tags"] + tags
            self._item_vals[i, 3 : 3 + len(tags)] = len(tags) ** -0.5
        self._items = self._bundle(self._item_rows, self._item_vals)

    def _bundle_field(self, field: str, size: int) -> _Bundle:
        rows = self._first[field] + np.arange(size)[:, None]
        return self._bundle(rows, np.ones(rows.shape))

    def _bundle(self, rows: Ints, vals: Floats) -> _Bundle:
        vx = self._v[rows] * vals[:, :, None]
        return _Bundle((self._w[rows] * vals).sum(axis=1), vx.sum(axis=1), (vx * vx).sum(axis=(1, 2)))

    def draw(self, rng: np.random.Generator, ts: Ints) -> Context:
        """Who sees what on which device at these times (ms)."""
        n = len(ts)
        user = np.searchsorted(self._user_cdf, rng.random(n), side="right")
        item = np.searchsorted(self._item_cdf, rng.random(n), side="right")
        device = np.searchsorted(self._device_cdf, rng.random(n), side="right")
        return Context(user, item, device, ts // _HOUR_MS % 24)

    def logit(self, context: Context) -> Floats:
        """The true log-odds of a click, f64[n], with bias."""
        parts = [
            (self._users, context.user),
            (self._items, context.item),
            (self._devices, context.device),
            (self._hours, context.hour),
        ]
        z = sum(bundle.factors[rows] for bundle, rows in parts)
        alone = sum(bundle.linear[rows] - 0.5 * bundle.square[rows] for bundle, rows in parts)
        return np.asarray(self.bias + alone + 0.5 * np.square(z).sum(axis=1))

    def probabilities(self, context: Context) -> Floats:
        """The true click probabilities, f64[n], of 7 decimals: these *are* the truth, they are not rounded from it."""
        return _probability(self.logit(context))

    def probability(self, features: Mapping[str, object]) -> float:
        """The true click probability, now, of an impression with these features, as its event has them.

        Values that the truth does not know, and fields that are missing, have no effect.
        """
        rows, vals = [], []
        for field, value in features.items():
            for name in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
                row = self._row(field, name)
                if row is not None:
                    rows.append(row)
                    vals.append(len(value) ** -0.5 if field == "tags" and isinstance(value, Sequence) else 1.0)
        bundle = self._bundle(np.array([rows], np.int64), np.array([vals]))
        pairs = 0.5 * (np.square(bundle.factors).sum() - bundle.square)
        return float(_probability(self.bias + bundle.linear + pairs)[0])

    def _row(self, field: str, value: object) -> int | None:
        """The row of a field's value, None where the truth does not know it."""
        number = -1
        if field in _NUMBERED:
            text = str(value)[1:]
            number = int(text) if text.isdecimal() else -1
        elif field in _BOUNDS and isinstance(value, int | float):
            number = int(np.searchsorted(_BOUNDS[field], value, side="right"))
        elif field == "device" and value in DEVICES:
            number = DEVICES.index(str(value))
        elif field == "hour" and isinstance(value, int):
            number = value
        return self._first[field] + number if 0 <= number < self._size.get(field, 0) else None

    def calibrate(self, context: Context) -> None:
        """Set the bias so that the mean probability of these impressions is the click rate (by bisection)."""
        self.bias = 0.0
        logit = self.logit(context)
        low, high = -50.0, 50.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            if (1.0 / (1.0 + np.exp(-(logit + middle)))).mean() < self._config.click_rate:
                low = middle
            else:
                high = middle
        self.bias = 0.5 * (low + high)

    @property
    def drift_step_ms(self) -> float:
        """Event time between two calls of `drift`; infinite where nothing drifts."""
        half_life_h = self._config.drift_half_life_h
        return float("inf") if half_life_h is None else half_life_h * _HOUR_MS / _DRIFT_STEPS

    def drift(self, elapsed_ms: float) -> None:
        """Let the items' parameters wander for so much event time."""
        kept = 0.5 ** (elapsed_ms / self.drift_step_ms / _DRIFT_STEPS)
        new = np.sqrt(1.0 - kept * kept)
        rows = self._item_rows[:, 0]
        self._w[rows] = kept * self._w[rows] + new * self._rng.normal(0.0, self._w_sd, len(rows))
        self._v[rows] = kept * self._v[rows] + new * self._rng.normal(0.0, self._v_sd, (len(rows), self._config.k))
        self._items = self._bundle(self._item_rows, self._item_vals)


def _zipf(n: int, exponent: float) -> Floats:
    shares = np.arange(1, n + 1) ** -exponent
    cdf = np.cumsum(shares) / shares.sum()
    cdf[-1] = 1.0
    return np.asarray(cdf)


def _probability(logit: Floats) -> Floats:
    p: Floats = 1.0 / (1.0 + np.exp(-logit))
    return p.clip(1e-7, 1.0 - 1e-7).round(7)
