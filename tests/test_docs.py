"""README.md and the help texts name what there is, and nothing that there is not."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from exposed import families
from msgspec.structs import fields

from online_fm import app
from online_fm.cli import cli
from online_fm.config import Config, load, parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SECTIONS = {field.name for field in fields(Config)}
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
INLINE = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL))
YAML = [block for language, block in BLOCKS if language == "yaml"]
SHELL = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]


def commands(group: click.Group = cli, typed: str = "online-fm") -> Iterator[tuple[str, click.Command]]:
    """Every command and group, and how it is typed."""
    yield typed, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{typed} {name}")
        else:
            yield f"{typed} {name}", command


def command_lines(lines: list[str]) -> list[str]:
    """Those of `online-fm`, without the environment before and the comment behind."""
    found = [re.fullmatch(r"\s*(?:[A-Z_]+=\S+ )?online-fm( .+)", line) for line in lines]
    return ["online-fm" + match[1].partition(" # ")[0].rstrip() for match in found if match]


def settings(tree: object, path: str = "") -> Iterator[str]:
    """Every dotted path of a YAML tree."""
    yield path.removeprefix(".")
    for key, inner in tree.items() if isinstance(tree, dict) else ():
        yield from settings(inner, f"{path}.{key}")


SAID_IN_README = command_lines([*SHELL, *INLINE])
SAID_IN_HELP = command_lines([line for _, command in commands() for line in str(command.help).splitlines()])
SETTINGS = set(settings(yaml.safe_load((ROOT / "config" / "reference.yaml").read_text())))


def parsed(line: str) -> click.Context:
    """What click makes of a command line; UsageError where it is not one."""
    arguments = shlex.split(line)[1:]
    command: click.Command | None = cli
    while isinstance(command, click.Group):
        _, command, arguments = command.resolve_command(click.Context(command), arguments)
    assert command is not None
    return command.make_context(line, arguments)


@pytest.fixture
def somewhere(tmp_path, monkeypatch) -> None:
    """A folder with the folders that command lines name as examples."""
    monkeypatch.chdir(tmp_path)
    for name in ("FOLDER", "state/snapshots", "state/checkpoints"):
        (tmp_path / name).mkdir(parents=True)


@pytest.mark.parametrize("command", [typed for typed, each in commands() if not isinstance(each, click.Group)])
def test_every_command_is_in_the_readme(command) -> None:
    assert any(line == command or line.startswith(f"{command} ") for line in SAID_IN_README)


@pytest.mark.parametrize("family", sorted(name for name in families() if name.startswith("online_fm_")))
def test_every_metric_is_in_the_readme(family) -> None:
    assert re.search(rf"`{family}(_total|_info)?`", README)


def test_every_metric_in_the_readme_exists() -> None:
    samples = set().union(*families().values())
    assert {name for name in INLINE if name.startswith("online_fm_")} <= samples | set(families())


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_every_section_of_the_configuration_is_in_the_readme(section) -> None:
    assert f"`{section}`" in README


@pytest.mark.parametrize("line", sorted({*SAID_IN_README, *SAID_IN_HELP}))
@pytest.mark.usefixtures("somewhere")
def test_every_command_line_that_is_shown_can_be_typed(line) -> None:
    given = parsed(line).params
    path = given.get("path")
    if path and path.startswith("config/"):
        load(ROOT / path, given["settings"])
    else:
        assert path in (None, "FILE", "my.yaml")


def test_every_option_that_is_named_exists() -> None:
    options = {name for _, command in commands() for option in command.params for name in option.opts}
    assert {name for name in INLINE if re.fullmatch(r"--[a-z]+", name)} <= options


def test_every_setting_that_is_named_exists() -> None:
    named = {match[1] for name in INLINE if (match := re.match(r"(?:--set )?([a-z_]+\.[a-z_.]+)", name))}
    variables = re.findall(r"ONLINE_FM__(\w+)=", README)
    named = {name for name in named if name.partition(".")[0] in SECTIONS} | {
        variable.lower().replace("__", ".") for variable in variables
    }
    assert len(named) > 3
    assert named <= SETTINGS


def test_the_configuration_that_is_shown_is_good() -> None:
    assert app.check(parse(YAML[0])).startswith("fm, 7 fields, ad.impressions and ad.clicks from Kafka")


@pytest.mark.parametrize("block", YAML[1:])
def test_the_parts_of_a_configuration_that_are_shown_are_good(block) -> None:
    whole, part = yaml.safe_load(YAML[0]), yaml.safe_load(block)
    for section, given in part.items():
        whole[section] = {**whole[section], **given}
    assert app.check(parse(yaml.safe_dump(whole)))


def test_the_python_that_is_shown_imports_what_there_is() -> None:
    for block in (block for language, block in BLOCKS if language == "python"):
        imports = [node for node in ast.parse(block).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert imports
        exec(compile(ast.Module(imports, []), "README.md", "exec"), {})


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))))
def test_every_target_of_make_that_is_named_exists_and_explains_itself(target) -> None:
    assert re.search(rf"^{target}:.*## \S", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_file_that_is_named_exists() -> None:
    rooms = "benchmarks|config|dashboards|docker|online_fm|tests"
    named = {match[0] for text in (*SHELL, *INLINE) for match in re.finditer(rf"\b({rooms})/[\w./-]*\w", text)}
    assert len(named) > 5
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
