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

Tensors are little-endian and C-contiguous in the file; decoded ones are writable arrays of their own.
Reference: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from msgspec import Struct, field
from numpy.typing import NDArray

from online_fm.errors import BadFile

__all__ = ["FORMAT", "KINDS", "Kind", "Manifest", "Tensors", "decode", "encode", "read_manifest"]

FORMAT = 1

Kind = Literal["checkpoint", "snapshot"]
"""A checkpoint lets training go on; a snapshot lets serving score."""

KINDS: tuple[Kind, ...] = ("checkpoint", "snapshot")

Tensors = dict[str, NDArray[Any]]

_DTYPES = frozenset({"bool", "float32", "float64"}) | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_SEAL_LENGTH = len(f',"seal":"{"0" * 64}"}}')


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


def encode(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Bytes of a file that holds this manifest and these tensors."""
    laid_out = {name: _laid_out(name, tensor) for name, tensor in sorted(tensors.items())}
    sha256 = {name: _sha256(tensor) for name, tensor in laid_out.items()}
    text = msgspec.json.encode(msgspec.structs.replace(manifest, format=FORMAT, sha256=sha256)).decode()
    return safetensors.numpy.save(laid_out, {"manifest": _sealed(text)})


def decode(name: str, data: bytes, kind: Kind | None = None) -> tuple[Manifest, Tensors]:
    """Manifest and tensors of a file's bytes; `name` is for messages. With `kind`, refuse the other kind."""
    manifest = read_manifest(name, data)
    if kind is not None and manifest.kind != kind:
        raise BadFile(name, f"is a {manifest.kind}, not a {kind}")
    tensors = _tensors(name, data)
    _verify(name, manifest, tensors)
    return manifest, tensors


def read_manifest(name: str, data: bytes) -> Manifest:
    """The manifest alone, its seal verified, the tensors not; the file's first mebibyte is enough."""
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
    except msgspec.MsgspecError as exc:
        raise BadFile(name, f"the manifest cannot be read: {exc}") from exc


def _manifest_text(name: str, data: bytes) -> str:
    size = int.from_bytes(data[:8], "little")
    try:
        return msgspec.json.decode(data[8 : 8 + size], type=_Header).metadata["manifest"]
    except (msgspec.MsgspecError, ValueError, KeyError) as exc:
        raise BadFile(name, f"truncated, altered or not a file of online_fm: {exc}") from exc


def _tensors(name: str, data: bytes) -> Tensors:
    try:
        return safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as exc:
        raise BadFile(name, f"truncated or altered: {exc}") from exc


def _laid_out(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
    if tensor.dtype.name not in _DTYPES:
        raise TypeError(f"tensor {name!r} has dtype {tensor.dtype}, which is not stored")
    return np.asarray(tensor, tensor.dtype.newbyteorder("<"), order="C")


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
