"""xxHash64 of many short texts at once.

The hash is XXH64 as published (Collet, xxHash specification 0.1.1, section XXH64), so any language reproduces it;
`tests/data/hashing.json` holds vectors made by the reference library. Texts are hashed as UTF-8.

Many texts are joined by NUL, encoded in one call, and cut again inside the kernel. A text that holds a NUL is found by
counting, and its batch goes the long way round.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from online_fm.features.words import Text, byte, half, origin, word

__all__ = ["hash_blocks", "hash_texts", "xxh64"]

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)
_64 = np.uint64(64)
_NUL = 0


@njit(forceinline=True)
def _rotate(x: np.uint64, r: int) -> np.uint64:
    bits = np.uint64(r)
    return (x << bits) | (x >> (_64 - bits))


@njit(forceinline=True)
def _round(lane: np.uint64, word: np.uint64) -> np.uint64:
    return _rotate(lane + word * _P2, 31) * _P1


@njit(forceinline=True)
def _mix(h: np.uint64, word: np.uint64) -> np.uint64:
    return _rotate(h ^ _round(np.uint64(0), word), 27) * _P1 + _P4


@njit(error_model="numpy")
def _long(text: Text, start: int, end: int, seed: np.uint64) -> np.uint64:
    """The four lanes of all whole 32 bytes, merged."""
    a, b, c, d = seed + _P1 + _P2, seed + _P2, seed, seed - _P1
    at = start
    while at + 32 <= end:
        a = _round(a, word(text, at))
        b = _round(b, word(text, at + 8))
        c = _round(c, word(text, at + 16))
        d = _round(d, word(text, at + 24))
        at += 32
    h = _rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)
    for lane in (a, b, c, d):
        h = (h ^ _round(np.uint64(0), lane)) * _P1 + _P4
    return h


@njit(forceinline=True)
def xxh64(text: Text, start: int, end: int, seed: np.uint64) -> np.uint64:
    """XXH64 of the bytes `start:end` of a text (`features.words`) under `seed`."""
    at, h = start, seed + _P5
    if end - start >= 32:
        h = _long(text, start, end, seed)
        at = end - ((end - start) & 31)
    h += np.uint64(end - start)
    while at + 8 <= end:
        h = _mix(h, word(text, at))
        at += 8
    if at + 4 <= end:
        h = _rotate(h ^ (half(text, at) * _P1), 23) * _P2 + _P3
        at += 4
    while at < end:
        h = _rotate(h ^ (np.uint64(byte(text, at)) * _P5), 11) * _P1
        at += 1
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


@njit(cache=True, nogil=True)
def _hash_joined(
    data: NDArray[np.uint8], counts: NDArray[np.int64], seeds: NDArray[np.uint64], out: NDArray[np.uint64]
) -> None:
    """Hash the NUL-separated texts of `data`: `counts[g]` of them under `seeds[g]`, one group after another."""
    text, at, i = origin(data), 0, 0
    for g in range(len(counts)):
        for _ in range(counts[g]):
            end = at
            while end < len(data) and byte(text, end) != _NUL:
                end += 1
            out[i] = xxh64(text, at, end, seeds[g])
            at = end + 1
            i += 1


@njit(cache=True, nogil=True)
def _hash_bounded(
    data: NDArray[np.uint8], bounds: NDArray[np.int64], seeds: NDArray[np.uint64], out: NDArray[np.uint64]
) -> None:
    text = origin(data)
    for i in range(len(out)):
        out[i] = xxh64(text, bounds[i], bounds[i + 1], seeds[i])


def hash_texts(texts: Sequence[str], counts: Sequence[int], seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """XXH64 of each text, u64[n]: the first `counts[0]` under `seeds[0]`, the next `counts[1]` under `seeds[1]`, ...

    Raises UnicodeEncodeError for a text with a lone surrogate, which has no UTF-8 form.
    """
    out = np.empty(len(texts), np.uint64)
    if not texts:
        return out
    data = "\0".join(texts).encode()
    groups = np.asarray(counts, np.int64)
    if data.count(b"\0") == len(texts) - 1:
        _hash_joined(np.frombuffer(data, np.uint8), groups, seeds, out)
        return out
    pieces = [text.encode() for text in texts]
    bounds = np.concatenate(([0], np.cumsum([len(piece) for piece in pieces])))
    _hash_bounded(np.frombuffer(b"".join(pieces), np.uint8), bounds, np.repeat(seeds, groups), out)
    return out


def hash_blocks(blocks: NDArray[np.uint32], seed: np.uint64) -> NDArray[np.uint64]:
    """XXH64 of each row of u32[n, m], as its 4m bytes, little end first: u64[n]."""
    n, m = blocks.shape
    out = np.empty(n, np.uint64)
    data = np.ascontiguousarray(blocks, "<u4").view(np.uint8).reshape(-1)
    bounds = np.arange(n + 1, dtype=np.int64) * (4 * m)
    _hash_bounded(data, bounds, np.full(n, seed, np.uint64), out)
    return out
