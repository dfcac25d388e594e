"""The hash is XXH64, whatever the batch and the text; published vectors pin it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from online_fm.features.hashing import hash_blocks, hash_texts

VECTORS = json.loads((Path(__file__).parent / "data" / "hashing.json").read_text())["vectors"]
texts = st.lists(st.text(max_size=80), max_size=20)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['field']!r}-{v['value'][:8]!r}")
def test_published_vectors_are_reproduced(vector) -> None:
    seed = hash_texts([vector["field"]], [1], np.zeros(1, np.uint64))
    assert f"{int(seed[0]):016x}" == vector["seed"]
    found = int(hash_texts([vector["value"]], [1], seed)[0])
    assert f"{found:016x}" == vector["xxh64"]
    assert found >> 32 == vector["key"]


@settings(deadline=None)
@given(st.lists(st.tuples(texts, st.integers(0, 2**64 - 1)), min_size=1, max_size=4))
def test_groups_of_texts_are_hashed_as_the_reference_library_does(groups) -> None:
    every = [text for group, _ in groups for text in group]
    seeds = np.array([seed for _, seed in groups], np.uint64)
    found = hash_texts(every, [len(group) for group, _ in groups], seeds)
    assert found.tolist() == [xxhash.xxh64_intdigest(t.encode(), seed) for group, seed in groups for t in group]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3), max_size=9), st.integers(0, 2**64 - 1))
def test_blocks_of_keys_are_hashed_as_their_little_endian_bytes(blocks, seed) -> None:
    found = hash_blocks(np.array(blocks, np.uint32).reshape(-1, 3), np.uint64(seed))
    assert found.tolist() == [
        xxhash.xxh64_intdigest(b"".join(key.to_bytes(4, "little") for key in block), seed) for block in blocks
    ]


def test_a_lone_surrogate_has_no_hash() -> None:
    with pytest.raises(UnicodeEncodeError):
        hash_texts(["\ud800"], [1], np.zeros(1, np.uint64))
