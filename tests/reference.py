"""Slow, obvious twins of the models: float64, one number at a time, from the papers' formulas.

A row is a list of (field, key, x). Parameters live in dictionaries by feature; optimizers by coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from online_fm.features.batch import Rows
from online_fm.model import AdaGrad, Ftrl, ModelConfig

Row = list[tuple[int, int, float]]
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def rows_of(rows: list[Row]) -> Rows:
    """Python rows as the kernels take them."""
    flat = [feature for row in rows for feature in row]
    return Rows(
        np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64),
        np.array([fld for fld, _, _ in flat], np.uint16),
        np.array([key for _, key, _ in flat], np.uint32),
        np.array([x for _, _, x in flat], np.float32),
    )


def mix(x: int) -> int:
    """The finalizer of splitmix64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def initial_factors(seed: int, sd: float, fld: int, key: int, n: int) -> list[float]:
    """Component c: the four 16-bit lanes of a hash of (seed, fld, key, c), added, centred and scaled."""
    start = mix(((fld << 32 | key) ^ mix((seed + GOLDEN) & MASK)) + GOLDEN & MASK)
    factors = []
    for c in range(1, n + 1):
        bits = mix((start + c * GOLDEN) & MASK)
        lanes = sum(bits >> shift & 0xFFFF for shift in (0, 16, 32, 48))
        factors.append(float(np.float32((lanes - 2 * 65535) * (sd / 37837.22))))
    return factors


class FtrlCoordinate:
    """McMahan et al., KDD 2013, Algorithm 1; a value that is not 0 at the start stays until the first gradient."""

    def __init__(self, start: float, settings: Ftrl) -> None:
        self.value, self.z, self.n, self.settings = start, 0.0, 0.0, settings

    def learn(self, g: float) -> None:
        s = self.settings
        sigma = (math.sqrt(self.n + g * g) - math.sqrt(self.n)) / s.alpha
        self.z += g - sigma * self.value
        self.n += g * g
        if self.n == 0.0:
            return
        if abs(self.z) <= s.l1:
            self.value = 0.0
        else:
            shrunk = self.z - math.copysign(s.l1, self.z)
            self.value = -shrunk / ((s.beta + math.sqrt(self.n)) / s.alpha + s.l2)


class AdaGradCoordinate:
    """Duchi et al., JMLR 2011; l2 is part of the gradient of coordinates that have one."""

    def __init__(self, start: float, settings: AdaGrad) -> None:
        self.value, self.a, self.settings = start, 0.0, settings

    def learn(self, g: float) -> None:
        if g == 0.0:
            return
        g += self.settings.l2 * self.value
        self.a += g * g
        self.value -= self.settings.eta * g / math.sqrt(self.settings.a0 + self.a)


def coordinate(start: float, settings: Ftrl | AdaGrad) -> FtrlCoordinate | AdaGradCoordinate:
    return FtrlCoordinate(start, settings) if isinstance(settings, Ftrl) else AdaGradCoordinate(start, settings)


class Reference:
    """LR, FM or FFM, learning row by row."""

    def __init__(self, config: ModelConfig, n_fields: int) -> None:
        self.config = config
        self.n_v = {"lr": 0, "fm": config.k, "ffm": config.k * n_fields}[config.kind]
        self.w0 = coordinate(0.0, config.w)
        self.w: dict[tuple[int, int], FtrlCoordinate | AdaGradCoordinate] = {}
        self.v: dict[tuple[int, int], list[FtrlCoordinate | AdaGradCoordinate]] = {}

    def weight_of(self, fld: int, key: int) -> float:
        return self.w[fld, key].value if (fld, key) in self.w else 0.0

    def factors_of(self, fld: int, key: int) -> list[float]:
        if (fld, key) in self.v:
            return [c.value for c in self.v[fld, key]]
        return initial_factors(self.config.seed, self.config.init_sd, fld, key, self.n_v)

    def towards(self, i: tuple[int, int], fld: int) -> list[float]:
        """The factors of feature i that meet a feature of field `fld`."""
        v, k = self.factors_of(*i), self.config.k
        return v if self.config.kind == "fm" else v[fld * k : fld * k + k]

    def logit(self, row: Row) -> float:
        """All pairs, O(n^2 k)."""
        m = self.w0.value + sum(x * self.weight_of(fld, key) for fld, key, x in row)
        if self.config.kind == "lr":
            return m
        for i, (fi, ki, xi) in enumerate(row):
            for fj, kj, xj in row[:i]:
                pairs = zip(self.towards((fi, ki), fj), self.towards((fj, kj), fi), strict=True)
                m += xi * xj * sum(a * b for a, b in pairs)
        return m

    def factor_gradient(self, row: Row, i: int) -> list[float]:
        """dlogit/dv of the i-th feature of the row: what every other feature shows it."""
        fi, _, xi = row[i]
        gradient = [0.0] * self.n_v
        for j, (fj, kj, xj) in enumerate(row):
            if j != i and self.n_v:
                at = 0 if self.config.kind == "fm" else fj * self.config.k
                for c, other in enumerate(self.towards((fj, kj), fi)):
                    gradient[at + c] += xi * xj * other
        return gradient

    def step(self, row: Row, label: float, weight: float, learn: bool = True) -> float:
        """p before learning; then every gradient from that forward pass, applied one after another."""
        p = sigmoid(self.logit(row))
        if not learn or weight == 0.0:
            return p
        g = weight * (p - label)
        gradients = [self.factor_gradient(row, i) for i in range(len(row))]
        self.w0.learn(g)
        for (fld, key, x), slope in zip(row, gradients, strict=True):
            self.w.setdefault((fld, key), coordinate(0.0, self.config.w)).learn(g * x)
            if (fld, key) not in self.v:
                self.v[fld, key] = [coordinate(v, self.config.v) for v in self.factors_of(fld, key)]
            for c, h in zip(self.v[fld, key], slope, strict=True):
                c.learn(g * h)
        return p


def sigmoid(m: float) -> float:
    return 1.0 / (1.0 + math.exp(-m)) if m >= 0 else math.exp(m) / (1.0 + math.exp(m))


def log_loss(m: float, y: float) -> float:
    """-log p where y = 1, -log(1 - p) where y = 0."""
    return math.log1p(math.exp(-abs(m))) + max(m, 0.0) - y * m


def difference_quotient(f: Callable[[float], float], at: float, h: float = 1e-5) -> float:
    return (f(at + h) - f(at - h)) / (2 * h)


def rank_auc(p: np.ndarray, label: np.ndarray) -> float:
    """P[p of a positive > p of a negative], ties as one half, exactly."""
    positives, negatives = np.sort(p[label > 0.5]), np.sort(p[label < 0.5])
    below = np.searchsorted(negatives, positives, "left").sum()
    not_above = np.searchsorted(negatives, positives, "right").sum()
    return float((below + not_above) / 2 / (len(positives) * len(negatives)))
