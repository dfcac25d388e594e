"""The bytes of checkpoints and snapshots: exact round trips, and no damage that goes unseen."""

from __future__ import annotations

import json
import tracemalloc

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from online_fm.errors import BadFile
from online_fm.snapshot.format import Manifest, _sealed, check, decode, encode, header_end, read_manifest

DTYPES = ("bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")

tensors = st.dictionaries(
    st.text(min_size=1, max_size=12),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ),
    max_size=5,
)
numbers = st.integers(0, 2**63 - 1)
manifests = st.builds(
    Manifest,
    kind=st.sampled_from(["checkpoint", "snapshot"]),
    version=numbers,
    created_ms=numbers,
    counts=st.dictionaries(st.text(max_size=5), numbers, max_size=3),
    event_time=st.none() | st.tuples(numbers, numbers),
    offsets=st.dictionaries(st.text(max_size=5), numbers, max_size=3),
    extra=st.dictionaries(st.text(max_size=5), st.none() | st.text(max_size=5) | st.lists(numbers), max_size=3),
)

MANIFEST = Manifest(
    kind="snapshot",
    version=12,
    created_ms=1_700_000_000_123,
    model={"kind": "fm", "k": 2},
    features={"fields": ["user", "item"]},
    offsets={"impressions-0": 4},
    event_time=(5, 6),
)
TENSORS = {
    "w": np.array([0.25, -1.5], np.float32),
    "tags": np.array([7, 2**63], np.uint64),
    "empty": np.empty((0, 2), np.float32),
}
DATA = encode(MANIFEST, TENSORS)


def same(left, right) -> bool:
    """Bit for bit: names, dtypes, shapes and bytes."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


def same_manifest(left: Manifest, right: Manifest) -> bool:
    return msgspec.structs.replace(left, sha256={}) == msgspec.structs.replace(right, sha256={})


def resealed(data: bytes, **changes: object) -> bytes:
    """The file with another manifest, written by somebody who knows the seal."""
    manifest = msgspec.to_builtins(read_manifest("x", data)) | changes
    text = msgspec.json.encode(manifest).decode()
    return safetensors.numpy.save(safetensors.numpy.load(data), {"manifest": _sealed(text)})


@given(manifests, tensors)
def test_what_is_encoded_comes_back_bit_for_bit(manifest, arrays):
    manifest_back, arrays_back = decode("x", encode(manifest, arrays))
    assert same(arrays, arrays_back)
    assert same_manifest(manifest, manifest_back)


@given(tensors)
def test_tensors_are_what_safetensors_itself_reads(arrays):
    data = encode(MANIFEST, arrays)
    assert same(safetensors.numpy.load(data), decode("x", data)[1])


@given(manifests, tensors)
def test_the_same_content_gives_the_same_bytes_in_any_order(manifest, arrays):
    reordered = dict(reversed(arrays.items()))
    assert encode(manifest, arrays) == encode(manifest, reordered)


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_changes_nothing(at, flip):
    altered = bytearray(DATA)
    altered[at] ^= flip
    try:
        manifest, arrays = decode("x", bytes(altered))
    except BadFile:
        return
    assert same_manifest(manifest, MANIFEST)
    assert same(arrays, TENSORS)


def test_each_single_bit_is_covered():
    for at in range(len(DATA)):
        for bit in range(8):
            altered = bytearray(DATA)
            altered[at] ^= 1 << bit
            try:
                manifest, arrays = decode("x", bytes(altered))
            except BadFile:
                continue
            assert same_manifest(manifest, MANIFEST), at
            assert same(arrays, TENSORS), at


def test_every_truncation_is_refused():
    for size in range(len(DATA)):
        with pytest.raises(BadFile, match="x: "):
            decode("x", DATA[:size])


@given(st.binary(max_size=200))
def test_what_is_no_safetensors_file_is_refused(data):
    with pytest.raises(BadFile):
        decode("x", data)


def test_bytes_after_the_end_are_refused():
    with pytest.raises(BadFile, match=r"bytes, of which .* are accounted for"):
        decode("x", DATA + b"\0")


def test_a_safetensors_file_of_another_program_is_refused():
    with pytest.raises(BadFile, match="not a file of online_fm"):
        decode("x", safetensors.numpy.save({"w": np.zeros(3)}))
    with pytest.raises(BadFile, match="not a file of online_fm"):
        decode("x", safetensors.numpy.save({"w": np.zeros(3)}, {"format": "pt"}))


def test_a_newer_format_is_refused_by_its_number():
    with pytest.raises(BadFile, match=r"written by a newer online_fm: format 99.*install the newer") as caught:
        decode("snapshot-1", resealed(DATA, format=99, kind="unheard of"))
    assert caught.value.name == "snapshot-1"


def test_the_wrong_kind_is_refused():
    with pytest.raises(BadFile, match="x: is a snapshot, not a checkpoint"):
        decode("x", DATA, kind="checkpoint")


def test_a_manifest_without_its_fields_is_refused():
    with pytest.raises(BadFile, match="version"):
        decode("x", resealed(DATA, version="twelve"))


def test_an_altered_manifest_is_refused_by_its_seal():
    with pytest.raises(BadFile, match="seal"):
        decode("x", DATA.replace(b"1700000000123", b"1700000000124"))


def test_bytes_of_a_tensor_read_as_another_type_are_refused():
    with pytest.raises(BadFile, match=r"tensor '\w+' is altered"):
        decode("x", DATA.replace(b'"F32"', b'"I32"'))


def test_a_tensor_that_the_manifest_does_not_name_is_refused():
    with pytest.raises(BadFile, match="disagree about 'q'"):
        decode("x", resealed(DATA, sha256={**read_manifest("x", DATA).sha256, "q": ""}))


def test_the_manifest_can_be_read_from_the_beginning_alone():
    large = encode(MANIFEST, {"w": np.zeros(1_000_000)})
    assert same_manifest(read_manifest("x", large[:4096]), MANIFEST)
    with pytest.raises(BadFile):
        read_manifest("x", large[:100])


def test_a_manifest_is_read_whatever_its_length():
    fields = [f"feature_number_{number}" for number in range(60_000)]
    data = encode(msgspec.structs.replace(MANIFEST, features={"fields": fields}), TENSORS)
    end = header_end("x", data[:8])
    assert end > 1 << 20
    assert len(read_manifest("x", data[:end]).features["fields"]) == 60_000


def test_a_header_beyond_all_bounds_is_refused_by_its_size_alone():
    with pytest.raises(BadFile, match="a header of 100000001 bytes"):
        header_end("x", (100_000_001).to_bytes(8, "little"))


def with_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "data",
    [
        with_header(f'{{"__metadata__":{{"manifest":"{{}}"}},"deep":{DEEP}}}'.encode()),
        safetensors.numpy.save({}, {"manifest": f'{{"format":1,"deep":{DEEP}}}'}),
        safetensors.numpy.save({}, {"manifest": _sealed(f'{{"format":1,"extra":{{"deep":{DEEP}}}}}')}),
    ],
    ids=["header", "manifest", "sealed"],
)
def test_a_file_that_nests_too_deep_is_refused(data):
    with pytest.raises(BadFile):
        decode("x", data)


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_checking_refuses_what_decoding_refuses(at, flip):
    altered = bytearray(DATA)
    altered[at] ^= flip

    def outcome(read) -> str:
        try:
            read("x", bytes(altered))
        except BadFile as exc:
            return str(exc)
        return "good"

    assert outcome(check) == outcome(decode)


def test_checking_copies_no_tensor():
    data = encode(MANIFEST, {"v": np.zeros(1_000_000)})
    tracemalloc.start()
    try:
        assert same_manifest(check("x", data), MANIFEST)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < len(data) / 10


def test_any_reader_of_safetensors_finds_the_manifest(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(DATA)
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="np") as file:
        manifest = json.loads(file.metadata()["manifest"])
        assert manifest["version"] == 12
        assert manifest["model"] == {"kind": "fm", "k": 2}
        assert file.get_tensor("w").tolist() == [0.25, -1.5]


def test_strided_and_big_endian_arrays_are_stored_by_value():
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    arrays = {"columns": grid[:, ::2], "transposed": grid.T, "big": grid.astype(">f4")}
    _, back = decode("x", encode(MANIFEST, arrays))
    for name, array in arrays.items():
        assert back[name].tolist() == array.tolist()
        assert back[name].dtype == np.dtype("<f4")


def test_decoded_arrays_are_writable_and_their_own():
    _, first = decode("x", DATA)
    first["w"][:] = 9
    assert decode("x", DATA)[1]["w"].tolist() == [0.25, -1.5]


def test_a_dtype_that_is_not_stored_is_named():
    with pytest.raises(TypeError, match="tensor 'w' has dtype complex128"):
        encode(MANIFEST, {"w": np.zeros(2, complex)})
