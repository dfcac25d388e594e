"""Compile the kernels of every kind of model and optimizer into Numba's cache, with the usual numbers of factors.

Run once, when the image is built, after a short demo has compiled the rest. Another k is compiled when a worker with
that k first starts, which takes some seconds.
"""

from __future__ import annotations

from itertools import product
from typing import Final, Literal

from online_fm.model.config import AdaGrad, Ftrl, ModelConfig
from online_fm.model.learner import Learner, Predictor

__all__ = ["compile_all"]

FACTORS: Final[dict[Literal["lr", "fm", "ffm"], tuple[int, ...]]] = {"lr": (8,), "fm": (4, 8, 16), "ffm": (4,)}
OPTIMIZERS: Final[tuple[Ftrl | AdaGrad, ...]] = Ftrl(), AdaGrad()


def compile_all() -> None:
    """Make a learner and a predictor of each combination; making is what compiles them."""
    for kind, ks in FACTORS.items():
        for k, w, v in product(ks, OPTIMIZERS, OPTIMIZERS):
            config = ModelConfig(kind=kind, k=k, w=w, v=v, max_features=64)
            Predictor(config, 1, Learner(config, 1).parameters())


if __name__ == "__main__":
    compile_all()
