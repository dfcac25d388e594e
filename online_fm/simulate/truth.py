"""The truth: a model drawn from a seed, whose click probabilities are known exactly.

    m = b + the terms of `effects` over the features of an impression
    p = 1 / (1 + exp(-m)),   or in a list:   p_i = exp(m_i) / sum_j exp(m_j)   over the list's rows

A learner with these fields can reach the truth of single impressions, and its log-loss is the best that there is. In a
list a row's probability depends on the other rows too: who scores rows one by one comes near it, but not to it.
Drift is an Ornstein-Uhlenbeck walk of the drifting fields' parameters: a random walk that keeps its spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from online_fm.simulate.config import SimulateConfig
from online_fm.simulate.effects import effects
from online_fm.simulate.parts import Context, Floats, Ints, Part, Population
from online_fm.simulate.plain import Plain
from online_fm.simulate.shop import Shop

__all__ = ["Truth"]

_HOUR_MS = 3_600_000
_DRIFT_STEPS = 200  # a half-life of drift goes by in so many steps, each 0.35 % of the way


class Truth:
    """The population, as of `start_ms` at first, and the model that decides about clicks."""

    def __init__(self, config: SimulateConfig, rng: np.random.Generator, start_ms: float) -> None:
        self._config, self._rng = config, rng
        self.population: Population = Plain(config) if config.vocabulary else Shop(config, rng)
        self.effects = effects(config, self.population.layout, rng)
        self.bias = 0.0
        self._renewed_ms = self._drifted_ms = start_ms
        self._bundle()

    def _bundle(self) -> None:
        for effect in self.effects:
            effect.bundle(self.population.parts)

    def draw(self, rng: np.random.Generator, ts: Ints) -> Context:
        """The impressions at these times (ms); in lists, each time is there once for each row."""
        return self.population.draw(rng, ts)

    def texts(self, context: Context) -> Iterator[str]:
        """Of each impression, its features as members in JSON."""
        parts = zip(self.population.parts, context, strict=True)
        return map(",".join, zip(*([part.texts[i] for i in which.tolist()] for part, which in parts), strict=True))

    def logit(self, context: Context) -> Floats:
        """The true log-odds of a click, f64[n], with bias."""
        return np.asarray(self.bias + sum(effect.logit(context) for effect in self.effects))

    def probabilities(self, context: Context) -> Floats:
        """The true click probabilities, f64[n], of 7 decimals: these *are* the truth, they are not rounded from it."""
        logit = self.logit(context)
        return _probability(logit) if self._config.list_length == 1 else _shares(logit, self._config.list_length)

    def clicked(self, rng: np.random.Generator, p: Floats) -> NDArray[np.bool_]:
        """Draw which of these impressions are clicked: each for itself, or one of each list."""
        length = self._config.list_length
        if length == 1:
            return np.asarray(rng.random(len(p)) < p)
        reached = np.cumsum(p.reshape(-1, length), axis=1)
        passed = reached[:, :-1] <= rng.random((len(reached), 1)) * reached[:, -1:]
        return np.asarray(np.arange(length) == passed.sum(axis=1, keepdims=True)).ravel()

    def probability(self, features: Mapping[str, object]) -> float:
        """The true click probability, now, of a single impression with these features, as its event has them.

        Values that the truth does not know, and fields that are missing, have no effect.
        """
        found: list[tuple[str, int, float]] = []
        for field, value in features.items():
            several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            known = [self.population.row(field, each) for each in several]
            found += [(field, row, len(several) ** -0.5) for row in known if row is not None]
        rows = np.array([[row for _, row, _ in found]], np.int64)
        vals = np.array([[val for _, _, val in found]], np.float64)
        whole = Part(tuple(field for field, _, _ in found), rows, vals, [""])
        logit = sum(effect.logit_of(whole) for effect in self.effects)
        return float(_probability(np.array([self.bias + logit]))[0])

    def calibrate(self, context: Context) -> None:
        """Set the bias so that the mean probability of these impressions is the click rate (by bisection).

        In lists nothing depends on the bias, and it stays 0.
        """
        self.bias = 0.0
        if self._config.list_length > 1:
            return
        logit = self.logit(context)
        low, high = -50.0, 50.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            if (1.0 / (1.0 + np.exp(-(logit + middle)))).mean() < self._config.click_rate:
                low = middle
            else:
                high = middle
        self.bias = 0.5 * (low + high)

    def advance(self, now_ms: float) -> None:
        """Let event time go on to `now_ms`: items come and go, parameters drift."""
        places = self.population.renew(self._rng, now_ms - self._renewed_ms)
        self._renewed_ms = now_ms
        for effect in self.effects if len(places) else ():
            effect.wander(self._rng, "item", places, 0.0)
        drifts = now_ms - self._drifted_ms >= self._drift_step_ms
        if drifts:
            self._drift(now_ms - self._drifted_ms)
            self._drifted_ms = now_ms
        if drifts or len(places):
            self._bundle()

    @property
    def _drift_step_ms(self) -> float:
        """Event time between two moves of what drifts; infinite where nothing does."""
        half_life_h = self._config.drift_half_life_h
        return float("inf") if half_life_h is None else half_life_h * _HOUR_MS / _DRIFT_STEPS

    def _drift(self, elapsed_ms: float) -> None:
        kept = 0.5 ** (elapsed_ms / self._drift_step_ms / _DRIFT_STEPS)
        for field in self._config.drifting:
            values = np.arange(self.population.layout.size[field])
            for effect in self.effects:
                effect.wander(self._rng, field, values, kept)

    def redraw(self) -> None:
        """Draw all parameters anew; the bias is to be calibrated again."""
        for effect in self.effects:
            effect.draw(self._rng)
        self._bundle()


def _shares(logit: Floats, length: int) -> Floats:
    """The softmax within each list."""
    lists = logit.reshape(-1, length)
    odds = np.exp(lists - lists.max(axis=1, keepdims=True))
    return _rounded(odds / odds.sum(axis=1, keepdims=True)).ravel()


def _probability(logit: Floats) -> Floats:
    return _rounded(1.0 / (1.0 + np.exp(-logit)))


def _rounded(p: Floats) -> Floats:
    return p.clip(1e-7, 1.0 - 1e-7).round(7)
