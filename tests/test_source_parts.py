"""Fair shares, prefetched records and the source in memory: the parts that sources are made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_fm.errors import OffsetGap
from online_fm.source.fair import shares
from online_fm.source.memory import CrashError, MemorySource
from online_fm.source.port import Records, TopicPartition
from online_fm.source.prefetch import Prefetch
from online_fm.source.values import Values

A, B = TopicPartition("a", 0), TopicPartition("b", 0)


@given(available=st.lists(st.integers(0, 50), max_size=8), limit=st.integers(0, 200))
def test_shares_add_up_and_differ_by_one_at_most_between_those_that_have_more(available, limit):
    given_ = shares(available, limit)
    assert sum(given_) == min(limit, sum(available))
    assert all(0 <= g <= n for g, n in zip(given_, available, strict=True))
    hungry = [g for g, n in zip(given_, available, strict=True) if g < n]
    assert not hungry or max(given_) - min(hungry) <= 1


def chunk(partition: TopicPartition, first: int, n: int) -> Records:
    offsets = np.arange(first, first + n, dtype=np.int64)
    return Records(partition, offsets, offsets * 10, Values.of(b"%d" % o for o in offsets))


@given(
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
)
def test_prefetched_records_leave_in_their_order_whatever_the_sizes(chunks, sizes):
    queues, total = Prefetch(), 0
    for n in chunks:
        queues.add(chunk(A, total, n))
        total += n
    seen: list[int] = []
    turn = 0
    while queues.count(A):
        assert queues.head(A) == len(seen)
        (records,) = queues.take(sizes[turn % len(sizes)], frozenset())
        assert records.timestamps.tolist() == [10 * o for o in records.offsets.tolist()]
        assert records.values == [b"%d" % o for o in records.offsets.tolist()]
        seen += records.offsets.tolist()
        turn += 1
    assert seen == list(range(total))
    assert queues.size_bytes(A) == 0
    assert queues.head(A) is None


def test_prefetched_records_of_a_paused_partition_stay():
    queues = Prefetch()
    queues.add(chunk(A, 0, 3))
    queues.add(chunk(B, 0, 2))
    assert queues.available(frozenset({A})) == 2
    assert [r.partition for r in queues.take(9, frozenset({A}))] == [B]
    assert (queues.count(A), queues.size_bytes(A)) == (3, 3)


def test_a_source_in_memory_crashes_after_the_record_that_was_asked_for():
    source = MemorySource({A: [b"1"] * 5, B: [b"2"] * 5}, crash_at=7)
    assert [len(source.poll(4, 0)) for _ in range(2)] == [4, 3]
    with pytest.raises(CrashError, match="after 7 records"):
        source.poll(4, 0)


def test_a_source_in_memory_forgets_as_retention_does():
    source = MemorySource({A: [b"1", b"2", b"3"]}, timestamp_ms=5)
    source.forget(A, 2)
    with pytest.raises(OffsetGap) as raised:
        source.poll(1, 0)
    assert (raised.value.stored, raised.value.first, raised.value.end) == (0, 2, 3)
    accepting = MemorySource({A: [b"1", b"2", b"3"]}, on_gap="accept")
    accepting.forget(A, 2)
    assert accepting.poll(9, 0).records[0].values == [b"3"]
    assert accepting.lost == 2


def test_a_source_in_memory_takes_more_records_and_remembers_commits():
    source = MemorySource({A: []})
    assert source.poll(1, 0).at_end == {A}
    source.append(A, b"x", timestamp_ms=3)
    batch = source.poll(1, 0)
    assert batch.records[0].timestamps.tolist() == [3]
    source.commit({A: 1})
    assert (source.committed, source.polled, source.closed) == ({A: 1}, 1, False)
