"""The command line: what goes to standard output, what to standard error, and with which exit code it leaves."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from command import Done
from daemon import Folder
from traffic import records

from online_fm import __version__
from online_fm.cli import cli
from online_fm.snapshot.format import FORMAT

EVENTS = 1500
OPEN_AT_THE_END = ("--set", "join.window_s=60")  # as late as clicks come
REPLAY_KEYS = {
    "read",
    "impressions",
    "clicks",
    "rejected",
    "learned",
    "pending",
    "duplicates",
    "late",
    "orphans",
    "positives",
    "log_loss",
    "auc",
    "log_loss_at_impression",
    "auc_at_impression",
    "normalized_entropy",
    "calibration",
    "seconds",
    "state_hash",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two topics with every kind of trouble, and a configuration that reads them."""
    made = Folder(tmp_path_factory.mktemp("cli"))
    made.write(records(events=EVENTS))
    return made


@pytest.fixture(scope="module")
def trained(folder):
    """The folder of snapshots, after a worker has read it all; three of them."""
    folder.run("train", "checkpoint.interval_s=0.001", "snapshot.keep=3", batch_records=100)
    return folder.path / "snapshots"


@pytest.fixture(scope="module")
def damaged(trained, tmp_path_factory):
    """A copy of which the middle file has one byte changed."""
    copy = tmp_path_factory.mktemp("damaged")
    for path in trained.glob("*.safetensors"):
        (copy / path.name).write_bytes(path.read_bytes())
    middle = sorted(copy.iterdir())[1]
    data = bytearray(middle.read_bytes())
    data[-1] ^= 1
    middle.write_bytes(data)
    return middle


def commands(group: click.Group = cli, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command and group, by its words."""
    found = []
    for name, command in group.commands.items():
        found.append((*above, name))
        if isinstance(command, click.Group):
            found += commands(command, (*above, name))
    return found


@pytest.mark.parametrize("words", [(), *commands()], ids=" ".join)
def test_the_help_of_every_command_shows_an_example_of_it(run, words) -> None:
    done = run(*words, "--help")
    assert (done.code, done.err) == (0, "")
    _, examples, lines = done.out.partition("Example")
    assert examples
    assert " ".join(("online-fm", *words)) in lines


def test_the_commands_are_those_of_the_design() -> None:
    assert {" ".join(words) for words in commands()} == {
        "train",
        "serve",
        "simulate",
        "replay",
        "demo",
        "explain",
        "fields",
        "snapshots",
        "snapshots list",
        "snapshots show",
        "snapshots verify",
        "config",
        "config check",
    }


def test_the_version_is_that_of_the_package(run) -> None:
    assert run("--version") == (0, f"online-fm, version {__version__}\n", "")


def test_replay_says_in_one_line_of_json_what_it_read_and_how_good_it_was(run, folder) -> None:
    done = run("replay", "-c", folder.config, *OPEN_AT_THE_END, "--json")
    assert (done.code, done.err) == (0, "")
    said = done.last
    assert said.keys() >= REPLAY_KEYS
    assert said["read"] == sum(map(len, records(events=EVENTS).values()))
    assert said["read"] == said["impressions"] + said["clicks"] + said["rejected"]
    became = ("learned", "quarantined", "pending", "duplicates", "late", "dropped")
    assert said["impressions"] == sum(said[name] for name in became)
    assert said["pending"] > 0
    assert 0.0 < said["log_loss"] < 0.7
    assert len(said["state_hash"]) == 64
    assert not (folder.path / "checkpoints").exists()


def test_batches_of_1_of_7_and_of_5000_records_give_the_same_model(run, folder, monkeypatch) -> None:
    said = []
    for n in (1, 7, 5000):
        monkeypatch.setattr("online_fm.app.BATCH_RECORDS", n)
        said.append(run("replay", "-c", folder.config, "--json").last)
        said[-1].pop("seconds")
    assert said[0] == said[1] == said[2]


def test_drain_leaves_nothing_pending(run, folder) -> None:
    replay = ("replay", "-c", folder.config, *OPEN_AT_THE_END, "--json")
    kept, drained = run(*replay).last, run(*replay, "--drain").last
    assert kept["pending"] > 0
    assert (drained["pending"], drained["learned"]) == (0, kept["learned"] + kept["pending"])


def test_what_cannot_be_known_is_null(run, tmp_path) -> None:
    for topic in ("impressions", "clicks"):
        (tmp_path / f"{topic}.jsonl").touch()
    empty = Folder(tmp_path)
    said = run("replay", "-c", empty.config, "--set", f"source.path={tmp_path}", "--json").last
    assert (said["read"], said["learned"], said["pending"]) == (0, 0, 0)
    assert [said[name] for name in ("log_loss", "auc", "calibration", "log_loss_at_impression")] == [None] * 4


def test_people_get_a_table_that_cuts_nothing(run, folder) -> None:
    said = run("replay", "-c", folder.config, "--json").last
    done = run("replay", "-c", folder.config)
    assert f" {said['read']:,} " in done.out
    assert f" {said['log_loss']:.5f} " in done.out
    assert f" {said['state_hash']} " in done.out


def test_a_terminal_shows_progress_and_the_json_stays_alone_on_standard_output(run, folder, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = run("replay", "-c", folder.config, "--json")
    assert "replaying" in done.err
    assert len(done.out.splitlines()) == 1
    assert done.last["learned"] > 0


def test_what_is_simulated_into_files_is_what_replay_reads(run, tmp_path) -> None:
    folder = Folder(tmp_path, simulate={"events": 500, "rate_per_s": None, "duplicate_rate": 0, "malformed_rate": 0})
    done = run("simulate", "-c", folder.config)
    assert (done.code, done.err) == (0, "")
    told, _, best = done.out.rpartition(" ")
    assert told == "500 impressions; the best reachable log-loss is"
    said = run("replay", "-c", folder.config, "--drain", "--json").last
    assert (said["impressions"], said["learned"], said["rejected"]) == (500, 500, 0)
    assert abs(said["log_loss_served"] - float(best)) < 0.1  # of 500 coins


def test_snapshots_are_listed_oldest_first(run, trained) -> None:
    files = run("snapshots", "list", trained, "--json").last["files"]
    assert [file["version"] for file in files] == sorted(file["version"] for file in files)
    assert [file["file"] for file in files] == sorted(path.name for path in trained.glob("*.safetensors"))
    assert [file["model"] for file in files] == ["fm"] * 3
    table = run("snapshots", "list", trained)
    assert (table.code, table.err) == (0, "")
    assert all(f" {file['file']} " in table.out and f" {file['bytes']:,} " in table.out for file in files)


def test_the_manifest_of_the_newest_or_of_one_version_is_shown(run, trained) -> None:
    newest = run("snapshots", "show", trained)
    manifest = json.loads(newest.out)
    assert newest.out.startswith(f'{{\n  "format": {FORMAT},')
    oldest = run("snapshots", "list", trained, "--json").last["files"][0]["version"]
    assert run("snapshots", "show", trained, "--json").last == manifest
    assert run("snapshots", "show", trained, oldest, "--json").last["version"] == oldest < manifest["version"]


def test_good_files_are_verified(run, trained) -> None:
    assert run("snapshots", "verify", trained, "--json").last == {"verified": 3, "bad": {}}
    assert run("snapshots", "verify", trained.parent / "checkpoints").code == 0
    done = run("snapshots", "verify", trained)
    assert [line.partition(": ")[2] for line in done.out.splitlines()] == ["good"] * 3


def test_a_damaged_file_is_named_and_leaves_with_1(run, damaged) -> None:
    done = run("snapshots", "verify", damaged.parent)
    assert (done.code, done.err) == (1, "error: 1 of 3 files are damaged\n")
    assert [damaged.name in line for line in done.out.splitlines()] == [False, True, False]
    assert list(run("snapshots", "verify", damaged.parent, "--json").last["bad"]) == [damaged.name]
    first = run("snapshots", "list", damaged.parent, "--json").last["files"][0]["version"]
    assert run("snapshots", "verify", damaged.parent, first).code == 0


def test_a_file_without_a_manifest_is_listed_with_its_trouble(run, damaged) -> None:
    damaged.write_bytes(b"rubbish")
    files = run("snapshots", "list", damaged.parent, "--json").last["files"]
    assert ["trouble" in file for file in files] == [False, True, False]
    assert run("snapshots", "show", damaged.parent, files[2]["version"] - 1).code == 1


@pytest.mark.parametrize(("command", "version"), [("show", ()), ("verify", ()), ("show", (0,)), ("verify", (99,))])
def test_a_version_that_is_not_there_leaves_with_1(run, tmp_path, command, version) -> None:
    done = run("snapshots", command, tmp_path, *version)
    what = f"no file of version {version[0]}" if version else "nothing here yet"
    assert done == (1, "", f"error: {tmp_path}: {what}\n")


def test_a_configuration_is_checked_without_connecting_to_anything(run, folder) -> None:
    done = run("config", "check", "-c", folder.config, "--set", "source={kind: kafka_python, brokers: ['nowhere:1']}")
    assert done == (0, "good: fm, 7 fields, impressions and clicks from Kafka at nowhere:1\n", "")


def test_a_setting_that_does_not_exist_leaves_with_2_and_its_path(run, folder) -> None:
    done = run("config", "check", "-c", folder.config, "--set", "join.windows=60")
    assert done == (2, "", "error: join.windows: there is no such setting; did you mean window_s?\n")


def test_the_environment_overrides_the_file_and_set_the_environment(run, folder, monkeypatch) -> None:
    monkeypatch.setenv("ONLINE_FM__MODEL__KIND", "lr")
    assert run("config", "check", "-c", folder.config).out.startswith("good: lr, ")
    assert run("config", "check", "-c", folder.config, "--set", "model.kind=ffm").out.startswith("good: ffm, ")


def test_errors_are_one_line_without_a_traceback(run, folder, tmp_path) -> None:
    (tmp_path / "file").touch()
    for code, setting, words in (
        (1, f"source.path={tmp_path}", ("replay",)),
        (1, f"source.path={tmp_path / 'file'}", ("simulate",)),
        (2, "source.follow=true", ("replay",)),
        (2, "features=null", ("replay",)),
        (2, "source=null", ("simulate",)),
        (1, f"checkpoint.path={tmp_path / 'file'}", ("train", "--set", "telemetry.port=0")),
        (2, "serve.host=nowhere.invalid", ("serve",)),
    ):
        done = run(*words, "-c", folder.config, "--set", setting)
        assert (done.code, done.out) == (code, ""), setting
        assert done.err.startswith("error: "), setting
        assert done.err.count("\n") == 1, setting


@pytest.mark.parametrize("words", [("replay",), ("replay", "-c", "x.yaml", "--nope"), ("nope",), ("snapshots", "show")])
def test_a_command_line_that_cannot_be_used_leaves_with_2_and_says_where_help_is(run, words) -> None:
    done = run(*words)
    assert (done.code, done.out) == (2, "")
    assert "--help" in done.err
    assert "Error: " in done.err


def test_the_demo_learns_serves_and_ends_by_itself(tmp_path) -> None:
    command = [sys.executable, "-m", "online_fm", "demo", "--seconds", "15", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = Done(0, done.stdout, done.stderr).last
    assert said["best_log_loss"] < said["log_loss"] < 1.12 * said["best_log_loss"]
    assert 0.7 < said["auc"] < 0.9
    assert said["versions_served"] >= 2
    assert said["failed_requests"] == 0
    assert said["requests"] > said["versions_served"]
    assert "snapshot" in done.stderr
    assert list(tmp_path.iterdir()) == []
