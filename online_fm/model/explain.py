"""What a logit is the sum of: the bias, a term for each feature, a term for each pair of fields; and what fields weigh.

    m = w0 + sum_i tau_f x_i w_i + sum_{f<=f'} P_ff'

P_ff' is the sum over all pairs of features of these two fields. With u_i what feature i shows to others (`fm`, `ffm`),
S_f the sum of a field's u, and <.,.> over the factors that meet,

    P_ff' = R_ff' <S_f, S_f'>      P_ff = R_ff/2 (|S_f|^2 - sum_{i in f} |u_i|^2)

so that no pair of features is looked at alone. Poly2's pairs are features: their terms are added up by fields. A
committee's terms are its members', times what each logit is multiplied by on its way into the mix (its weight, its
moderation, the cut at +-12).

Invariant: the terms add up to the logit before it is moderated (of a committee: as it is reported), to float32's
accuracy; nothing here is part of a prediction.
"""

from __future__ import annotations

import math
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from online_fm.features.batch import Rows
from online_fm.model.committee import AnyPredictor, CommitteePredictor
from online_fm.model.config import Ffm, Poly2
from online_fm.model.kernels.mix import CUT
from online_fm.model.learner import OfFeatures, Predictor

__all__ = ["FieldReport", "Terms", "explain", "report_fields"]

AT_ONCE = 1024  # features whose factors are looked at together: an FFM's have thousands each


class Terms(NamedTuple):
    """The terms of one row's logit.

    weights f64[n], learned bool[n]: of each feature of the row, in its order, its term, and whether it was ever
    learned; pairs: by the names of two fields; members: what each member of a committee adds, its terms' sum.
    """

    bias: float
    weights: NDArray[np.float64]
    learned: NDArray[np.bool_]
    pairs: dict[tuple[str, str], float]
    members: dict[str, float]

    def total(self) -> float:
        """The logit."""
        return self.bias + float(self.weights.sum()) + math.fsum(self.pairs.values())


class FieldReport(Struct, frozen=True, kw_only=True):
    """What a field has come to weigh: its scales (None where there are none), its features, their mean |w|."""

    field: str
    w_scale: float | None
    v_scale: float | None
    features: int
    mean_weight: float


def explain(predictor: AnyPredictor, row: Rows) -> Terms:
    """The terms of the logit of the one row."""
    if isinstance(predictor, CommitteePredictor):
        return _mixed(predictor, row)
    if isinstance(predictor.config, Poly2):
        return _of_pairs(predictor, row)
    weights, learned = np.zeros(row.nnz), np.zeros(row.nnz, np.bool_)
    sums = _Sums(predictor)
    given = predictor.given
    bias = 0.0
    for start in range(0, max(row.nnz, 1), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        fld, key, val = row.fld[part], row.key[part], row.val[part]
        found = predictor.of_features(Rows(np.array([0, len(fld)], np.int64), fld, key, val))
        seen = np.isin(fld, [given.index(name) for name in predictor.fields])
        weights[part][seen], learned[part][seen] = _weight_terms(found), found.learned
        sums.add(found)
        bias = found.bias
    return Terms(bias, weights, learned, sums.pairs(), {})


def _weight_terms(found: OfFeatures) -> NDArray[np.float64]:
    return found.tau.astype(np.float64) * found.rows.val * found.w


def _of_pairs(predictor: Predictor, row: Rows) -> Terms:
    """Poly2: behind the row's own features come its pairs, whose fields are numbered after the fields."""
    found = predictor.of_features(row)
    n, terms = row.nnz, _weight_terms(found)
    names = list(combinations_with_replacement(predictor.given, 2))
    by_pair = np.bincount(found.rows.fld[n:] - len(predictor.given), terms[n:], len(names))
    met = np.unique(found.rows.fld[n:]) - len(predictor.given)
    pairs = {names[pair]: float(by_pair[pair]) for pair in met.tolist()}
    return Terms(found.bias, terms[:n], found.learned[:n], pairs, {})


class _Sums:
    """What the row's fields show to others: S, and the sums of squares of the u, by field and factor."""

    def __init__(self, predictor: Predictor) -> None:
        self._fields = predictor.fields
        self._field_aware = isinstance(predictor.config, Ffm)
        self._s: dict[int, NDArray[np.float64]] = {}
        self._squares: dict[int, NDArray[np.float64]] = {}
        self._features: dict[int, int] = {}
        self._r = np.zeros((0, 0), np.float32)

    def add(self, found: OfFeatures) -> None:
        u = found.v * (found.rho.astype(np.float64) * found.rows.val)[:, np.newaxis]
        for f in np.unique(found.rows.fld).tolist():
            own = u[found.rows.fld == f]
            self._s[f] = self._s.get(f, 0.0) + own.sum(axis=0)
            self._squares[f] = self._squares.get(f, 0.0) + (own**2).sum(axis=0)
            self._features[f] = self._features.get(f, 0) + len(own)
        self._r = found.pairs

    def pairs(self) -> dict[tuple[str, str], float]:
        """P of all pairs of the row's fields; within one field where it has several values."""
        if not self._s or not next(iter(self._s.values())).size:
            return {}
        fields = sorted(self._s)
        s = np.stack([self._s[f] for f in fields])
        squares = np.stack([self._squares[f] for f in fields])
        if self._field_aware:
            towards = s.reshape(len(fields), len(self._fields), -1)[:, fields]
            met = np.einsum("abk,bak->ab", towards, towards)
            own = squares.reshape(len(fields), len(self._fields), -1)[range(len(fields)), fields].sum(axis=1)
        else:
            met, own = s @ s.T, squares.sum(axis=1)
        met[np.diag_indices_from(met)] = (met.diagonal() - own) / 2
        if self._r.size:
            met *= self._r[np.ix_(fields, fields)]
        return {
            (self._fields[f], self._fields[g]): float(met[a, b])
            for (a, f), (b, g) in combinations_with_replacement(enumerate(fields), 2)
            if f != g or self._features[f] > 1
        }


def _mixed(committee: CommitteePredictor, row: Rows) -> Terms:
    """Of all members that are mixed."""
    bias, weights, learned = 0.0, np.zeros(row.nnz), np.zeros(row.nnz, np.bool_)
    pairs: dict[tuple[str, str], float] = {}
    members = {}
    for name, weight in committee.weights().items():
        if weight == 0.0:
            continue
        member = committee.members[name]
        terms = explain(member, row)
        share = weight * _multiplier(member, row)
        bias += share * terms.bias
        weights += share * terms.weights
        learned |= terms.learned
        for pair, term in terms.pairs.items():
            pairs[pair] = pairs.get(pair, 0.0) + share * term
        members[name] = share * terms.total()
    return Terms(bias, weights, learned, pairs, members)


def _multiplier(member: Predictor, row: Rows) -> float:
    """By what a member's logit is multiplied before it is mixed: its moderation, and the cut."""
    if member.config.loss != "log":
        return 1.0
    prediction = member.predict(row)
    kappa = 1.0 / math.sqrt(1.0 + math.pi / 8.0 * float(prediction.variance[0]))
    return kappa * CUT / max(abs(float(prediction.logit[0])), CUT)


def report_fields(predictor: AnyPredictor) -> list[FieldReport]:
    """The fields, that with the largest sum of scales first (without: weight); of a committee, its largest member's."""
    if isinstance(predictor, CommitteePredictor):
        weights = predictor.weights()
        predictor = predictor.members[max(weights, key=weights.__getitem__)]
    fld, w = predictor.mean_weights()
    n = len(predictor.fields)
    features, size = np.bincount(fld, minlength=n), np.bincount(fld, np.abs(w), n)
    scales = predictor.field_scales()
    reports = [
        FieldReport(
            field=name,
            w_scale=scales["w"][name] if "w" in scales else None,
            v_scale=scales["v"][name] if "v" in scales else None,
            features=int(features[f]),
            mean_weight=float(size[f] / max(features[f], 1)),
        )
        for f, name in enumerate(predictor.fields)
        if f < len(predictor.given) or features[f]
    ]
    return sorted(reports, key=_rank, reverse=True)


def _rank(report: FieldReport) -> tuple[float, float]:
    return (report.w_scale or 0.0) + (report.v_scale or 0.0), report.mean_weight
