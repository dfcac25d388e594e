"""Where checkpoints and snapshots rest: the port `Store`, a folder, and memory.

Invariant: a name that a reader sees holds the whole file. `FolderStore.put` writes a temporary file in the
same folder, syncs it, renames it, and syncs the folder; whoever is killed in between leaves a temporary,
which no reader lists and the next holder of the writer's lock removes. A folder that cannot be reached raises
`StoreError`; it never reads as a store without versions, because a serving process would then believe that
there is nothing to serve.

Names are `KIND-VERSION.safetensors` with twelve digits, so that they sort by version. The lock is `flock` on
the file `.lock`, which the kernel releases with the process that held it: no stale locks, and no lock across
hosts on file systems that do not offer it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from online_fm.errors import BadFile, StoreError
from online_fm.snapshot.format import SIZE_BYTES, Kind, Manifest, Tensors, check, decode, header_end, read_manifest

__all__ = [
    "FolderStore",
    "Found",
    "MemoryStore",
    "Pruned",
    "Stamp",
    "Store",
    "file_name",
    "manifest_of",
    "names_of",
    "newest_good",
    "next_version",
    "prune",
    "verify",
    "version_of",
]

_NAME = re.compile(r"(checkpoint|snapshot)-(\d{12})\.safetensors")
_TEMPORARY = ".tmp-"


class Stamp(NamedTuple):
    """Tells one content under a name from another without reading it."""

    modified_ns: int
    size_bytes: int


class Store(Protocol):
    """Named byte strings. Every method raises `StoreError` where the outside refuses."""

    def put(self, name: str, data: bytes) -> None:
        """Keep `data` under `name`, durably, all or nothing; replaces what was there."""

    def names(self) -> list[str]:
        """All names, sorted."""

    def get(self, name: str, first_bytes: int | None = None) -> bytes:
        """What was put, or only its beginning."""

    def stamp(self, name: str) -> Stamp:
        """When it was put, and its size."""

    def delete(self, name: str) -> None:
        """Forget it; a name that is gone already does no harm."""


class FolderStore:
    """A store in a folder. Readers need only the right to read; the writer makes the folder by `lock`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def put(self, name: str, data: bytes) -> None:
        temporary = self.path / f"{_TEMPORARY}{name}-{secrets.token_hex(4)}"
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path / name)
            self._sync()
        except OSError as exc:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise StoreError(f"cannot write {self.path / name}: {exc.strerror}") from exc

    def names(self) -> list[str]:
        try:
            with os.scandir(self.path) as entries:
                return sorted(entry.name for entry in entries if not entry.name.startswith("."))
        except OSError as exc:
            raise StoreError(f"cannot list the folder {self.path}: {exc.strerror}") from exc

    def get(self, name: str, first_bytes: int | None = None) -> bytes:
        try:
            with (self.path / name).open("rb") as file:
                return file.read(-1 if first_bytes is None else first_bytes)
        except OSError as exc:
            raise StoreError(f"cannot read {self.path / name}: {exc.strerror}") from exc

    def stamp(self, name: str) -> Stamp:
        try:
            status = (self.path / name).stat()
        except OSError as exc:
            raise StoreError(f"cannot read {self.path / name}: {exc.strerror}") from exc
        return Stamp(status.st_mtime_ns, status.st_size)

    def delete(self, name: str) -> None:
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as exc:
            raise StoreError(f"cannot delete {self.path / name}: {exc.strerror}") from exc

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer: make the folder, take its lock, remove what dead writers left half written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644), "r+")
        except OSError as exc:
            raise StoreError(f"cannot write to the folder {self.path}: {exc.strerror}") from exc
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise self._locked(exc, file.read().strip() or "unknown") from exc
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            self._sweep()
            yield

    def _locked(self, exc: OSError, pid: str) -> StoreError:
        if not isinstance(exc, BlockingIOError):
            return StoreError(f"cannot lock the folder {self.path}: {exc.strerror}")
        return StoreError(
            f"{self.path}: another worker writes here (pid {pid})",
            hint="stop it first, or give this one a folder of its own",
        )

    def _sweep(self) -> None:
        for left in self.path.glob(f"{_TEMPORARY}*"):
            with contextlib.suppress(OSError):
                left.unlink()

    def _sync(self) -> None:
        folder = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class MemoryStore:
    """A store in memory, for tests and for a trainer and a scorer in one process.

    While `unreachable` is set, every call raises it, as an unplugged disk would.
    """

    def __init__(self) -> None:
        self.unreachable: StoreError | None = None
        self._files: dict[str, tuple[Stamp, bytes]] = {}
        self._puts = 0

    def put(self, name: str, data: bytes) -> None:
        self._reach()
        self._puts += 1
        self._files[name] = (Stamp(self._puts, len(data)), data)

    def names(self) -> list[str]:
        self._reach()
        return sorted(self._files)

    def get(self, name: str, first_bytes: int | None = None) -> bytes:
        return self._file(name)[1][:first_bytes]

    def stamp(self, name: str) -> Stamp:
        return self._file(name)[0]

    def delete(self, name: str) -> None:
        self._reach()
        self._files.pop(name, None)

    def _file(self, name: str) -> tuple[Stamp, bytes]:
        self._reach()
        if name not in self._files:
            raise StoreError(f"cannot read {name}: no such file")
        return self._files[name]

    def _reach(self) -> None:
        if self.unreachable is not None:
            raise self.unreachable


def file_name(kind: Kind, version: int) -> str:
    """`snapshot-000000000012.safetensors`."""
    if not 0 <= version < 10**12:
        raise ValueError(f"version {version} does not fit in twelve digits")
    return f"{kind}-{version:012d}.safetensors"


def version_of(name: str) -> int | None:
    """The version in a file's name; None for a name that is not ours."""
    match = _NAME.fullmatch(name)
    return int(match[2]) if match else None


def names_of(store: Store, kind: Kind) -> list[str]:
    """Names of this kind, oldest first."""
    return [name for name in store.names() if (match := _NAME.fullmatch(name)) and match[1] == kind]


def next_version(store: Store, kind: Kind) -> int:
    """One above the newest name of this kind, damaged files included; the first is 1."""
    return max((version_of(name) or 0 for name in names_of(store, kind)), default=0) + 1


def manifest_of(store: Store, name: str) -> Manifest:
    """The manifest alone, without reading the tensors."""
    size = store.get(name, SIZE_BYTES)
    return read_manifest(name, store.get(name, header_end(name, size)))


def verify(store: Store, name: str) -> Manifest:
    """Read the whole file and check every hash, and that its name tells its kind and version."""
    manifest = check(name, store.get(name))
    _check_name(name, manifest)
    return manifest


class Found(NamedTuple):
    """The newest file that holds, and the newer ones that do not; without `name`, no file was good."""

    name: str | None
    manifest: Manifest | None
    tensors: Tensors
    refused: list[BadFile]


def newest_good(store: Store, kind: Kind) -> Found:
    """Newest file of this kind that decodes. Look at `refused` before taking "none" for "a first start"."""
    refused: list[BadFile] = []
    for name in reversed(names_of(store, kind)):
        try:
            return Found(name, *_load(store, name), refused)
        except BadFile as exc:
            refused.append(exc)
    return Found(None, None, {}, refused)


def _load(store: Store, name: str) -> tuple[Manifest, Tensors]:
    manifest, tensors = decode(name, store.get(name))
    _check_name(name, manifest)
    return manifest, tensors


def _check_name(name: str, manifest: Manifest) -> None:
    if name != file_name(manifest.kind, manifest.version):
        raise BadFile(name, f"holds {manifest.kind} {manifest.version}: it was renamed or copied over")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune` deleted, and what it could not delete; a failure is to be told, not to die of."""

    deleted: list[str]
    failed: list[StoreError]


def prune(store: Store, kind: Kind, keep: int) -> Pruned:
    """Delete all but the newest `keep` files of this kind."""
    if keep < 1:
        raise ValueError("keep at least one file")
    result = Pruned([], [])
    try:
        for name in names_of(store, kind)[:-keep]:
            try:
                store.delete(name)
                result.deleted.append(name)
            except StoreError as exc:
                result.failed.append(exc)
    except StoreError as exc:
        result.failed.append(exc)
    return result
