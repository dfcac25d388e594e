"""Initial factors in plain Python: a function of the seed and the feature, nothing else."""

from __future__ import annotations

import numpy as np

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    """The finalizer of splitmix64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def initial_factors(seed: int, sd: float, fld: int, key: int, n: int) -> list[float]:
    """Component c: the four 16-bit lanes of a hash of (seed, fld, key, c), added, centred and scaled."""
    start = mix(((fld << 32 | key) ^ mix((seed + GOLDEN) & MASK)) + GOLDEN & MASK)
    factors = []
    for c in range(1, n + 1):
        bits = mix((start + c * GOLDEN) & MASK)
        lanes = sum(bits >> shift & 0xFFFF for shift in (0, 16, 32, 48))
        factors.append(float(np.float32((lanes - 2 * 65535) * (sd / 37837.22))))
    return factors
