"""A learner and how good its predictions were: what a pipeline feeds, one alone or several side by side.

Invariant: what it learns and how it is judged is a function of the batches, whoever else is shown them.

Judged is each prediction that was made before its row was learned: at the impression, as serving would make it; at the
moment of learning; and, where events carry it, the score that was served. A quarantined row is not judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from online_fm.events import EventsConfig
from online_fm.features.spec import FeaturesConfig, named
from online_fm.join.pending import Batch, JoinConfig
from online_fm.model.committee import make_learner
from online_fm.model.config import ModelConfig
from online_fm.quality import LossName, Quality, QualityConfig

__all__ = ["JudgedLearner", "LearningConfig", "Predictions"]

Predictions = NDArray[np.float32]
Tensors = dict[str, NDArray[Any]]


class LearningConfig(Struct, frozen=True, kw_only=True):
    """What the pipeline is made of; each part is a room's own."""

    events: EventsConfig
    features: FeaturesConfig
    join: JoinConfig
    model: ModelConfig
    quality: QualityConfig

    @property
    def field_names(self) -> tuple[str, ...]:
        return tuple(named(self.features))

    @property
    def loss(self) -> LossName:
        """What the model learns by, and is judged by."""
        return self.model.loss

    @property
    def moments(self) -> tuple[str, ...]:
        """When a prediction is made that is judged."""
        return ("impression", "learning", "served") if self.events.impression.score else ("impression", "learning")


class JudgedLearner:
    """Learns batches in order. `quarantined` counts, as positive or negative, rows that would have broken the model."""

    def __init__(self, config: LearningConfig) -> None:
        self.learner = make_learner(config.model, config.field_names)
        self.quality = {moment: Quality(config.quality.window, config.loss) for moment in config.moments}
        self.quarantined: Counter[str] = Counter()

    def learn(self, batch: Batch, keep: Callable[[Predictions], Predictions]) -> None:
        """Predict what arrives, learn what is released, and judge both.

        keep: takes the predictions, and gives for each released row the one that was made at its impression.
        """
        outcome = self.learner.step(batch.rows, batch.label, batch.weight, batch.learn, batch.ts)
        predictions = {"impression": keep(outcome.p), "learning": outcome.p, "served": batch.score}
        judged = batch.learn & ~outcome.quarantined
        for moment, quality in self.quality.items():
            there = judged & ~np.isnan(predictions[moment])
            quality.observe(predictions[moment][there], batch.label[there], batch.weight[there])
        lost = batch.clicked[batch.learn & outcome.quarantined]
        self.quarantined.update("positive" if clicked else "negative" for clicked in lost)

    def state(self) -> dict[str, Tensors]:
        """The tensors of each part, all that `restore` needs; the counter goes beside them."""
        judged = {f"quality.{moment}": quality.state() for moment, quality in self.quality.items()}
        return {"model": self.learner.state(), **judged}

    def restore(self, parts: Mapping[str, Tensors], quarantined: Mapping[str, int]) -> None:
        """Go on from a state; ValueError where it is not of this configuration."""
        self.learner.restore(parts["model"])
        for moment, quality in self.quality.items():
            if f"quality.{moment}" in parts:  # a score that was configured since then begins with nothing
                quality.restore(parts[f"quality.{moment}"])
        self.quarantined = Counter(quarantined)
