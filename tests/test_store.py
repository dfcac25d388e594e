"""Stores: atomic puts, one writer, an unreachable folder is an error and not an empty one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from online_fm.errors import BadFile, StoreError
from online_fm.snapshot.format import Manifest, encode
from online_fm.snapshot.store import (
    FolderStore,
    MemoryStore,
    file_name,
    manifest_of,
    names_of,
    newest_good,
    next_version,
    prune,
    verify,
    version_of,
)


def snapshot(version: int, size: int = 4) -> bytes:
    manifest = Manifest(kind="snapshot", version=version, created_ms=version)
    return encode(manifest, {"w": np.full(size, version, np.float32)})


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    return FolderStore(tmp_path) if request.param == "folder" else MemoryStore()


def fill(store, *versions: int) -> None:
    for version in versions:
        store.put(file_name("snapshot", version), snapshot(version))


class TestEveryStore:
    def test_gives_back_what_was_put(self, store):
        store.put("a", b"one")
        store.put("b", b"")
        assert store.names() == ["a", "b"]
        assert store.get("a") == b"one"
        assert store.get("a", 2) == b"on"
        assert store.get("b") == b""

    def test_replaces_a_name_that_is_put_again_and_its_stamp_moves(self, store):
        store.put("a", b"one")
        before = store.stamp("a")
        store.put("a", b"other")
        assert store.get("a") == b"other"
        assert store.stamp("a") != before
        assert store.stamp("a").size_bytes == 5

    def test_names_what_is_not_there(self, store):
        with pytest.raises(StoreError, match=r"cannot read .*nothing"):
            store.get("nothing")
        with pytest.raises(StoreError, match=r"cannot read .*nothing"):
            store.stamp("nothing")

    def test_deletes_twice_without_harm(self, store):
        store.put("a", b"one")
        store.delete("a")
        store.delete("a")
        assert store.names() == []

    def test_counts_versions_on_from_the_newest_of_the_kind(self, store):
        assert next_version(store, "snapshot") == 1
        fill(store, 3, 11)
        assert next_version(store, "snapshot") == 12
        assert next_version(store, "checkpoint") == 1

    def test_tells_kinds_apart_and_passes_over_foreign_names(self, store):
        fill(store, 2, 10)
        store.put(file_name("checkpoint", 5), b"")
        store.put("README.txt", b"")
        assert names_of(store, "snapshot") == [file_name("snapshot", 2), file_name("snapshot", 10)]

    def test_prune_keeps_the_newest_of_the_kind(self, store):
        fill(store, 1, 2, 3, 4)
        store.put(file_name("checkpoint", 1), b"")
        pruned = prune(store, "snapshot", keep=2)
        assert pruned.deleted == [file_name("snapshot", 1), file_name("snapshot", 2)]
        assert pruned.failed == []
        assert store.names() == [file_name("checkpoint", 1), file_name("snapshot", 3), file_name("snapshot", 4)]

    def test_the_newest_good_file_is_found_behind_damaged_ones(self, store):
        fill(store, 1, 2)
        store.put(file_name("snapshot", 3), snapshot(3)[:-1])
        store.put(file_name("snapshot", 4), snapshot(2))
        found = newest_good(store, "snapshot")
        assert found.name == file_name("snapshot", 2)
        assert found.manifest.version == 2
        assert found.tensors["w"].tolist() == [2, 2, 2, 2]
        assert [bad.name for bad in found.refused] == [file_name("snapshot", 4), file_name("snapshot", 3)]

    def test_an_empty_store_differs_from_one_where_all_is_damaged(self, store):
        assert newest_good(store, "snapshot") == (None, None, {}, [])
        store.put(file_name("snapshot", 3), b"")
        found = newest_good(store, "snapshot")
        assert found.name is None
        assert len(found.refused) == 1

    def test_verify_reads_every_byte_and_the_manifest_only_the_beginning(self, store):
        name = file_name("snapshot", 7)
        store.put(name, snapshot(7))
        assert verify(store, name).version == 7
        store.put(name, snapshot(7)[:-1] + b"\xff")
        assert manifest_of(store, name).version == 7
        with pytest.raises(BadFile, match="tensor 'w' is altered"):
            verify(store, name)

    def test_a_manifest_longer_than_a_mebibyte_is_read(self, store):
        fields = [f"feature_number_{number}" for number in range(60_000)]
        manifest = Manifest(kind="snapshot", version=7, created_ms=7, features={"fields": fields})
        store.put(file_name("snapshot", 7), encode(manifest, {"w": np.zeros(4)}))
        assert manifest_of(store, file_name("snapshot", 7)).features == {"fields": fields}

    def test_a_file_that_is_no_snapshot_has_no_manifest(self, store):
        for data in (b"", b"short", b"\xff" * 100):
            store.put("a", data)
            with pytest.raises(BadFile, match="not a file of online_fm"):
                manifest_of(store, "a")

    def test_a_renamed_file_is_refused(self, store):
        store.put(file_name("snapshot", 8), snapshot(7))
        with pytest.raises(BadFile, match="holds snapshot 7: it was renamed or copied over"):
            verify(store, file_name("snapshot", 8))


def test_names_sort_by_version():
    names = [file_name("snapshot", version) for version in (0, 9, 10, 999, 10**12 - 1)]
    assert names == sorted(names)
    assert names[2] == "snapshot-000000000010.safetensors"
    assert [version_of(name) for name in names] == [0, 9, 10, 999, 10**12 - 1]
    with pytest.raises(ValueError, match="twelve digits"):
        file_name("snapshot", 10**12)


@pytest.mark.parametrize(
    "name", ["snapshot-12.safetensors", "other-000000000001.safetensors", "snapshot-00000000000x.safetensors", ""]
)
def test_a_foreign_name_has_no_version(name):
    assert version_of(name) is None


class TestFolder:
    def test_an_unreachable_folder_is_an_error_and_not_an_empty_store(self, tmp_path):
        store = FolderStore(tmp_path / "unmounted")
        for call in (store.names, lambda: newest_good(store, "snapshot"), lambda: store.put("a", b"")):
            with pytest.raises(StoreError, match=r"cannot .*unmounted.*No such file or directory"):
                call()
        assert not (tmp_path / "unmounted").exists()

    def test_a_file_in_the_folder_s_place_is_an_error(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="Not a directory"):
            FolderStore(tmp_path / "file").names()
        with pytest.raises(StoreError, match="cannot write to the folder"), FolderStore(tmp_path / "file").lock():
            pass

    def test_the_writer_s_lock_makes_the_folder_and_sweeps_what_dead_writers_left(self, tmp_path):
        store = FolderStore(tmp_path / "made" / "here")
        with store.lock():
            store.put("a", b"one")
            (store.path / ".tmp-b-1234").write_bytes(b"half")
            assert store.names() == ["a"]
        assert (store.path / ".tmp-b-1234").exists()
        with store.lock():
            assert not (store.path / ".tmp-b-1234").exists()
            assert store.get("a") == b"one"

    def test_a_second_writer_is_refused_and_told_who_holds_the_folder(self, tmp_path):
        store = FolderStore(tmp_path)
        refused = pytest.raises(StoreError, match=rf"another worker writes here \(pid {os.getpid()}\)")
        with store.lock(), refused, FolderStore(tmp_path).lock():
            pass
        with store.lock():
            pass

    def test_a_failed_put_leaves_nothing_behind(self, tmp_path):
        store = FolderStore(tmp_path)
        (tmp_path / "taken").mkdir()
        with pytest.raises(StoreError, match=r"cannot write .*taken"):
            store.put("taken", b"data")
        assert [path.name for path in tmp_path.iterdir()] == ["taken"]

    def test_prune_reports_what_it_cannot_delete_and_goes_on(self, tmp_path):
        store = FolderStore(tmp_path)
        (tmp_path / file_name("snapshot", 1)).mkdir()
        fill(store, 2, 3)
        pruned = prune(store, "snapshot", keep=1)
        assert pruned.deleted == [file_name("snapshot", 2)]
        assert [file_name("snapshot", 1) in str(failure) for failure in pruned.failed] == [True]
        assert len(prune(FolderStore(tmp_path / "gone"), "snapshot", keep=1).failed) == 1


WRITER = """
import sys
import numpy as np
from online_fm.snapshot.format import Manifest, encode
from online_fm.snapshot.store import FolderStore, file_name

store = FolderStore(sys.argv[1])
with store.lock():
    print("ready", flush=True)
    version = int(sys.argv[2])
    while True:
        version += 1
        manifest = Manifest(kind="snapshot", version=version % 5, created_ms=version)
        data = encode(manifest, {"w": np.full(200_000, version, np.float32)})
        store.put(file_name("snapshot", version % 5), data)
"""


def test_a_reader_never_sees_half_a_file_whenever_the_writer_is_killed(tmp_path):
    store, rng, read = FolderStore(tmp_path), random.Random(3), 0
    for round_ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(round_ * 1000)], stdout=subprocess.PIPE
        )
        try:
            writer.stdout.readline()
            until = time.monotonic() + rng.uniform(0, 0.15)
            while time.monotonic() < until:
                for name in names_of(store, "snapshot"):
                    verify(store, name)
                    read += 1
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            writer.communicate()
        for name in names_of(store, "snapshot"):
            verify(store, name)
    assert read > 0
    with store.lock():
        assert not list(tmp_path.glob(".tmp-*"))
