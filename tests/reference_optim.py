"""Slow, obvious twins of the optimizers and losses: float64, one coordinate at a time, from the papers' formulas.

A coordinate has a `value`, learns one raw gradient and the scale that its value is multiplied by, forgets in event
time (`fade`), and gives its value and state in canonical order (`numbers`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from online_fm.model.config import AdaGrad, Adam, Ftrl, Kalman, KalmanFactors, Sgd


class FtrlCoordinate:
    """McMahan et al., KDD 2013, Algorithm 1; a value that is not 0 at the start stays until the first gradient."""

    def __init__(self, settings: Ftrl, start: float = 0.0) -> None:
        self.settings, self.value, self.z, self.n = settings, start, 0.0, 0.0

    def learn(self, g: float, scale: float = 1.0) -> None:
        if g == 0.0:
            return
        s = self.settings
        n = (1 - s.decay) * self.n + g * g
        self.z += scale * g - (math.sqrt(n) - math.sqrt(self.n)) / s.alpha * self.value
        self.n = n
        if abs(self.z) <= s.l1:
            self.value = 0.0
        else:
            shrunk = self.z - math.copysign(s.l1, self.z)
            self.value = -shrunk / ((s.beta + math.sqrt(n)) / s.alpha + s.l2)

    def fade(self, share: float) -> None:
        """Solve the formula of the value for z, so that the value stays."""
        s = self.settings
        self.n *= share
        if self.value != 0.0 and self.n > 0.0:
            steepness = (s.beta + math.sqrt(self.n)) / s.alpha + s.l2
            self.z = -self.value * steepness - math.copysign(s.l1, self.value)

    def numbers(self) -> list[float]:
        return [self.value, self.z, self.n]


class AdaGradCoordinate:
    """Duchi et al., JMLR 2011; the sum takes the gradient without the scale."""

    def __init__(self, settings: AdaGrad, start: float = 0.0) -> None:
        self.settings, self.value, self.a = settings, start, 0.0

    def learn(self, g: float, scale: float = 1.0) -> None:
        if g == 0.0:
            return
        s = self.settings
        shrinking = s.l2 * self.value
        self.a = (1 - s.decay) * self.a + (g + shrinking) ** 2
        self.value -= s.eta * (scale * g + shrinking) / math.sqrt(s.a0 + self.a)

    def fade(self, share: float) -> None:
        self.a *= share

    def numbers(self) -> list[float]:
        return [self.value, self.a]


class AdamCoordinate:
    """Kingma & Ba, ICLR 2015; c1, c2 are 1 - beta^t for the t touches of this coordinate."""

    def __init__(self, settings: Adam, start: float = 0.0) -> None:
        self.settings, self.value = settings, start
        self.m = self.s = self.c1 = self.c2 = 0.0

    def learn(self, g: float, scale: float = 1.0) -> None:
        if g == 0.0:
            return
        settings = self.settings
        g += settings.l2 * self.value
        self.m = settings.beta1 * self.m + (1 - settings.beta1) * g
        self.s = settings.beta2 * self.s + (1 - settings.beta2) * g * g
        self.c1 = settings.beta1 * self.c1 + (1 - settings.beta1)
        self.c2 = settings.beta2 * self.c2 + (1 - settings.beta2)
        self.value -= settings.eta * scale * (self.m / self.c1) / (math.sqrt(self.s / self.c2) + settings.eps)

    def fade(self, share: float) -> None:
        pass

    def numbers(self) -> list[float]:
        return [self.value, self.m, self.s, self.c1, self.c2]


class SgdCoordinate:
    """Stochastic gradient descent; the step shrinks with the coordinate's own touches."""

    def __init__(self, settings: Sgd, start: float = 0.0) -> None:
        self.settings, self.value, self.touches = settings, start, 0

    def learn(self, g: float, scale: float = 1.0) -> None:
        if g == 0.0:
            return
        s = self.settings
        self.value -= s.eta / (1 + s.decay * self.touches) * (scale * g + s.l2 * self.value)
        self.touches += 1

    def fade(self, share: float) -> None:
        pass

    def numbers(self) -> list[float]:
        return [self.value, float(self.touches)]


Coordinate = FtrlCoordinate | AdaGradCoordinate | AdamCoordinate | SgdCoordinate


def coordinate(settings: Ftrl | AdaGrad | Adam | Sgd, start: float = 0.0) -> Coordinate:
    match settings:
        case Ftrl():
            return FtrlCoordinate(settings, start)
        case AdaGrad():
            return AdaGradCoordinate(settings, start)
        case Adam():
            return AdamCoordinate(settings, start)
        case Sgd():
            return SgdCoordinate(settings, start)


class Evidence(NamedTuple):
    """What an example says of the logit m, whose variance was S: m moves by -S g, and S to S - S^2 lam.

    lamx: the precision that the example brings, S lamx = S lam / (1 - S lam); weight c is c such examples at once.
    """

    g: float
    lam: float
    lamx: float
    variance: float

    @staticmethod
    def of(g_one: float, lam_one: float, variance: float, weight: float) -> Evidence:
        lamx_one = lam_one / (1 - lam_one * variance)
        lamx = weight * lamx_one
        g = g_one * weight * (1 + lamx_one * variance) / (1 + lamx * variance)
        return Evidence(g, lamx / (1 + lamx * variance), lamx, variance)


class FieldPrior:
    """The prior variance of a field's weights; A, G the sums over its weights of mu^2 and of what the data fixed."""

    def __init__(self, settings: Kalman) -> None:
        self.settings, self.variance = settings, settings.prior
        self.squares = self.fixed = 0.0

    def settle(self) -> None:
        strength, start = self.settings.evidence, self.settings.prior
        if strength is not None:
            evident = (self.squares + strength * start) / (self.fixed + strength)
            self.variance = min(max(evident, 1e-3 * start), 20 * start)


class KalmanWeight:
    """A weight by its natural parameters: eta = mu / variance, and D, what the data added to the prior's precision."""

    def __init__(self, prior: FieldPrior) -> None:
        self.prior = prior
        self.eta = self.precision = self.square = self.fixed = 0.0

    @property
    def variance(self) -> float:
        return 1 / (1 / self.prior.variance + self.precision)

    @property
    def value(self) -> float:
        return self.eta * self.variance

    def learn(self, slope: float, seen: Evidence) -> None:
        if slope == 0.0:
            return
        prior = self.prior
        mean = self.value - self.variance * slope * seen.g
        others = seen.variance - slope * slope * self.variance
        brought = slope * slope * seen.lamx / (1 + seen.lamx * others)
        self.precision = (1 - prior.settings.q) * self.precision + brought
        self.eta = mean / self.variance
        fixed = max(0.0, 1 - self.variance / prior.variance)
        prior.squares += mean * mean - self.square
        prior.fixed += fixed - self.fixed
        self.square, self.fixed = mean * mean, fixed

    def fade(self, share: float) -> None:
        self.eta *= share
        self.precision *= share

    def numbers(self) -> list[float]:
        return [self.eta, self.precision, self.square, self.fixed]


class KalmanFactor:
    """A factor, or the bias, by mean and variance."""

    def __init__(self, prior: float, q: float, start: float = 0.0) -> None:
        self.prior, self.q, self.value, self.variance = prior, q, start, prior

    @staticmethod
    def of(settings: KalmanFactors, start: float) -> KalmanFactor:
        return KalmanFactor(settings.prior, settings.q, start)

    def learn(self, slope: float, seen: Evidence) -> None:
        if slope == 0.0:
            return
        self.value -= self.variance * slope * seen.g
        self.variance -= self.variance**2 * slope**2 * seen.lam
        self.variance += self.q * self.variance * (1 - self.variance / self.prior)

    def fade(self, share: float) -> None:
        self.variance = 1 / (1 / self.prior + share * (1 / self.variance - 1 / self.prior))

    def numbers(self) -> list[float]:
        return [self.value, self.variance]


class Scale:
    """A learned multiplier: AdaGrad from `start`, never below the floor, the sum without its start a0."""

    def __init__(self, start: float, eta: float, a0: float, floor: float) -> None:
        self.value, self.eta, self.a0, self.floor, self.sum = start, eta, a0, floor, 0.0

    def learn(self, d: float) -> None:
        self.sum += d * d
        self.value = max(self.floor, self.value - self.eta * d / math.sqrt(self.a0 + self.sum))


def sigmoid(m: float) -> float:
    return 1.0 / (1.0 + math.exp(-m)) if m >= 0 else math.exp(m) / (1.0 + math.exp(m))


def log_loss(m: float, y: float) -> float:
    """-log p where y = 1, -log(1 - p) where y = 0."""
    return math.log1p(math.exp(-abs(m))) + max(m, 0.0) - y * m


def loss_of(loss: str, m: float, y: float) -> float:
    """The loss of a prediction m: of clicks in nats, half the squared error, or the hinge for y in {0, 1}."""
    if loss == "log":
        return log_loss(m, y)
    return (m - y) ** 2 / 2 if loss == "squared" else max(0.0, 1 - (2 * y - 1) * m)


def error_of(loss: str, m: float, y: float) -> float:
    """The loss's slope by m."""
    if loss == "log":
        return sigmoid(m) - y
    if loss == "squared":
        return m - y
    sign = 2 * y - 1
    return -sign if sign * m < 1 else 0.0
