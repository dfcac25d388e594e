"""The terms of the true logit: weights, and pairs of features by shared factors (FM) or by factors a pair of fields.

    weights         sum_j w_j x_j
    shared factors  sum_{i<j} <v_i, v_j> x_i x_j                     over all pairs of features
    field factors   sum_{i<j} <v_i,f(j), v_j,f(i)> x_i x_j           where the fields f(i), f(j) are a pair that counts

An effect holds the parameters; `bundle` sums them over the features of each part, `logit` adds these up for
impressions. Parameters are normal, with the spread that gives the term's logit the set standard deviation where
features are many; `wander` keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Protocol

import numpy as np

from online_fm.simulate.config import SimulateConfig
from online_fm.simulate.parts import Context, Floats, Ints, Layout, Part

__all__ = ["Effect", "FieldFactors", "SharedFactors", "Weights", "effects"]


class Effect(Protocol):
    """One term of the logit."""

    def draw(self, rng: np.random.Generator) -> None:
        """Draw all parameters anew."""

    def wander(self, rng: np.random.Generator, field: str, values: Ints, kept: float) -> None:
        """Of these values of a field, keep so much of the parameters and draw the rest anew."""

    def bundle(self, parts: Sequence[Part]) -> None:
        """Sum up what `logit` will look up."""

    def logit(self, context: Context) -> Floats:
        """The term of each impression, f64[n]; `context` is of the parts that were bundled last."""

    def logit_of(self, part: Part) -> float:
        """The term of one impression, whose features are all in this part of size 1."""


def effects(config: SimulateConfig, layout: Layout, rng: np.random.Generator) -> tuple[Effect, ...]:
    """The terms that a configuration asks for."""
    pairs = SharedFactors if config.ffm_pairs is None else FieldFactors
    return Weights(config, layout, rng), pairs(config, layout, rng)


class Weights:
    """A weight a feature: `w` f64[total]."""

    def __init__(self, config: SimulateConfig, layout: Layout, rng: np.random.Generator) -> None:
        self._layout = layout
        self._sd = config.effect_sd / np.sqrt(len(layout.fields))
        self.draw(rng)

    def draw(self, rng: np.random.Generator) -> None:
        self.w = rng.normal(0.0, self._sd, self._layout.total)

    def wander(self, rng: np.random.Generator, field: str, values: Ints, kept: float) -> None:
        rows = self._layout.first[field] + values
        self.w[rows] = _mixed(self.w[rows], kept, rng, self._sd)

    def bundle(self, parts: Sequence[Part]) -> None:
        self._sums = [(self.w[part.rows] * part.vals).sum(axis=1) for part in parts]

    def logit(self, context: Context) -> Floats:
        return np.asarray(sum(sums[which] for sums, which in zip(self._sums, context, strict=True)))

    def logit_of(self, part: Part) -> float:
        return float((self.w[part.rows] * part.vals).sum())


class SharedFactors:
    """A vector a feature: `v` f64[total, k]; the sum over pairs is (|z|^2 - sum |v x|^2) / 2 with z = sum v x."""

    def __init__(self, config: SimulateConfig, layout: Layout, rng: np.random.Generator) -> None:
        self._layout = layout
        fields = len(layout.fields)
        self._shape = (layout.total, config.k)
        self._sd = _factor_sd(config, fields * (fields - 1) / 2)
        self.draw(rng)

    def draw(self, rng: np.random.Generator) -> None:
        self.v = rng.normal(0.0, self._sd, self._shape)

    def wander(self, rng: np.random.Generator, field: str, values: Ints, kept: float) -> None:
        rows = self._layout.first[field] + values
        self.v[rows] = _mixed(self.v[rows], kept, rng, self._sd)

    def bundle(self, parts: Sequence[Part]) -> None:
        self._sums = []
        for part in parts:
            vx = self.v[part.rows] * part.vals[:, :, None]
            self._sums.append((vx.sum(axis=1), np.square(vx).sum(axis=(1, 2))))

    def logit(self, context: Context) -> Floats:
        looked_up = list(zip(self._sums, context, strict=True))
        z = np.asarray(sum(factors[which] for (factors, _), which in looked_up))
        alone = sum(square[which] for (_, square), which in looked_up)
        return np.asarray(0.5 * (np.square(z).sum(axis=1) - alone))

    def logit_of(self, part: Part) -> float:
        vx = self.v[part.rows[0]] * part.vals[0, :, None]
        return float(sum(left @ right for left, right in combinations(vx, 2)))


class FieldFactors:
    """A vector a feature and field that it meets: `v[f, g]` f64[size of f, k], for the pairs of fields that count."""

    def __init__(self, config: SimulateConfig, layout: Layout, rng: np.random.Generator) -> None:
        self._layout, self._k = layout, config.k
        possible = list(combinations(layout.fields, 2))
        wanted = max(1, round((config.ffm_pairs or 1.0) * len(possible)))
        self.pairs = [possible[i] for i in np.sort(rng.choice(len(possible), size=wanted, replace=False))]
        self._sd = _factor_sd(config, wanted)
        self.draw(rng)

    def draw(self, rng: np.random.Generator) -> None:
        both = [pair for f, g in self.pairs for pair in ((f, g), (g, f))]
        self.v = {(f, g): rng.normal(0.0, self._sd, (self._layout.size[f], self._k)) for f, g in both}

    def wander(self, rng: np.random.Generator, field: str, values: Ints, kept: float) -> None:
        for (own, _), v in self.v.items():
            if own == field:
                v[values] = _mixed(v[values], kept, rng, self._sd)

    def bundle(self, parts: Sequence[Part]) -> None:
        where = {field: p for p, part in enumerate(parts) for field in part.fields}
        self._sums = {(f, g): (where[f], self._sum(parts[where[f]], f, v)) for (f, g), v in self.v.items()}

    def _sum(self, part: Part, field: str, v: Floats) -> Floats:
        columns = [c for c, own in enumerate(part.fields) if own == field]
        values = part.rows[:, columns] - self._layout.first[field]
        return np.asarray((v[values] * part.vals[:, columns, None]).sum(axis=1))

    def logit(self, context: Context) -> Floats:
        total = np.zeros(len(context[0]))
        for f, g in self.pairs:
            (p, left), (q, right) = self._sums[f, g], self._sums[g, f]
            total += (left[context[p]] * right[context[q]]).sum(axis=1)
        return total

    def logit_of(self, part: Part) -> float:
        first = self._layout.first
        features = zip(part.fields, part.rows[0], part.vals[0], strict=True)
        met = [(f, g, i - first[f], j - first[g], x * y) for (f, i, x), (g, j, y) in combinations(features, 2)]
        return float(sum(self.v[f, g][i] @ self.v[g, f][j] * xy for f, g, i, j, xy in met if (f, g) in self.v))


def _factor_sd(config: SimulateConfig, pairs: float) -> float:
    """Spread of factors: the variance of a sum over so many products <v_i, v_j> is pairs k sd^4."""
    return float(np.sqrt(config.interaction_sd / np.sqrt(pairs * config.k)))


def _mixed(old: Floats, kept: float, rng: np.random.Generator, sd: float) -> Floats:
    return np.asarray(kept * old + np.sqrt(1.0 - kept * kept) * rng.normal(0.0, sd, old.shape))
