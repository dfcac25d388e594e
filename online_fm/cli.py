"""The command line: parse, load the configuration, call the app, map errors to exit codes.

Exit codes: 0 done, 1 an error while running, 2 a configuration or a command that cannot be used. What is asked for goes
to standard output, logs and progress to standard error; with `--json`, the last line of standard output is one object.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, ParamSpec

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from online_fm import __version__, app
from online_fm.config import Config, load
from online_fm.demo import run as run_demo
from online_fm.errors import ConfigError, OnlineFMError, StoreError
from online_fm.serve.scorer import Scorer
from online_fm.snapshot.store import FolderStore, manifest_of, verify, version_of
from online_fm.tables import NUMBER, columns, print_table, show, show_comparison, show_explanation, show_fields
from online_fm.train.compare import best_first
from online_fm.variants import differences, shown, variants

__all__ = ["cli", "main"]

P = ParamSpec("P")


def main() -> None:
    """Run the command line; errors of our own become one line and an exit code."""
    try:
        cli(standalone_mode=False)
    except ConfigError as problem:
        _leave(f"error: {problem}", 2)
    except OnlineFMError as problem:
        _leave(f"error: {problem}", 1)
    except click.ClickException as problem:
        problem.show()
        sys.exit(problem.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


def _leave(message: str, code: int) -> None:
    click.echo(message, err=True)
    sys.exit(code)


_file = click.Path(dir_okay=False)
_set = click.option(
    "--set", "settings", multiple=True, metavar="A.B=VALUE", help="Override one setting; may be repeated."
)


def _configured(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--config` and `--set`, and hand it the `Config` that they make."""

    @click.option("--config", "-c", "path", required=True, type=_file, help="YAML file; see config/.")
    @_set
    @functools.wraps(command)
    def configured(path: str, settings: tuple[str, ...], **rest: object) -> None:
        command(load(path, settings, os.environ), **rest)

    return configured


_as_json = click.option("--json", "as_json", is_flag=True, help="End standard output with one line of JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="online-fm")
def cli() -> None:
    """Learn click-through models from a stream of impressions and clicks, and serve them while they learn.

    \b
    Examples:
      online-fm demo
      online-fm train -c config/kafka.yaml
      online-fm serve -c config/kafka.yaml --set serve.port=8081
      online-fm replay -c config/kuairand.yaml --set source.path=DIR --json
    """


@cli.command()
@_configured
def train(config: Config) -> None:
    """Run the worker: read, join, learn, checkpoint, publish, until SIGTERM or SIGINT.

    The first signal finishes the batch, writes a checkpoint and leaves with 0; a second one leaves at once.

    \b
    Examples:
      online-fm train -c config/kafka.yaml
      ONLINE_FM__JOIN__WINDOW_S=60 online-fm train -c config/kafka.yaml
    """
    with app.stop_on_signals() as stop:
        app.train(config, stop)


@cli.command()
@_configured
def serve(config: Config) -> None:
    """Serve the newest snapshot over HTTP (Open Inference Protocol v2), and follow as new ones are published.

    \b
    Examples:
      online-fm serve -c config/kafka.yaml
      curl -s localhost:8080/v2/models/ctr
    """
    app.serve(config)


@cli.command()
@_configured
def simulate(config: Config) -> None:
    """Send synthetic traffic, whose true click probability is known, to where `source` reads.

    \b
    Examples:
      online-fm simulate -c config/demo.yaml --set simulate.events=100000
      online-fm simulate -c config/kafka.yaml --set simulate.rate_per_s=2000
    """
    total = config.simulate.impressions
    with app.stop_on_signals() as stop, _progress("simulating") as tell:
        simulator = app.simulate(config, stop, lambda made, _: tell(made.made / total if total else math.nan))
    click.echo(f"{NUMBER(simulator.made)} impressions; the best reachable log-loss is {simulator.best_log_loss:.5f}")


@cli.command()
@click.option("--config", "-c", "path", type=_file, help="YAML file; see config/.")
@_set
@click.option("--compare", is_flag=True, help="Compare the configurations FILES side by side.")
@click.option(
    "--grid",
    multiple=True,
    metavar="A.B=V1,V2,...",
    help="Compare a configuration with each of these values; repeated, with all combinations.",
)
@click.option("--drain", is_flag=True, help="Close the windows that are open at the end.")
@_as_json
@click.argument("files", nargs=-1, type=_file)
def replay(
    *,
    path: str | None,
    settings: tuple[str, ...],
    compare: bool,
    grid: tuple[str, ...],
    drain: bool,
    as_json: bool,
    files: tuple[str, ...],
) -> None:
    """Learn a source's history from its beginning, as fast as it goes, and say how good the predictions were.

    Nothing is stored. Rows whose window is open at the end stay pending, unless `--drain` closes it.

    With `--compare` or `--grid` several configurations learn it side by side, and a table says how each did, best
    first. What is alike up to the model is read, decoded and joined once. Scores are over each one's own examples: only
    those of the same labels can be compared.

    \b
    Examples:
      online-fm replay -c config/kuairand.yaml --set source.path=DIR
      online-fm replay -c config/kuairand.yaml --set source.path=DIR --set model.kind=lr --json
      online-fm replay -c config/kuairand.yaml --set source.path=DIR --grid model.kind=lr,fm
      online-fm replay --compare a.yaml b.yaml --drain
    """
    if files and not compare:
        raise click.UsageError("FILES are for --compare; one configuration is given by -c")
    files = (*filter(None, [path]), *files)
    if not files:
        raise click.UsageError("Missing option '--config' / '-c'.")
    if compare and len(files) == 1 and not grid:
        raise click.UsageError("--compare needs two configurations or more, or one with --grid")
    if compare or grid:
        _compare(files, settings, grid, drain=drain, as_json=as_json)
        return
    config = load(files[0], settings, os.environ)
    with _progress("replaying") as tell:
        result = app.replay(config, drain=drain, on_progress=tell)
    show(result, "replay", as_json=as_json)


def _compare(
    files: tuple[str, ...], settings: tuple[str, ...], grid: tuple[str, ...], *, drain: bool, as_json: bool
) -> None:
    """Replay all variants side by side."""
    found = variants(files, settings, grid, os.environ)
    differing = differences(variant.config for variant in found)
    with _progress("comparing") as tell:
        results = app.compare([variant.config for variant in found], drain=drain, on_progress=tell)
    named = [
        {"configuration": variant.file, "differs": settings, **result}
        for variant, settings, result in zip(found, differing, results, strict=True)
    ]
    ranked = best_first(named)
    show_comparison(ranked, shown([each["differs"] for each in ranked]), as_json=as_json)


@cli.command()
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(min=10), help="How long it runs.")
@_as_json
def demo(*, seconds: float, as_json: bool) -> None:
    """See the loop in one terminal: traffic, worker and serving, in a folder that is removed at the end.

    \b
    Examples:
      online-fm demo
      online-fm demo --seconds 30 --json
    """
    result = run_demo(seconds)
    show(result, "demo", as_json=as_json)


@cli.group()
def snapshots() -> None:
    """Look at published snapshots (or checkpoints) in a folder.

    \b
    Examples:
      online-fm snapshots list state/snapshots
      online-fm snapshots verify state/checkpoints
    """


_folder = click.argument("folder", type=click.Path(exists=True, file_okay=False))


@snapshots.command("list")
@_folder
@_as_json
def snapshots_list(folder: str, *, as_json: bool) -> None:
    """List the files of FOLDER, oldest first.

    \b
    Example:
      online-fm snapshots list state/snapshots
    """
    store = FolderStore(folder)
    rows = [_summary(store, name) for name in _names(store)]
    if as_json:
        click.echo(msgspec.json.encode({"files": rows}))
        return
    table = Table(*columns("file", "made", "model", "learned", "features", "bytes", "trouble"))
    for row in rows:
        table.add_row(
            row["file"],
            row.get("made", ""),
            row.get("model", ""),
            NUMBER(row.get("learned", 0)),
            NUMBER(row.get("features", 0)),
            NUMBER(row["bytes"]),
            row.get("trouble", ""),
        )
    print_table(table)


@snapshots.command("show")
@_folder
@click.argument("version", type=int, required=False)
@_as_json
def snapshots_show(folder: str, version: int | None, *, as_json: bool) -> None:
    """Print the manifest of one VERSION in FOLDER, the newest by default.

    \b
    Examples:
      online-fm snapshots show state/snapshots
      online-fm snapshots show state/snapshots 12 --json
    """
    store = FolderStore(folder)
    manifest = msgspec.json.encode(manifest_of(store, _name(store, version)))
    click.echo(manifest if as_json else msgspec.json.format(manifest, indent=2))


@snapshots.command("verify")
@_folder
@click.argument("version", type=int, required=False)
@_as_json
def snapshots_verify(folder: str, version: int | None, *, as_json: bool) -> None:
    """Read the files of FOLDER whole, or that of one VERSION, and check every hash.

    Exit code 1 if one is damaged, or if there is none.

    \b
    Examples:
      online-fm snapshots verify state/snapshots
      online-fm snapshots verify state/checkpoints 12 --json
    """
    store = FolderStore(folder)
    newest = _name(store, version)
    names = _names(store) if version is None else [newest]
    bad: dict[str, str] = {}
    for name in names:
        try:
            verify(store, name)
        except StoreError as problem:
            bad[name] = str(problem)
    if as_json:
        click.echo(msgspec.json.encode({"verified": len(names) - len(bad), "bad": bad}))
    else:
        for name in names:
            click.echo(bad.get(name, f"{name}: good"))
    if bad:
        raise StoreError(f"{len(bad)} of {len(names)} files are damaged")


_version = click.option("--version", type=click.IntRange(1), help="Of this version; without it, of the newest.")


@cli.command("explain")
@_folder
@click.argument("features")
@_version
@click.option("--top", default=20, show_default=True, type=click.IntRange(1), help="How many terms the table shows.")
@_as_json
def explain_score(folder: str, features: str, *, version: int | None, top: int, as_json: bool) -> None:
    """Say why a row has its score: the terms of its logit, by field and pair of fields, the largest first.

    FOLDER holds snapshots; FEATURES are those of an impression, as JSON, in a file of JSON, or - for standard input.

    \b
    Examples:
      online-fm explain state/snapshots '{"user": "u1", "item": "i7"}'
      online-fm explain state/snapshots row.json --version 12 --json
    """
    scorer = Scorer.from_folder(folder, version)
    try:
        given = scorer.explain(msgspec.json.decode(_text_of(features), type=dict[str, Any]))
    except (ValueError, RecursionError) as problem:
        raise click.BadParameter(str(problem), param_hint="FEATURES") from problem
    show_explanation(scorer.version, given, top=top, as_json=as_json)


def _text_of(argument: str) -> str:
    """What an argument that is JSON, a file or - says."""
    if argument.lstrip().startswith("{"):
        return argument
    try:
        with click.open_file(argument, encoding="utf-8") as file:
            text: str = file.read()
            return text
    except OSError as problem:
        raise ValueError(f"neither a JSON object nor a file: {problem.strerror}") from problem


@cli.command()
@_folder
@_version
@_as_json
def fields(folder: str, *, version: int | None, as_json: bool) -> None:
    """Say which fields matter to the model of a snapshot in FOLDER: learned scales, largest first.

    The scale of a field multiplies its weights (w) or factors (v; where pairs of fields have scales, their mean size).

    \b
    Examples:
      online-fm fields state/snapshots
      online-fm fields state/snapshots --version 12 --json
    """
    scorer = Scorer.from_folder(folder, version)
    show_fields(scorer.version, scorer.fields(), as_json=as_json)


@cli.group("config")
def config_group() -> None:
    """Look at configurations.

    \b
    Example:
      online-fm config check -c config/kafka.yaml
    """


@config_group.command("check")
@_configured
def config_check(config: Config) -> None:
    """Check a configuration without connecting to anything; exit code 2 names the dotted path that is wrong.

    \b
    Example:
      online-fm config check -c config/kafka.yaml
    """
    click.echo(f"good: {app.check(config)}")


def _summary(store: FolderStore, name: str) -> dict[str, Any]:
    """What a list says about one file; what is wrong with it is a value, not an error."""
    row: dict[str, Any] = {"file": name, "bytes": store.stamp(name).size_bytes}
    try:
        manifest = manifest_of(store, name)
    except StoreError as problem:
        return {**row, "trouble": str(problem)}
    made = datetime.fromtimestamp(manifest.created_ms / 1000, UTC).isoformat(timespec="seconds")
    counts = manifest.counts
    return {
        **row,
        "version": manifest.version,
        "made": made,
        "model": str(manifest.model.get("kind")),
        "learned": counts.get("learned", 0),
        "features": counts.get("features", 0),
    }


def _names(store: FolderStore) -> list[str]:
    """The folder's files that are ours, oldest first."""
    return [name for name in store.names() if version_of(name) is not None]


def _name(store: FolderStore, version: int | None) -> str:
    """The file of a version, or the newest."""
    names = [name for name in _names(store) if version in (None, version_of(name))]
    if not names:
        what = "nothing here yet" if version is None else f"no file of version {version}"
        raise StoreError(f"{store.path}: {what}")
    return names[-1]


@contextmanager
def _progress(what: str) -> Iterator[Callable[[float], None]]:
    """A bar on standard error while it is a terminal; NaN is work without a known end."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=None)

        def show(part: float) -> None:
            if not math.isnan(part):
                progress.update(task, total=1.0, completed=min(part, 1.0))

        yield show
