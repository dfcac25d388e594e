"""A learner and how good its predictions were: what a pipeline feeds, one alone or several side by side.

Invariant: what it learns and how it is judged is a function of the batches, whoever else is shown them.

Judged is each prediction that was made before its row was learned: at the impression, as serving would make it; at the
moment of learning; and, where events carry it, the score that was served. A quarantined row is not judged.
Each member of a committee is judged too, at the moment of learning and over the same rows, so that a challenger, which
has no part in the score, is seen beside the champion.
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
from online_fm.model.committee import Committee, make_learner
from online_fm.model.config import Committee as CommitteeConfig
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

    @property
    def members(self) -> tuple[str, ...]:
        """The members of a committee; a single learner has none."""
        return tuple(self.model.members) if isinstance(self.model, CommitteeConfig) else ()


class JudgedLearner:
    """Learns batches in order. `quarantined` counts, as positive or negative, rows that would have broken the model."""

    def __init__(self, config: LearningConfig) -> None:
        self.learner = make_learner(config.model, config.field_names)
        self.quality = {moment: Quality(config.quality.window, config.loss) for moment in config.moments}
        self.members = {name: Quality(config.quality.window, config.loss) for name in config.members}
        self._fields = config.field_names
        self.quarantined: Counter[str] = Counter()

    def learn(self, batch: Batch, keep: Callable[[Predictions], Predictions]) -> None:
        """Predict what arrives, learn what is released, and judge both.

        keep: takes the predictions, and gives for each released row the one that was made at its impression.
        """
        outcome = self.learner.step(batch.rows, batch.label, batch.weight, batch.learn, batch.ts)
        predictions = {"impression": keep(outcome.p), "learning": outcome.p, "served": batch.score}
        judged = np.where(batch.learn & ~outcome.quarantined, batch.weight, np.float32(0))
        for moment, quality in self.quality.items():
            quality.observe(predictions[moment], batch.label, judged)
        for name, quality in self.members.items():
            quality.observe(outcome.members[name], batch.label, judged)
        lost = batch.clicked[batch.learn & outcome.quarantined]
        self.quarantined.update("positive" if clicked else "negative" for clicked in lost)

    def weights(self) -> dict[str, float]:
        """Each member's weight in the score of a committee; 0 for one that is only watched."""
        return self.learner.weights() if isinstance(self.learner, Committee) else {}

    def field_scales(self) -> dict[str, dict[str, float]]:
        """The learner's scales of the fields of a row, by the part that they are of; no pairs of fields."""
        scales = self.learner.field_scales()
        return {of: {name: by[name] for name in self._fields if name in by} for of, by in scales.items()}

    def state(self) -> dict[str, Tensors]:
        """The tensors of each part, all that `restore` needs; the counter goes beside them."""
        judged = {part: quality.state() for part, quality in self._judged().items()}
        return {"model": self.learner.state(), **judged}

    def restore(self, parts: Mapping[str, Tensors], quarantined: Mapping[str, int]) -> None:
        """Go on from a state; ValueError where it is not of this configuration."""
        self.learner.restore(parts["model"])
        for part, quality in self._judged().items():
            if part in parts:  # a score that was configured since then begins with nothing
                quality.restore(parts[part])
        self.quarantined = Counter(quarantined)

    def _judged(self) -> dict[str, Quality]:
        """By the part of the state that it is."""
        members = {f"quality.member.{name}": quality for name, quality in self.members.items()}
        return {f"quality.{moment}": quality for moment, quality in self.quality.items()} | members
