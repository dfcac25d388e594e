"""`Values` against lists of byte strings."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_fm.source.client_process import Chunk
from online_fm.source.port import Records, TopicPartition
from online_fm.source.values import Values

texts = st.lists(st.binary(max_size=5), max_size=8)


@given(texts, st.slices(8))
def test_values_are_a_sequence_like_the_list_that_they_were_made_of(found, part):
    values, part = Values.of(found), slice(part.start, part.stop)
    assert list(values) == found == [values[i] for i in range(len(found))]
    assert values == found
    assert values[part] == found[part]
    assert list(values[part]) == found[part]
    assert values[part].size_bytes == sum(map(len, found[part]))
    assert [values[i] for i in range(-len(found), 0)] == found


@given(st.lists(st.tuples(texts, st.integers(0, 4)), max_size=4))
def test_parts_are_joined_in_order_wherever_they_begin_in_memory(parts):
    joined = Values.joined([Values.of(found)[start:] for found, start in parts])
    assert joined == [value for found, start in parts for value in found[start:]]
    assert joined.bytes_of_all().tobytes() == b"".join(value + b"\0" for value in joined)


def test_what_is_no_value_is_refused():
    values = Values.of([b"a", b"b"])
    for place in (2, -3):
        with pytest.raises(IndexError):
            values[place]
    with pytest.raises(ValueError, match="steps of 1"):
        values[::2]
    with pytest.raises(TypeError, match="unhashable"):
        hash(values)
    assert values != [b"a"]
    assert values != (b"a", b"b")


def test_what_came_in_a_message_is_kept_without_the_message():
    """A partition with a record now and then would otherwise keep all that the others had."""
    few = Records(TopicPartition("clicks", 0), np.array([7]), np.array([-1]), Values.of([b"few"]))
    message = msgspec.msgpack.encode([b"x" * 1001, Chunk.of(few)])
    _, chunk = msgspec.msgpack.decode(message, type=tuple[bytes, Chunk])
    found = chunk.records()
    arrays = found.offsets, found.timestamps, found.values.bounds, found.values.bytes_of_all()
    assert all(array.flags.aligned for array in arrays)
    assert not any(np.shares_memory(array, np.frombuffer(message, np.uint8)) for array in arrays)
    assert (found.partition, found.offsets.tolist(), list(found.values)) == (few.partition, [7], [b"few"])
