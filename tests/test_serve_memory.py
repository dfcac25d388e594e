"""Reloading for months: what an old snapshot took is given back."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from published import events, snapshot, wide

from online_fm.serve.scorer import Scorer


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_does_not_grow_over_two_hundred_reloads():
    learner = wide(features=30_000)
    data, rows = snapshot(learner, 1), events(20)
    resident = 0
    for reload in range(250):
        Scorer.from_bytes("s", data).score(rows)
        if reload == 50:
            resident = resident_bytes()
    grown = resident_bytes() - resident
    assert grown < 10 * len(data), f"{grown} bytes kept after 200 reloads of {len(data)}"
