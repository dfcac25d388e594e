"""Results for people, as tables on standard output; for programs, as one line of JSON, where NaN is null."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from online_fm.model.explain import FieldReport
from online_fm.quality import SCORED_BY
from online_fm.serve.explanation import Explanation

__all__ = ["NUMBER", "columns", "print_table", "show", "show_comparison", "show_explanation", "show_fields"]

NUMBER: Final = "{:,}".format
_WIDE = 240


def columns(*names: str) -> list[Column]:
    """Nothing is cut: what is too long for the terminal goes on in the next line."""
    return [Column(name, overflow="fold") for name in names]


def print_table(table: Table) -> None:
    """To standard output, which has no width of its own where it is not a terminal."""
    console = Console()
    (console if console.is_terminal else Console(width=_WIDE)).print(table)


def show(result: Mapping[str, Any], title: str, *, as_json: bool) -> None:
    """A result as a table of names and values, or as JSON."""
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    table = Table(*columns("", ""), title=title, show_header=False)
    for name, value in _rows(result):
        table.add_row(name, _value(value))
    print_table(table)


def _rows(result: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Names and values; a mapping of mappings is a row for each of them."""
    for name, value in result.items():
        if isinstance(value, Mapping) and any(isinstance(inner, Mapping) for inner in value.values()):
            yield from ((f"{name}: {which}", inner) for which, inner in value.items())
        else:
            yield name, value


def show_comparison(results: Sequence[Mapping[str, Any]], differing: Sequence[str], *, as_json: bool) -> None:
    """A row per configuration, in the order given, with the scores of its loss; `differing` tells it from the others.

    With JSON `differing` is not needed: each result has its differences as `differs`.
    """
    if as_json:
        click.echo(msgspec.json.encode({"configurations": results}))
        return
    scores = [score for names in SCORED_BY.values() for score in names if score != "auc_error"]
    names = ["learned", *dict.fromkeys(scores), "features", "events_per_s"]
    names = [name for name in names if any(name in result for result in results)]
    files = len({result["configuration"] for result in results}) > 1
    table = Table(*columns(*["configuration"] * files, "differs in", *names), title="comparison, best first")
    for result, text in zip(results, differing, strict=True):
        values = [_value(round(result[name]) if name == "events_per_s" else result.get(name, "")) for name in names]
        table.add_row(*[result["configuration"]] * files, text, *values)
    print_table(table)


def show_explanation(version: int, given: Explanation, *, top: int, as_json: bool) -> None:
    """The terms of one score, the `top` largest and the sum of the others; with JSON all."""
    if as_json:
        click.echo(msgspec.json.encode({"version": version, **msgspec.structs.asdict(given)}))
        return
    terms = [(each.field, each.value, each.term, "" if each.learned else "never learned") for each in given.weights]
    terms += [(" * ".join(each.fields), "", each.term, "") for each in given.pairs]
    terms.sort(key=lambda term: abs(term[2]), reverse=True)
    table = Table(*columns("field", "value", "term", ""), title=f"version {version}")
    table.add_row("bias", "", _value(given.bias))
    for field, value, term, note in terms[:top]:
        table.add_row(escape(field), escape(value), _value(term), note)
    if others := terms[top:]:
        table.add_row(f"{len(others)} others", "", _value(sum(term for _, _, term, _ in others)))
    table.add_section()
    table.add_row("total", "", _value(given.total))
    if given.variance is not None:
        table.add_row("variance", "", _value(given.variance))
    if given.variance is not None and not given.members:
        table.add_row("logit", "", _value(given.logit), "the total, moderated by its variance")
    table.add_row("p", "", _value(given.p))
    print_table(table)
    if given.members:
        show(given.members, "of which the members add", as_json=False)


def show_fields(version: int, reports: Sequence[FieldReport], *, as_json: bool) -> None:
    """A row per field, in the order given."""
    if as_json:
        click.echo(msgspec.json.encode({"version": version, "fields": reports}))
        return
    names = ("scale of w", "scale of v", "features", "mean |w|")
    table = Table(*columns("field", *names), title=f"version {version}")
    for each in reports:
        scales = ("" if scale is None else _value(scale) for scale in (each.w_scale, each.v_scale))
        table.add_row(escape(each.field), *scales, _value(each.features), _value(each.mean_weight))
    print_table(table)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(inner)}" for name, inner in value.items())
    if isinstance(value, float):
        return f"{value:.5f}"
    return NUMBER(value) if isinstance(value, int) else str(value)
