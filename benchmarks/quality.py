"""How well the learners predict: one pass, predict then learn, beside tuned peers, on KuaiRand and simulated streams.

    python benchmarks/quality.py [--json] [--streams kuairand,syn] [--learners FM,VW] [--refresh]

Ours run at their shipped settings, one for all streams; peers at the best of the grid that `_rivals.py` declares, per
stream. What peers scored is kept in .cache/peers, so that only the first run takes long; `--refresh` asks them again.
`--learners` takes beginnings of names. Log-loss in nats; "excess" is over the Bayes loss in the last quarter; ECE is
over 20 bins of equal width. River gets the first 10,000 rows, and the column "first 10,000" is there to compare.

All pairs of the 90 fields of `crosses` are not tried. The last table holds ours against the goals. With `--json` the
last line is `{"rows": [{stream, learner, ours, log_loss, auc}], "goals": [{name, ours, goal, met}]}`; a peer that
tells no predictions has no AUC and is in the tables only; River's rows are of a stream called NAME[:10000].
"""

from __future__ import annotations

import argparse

import _goals
import msgspec
from _learners import NEIGHBOURS, SHIPPED, pass_over, plain, times
from _rivals import PREFIX, RIVALS, judge
from _scores import Score
from _streams import NAMES, Stream, load, loss
from _text import LETTERS
from rich.console import Console
from rich.table import Table

CONSOLE = Console(width=120)


class Entry(msgspec.Struct, frozen=True):
    """A learner on a stream."""

    learner: str
    ours: bool
    setting: str
    score: Score


def entries(stream: Stream, wanted: tuple[str, ...], *, refresh: bool) -> list[Entry]:
    found = []
    for name in RIVALS:
        if name.startswith(wanted):
            best = judge(name, stream, refresh=refresh)
            found += [Entry(name, False, best.setting, best.score)] if best else []
    for name, settings in SHIPPED.items():
        if name.startswith(wanted) and (name != "Poly2" or len(stream.fields) <= LETTERS):
            found.append(Entry(name, True, "as shipped", pass_over(stream, settings).score))
    return found


def show(stream: Stream, found: list[Entry]) -> None:
    bayes = loss(stream, 0.75) if stream.bayes is not None else None
    known = f", Bayes loss {loss(stream):.5f}" if stream.bayes is not None else ""
    table = Table(
        "learner", "setting", "log-loss", "AUC", "excess", f"first {PREFIX:,}", "ECE",
        title=f"{stream.name}: {len(stream):,} rows, {len(stream.fields)} fields{known}",
    )  # fmt: skip
    for entry in sorted(found, key=lambda one: one.score.log_loss or 9.0):
        score, whole = entry.score, entry.learner != "River"
        excess = score.last_quarter - bayes if score.last_quarter and bayes and whole else None
        table.add_row(
            f"[bold]{entry.learner}[/]" if entry.ours else entry.learner, entry.setting,
            *(_number(x, 5) for x in (score.log_loss if whole else None,)), _number(score.auc if whole else None, 4),
            _number(excess, 4), _number(score.prefix, 4), _number(score.ece if whole else None, 4),
        )  # fmt: skip
    CONSOLE.print(table)


def show_neighbours(stream: Stream) -> None:
    """What the settings' neighbours do, with the learned scales and without."""
    factors = {"x1/3": 1 / 3, "as shipped": 1.0, "x3": 3.0}
    table = Table(
        "rate or prior", *factors, *(f"{name}, no scales" for name in factors), title=f"{stream.name}: ours, log-loss"
    )
    for name in NEIGHBOURS:
        settings = SHIPPED[name]
        passes = [pass_over(stream, times(one, x)) for one in (settings, plain(settings)) for x in factors.values()]
        table.add_row(name, *(_number(passed.score.log_loss, 5) for passed in passes))
    CONSOLE.print(table)


def _number(x: float | None, digits: int) -> str:
    return "" if x is None else f"{x:.{digits}f}"


def json_rows(stream: Stream, found: list[Entry]) -> list[dict[str, object]]:
    return [
        {
            "stream": f"{stream.name}[:{PREFIX}]" if entry.learner == "River" else stream.name,
            "learner": entry.learner,
            "ours": entry.ours,
            "log_loss": entry.score.log_loss,
            "auc": entry.score.auc,
        }
        for entry in found
        if entry.score.auc is not None
    ]


def show_goals(goals: list[_goals.Goal]) -> None:
    table = Table("goal", "ours", "at most", "at least", "met", title="Ours at one setting, against the goals")
    for goal in goals:
        bounds = (_number(goal.goal, 4), "") if goal.at_most else ("", _number(goal.goal, 4))
        table.add_row(goal.name, _number(goal.ours, 5), *bounds, "yes" if goal.met else "NO")
    CONSOLE.print(table)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--refresh", action="store_true")
    parser.add_argument("--streams", default=",".join(NAMES))
    parser.add_argument("--learners", default="")
    chosen = parser.parse_args()
    rows: list[dict[str, object]] = []
    names = chosen.streams.split(",")
    for name in names:
        stream = load(name)
        found = entries(stream, tuple(chosen.learners.split(",")), refresh=chosen.refresh)
        show(stream, found)
        if not chosen.learners:
            show_neighbours(stream)
        rows += json_rows(stream, found)
    goals = [] if chosen.learners else _goals.reached(names)
    if goals:
        show_goals(goals)
    if chosen.json:
        reached = [{"name": goal.name, "ours": goal.ours, "goal": goal.goal, "met": goal.met} for goal in goals]
        print(msgspec.json.encode({"rows": rows, "goals": reached}).decode())


if __name__ == "__main__":
    main()
