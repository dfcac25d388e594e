"""`Values` against lists of byte strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
