"""`ClientProcess`: a Kafka client in a process of its own, so that it and the learner do not share one interpreter.

Invariant: a call is answered before the next one is made; what the client raises over there is raised here. The process
leaves once the worker's end of the socket is gone, however that came about, and the call that it was in has ended (some
10 s at most). Where it is gone itself, or has not answered for long, a call is an error that is not retriable, and the
worker goes on from its checkpoint when it is started again.

A client makes Python objects of every record, and holds the interpreter's lock meanwhile, for some milliseconds at a
time; the learner needs that lock between any two kernels, and would wait for it in a process that both share. While
there is a backlog the next records are asked for as soon as the last ones have come, so that neither side waits for the
other: at most one `fetch` more than was asked for. What came early is not given after `assign`, and `position` is that
of what was given.

A message is its length in 8 bytes, a byte that says what it is, and msgpack: the configuration (secrets are read over
there) or `[name, arguments]` one way, an answer or a `Problem` the other.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from online_fm.errors import ConfigError, SourceError
from online_fm.source.client import Client, OutOfRangeError
from online_fm.source.config import ConfluentConfig, KafkaPythonConfig
from online_fm.source.port import Records, TopicPartition
from online_fm.source.values import Values

__all__ = ["ClientProcess"]

ANSWER_S = 120.0  # far above what any call to a client takes: it does not answer any more
LEAVE_S = 5.0  # for its client to say goodbye
LENGTH = struct.Struct("=Q")
CALL, ANSWER, PROBLEM = b"c", b"a", b"p"
Kafka = KafkaPythonConfig | ConfluentConfig
Offsets = dict[TopicPartition, int]


class ProcessGoneError(SourceError):
    """The process that holds the client has ended."""

    retriable = False


class Chunk(msgspec.Struct):
    """`Records` as they come over: their arrays as bytes."""

    partition: TopicPartition
    offsets: memoryview
    timestamps: memoryview
    data: memoryview
    bounds: memoryview

    @classmethod
    def of(cls, records: Records) -> Chunk:
        values = records.values
        bounds = values.bounds - values.bounds[0]
        arrays = records.offsets, records.timestamps, values.bytes_of_all(), bounds
        return cls(records.partition, *(np.ascontiguousarray(array).view(np.uint8).data for array in arrays))

    def records(self) -> Records:
        """Copies, aligned: views would keep all of the message they came in, other partitions' records included."""
        arrays = self.offsets, self.timestamps, self.bounds
        offsets, timestamps, bounds = (np.frombuffer(array, np.int64).copy() for array in arrays)
        return Records(self.partition, offsets, timestamps, Values(np.frombuffer(self.data, np.uint8).copy(), bounds))


class Problem(msgspec.Struct):
    """What a client raised, other than a bug."""

    kind: Literal["source", "config", "range"]
    message: str = ""
    hint: str | None = None
    retriable: bool = False
    partition: TopicPartition | None = None

    @classmethod
    def of(cls, error: Exception) -> Problem:
        if isinstance(error, OutOfRangeError):
            return cls("range", partition=error.partition)
        kind: Literal["source", "config"] = "config" if isinstance(error, ConfigError) else "source"
        return cls(kind, error.args[0], getattr(error, "hint", None), getattr(error, "retriable", False))

    def error(self) -> Exception:
        if self.partition is not None:
            return OutOfRangeError(self.partition)
        error = (ConfigError if self.kind == "config" else SourceError)(self.message, hint=self.hint)
        error.retriable = self.retriable
        return error


class Method(NamedTuple):
    """How a method's arguments and its answer are read at the other end."""

    arguments: msgspec.msgpack.Decoder[Any]
    answer: msgspec.msgpack.Decoder[Any]


def _method(arguments: object, answer: object) -> Method:
    return Method(msgspec.msgpack.Decoder(arguments), msgspec.msgpack.Decoder(answer))


METHODS = {
    "partitions": _method(tuple[list[str]], frozenset[TopicPartition]),
    "assign": _method(tuple[Offsets], None),
    "fetch": _method(tuple[int, int], list[Chunk]),
    "position": _method(tuple[TopicPartition], int),
    "first_offsets": _method(tuple[list[TopicPartition]], Offsets),
    "end_offsets": _method(tuple[list[TopicPartition]], Offsets),
    "pause": _method(tuple[TopicPartition], None),
    "resume": _method(tuple[TopicPartition], None),
    "commit": _method(tuple[Offsets], None),
    "close": _method(tuple[()], None),
}


class ClientProcess:
    """A `Client`: the one that the configuration names, at the other end of a socket."""

    def __init__(self, config: Kafka) -> None:
        self._asked = False  # for records that `fetch` will give
        self._early: list[Records] = []
        self._late: Exception | None = None  # what asking early has raised
        try:
            self._socket, self._process = _start()
        except OSError as exc:
            raise SourceError(f"starting the process of the Kafka client: {exc}") from exc
        try:
            with suppress(OSError):
                _send(self._socket, CALL, msgspec.msgpack.encode(config))
            self._hear(msgspec.msgpack.Decoder(None))  # however long the options let it try
            _wait_at_most(ANSWER_S, self._socket)
        except BaseException:
            self._leave()
            raise

    def partitions(self, topics: Sequence[str]) -> frozenset[TopicPartition]:
        return frozenset(self._call("partitions", topics))

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._call("assign", positions)
        self._early, self._late = [], None

    def fetch(self, max_records: int, timeout_ms: int) -> list[Records]:
        self._hear_early()
        if self._late is not None:
            late, self._late = self._late, None
            raise late
        records, self._early = self._early or _records(self._call("fetch", max_records, timeout_ms)), []
        if sum(map(len, records)) >= max_records:
            self._tell("fetch", max_records, 0)
            self._asked = True
        return records

    def position(self, partition: TopicPartition) -> int:
        position = int(self._call("position", partition))
        return next((int(r.offsets[0]) for r in self._early if r.partition == partition), position)

    def first_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict(self._call("first_offsets", list(partitions)))

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict(self._call("end_offsets", list(partitions)))

    def pause(self, partition: TopicPartition) -> None:
        self._call("pause", partition)

    def resume(self, partition: TopicPartition) -> None:
        self._call("resume", partition)

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._call("commit", offsets)

    def close(self) -> None:
        try:
            with suppress(OSError, ProcessGoneError):  # it may have gone before
                _wait_at_most(LEAVE_S, self._socket)
                self._call("close")
        finally:
            self._leave()

    def _call(self, name: str, *arguments: object) -> Any:  # noqa: ANN401 - as `METHODS` says
        self._hear_early()
        self._tell(name, *arguments)
        return self._hear(METHODS[name].answer)

    def _tell(self, name: str, *arguments: object) -> None:
        with suppress(OSError):  # then no answer will come either
            _send(self._socket, CALL, msgspec.msgpack.encode((name, arguments)))

    def _hear(self, decoder: msgspec.msgpack.Decoder[Any]) -> Any:  # noqa: ANN401 - as `decoder` says
        try:
            message = _receive(self._socket)
        except BlockingIOError as exc:
            self._process.kill()
            self._leave()
            raise ProcessGoneError("the process of the Kafka client does not answer any more") from exc
        if message is None:
            raise ProcessGoneError(f"the process of the Kafka client has ended, with code {self._leave()}")
        if message[:1] == PROBLEM:
            raise msgspec.msgpack.decode(message[1:], type=Problem).error()
        return decoder.decode(message[1:])

    def _hear_early(self) -> None:
        """Keep what was asked for early, or what came of it, for the next `fetch`."""
        if self._asked:
            self._asked = False
            try:
                self._early = _records(self._hear(METHODS["fetch"].answer))
            except (SourceError, OutOfRangeError) as error:
                self._late = error

    def _leave(self) -> int:
        """Part from the process, and see it end; give its exit code."""
        self._socket.close()
        try:
            return self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _start() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A process that awaits its configuration at the other end of a socket; signals remain the worker's."""
    ours, theirs = socket.socketpair()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        process = subprocess.Popen(  # noqa: S603 - this very module
            [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return ours, process


def _wait_at_most(seconds: float, at: socket.socket) -> None:
    """Bound the wait for bytes; by the kernel, for a timeout of Python's would make of each wait many."""
    at.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", round(seconds), 0))


def _records(chunks: Iterable[Chunk]) -> list[Records]:
    return [chunk.records() for chunk in chunks]


def _send(to: socket.socket, kind: bytes, content: bytes) -> None:
    to.sendall(LENGTH.pack(len(kind) + len(content)) + kind)
    to.sendall(content)


def _receive(source: socket.socket) -> memoryview | None:
    """The next message, its kind first; None if there will be none. BlockingIOError where it is waited for too long."""
    try:
        if header := _read(source, LENGTH.size):
            return _read(source, *LENGTH.unpack(header))
    except BlockingIOError:
        raise
    except OSError:
        pass
    return None


def _read(source: socket.socket, size: int) -> memoryview | None:
    """So many bytes; None where they end before."""
    message, came = np.empty(size, np.uint8).data, 0
    while came < size:
        more = source.recv_into(message[came:], flags=socket.MSG_WAITALL)  # less where a signal comes between
        if not more:
            return None
        came += more
    return message


# The process's own: nothing below runs in the worker.


def _connect(config: Kafka) -> Client:
    if isinstance(config, ConfluentConfig):
        try:
            from online_fm.source.confluent import ConfluentClient
        except ImportError as exc:
            raise ConfigError(
                "source.kind: `confluent` needs confluent-kafka", hint="pip install 'online-fm[confluent]'"
            ) from exc
        return ConfluentClient(config)
    from online_fm.source.kafka_python import KafkaPythonClient

    return KafkaPythonClient(config)


def _do(client: Client, call: memoryview) -> object:
    name, arguments = msgspec.msgpack.decode(call, type=tuple[str, msgspec.Raw])
    answer = getattr(client, name)(*METHODS[name].arguments.decode(arguments))
    return list(map(Chunk.of, answer)) if name == "fetch" else answer


def _reply(to: socket.socket, doing: Callable[[], object]) -> None:
    """Send what `doing` gives, or raises."""
    try:
        answer = doing()
    except (SourceError, ConfigError, OutOfRangeError) as error:
        _send(to, PROBLEM, msgspec.msgpack.encode(Problem.of(error)))
    else:
        _send(to, ANSWER, msgspec.msgpack.encode(answer))


def main(number: int) -> None:
    """Answer at the socket with this file number until the other end is gone."""
    clients: list[Client] = []
    with socket.socket(fileno=number) as worker, suppress(ConnectionError):
        if config := _receive(worker):
            _reply(worker, lambda: clients.append(_connect(msgspec.msgpack.decode(config[1:], type=Kafka))))
        while clients and (message := _receive(worker)):
            _reply(worker, partial(_do, clients[0], message[1:]))
    os._exit(0)  # whatever a client still does behind one's back


if __name__ == "__main__":
    main(int(sys.argv[1]))
