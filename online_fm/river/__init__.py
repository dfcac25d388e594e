"""The models of online_fm with River's API: in its pipelines, its evaluation, its model selection.

    from online_fm.river import FMClassifier
    model = preprocessing.StandardScaler() | FMClassifier()
    evaluate.progressive_val_score(datasets.Phishing(), model, metrics.LogLoss())

Needs River: pip install 'online_fm[river]'. How features become fields stands in `encode`.
"""

from __future__ import annotations

try:
    import river as _river  # noqa: F401
except ImportError as exc:
    raise ImportError("online_fm.river needs River: pip install 'online_fm[river]'") from exc

from online_fm.river.estimators import (
    FFMClassifier,
    FFMRegressor,
    FMClassifier,
    FMRegressor,
    FwFMClassifier,
    FwFMRegressor,
    LRClassifier,
    LRRegressor,
)

__all__ = [
    "FFMClassifier",
    "FFMRegressor",
    "FMClassifier",
    "FMRegressor",
    "FwFMClassifier",
    "FwFMRegressor",
    "LRClassifier",
    "LRRegressor",
]
