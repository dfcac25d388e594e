"""The bytes of a checkpoint or snapshot: one safetensors file whose metadata is a JSON manifest.

Invariant: the same manifest and tensors give the same bytes, and `decode` gives back exactly what `encode`
was given or raises `BadFile`; there is no third case. Any reader of safetensors can open the file; the
manifest is the text under the metadata key `manifest`.

What detects damage: the manifest holds a SHA-256 per tensor, over its dtype, shape and bytes, so that no
change of the header can reinterpret a tensor; and it ends with a `seal`, the SHA-256 of its own text before
the seal. There is one metadata key because safetensors does not promise an order for several. `format` is
read first: a file of a newer format is refused by its number, not by whatever else its reader would trip
over. Fields may be added to the manifest with a default and the format kept; it is raised when old readers
would be wrong.

Tensors are little-endian and C-contiguous in the file; decoded ones are writable arrays of their own. `check` tells
damage as `decode` does, without a copy of them.
Reference: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import safetensors.numpy
from msgspec import Meta, Struct, field
from numpy.typing import NDArray

from online_fm.errors import BadFile

__all__ = [
    "FORMAT",
    "KINDS",
    "SIZE_BYTES",
    "Kind",
    "Manifest",
    "Tensors",
    "check",
    "decode",
    "encode",
    "header_end",
    "read_manifest",
]

FORMAT = 3  # 2: learned scales, and kinds with settings of their own; 3: models by pairs of fields have rho too

Kind = Literal["checkpoint", "snapshot"]
"""A checkpoint lets training go on; a snapshot lets serving score."""

KINDS: tuple[Kind, ...] = ("checkpoint", "snapshot")

Tensors = dict[str, NDArray[Any]]

_STORED = {
    "BOOL": np.dtype(np.bool_),
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (4, 8)},
}
SIZE_BYTES = 8  # the file begins with the size of its header, little end first
_HEADER_BYTES_MAX = 100_000_000  # what readers of safetensors accept
_SEAL_LENGTH = len(f',"seal":"{"0" * 64}"}}')
_UNREADABLE = (msgspec.MsgspecError, ValueError, KeyError, RecursionError)  # what odd JSON makes of its reader


class Manifest(Struct, frozen=True, kw_only=True):
    """What a file says about itself.

    version counts up by one per file of its kind; created_ms and event_time (first, last) are ms since the
    epoch; offsets maps "topic-partition" to the next offset to read; `extra` belongs to the room that wrote the
    file; format and sha256 are filled in by `encode`.
    """

    format: int = FORMAT
    kind: Kind
    version: int
    created_ms: int
    model: dict[str, Any] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    event_time: tuple[int, int] | None = None
    offsets: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)


class _Format(Struct):
    format: int


class _Header(Struct):
    metadata: dict[str, str] = field(name="__metadata__")


class _Place(Struct):
    """Where a tensor lies: data_offsets are [begin, end) after the header."""

    dtype: str
    shape: list[Annotated[int, Meta(ge=0)]]
    data_offsets: tuple[int, int]


def encode(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Bytes of a file that holds this manifest and these tensors."""
    laid_out = {name: _laid_out(name, tensor) for name, tensor in sorted(tensors.items())}
    sha256 = {name: _sha256(tensor) for name, tensor in laid_out.items()}
    text = msgspec.json.encode(msgspec.structs.replace(manifest, format=FORMAT, sha256=sha256)).decode()
    return safetensors.numpy.save(laid_out, {"manifest": _sealed(text)})


def decode(name: str, data: bytes, kind: Kind | None = None) -> tuple[Manifest, Tensors]:
    """Manifest and tensors of a file's bytes; `name` is for messages. With `kind`, refuse the other kind.

    Tensors are copied outside the interpreter's lock. `safetensors.numpy.load` gives the same, but holds the lock
    throughout: .35 s per GB in which no request is served.
    """
    manifest, views = _checked(name, data, kind)
    return manifest, {key: view.copy() for key, view in views.items()}


def check(name: str, data: bytes, kind: Kind | None = None) -> Manifest:
    """The manifest of a file's bytes, refused where `decode` would; needs no memory for the tensors."""
    return _checked(name, data, kind)[0]


def _checked(name: str, data: bytes, kind: Kind | None) -> tuple[Manifest, Tensors]:
    """The manifest, and the tensors as views of `data`."""
    manifest = read_manifest(name, data)
    if kind is not None and manifest.kind != kind:
        raise BadFile(name, f"is a {manifest.kind}, not a {kind}")
    views = _views(name, data)
    _verify(name, manifest, views)
    return manifest, views


def read_manifest(name: str, data: bytes) -> Manifest:
    """The manifest alone, its seal verified, the tensors not; the file's first `header_end` bytes are enough."""
    text = _manifest_text(name, data)
    try:
        found = msgspec.json.decode(text, type=_Format).format
        if found > FORMAT:
            raise BadFile(
                name,
                f"written by a newer online_fm: format {found}, and this one reads up to {FORMAT}",
                hint="install the newer version here, or wait for a file that this one can read",
            )
        return msgspec.json.decode(_unsealed(name, text), type=Manifest)
    except _UNREADABLE as exc:
        raise BadFile(name, f"the manifest cannot be read: {exc}") from exc


def header_end(name: str, data: bytes) -> int:
    """Where the header ends and the tensors begin; a file's first `SIZE_BYTES` tell."""
    size = int.from_bytes(data[:SIZE_BYTES], "little")
    if size > _HEADER_BYTES_MAX:
        raise BadFile(name, f"truncated, altered or not a file of online_fm: a header of {size} bytes")
    return SIZE_BYTES + size


def _manifest_text(name: str, data: bytes) -> str:
    header = data[SIZE_BYTES : header_end(name, data)]
    try:
        return msgspec.json.decode(header, type=_Header).metadata["manifest"]
    except _UNREADABLE as exc:
        raise BadFile(name, f"truncated, altered or not a file of online_fm: {exc}") from exc


def _views(name: str, data: bytes) -> Tensors:
    """The tensors where they lie in `data`, read-only."""
    start = header_end(name, data)
    try:
        header = msgspec.json.decode(data[SIZE_BYTES:start], type=dict[str, msgspec.Raw])
        places = [(key, msgspec.json.decode(raw, type=_Place)) for key, raw in header.items() if key != "__metadata__"]
        views, end = {}, start
        for key, place in sorted(places, key=lambda each: each[1].data_offsets):
            views[key] = _view(data, start, end, place)
            end += views[key].nbytes
    except _UNREADABLE as exc:
        raise BadFile(name, f"truncated or altered: {exc}") from exc
    if end != len(data):
        raise BadFile(name, f"truncated or altered: {len(data)} bytes, of which {end} are accounted for")
    return views


def _view(data: bytes, start: int, end: int, place: _Place) -> NDArray[Any]:
    """The tensor at `place`, which must begin where the one before it ended."""
    dtype = _STORED[place.dtype]
    count = math.prod(place.shape)
    if [at + start for at in place.data_offsets] != [end, end + count * dtype.itemsize]:
        raise ValueError(f"a tensor at {place.data_offsets}, where {end - start} and {count} values were expected")
    return np.frombuffer(data, dtype, count, end).reshape(place.shape)


def _laid_out(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
    dtype = tensor.dtype.newbyteorder("<")
    if dtype not in _STORED.values():
        raise TypeError(f"tensor {name!r} has dtype {tensor.dtype}, which is not stored")
    return np.asarray(tensor, dtype, order="C")


def _sha256(tensor: NDArray[Any]) -> str:
    """Over dtype, shape and bytes, so that equal bytes of another type or shape do not pass."""
    digest = hashlib.sha256(f"{tensor.dtype.name}{list(tensor.shape)}".encode())
    digest.update(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _sealed(text: str) -> str:
    seal = hashlib.sha256(text.encode()).hexdigest()
    return f'{text[:-1]},"seal":"{seal}"}}'


def _unsealed(name: str, text: str) -> str:
    """The manifest's text before its seal was appended."""
    body = text[:-_SEAL_LENGTH] + "}"
    if _sealed(body) != text:
        raise BadFile(name, "the manifest is altered: its seal does not fit")
    return body


def _verify(name: str, manifest: Manifest, tensors: Tensors) -> None:
    if tensors.keys() != manifest.sha256.keys():
        odd = sorted(tensors.keys() ^ manifest.sha256.keys())
        raise BadFile(name, f"tensors and manifest disagree about {', '.join(map(repr, odd))}")
    for key, tensor in tensors.items():
        if _sha256(tensor) != manifest.sha256[key]:
            raise BadFile(name, f"tensor {key!r} is altered: its SHA-256 does not fit")
