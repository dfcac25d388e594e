"""Compile the kernels of every kind of model and optimizer into Numba's cache, with the usual numbers of factors.

Run once, when the image is built, after a short demo has compiled the rest. Another k, or another pair of optimizers,
is compiled when a worker with it first starts, which takes some seconds.
"""

from __future__ import annotations

from itertools import product
from typing import Any, Final

import msgspec

from online_fm.model import ModelConfig, make_learner, make_predictor

__all__ = ["compile_all"]

FACTORS: Final = {"fm": (4, 8, 16), "ffm": (4,), "fwfm": (8,), "mf": (8, 16)}
OPTIMIZERS: Final = ("ftrl", "adagrad", "kalman")
_SMALL: Final = {"max_features": 64}


def compile_all() -> None:
    """Make a learner and a predictor of each combination; making is what compiles them."""
    for kind in ("lr", "poly2"):
        for w in OPTIMIZERS:
            _compile({"kind": kind, "w": {"kind": w}, **_SMALL})
    for kind, ks in FACTORS.items():
        named = {"user": "a", "item": "b"} if kind == "mf" else {}
        for k, optimizer in product(ks, OPTIMIZERS):
            _compile({"kind": kind, "k": k, "w": {"kind": optimizer}, "v": {"kind": optimizer}, **named, **_SMALL})
    _compile({"kind": "committee", "members": {"one": {"model": {"kind": "lr", **_SMALL}}}})


def _compile(model: dict[str, Any]) -> None:
    config: Any = msgspec.convert(model, ModelConfig)
    make_predictor(config, ("a", "b"), make_learner(config, ("a", "b")).parameters())


if __name__ == "__main__":
    compile_all()
