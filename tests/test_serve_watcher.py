"""The watcher: which snapshot is served, poll by poll, and what never changes it."""

from __future__ import annotations

import errno
import threading

import pytest
from published import events, publish, snapshot, trained

from online_fm.errors import StateError, StoreError
from online_fm.serve.slot import Slot
from online_fm.serve.watcher import Watcher, to_try
from online_fm.snapshot.store import MemoryStore, file_name


class Said:
    """Keeps what the watcher tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.versions: list[int] = []

    def loaded(self, scorer, seconds) -> None:
        assert seconds > 0
        self.versions.append(scorer.version)

    def refused(self, error) -> None:
        self.lines.append(f"refused {error.name}: {error.why}")

    def unreachable(self, error) -> None:
        self.lines.append(f"unreachable: {error}")

    def reachable(self) -> None:
        self.lines.append("reachable")


@pytest.fixture(scope="module")
def learner():
    return trained()[0]


@pytest.fixture
def said():
    return Said()


@pytest.fixture
def slot():
    return Slot()


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def watcher(store, slot, said):
    return Watcher(store, slot, said)


def names(*versions: int) -> list[str]:
    return [file_name("snapshot", version) for version in versions]


@pytest.mark.parametrize(
    ("there", "served", "tried"),
    [
        ((), None, ()),
        ((), 4, ()),
        ((1, 2, 3), None, (3, 2, 1)),
        ((1, 2, 3), 1, (3, 2)),
        ((1, 2, 3), 3, ()),
        ((3, 4), 2, (4, 3)),
        ((1, 2), 3, (2, 1)),
        ((1, 4), 3, (4,)),
    ],
)
def test_newer_versions_are_tried_newest_first_and_older_ones_only_if_all_are(there, served, tried):
    assert to_try(names(*there), served) == names(*tried)


def test_each_new_snapshot_is_served_and_an_old_one_is_not_loaded_again(store, watcher, slot, said, learner):
    assert not watcher.poll()
    assert slot.scorer is None
    for version in (1, 2, 9):
        publish(store, learner, version)
        assert watcher.poll()
        assert not watcher.poll()
        assert slot.take().version == version
    assert said.versions == [1, 2, 9]
    assert said.lines == []


def test_of_several_new_snapshots_only_the_newest_is_loaded(store, watcher, said, learner):
    for version in (1, 2, 3):
        publish(store, learner, version)
    assert watcher.poll()
    assert said.versions == [3]


def test_a_bad_snapshot_is_reported_once_and_the_previous_one_goes_on_serving(store, watcher, slot, said, learner):
    publish(store, learner, 1)
    watcher.poll()
    serving = slot.take()
    expected = serving.score(events(10)).tolist()
    store.put(*names(2), snapshot(learner, 2)[:-1])
    for _ in range(3):
        assert not watcher.poll()
    assert slot.take() is serving
    assert slot.take().score(events(10)).tolist() == expected
    assert len(said.lines) == 1
    assert said.lines[0].startswith("refused snapshot-000000000002.safetensors: truncated or altered")


def test_behind_a_bad_snapshot_the_next_good_one_is_found(store, watcher, said, learner):
    publish(store, learner, 1)
    publish(store, learner, 2)
    store.put(*names(3), b"")
    assert watcher.poll()
    assert said.versions == [2]
    assert not watcher.poll()
    assert len(said.lines) == 1


def test_a_bad_snapshot_that_is_replaced_is_read_again(store, watcher, slot, learner):
    store.put(*names(2), b"half")
    assert not watcher.poll()
    publish(store, learner, 2)
    assert watcher.poll()
    assert slot.take().version == 2


def test_a_renamed_snapshot_is_refused(store, watcher, said, learner):
    store.put(*names(7), snapshot(learner, 3))
    assert not watcher.poll()
    assert said.lines == ["refused snapshot-000000000007.safetensors: holds version 3: it was renamed or copied over"]


def test_an_unreachable_store_unloads_nothing_and_is_said_once(store, watcher, slot, said, learner):
    publish(store, learner, 1)
    watcher.poll()
    serving = slot.take()
    store.unreachable = StoreError("the disk is gone")
    for _ in range(3):
        assert not watcher.poll()
    assert slot.take() is serving
    store.unreachable = None
    watcher.poll()
    watcher.poll()
    assert said.lines == ["unreachable: the disk is gone", "reachable"]


def test_an_emptied_store_unloads_nothing(store, watcher, slot, learner):
    name = publish(store, learner, 1)
    watcher.poll()
    store.delete(name)
    assert not watcher.poll()
    assert slot.take().version == 1


def test_a_withdrawn_snapshot_gives_way_to_the_one_before(store, watcher, slot, said, learner):
    publish(store, learner, 1)
    publish(store, learner, 2)
    watcher.poll()
    store.delete(*names(2))
    assert watcher.poll()
    assert slot.take().version == 1
    assert said.versions == [2, 1]


class Guarded(MemoryStore):
    """A store with files that may not be read."""

    def __init__(self) -> None:
        super().__init__()
        self.guarded: set[str] = set()

    def get(self, name, first_bytes=None) -> bytes:
        if name in self.guarded:
            raise StoreError(f"cannot read {name}: permission denied")
        return super().get(name, first_bytes)


def test_a_file_that_may_not_be_read_is_passed_over_and_said_once(slot, said, learner):
    store = Guarded()
    watcher = Watcher(store, slot, said)
    publish(store, learner, 1)
    store.guarded.add(publish(store, learner, 2))
    assert watcher.poll()
    assert not watcher.poll()
    assert said.versions == [1]
    assert said.lines == [f"unreachable: cannot read {names(2)[0]}: permission denied"]
    store.guarded.clear()
    assert watcher.poll()
    assert said.versions == [1, 2]
    assert said.lines[1:] == ["reachable"]


class Breaking(MemoryStore):
    """A store whose first listing is a bug."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = threading.Semaphore(0)
        self.breaks = 1

    def names(self) -> list[str]:
        self.listed.release()
        self.breaks -= 1
        if self.breaks >= 0:
            raise RuntimeError("a bug")
        return super().names()


def test_the_thread_outlives_what_nobody_thought_of(slot, said, learner):
    store = Breaking()
    publish(store, learner, 1)
    watcher = Watcher(store, slot, said)
    watcher.start(0.001)
    for _ in range(3):
        assert store.listed.acquire(timeout=30)
    watcher.stop()
    watcher.stop()
    assert said.versions == [1]
    assert said.lines == ["unreachable: a bug", "reachable"]


class Silenced(Said):
    """Keeps what it is told, and then cannot write it."""

    def loaded(self, scorer, seconds) -> None:
        super().loaded(scorer, seconds)
        raise OSError(errno.ENOSPC, "no space left on device")

    def unreachable(self, error) -> None:
        super().unreachable(error)
        raise BrokenPipeError

    def refused(self, error) -> None:
        super().refused(error)
        raise BrokenPipeError


def test_what_cannot_be_told_changes_nothing_and_is_not_repeated(store, slot, learner):
    said = Silenced()
    watcher = Watcher(store, slot, said)
    publish(store, learner, 1)
    store.put(*names(2), b"half")
    assert watcher.poll()
    store.unreachable = StoreError("the disk is gone")
    assert [watcher.poll(), watcher.poll()] == [False, False]
    assert slot.take().version == 1
    assert said.versions == [1]
    assert [line.split(":")[0] for line in said.lines] == [f"refused {names(2)[0]}", "unreachable"]


def test_the_thread_outlives_a_log_that_cannot_be_written(slot, learner):
    store, said = Breaking(), Silenced()
    publish(store, learner, 1)
    watcher = Watcher(store, slot, said)
    watcher.start(0.001)
    for _ in range(4):
        assert store.listed.acquire(timeout=30)
    assert watcher.running
    watcher.stop()
    assert not watcher.running
    assert said.versions == [1]


def test_it_follows_again_after_it_was_stopped_and_never_twice_at_once(store, slot, watcher):
    watcher.start(0.001)
    with pytest.raises(StateError, match="followed already"):
        watcher.start(0.001)
    watcher.stop()
    watcher.start(0.001)
    assert watcher.running
    watcher.stop()
