"""Explanation: why a row has its score. The terms of its logit by field and value, and by pair of fields.

Invariant: bias + weights + pairs = total, the logit before its variance moderates it; of a committee, whose members are
moderated each for itself, the logit as it is reported. Terms come largest first, in size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, product

import msgspec
from msgspec import Struct

from online_fm.features.spec import Cross, FeaturesConfig, Input, Multi, named
from online_fm.model.explain import Terms
from online_fm.model.learner import Prediction

__all__ = ["Explanation", "PairTerm", "WeightTerm", "explanation"]


class WeightTerm(Struct, frozen=True, kw_only=True):
    """What one value of a field adds. learned: whether training ever saw it."""

    field: str
    value: str
    learned: bool
    term: float


class PairTerm(Struct, frozen=True, kw_only=True):
    """What two fields' values add together; twice the same field: its values among themselves."""

    fields: tuple[str, str]
    term: float


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a row has its score.

    p: what `score` gives; logit: that before the link, moderated by its variance; total: the sum of all terms;
    variance: of the logit, None where the model has none; members: what each member of a committee adds.
    """

    p: float
    logit: float
    total: float
    variance: float | None
    bias: float
    weights: list[WeightTerm]
    pairs: list[PairTerm]
    members: dict[str, float]


def explanation(
    config: FeaturesConfig, features: Mapping[str, object], terms: Terms, prediction: Prediction, *, gaussian: bool
) -> Explanation:
    """Of one row: its features, the terms that they became, and its prediction, `gaussian` where with a variance."""
    values = zip(_values(config, features), terms.weights.tolist(), terms.learned.tolist(), strict=True)
    weights = [
        WeightTerm(field=name, value=value, learned=learned, term=term) for (name, value), term, learned in values
    ]
    pairs = [PairTerm(fields=fields, term=term) for fields, term in terms.pairs.items()]
    return Explanation(
        p=float(prediction.p[0]),
        logit=float(prediction.logit[0]),
        total=terms.total(),
        variance=float(prediction.variance[0]) if gaussian else None,
        bias=terms.bias,
        weights=sorted(weights, key=_size, reverse=True),
        pairs=sorted(pairs, key=_size, reverse=True),
        members=terms.members,
    )


def _size(part: WeightTerm | PairTerm) -> float:
    return abs(part.term)


def _values(config: FeaturesConfig, features: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Field and value, as they were sent, of each feature that the encoder makes of a row, in its order."""
    specs = named(config)
    texts = {name: _texts(spec, features) for name, spec in specs.items() if not isinstance(spec, Cross)}
    for name, spec in specs.items():
        if isinstance(spec, Cross):
            found = islice(product(*(texts[part] for part in spec.of)), spec.max_values)
            yield from ((name, ", ".join(each)) for each in found)
        else:
            yield from ((name, text) for text in texts[name])


def _texts(spec: Input, features: Mapping[str, object]) -> list[str]:
    """The field's values; none where it is missing."""
    value: object = features
    for part in (spec.name,) if spec.input is None else spec.input.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
        return []
    if isinstance(spec, Multi):
        several = value if isinstance(value, list | tuple) else [value]
        return [_text(each) for each in several[: spec.max_values]]
    return [_text(value)]


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
