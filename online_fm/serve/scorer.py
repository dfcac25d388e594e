"""Scorer: one snapshot, ready to score features.

Invariant: immutable, shared by any number of threads, and never larger than it was at the start: what it has not
seen in training contributes its initial value and is not remembered. A score is bit for bit what the learner
would have said after the snapshot's last example.

The encoder and the model are built from the snapshot's own manifest; nothing about them is configured twice.

What a score is depends on the loss that the model learned by: a click's probability (log), the number itself, such as a
rating or scaled seconds (squared), a margin (hinge).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from online_fm.errors import BadFile, StoreError
from online_fm.features.batch import Rows
from online_fm.features.encode import Encoded, Encoder
from online_fm.features.spec import Categorical, Cross, FeaturesConfig, Multi, named
from online_fm.model.committee import make_predictor
from online_fm.model.config import Loss, read_config
from online_fm.model.explain import FieldReport, explain, report_fields
from online_fm.model.explore import draw, has_variance
from online_fm.model.learner import Prediction
from online_fm.serve.explanation import Explanation, explanation
from online_fm.snapshot.format import Manifest, Tensors, decode
from online_fm.snapshot.store import FolderStore, file_name, newest_good

__all__ = ["FeatureError", "Features", "Input", "NoVariance", "Rng", "Scorer", "put"]

Features = Mapping[str, object]
Rng = np.random.Generator | int


class FeatureError(ValueError):
    """The value of `field` in `row` (from 0) cannot be scored."""

    def __init__(self, row: int, field: str, why: str, others: int = 0) -> None:
        more = f", and {others} more" if others else ""
        super().__init__(f"row {row}, field '{field}': {why}{more}")
        self.row, self.field, self.why = row, field, why


class NoVariance(ValueError):
    """The model knows no variance, so that nothing can be drawn."""

    def __init__(self) -> None:
        super().__init__(
            "the model has no variance: it needs w or v of kind kalman (in a mixed member, if a committee)"
        )


class Input(NamedTuple):
    """What a field reads: `path` among the features of a row; a text or a number; one or several of it."""

    path: tuple[str, ...]
    text: bool
    several: bool


class Scorer:
    """Scores features with the parameters of one snapshot.

    >>> scorer = Scorer.from_folder("snapshots")
    >>> scorer.score([{"user": "u1", "item": "i7"}])
    array([0.0312], dtype=float32)
    """

    def __init__(self, manifest: Manifest, parameters: Mapping[str, NDArray[Any]]) -> None:
        """Raises ValueError or ValidationError where manifest and parameters do not make a model."""
        self.manifest = manifest
        self._encoder = Encoder(msgspec.convert(manifest.features, FeaturesConfig))
        model = read_config(manifest.model, manifest.format)
        self.loss: Loss = model.loss
        self.has_variance = has_variance(model)
        self._predictor = make_predictor(model, self._encoder.fields, parameters)
        self.inputs = _inputs(self._encoder.config)
        self._heads = frozenset(each.path[0] for each in self.inputs.values())

    @classmethod
    def from_bytes(cls, name: str, data: bytes) -> Self:
        """Verify a snapshot's bytes, build its scorer and warm it up; raises `BadFile`."""
        manifest, tensors = decode(name, data, kind="snapshot")
        return cls._warm(name, manifest, tensors)

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], version: int | None = None) -> Self:
        """Of a version, or of the newest good snapshot in a folder; raises `StoreError` where there is none."""
        if version is not None:
            name = file_name("snapshot", version)
            return cls.from_bytes(name, FolderStore(path).get(name))
        found = newest_good(FolderStore(path), "snapshot")
        if found.name is None or found.manifest is None:
            raise found.refused[0] if found.refused else StoreError(f"no snapshot in {path}")
        return cls._warm(found.name, found.manifest, found.tensors)

    @classmethod
    def _warm(cls, name: str, manifest: Manifest, tensors: Tensors) -> Self:
        try:
            scorer = cls(manifest, tensors)
        except (ValueError, msgspec.MsgspecError) as exc:
            raise BadFile(name, f"manifest and tensors make no model: {exc}") from exc
        scorer._warm_up()
        return scorer

    def _warm_up(self) -> None:
        """Compile what a request needs, before the first one comes."""
        full: dict[str, object] = {}
        for each in self.inputs.values():
            put(full, each.path, "warm" if each.text else 1.0)
        self.score([full, {}])

    @property
    def version(self) -> int:
        """The snapshot's version."""
        return self.manifest.version

    def score(self, features: Sequence[Features]) -> NDArray[np.float32]:
        """Scores f32[n], a row each: of a model of clicks, their probabilities.

        Raises `FeatureError` for what training would reject. A field that is missing or None is absent from the row; a
        feature that no field takes is ignored.
        """
        return self.predict(features).p

    def predict(self, features: Sequence[Features]) -> Prediction:
        """Score (p), logit, and variance of the logit of each row, f32[n]; the variance is 0 where there is none."""
        return self._predictor.predict(self._rows(features))

    def sample(self, features: Sequence[Features], rng: Rng) -> NDArray[np.float32]:
        """A score f32[n] drawn for each row (Thompson sampling), by a generator or a seed; raises `NoVariance`."""
        return self.draw(self.predict(features), rng)

    def draw(self, prediction: Prediction, rng: Rng | None) -> NDArray[np.float32]:
        """As `sample`, from predictions at hand; None draws anew each time."""
        if not self.has_variance:
            raise NoVariance
        return draw(prediction, self.loss, np.random.default_rng(rng))

    def rank(self, context: Features, candidates: Sequence[Features], rng: Rng | None = None) -> NDArray[np.float32]:
        """Scores f32[n] of each candidate's features in one context; with a generator or seed, drawn ones."""
        rows = self.candidates(context, candidates)
        return self.score(rows) if rng is None else self.sample(rows, rng)

    def candidates(self, context: Features, candidates: Sequence[Features]) -> list[dict[str, object]]:
        """Each candidate's features in one context; a candidate's own win."""
        shared = self.known(context)
        return [{**shared, **self.known(candidate)} for candidate in candidates]

    def explain(self, features: Features) -> Explanation:
        """Why the row has its score: the terms of its logit. Raises `FeatureError` as `score`."""
        row = self._rows([features])
        terms, prediction = explain(self._predictor, row), self._predictor.predict(row)
        return explanation(self._encoder.config, features, terms, prediction, gaussian=self.has_variance)

    def fields(self) -> list[FieldReport]:
        """What the fields have come to weigh, those with the largest scales first."""
        return report_fields(self._predictor)

    def _rows(self, features: Sequence[Features]) -> Rows:
        encoded = self._encoder.encode(features)
        _refuse(encoded)
        return encoded.rows

    def known(self, features: Features) -> dict[str, object]:
        """Those of a row's features in which a field looks for its input; each is looked at once."""
        return {name: features[name] for name in features if name in self._heads}


def put(features: dict[str, object], path: tuple[str, ...], value: object) -> None:
    """Set a value at its path among the features, making the objects on the way."""
    for part in path[:-1]:
        inner = features.setdefault(part, {})
        if not isinstance(inner, dict):
            return
        features = inner
    features[path[-1]] = value


def _refuse(encoded: Encoded) -> None:
    if encoded.problems:
        first = encoded.problems[0]
        raise FeatureError(first.row, first.field, first.why, len(encoded.problems) - 1)


def _inputs(config: FeaturesConfig) -> dict[str, Input]:
    """Inputs by the name under which they lie among the features; where two fields share one, the first tells."""
    inputs: dict[str, Input] = {}
    for spec in named(config).values():
        if not isinstance(spec, Cross):
            path = (spec.name,) if spec.input is None else tuple(spec.input.split("."))
            several = isinstance(spec, Multi)
            inputs.setdefault(".".join(path), Input(path, several or isinstance(spec, Categorical), several))
    return inputs
