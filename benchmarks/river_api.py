"""`online_fm.river` beside River's own models: the same dicts, the same API, predict then learn.

39 fields of strings, Zipf; the same events also as frames of 1,000 rows for `learn_many`, which River's machines do
not have. River takes a prefix. Its logistic regression gets one-hot names from a plain function, not from its
`OneHotEncoder`, whose rows grow with the vocabulary. Rates are of CPU time, so that a busy machine changes them little.

What a row costs here beyond the kernel's microsecond is Python: a dict read, texts hashed, two compiled calls. River's
logistic regression, a few dictionary operations a feature, is quicker one by one; as frames ours is.

    python benchmarks/river_api.py [--json]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
from _report import Row, show
from river import base, facto, linear_model, optim

from online_fm.river import FFMClassifier, FMClassifier, LRClassifier

EVENTS, RIVER_EVENTS, RIVER_FFM_EVENTS = 10_000, 500, 100
FIELDS = 39
BATCH = 1_000
RUNS = 3

Event = tuple[dict[str, str], bool]


def events() -> list[Event]:
    random = np.random.default_rng(1)
    values = random.zipf(1.2, (EVENTS, FIELDS)) % 50_000
    clicked = random.random(EVENTS) < 0.2
    names = [f"field{f:02d}" for f in range(FIELDS)]
    return [
        (dict(zip(names, map("v{}".format, row), strict=True)), bool(y)) for row, y in zip(values, clicked, strict=True)
    ]


def frames(data: list[Event]) -> Iterator[tuple[pd.DataFrame, pd.Series]]:
    for start in range(0, len(data), BATCH):
        chunk = data[start : start + BATCH]
        yield pd.DataFrame([x for x, _ in chunk]), pd.Series([y for _, y in chunk])


def one_hot(x: dict[str, str]) -> dict[str, int]:
    return {f"{name}={value}": 1 for name, value in x.items()}


def one_by_one(model: base.Classifier, data: list[Event]) -> float:
    """Events a CPU second."""
    began_s = time.process_time()
    for x, y in data:
        model.predict_proba_one(x)
        model.learn_one(x, y)
    return len(data) / (time.process_time() - began_s)


def many(model: base.MiniBatchClassifier, batches: list[tuple[pd.DataFrame, pd.Series]]) -> float:
    began_s = time.process_time()
    for frame, labels in batches:
        model.predict_proba_many(frame)
        model.learn_many(frame, labels)
    return sum(len(frame) for frame, _ in batches) / (time.process_time() - began_s)


def rates(data: list[Event], batches: list[tuple[pd.DataFrame, pd.Series]]) -> dict[str, float]:
    """One run of everybody, each with a new model."""
    adagrad = optim.AdaGrad
    fm = facto.FMClassifier(n_factors=8, weight_optimizer=adagrad(0.1), latent_optimizer=adagrad(0.1))
    ffm = facto.FFMClassifier(n_factors=4, weight_optimizer=adagrad(0.1), latent_optimizer=adagrad(0.1))
    linear = one_hot | linear_model.LogisticRegression(adagrad(0.1))
    return {
        "River LR": one_by_one(linear, data),
        "LR": one_by_one(LRClassifier(), data),
        "LR many": many(LRClassifier(), batches),
        "River FM": one_by_one(fm, data[:RIVER_EVENTS]),
        "FM": one_by_one(FMClassifier(), data),
        "FM many": many(FMClassifier(), batches),
        "River FFM": one_by_one(ffm, data[:RIVER_FFM_EVENTS]),
        "FFM": one_by_one(FFMClassifier(), data),
    }


def main() -> None:
    data = events()
    batches = list(frames(data))
    runs = [rates(data, batches) for _ in range(RUNS)]
    best = {name: max(run[name] for run in runs) for name in runs[0]}
    rows = [
        Row("FM k=8, learn_one", best["FM"], best["River FM"], 20, "ratio"),
        Row("FM k=8, learn_many", best["FM many"], best["River FM"], 30, "ratio"),
        Row("FFM k=4, learn_one", best["FFM"], best["River FFM"], 100, "ratio"),
        Row("LR, learn_one", best["LR"], best["River LR"], 0.5, "ratio"),
        Row("LR, learn_many", best["LR many"], best["River LR"], 1, "ratio"),
    ]
    show("River's API, events per CPU second, predicted and learned", "River", rows, as_json="--json" in sys.argv[1:])


if __name__ == "__main__":
    main()
