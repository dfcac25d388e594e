"""Snapshots of small models that were really trained, for the tests of serving."""

from __future__ import annotations

import msgspec
import numpy as np

from online_fm.features.batch import Rows
from online_fm.features.encode import Encoder
from online_fm.features.spec import FeaturesConfig
from online_fm.model import Learner, ModelConfig, make_learner
from online_fm.model.committee import AnyLearner
from online_fm.snapshot.format import Manifest, encode
from online_fm.snapshot.store import Store, file_name

FEATURES = msgspec.convert(
    {
        "fields": [
            "user",
            "item",
            {"kind": "categorical", "name": "os", "input": "device.os"},
            {"kind": "multi", "name": "tags"},
            {"kind": "bounds", "name": "age", "bounds": [18.0, 30.0, 50.0]},
            {"kind": "number", "name": "price", "scale": 0.1},
            {"kind": "cross", "name": "user_item", "of": ["user", "item"]},
        ]
    },
    FeaturesConfig,
)


def events(n: int, seed: int = 1) -> list[dict[str, object]]:
    """Features of n impressions; some fields are missing now and then."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "user": f"u{rng.integers(20)}",
            "item": int(rng.integers(10)),
            "device": {"os": str(rng.choice(["ios", "android"]))},
            "tags": [f"t{tag}" for tag in rng.integers(5, size=rng.integers(4))],
            "age": int(rng.integers(10, 80)),
            "price": float(rng.random() * 10),
        }
        for _ in range(n)
    ]
    for row in rows:
        if rng.random() < 0.2:
            del row[str(rng.choice(list(row)))]
    return rows


def trained(kind: str = "fm", n: int = 300, seed: int = 1, **settings: object) -> tuple[AnyLearner, Encoder]:
    """A learner that has seen n events."""
    encoder = Encoder(FEATURES)
    bounds = {} if kind == "committee" else {"max_features": 100_000}
    factors = {} if kind in ("lr", "poly2", "committee") else {"k": 4}
    config = msgspec.convert({"kind": kind, **bounds, **factors, **settings}, ModelConfig)
    learner = make_learner(config, encoder.fields)
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.3).astype(np.float32)
    rows = encoder.encode(events(n, seed)).rows
    learner.step(rows, label, np.ones(n, np.float32), np.ones(n, np.bool_))
    return learner, encoder


def wide(features: int) -> Learner:
    """A learner of as many features, each seen once."""
    learner, _ = trained(n=0)
    rows = Rows(
        np.arange(features + 1, dtype=np.int64),
        np.zeros(features, np.uint16),
        np.arange(features, dtype=np.uint32),
        np.ones(features, np.float32),
    )
    once = np.ones(features, np.float32)
    learner.step(rows, once, once, np.ones(features, np.bool_))
    return learner


def snapshot(learner: AnyLearner, version: int) -> bytes:
    """The learner's parameters as the bytes of a snapshot."""
    manifest = Manifest(
        kind="snapshot",
        version=version,
        created_ms=1_700_000_000_000 + version,
        model=msgspec.to_builtins(learner.config),
        features=msgspec.to_builtins(FEATURES),
    )
    return encode(manifest, learner.parameters())


def publish(store: Store, learner: AnyLearner, version: int) -> str:
    """Put the learner's snapshot, and give its name."""
    name = file_name("snapshot", version)
    store.put(name, snapshot(learner, version))
    return name
