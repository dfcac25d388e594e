"""Slow, obvious twins of the models: float64, one number at a time, from the formulas; pairs are summed pair by pair.

A row is a list of (field, key, x). Parameters live in dictionaries by feature. A pair of features that poly2 makes is
the tuple of both; the factors of a feature are a list of coordinates, in an FFM k towards each field in turn.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from reference_factors import initial_factors
from reference_optim import Evidence, FieldPrior, KalmanFactor, KalmanWeight, Scale, coordinate, error_of, sigmoid

from online_fm.features.batch import Rows
from online_fm.model.config import Ffm, Fwfm, Kalman, KalmanFactors, Lr, Mf, Poly2, SingleConfig

Feature = tuple[Any, ...]
Row = list[tuple[int, int, float]]
TICKS = 64  # in a half-life
HOUR_MS = 3_600_000


class Term(NamedTuple):
    """One feature of a row as a model sees it."""

    feature: Feature
    field: int
    x: float


class Forward(NamedTuple):
    """One prediction: logit before moderation, variance, moderation and p."""

    m: float
    variance: float
    kappa: float
    p: float


def rows_of(rows: list[Row]) -> Rows:
    """Python rows as the kernels take them."""
    flat = [feature for row in rows for feature in row]
    return Rows(
        np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64),
        np.array([fld for fld, _, _ in flat], np.uint16),
        np.array([key for _, key, _ in flat], np.uint32),
        np.array([x for _, _, x in flat], np.float32),
    )


def pair_field(n_fields: int, f: int, g: int) -> int:
    """The field of a pair of features in poly2: after the fields themselves, (0, 0) (0, 1) ... (1, 1) (1, 2) ..."""
    f, g = min(f, g), max(f, g)
    return n_fields + f * n_fields - f * (f - 1) // 2 + g - f


class Reference:
    """Any single model, learning row by row."""

    def __init__(self, config: SingleConfig, fields: Sequence[str]) -> None:
        self.config = config
        chosen = [config.user, config.item] if isinstance(config, Mf) else list(fields)
        self.place = {number: chosen.index(name) for number, name in enumerate(fields) if name in chosen}
        n = self.n_fields = len(chosen)
        wide = n + n * (n + 1) // 2 if isinstance(config, Poly2) else n
        self.k = 0 if isinstance(config, Lr | Poly2) else config.k
        self.n_v = self.k * n if isinstance(config, Ffm) else self.k
        kalman = isinstance(config.w, Kalman)
        self.w0: Any = KalmanFactor(1.0, config.w.q) if kalman else coordinate(config.w)
        self.w: dict[Feature, Any] = {}
        self.v: dict[Feature, list[Any]] = {}
        self.unseen: dict[Feature, list[Any]] = {}
        self.priors = [FieldPrior(config.w) if kalman else None for _ in range(wide)]
        s = config.scales
        self.tau = [Scale(1.0, s.eta, s.a0, s.floor) if s else None for _ in range(wide)]
        self.rho = [Scale(1.0, s.eta, s.a0, s.floor) if s and self.k else None for _ in range(n)]
        pairs = config.pairs if isinstance(config, Ffm | Fwfm) else None
        both = itertools.combinations_with_replacement(range(n), 2)
        self.r = {pair: Scale(pairs.start, pairs.eta, pairs.a0, -math.inf) for pair in both} if pairs else {}
        self.has_variance = kalman or (self.k > 0 and isinstance(config.v, KalmanFactors))
        self.tick: int | None = None

    # What a row is to the model

    def terms(self, row: Row) -> list[Term]:
        placed = [(self.place[fld], key, x) for fld, key, x in row if fld in self.place]
        terms = [Term((fld, key), fld, x) for fld, key, x in placed]
        if isinstance(self.config, Poly2):
            for a, b in [(a, b) for j, b in enumerate(terms) for a in terms[:j]]:
                field = pair_field(self.n_fields, a.field, b.field)
                terms.append(Term(tuple(sorted((a.feature, b.feature))), field, a.x * b.x))
        return terms

    def field_of(self, feature: Feature) -> int:
        """A feature's field; that of a pair by the fields of both."""
        a, b = feature
        return pair_field(self.n_fields, a[0], b[0]) if isinstance(a, tuple) else a

    def weight(self, term: Term) -> Any:
        """The feature's weight, or the one that it would start with."""
        if term.feature in self.w:
            return self.w[term.feature]
        return KalmanWeight(self.priors[term.field]) if self.priors[term.field] else coordinate(self.config.w)

    def factors(self, term: Term) -> list[Any]:
        """The feature's factors, or those that it would start with."""
        feature = term.feature
        if feature not in self.v and feature not in self.unseen:
            self.unseen[feature] = self.first_factors(feature)
        return self.v[feature] if feature in self.v else self.unseen[feature]

    def first_factors(self, feature: Feature) -> list[Any]:
        config = self.config
        start = initial_factors(config.seed, config.init_sd, *feature, self.n_v) if self.n_v else []
        if start and isinstance(config.v, KalmanFactors):
            return [KalmanFactor.of(config.v, value) for value in start]
        return [coordinate(config.v, value) for value in start]

    def active(self, term: Term) -> bool:
        """Whether its factors take part."""
        return self.n_v > 0 and not (self.config.v_needs_w and self.weight(term).value == 0.0)

    # The pairs

    def inner_scale(self, term: Term) -> float:
        rho = self.rho[term.field]
        return rho.value if rho else 1.0

    def pair_scale(self, a: Term, b: Term) -> float:
        pair = min(a.field, b.field), max(a.field, b.field)
        return self.r[pair].value if self.r else 1.0

    def towards(self, other: Term) -> range:
        """Which factors meet those of the other feature."""
        start = other.field * self.k if isinstance(self.config, Ffm) else 0
        return range(start, start + self.k)

    def product(self, a: Term, b: Term) -> float:
        """x_a x_b <v_a, v_b>, of the factors that meet."""
        va, vb = self.factors(a), self.factors(b)
        meeting = zip(self.towards(b), self.towards(a), strict=True)
        return a.x * b.x * sum(va[i].value * vb[j].value for i, j in meeting)

    def met(self, terms: list[Term]) -> Iterator[tuple[Term, Term]]:
        return itertools.combinations([term for term in terms if self.active(term)], 2)

    def slopes(self, terms: list[Term], at: int) -> dict[int, tuple[float, float]]:
        """Of each factor of the feature at `at` that others meet: (dm/dv without its own scale, that scale)."""
        me = terms[at]
        found: dict[int, tuple[float, float]] = {}
        for j, other in enumerate(terms):
            if j == at or not self.active(me) or not self.active(other):
                continue
            inside, scale = me.x * other.x * self.inner_scale(other), self.inner_scale(me)
            if isinstance(self.config, Ffm):
                scale *= self.pair_scale(me, other)
            else:
                inside *= self.pair_scale(me, other)
            theirs = self.factors(other)
            for i, c in zip(self.towards(other), self.towards(me), strict=True):
                found[i] = found.get(i, (0.0, 0.0))[0] + inside * theirs[c].value, scale
        return found

    # Forward

    def outer_scale(self, term: Term) -> float:
        tau = self.tau[term.field]
        return tau.value if tau else 1.0

    def raw(self, row: Row) -> float:
        """m, all pairs, O(n^2 k)."""
        terms = self.terms(row)
        m = self.w0.value + sum(self.outer_scale(t) * t.x * self.weight(t).value for t in terms)
        for a, b in self.met(terms):
            m += self.inner_scale(a) * self.inner_scale(b) * self.pair_scale(a, b) * self.product(a, b)
        return float(m)

    def variance(self, row: Row) -> float:
        """Of m, by the parts that have a variance."""
        terms = self.terms(row)
        total = 0.0
        if isinstance(self.config.w, Kalman):
            total += self.w0.variance
            total += sum((self.outer_scale(t) * t.x) ** 2 * self.weight(t).variance for t in terms)
        if self.n_v and isinstance(self.config.v, KalmanFactors):
            for at, term in enumerate(terms):
                factors = self.factors(term)
                total += sum((h * s) ** 2 * factors[i].variance for i, (h, s) in self.slopes(terms, at).items())
        return float(total)

    def forward(self, row: Row) -> Forward:
        m, variance = self.raw(row), self.variance(row)
        kappa = 1 / math.sqrt(1 + math.pi * variance / 8) if self.config.loss == "log" else 1.0
        p = sigmoid(kappa * m) if self.config.loss == "log" else m
        return Forward(m, variance, kappa, p)

    def logit(self, row: Row) -> float:
        """What is reported: m, moderated where it has a variance."""
        forward = self.forward(row)
        return forward.kappa * forward.m

    # Learning

    def step(self, row: Row, label: float, weight: float, learn: bool = True, time_ms: int | None = None) -> float:
        """p before learning; then everything that is learned from that forward pass, one after another."""
        if time_ms is not None:
            self.reach(time_ms)
        forward = self.forward(row)
        if not learn or weight == 0.0:
            return forward.p
        terms = self.terms(row)
        slopes = [self.slopes(terms, at) for at in range(len(terms))]
        error = error_of(self.config.loss, forward.kappa * forward.m, label)
        later = list(self.scale_steps(terms, slopes, weight * error))
        seen = self.evidence(forward, error, weight)
        self.learn_parameters(terms, slopes, seen, seen.g if self.has_variance else weight * error)
        for prior in self.priors:
            if prior:
                prior.settle()
        for scale, d in later:
            scale.learn(d)
        return forward.p

    def evidence(self, forward: Forward, error: float, weight: float) -> Evidence:
        """What the Kalman parts learn from."""
        kappa, variance = forward.kappa, forward.variance
        if self.config.loss == "log":
            return Evidence.of(kappa * error, kappa**2 * forward.p * (1 - forward.p), variance, weight)
        total = variance + self.config.noise
        return Evidence.of(error / total, 1 / total, variance, weight)

    def learn_parameters(
        self, terms: list[Term], slopes: list[dict[int, tuple[float, float]]], seen: Evidence, g: float
    ) -> None:
        """g: what the gradient's optimizers take, the slope of the weighted loss by m.

        Where there is a variance the loss is that of the label's distribution with m integrated out, and its slope the
        g of `Evidence`.
        """
        active = [self.active(term) for term in terms]
        taus = [self.outer_scale(term) for term in terms]
        for term in terms:
            self.w.setdefault(term.feature, self.weight(term))
            self.v.setdefault(term.feature, self.factors(term))
        learn_one(self.w0, 1.0, 1.0, seen, g)
        for i, term in enumerate(terms):
            learn_one(self.w[term.feature], term.x, taus[i], seen, g)
            if active[i]:
                for c, (slope, scale) in slopes[i].items():
                    learn_one(self.v[term.feature][c], slope, scale, seen, g)

    def scale_steps(
        self, terms: list[Term], slopes: list[dict[int, tuple[float, float]]], ce: float
    ) -> Iterator[tuple[Scale, float]]:
        """Each scale of the row with its slope of the weighted loss."""
        for field in {term.field for term in terms}:
            mine = [(i, term) for i, term in enumerate(terms) if term.field == field]
            if self.tau[field]:
                yield self.tau[field], ce * sum(term.x * self.weight(term).value for _, term in mine)
            if self.n_v and self.rho[field]:
                shown = [(self.factors(term), slopes[i]) for i, term in mine]
                u = sum(v[c].value * h * scale for v, hs in shown for c, (h, scale) in hs.items())
                yield self.rho[field], ce * u / self.rho[field].value
        products: dict[tuple[int, int], float] = {}
        for a, b in self.met(terms):
            pair = min(a.field, b.field), max(a.field, b.field)
            shown = self.inner_scale(a) * self.inner_scale(b) * self.product(a, b)
            products[pair] = products.get(pair, 0.0) + shown
        for pair, product in products.items():
            if self.r:
                yield self.r[pair], ce * product

    def reach(self, time_ms: int) -> None:
        """Forget as many ticks of the half-life as the time has passed."""
        if self.config.half_life_h is None:
            return
        tick = math.floor(time_ms / (self.config.half_life_h * HOUR_MS / TICKS))
        passed = 0 if self.tick is None else max(0, tick - self.tick)
        self.tick = tick if self.tick is None else max(tick, self.tick)
        share = 2.0 ** (-passed / TICKS)
        for learned in (self.w0, *self.w.values(), *itertools.chain(*self.v.values())):
            learned.fade(share)
        for scale in (*self.tau, *self.rho, *self.r.values()):
            if scale:
                scale.sum *= share


def learn_one(learned: Any, slope: float, scale: float, seen: Evidence, g: float) -> None:
    """One coordinate: a Kalman one takes the whole slope of m, the others the loss's raw gradient and the scale."""
    if isinstance(learned, KalmanWeight | KalmanFactor):
        learned.learn(slope * scale, seen)
    else:
        learned.learn(g * slope, scale)


def difference_quotient(f: Callable[[float], float], at: float, h: float = 1e-5) -> float:
    return (f(at + h) - f(at - h)) / (2 * h)


def rank_auc(p: np.ndarray, label: np.ndarray) -> float:
    """P[p of a positive > p of a negative], ties as one half, exactly."""
    positives, negatives = np.sort(p[label > 0.5]), np.sort(p[label < 0.5])
    below = np.searchsorted(negatives, positives, "left").sum()
    not_above = np.searchsorted(negatives, positives, "right").sum()
    return float((below + not_above) / 2 / (len(positives) * len(negatives)))
