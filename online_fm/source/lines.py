"""`LineReader`: the lines of one file, plain, gzip or zstd, read in blocks.

Invariant: line numbers count from 0 and every newline ends one line. A line of more than `max_line_bytes` is cut to
one byte more than that, so the memory of a reader is bounded whatever the file holds. A last line without a
newline is a line where the file is `whole`, and not yet one where it may still grow. Compressed files are whole.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

from online_fm.errors import SourceError

__all__ = ["COMPRESSED", "LineReader"]

COMPRESSED = (".gz", ".zst")
ZSTD_PIECE_BYTES = 1 << 10  # compressed bytes at a time: 4 of them can make 128 KiB, so these at most 32 MiB


class _Blocks(Protocol):
    def read(self, n: int, /) -> bytes: ...


class LineReader:
    """Lines are buffered by `fill` and given by `take`; `next_line` is the number of the next one."""

    def __init__(self, path: Path, *, max_line_bytes: int, block_bytes: int, whole: bool) -> None:
        self.path, self.next_line = path, 0
        self._limit, self._block_bytes = max_line_bytes + 1, block_bytes
        self._whole = whole or path.suffix in COMPRESSED
        self._carry = b""  # the line that has begun and not ended
        self._lines: list[bytes] = []
        self._at = 0
        self._ended = False
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as exc:
            raise SourceError(f"{path}: {exc.strerror}") from exc
        self._blocks = _blocks(path, self._file)

    def __len__(self) -> int:
        """How many lines are buffered."""
        return len(self._lines) - self._at

    @property
    def read_bytes(self) -> int:
        """How much of the file, as it lies on the disk, has been read."""
        return self._file.tell()

    @property
    def size_bytes(self) -> int:
        """How large the file is now, as it lies on the disk."""
        return os.fstat(self._file.fileno()).st_size

    def fill(self) -> bool:
        """Buffer at least one line if there is one; False at the end."""
        while not len(self) and self._read():
            pass
        return len(self) > 0

    def buffered(self) -> list[bytes]:
        """The lines that are buffered, without taking them."""
        return self._lines[self._at :]

    def take(self, n: int) -> list[bytes]:
        """The next `n` lines, of which at least as many are buffered."""
        lines = self._lines[self._at : self._at + n]
        self._at += len(lines)
        self.next_line += len(lines)
        return lines

    def skip_to(self, line: int) -> int:
        """Pass over lines until `line` is next, or the end is reached; say which is next."""
        while self.next_line < line:
            if len(self):
                self.take(min(len(self), line - self.next_line))
            elif not self._read(skip=line - self.next_line):
                break
        return self.next_line

    def replaced(self) -> bool:
        """Whether the file at this path is no longer the one that was read, or has become shorter."""
        try:
            now = self.path.stat()
        except OSError as exc:
            raise SourceError(f"{self.path}: {exc.strerror}") from exc
        opened = os.fstat(self._file.fileno())
        return now.st_size < self._file.tell() or (now.st_dev, now.st_ino) != (opened.st_dev, opened.st_ino)

    def close(self) -> None:
        self._file.close()

    def _read(self, skip: int = 0) -> bool:
        """Read one block: its lines are buffered, or passed over where all of them are among the next `skip`."""
        if self._ended:
            return False
        block = self._block()
        if not block:
            self._ended = self._whole
            return self._end()
        count = block.count(b"\n") if skip else 0
        if skip and count <= skip:
            self.next_line += count
            start = block.rfind(b"\n") + 1
            self._carry = (block[start:] if count else self._carry + block)[: self._limit]
            return True
        pieces = block.split(b"\n")
        pieces[0] = self._carry + pieces[0]
        self._carry = pieces.pop()[: self._limit]
        self._lines = [p if len(p) <= self._limit else p[: self._limit] for p in pieces]
        self._at = 0
        return True

    def _end(self) -> bool:
        if not (self._whole and self._carry):
            return False
        self._lines, self._at, self._carry = [self._carry], 0, b""
        return True

    def _block(self) -> bytes:
        try:
            return self._blocks.read(self._block_bytes)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as exc:
            raise SourceError(f"{self.path}: cannot be read behind line {self.next_line}: {exc}") from exc


class _Zstd:
    """Blocks of a zstd file of one or more frames; unlike zstandard's own reader it notices a cut file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._frame, self._left = file, zstandard.ZstdDecompressor().decompressobj(), b""
        self._within = False

    def read(self, n: int, /) -> bytes:
        parts, size = [], 0
        while size < n:
            piece = self._left or self._file.read(ZSTD_PIECE_BYTES)
            if not piece:
                if self._within:
                    raise EOFError("the file ends within a zstd frame")
                break
            parts.append(self._decompress(piece))
            size += len(parts[-1])
        return b"".join(parts)

    def _decompress(self, piece: bytes) -> bytes:
        data = self._frame.decompress(piece)
        self._within = not self._frame.eof
        self._left = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
        return data


def _blocks(path: Path, file: BinaryIO) -> _Blocks:
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=file, mode="rb")
    return _Zstd(file) if path.suffix == ".zst" else file
