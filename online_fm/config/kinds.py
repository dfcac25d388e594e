"""Sections and their kinds: what a tree of settings becomes, and what is wrong with it, told by its dotted path.

A section has the defaults of its place. Where it may be of several kinds and says none, it is of the kind that it is by
default; and what it leaves out is as it is there by default, which may differ from place to place: the factors of an
FFM take smaller steps than those of an FM. A section that is made another kind forgets what only its other kinds know.

msgspec does the checking. What it says is told again with the path in front and, where it leaves an entry of a mapping
nameless, with its name. All is derived from the structs, and nothing here knows a setting by name but `kind`.
"""

from __future__ import annotations

import copy
import difflib
import math
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, inspect

from online_fm.errors import ConfigError

__all__ = ["converted", "put"]

_PLACE = re.compile(r" - at (`key` in )?`\$\.?(.*)`$", re.DOTALL)
_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)
_Root = TypeVar("_Root", bound=Struct)


def put(root: type[Struct], tree: dict[str, Any], path: list[str], value: object) -> None:
    """Set what lies at a path, and make the sections on the way that are not there."""
    for part in path[:-1]:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[path[-1]] = value
    if path[-1] == "kind":
        _forget_other_kinds(root, tree, ".".join(path[:-1]))


def _forget_other_kinds(root: type[Struct], tree: dict[str, Any], section: str) -> None:
    """Of a section that has become another kind, drop what only its other kinds know."""
    names = {str(kind.tag): {field.encode_name for field in kind.fields} for kind in _structs_at(root, section)}
    own = names.get(str(tree["kind"]))
    if own is not None:
        for name in set[str]().union(*names.values()) - own:
            tree.pop(name, None)


def _completed(given: Any, kind: inspect.Type, usual: object) -> Any:  # noqa: ANN401  # what YAML holds
    """What a file says of a section of some kind, and what it leaves out as it is in `usual`, the section's default."""
    if isinstance(given, dict) and isinstance(kind, inspect.DictType):
        return {name: _completed(inner, kind.value_type, None) for name, inner in given.items()}
    if not isinstance(given, dict):
        return given
    tag = usual.__struct_config__ if isinstance(usual, Struct) else None
    if tag and tag.tag_field:
        given = {tag.tag_field: tag.tag, **given}
    struct = _of_kind(_kinds_of(kind), given)
    if struct is None:
        return given
    inner = {field.encode_name: (field.type, field.default) for field in struct.fields}
    if isinstance(usual, struct.cls):
        given = {**msgspec.to_builtins(usual), **given}
        inner = {field.encode_name: (field.type, getattr(usual, field.name)) for field in struct.fields}
    return {name: _completed(each, *inner[name]) if name in inner else each for name, each in given.items()}


def converted(root: type[_Root], tree: dict[str, Any]) -> _Root:
    """The configuration that a tree of settings describes; ConfigError says what is wrong and where."""
    tree = _completed(tree, inspect.type_info(root), root())
    try:
        config = msgspec.convert(tree, root)
    except msgspec.ValidationError as problem:
        raise ConfigError(_told(root, tree, _with_names(root, tree, str(problem)))) from problem
    _check_finite(msgspec.to_builtins(config), "")
    return config


def _with_names(root: type[Struct], tree: dict[str, Any], problem: str) -> str:
    """What msgspec says, with the name of the entry for which it writes `[...]`: the one that alone gives the same."""
    path, dots, _ = problem.rpartition(" - at ")[2].removeprefix("`$.").partition("[...]")
    entries = _at(tree, path) if dots else {}
    for name in entries:
        alone = copy.deepcopy(tree)
        found = _at(alone, path)
        for other in entries.keys() - {name}:
            del found[other]
        try:
            msgspec.convert(alone, root)
        except msgspec.ValidationError as again:
            if str(again) == problem:
                return problem.replace("[...]", f".{name}", 1)
    return problem


def _at(tree: Any, path: str) -> Any:  # noqa: ANN401  # what YAML holds
    """What lies at a dotted path without indices; nothing where that leads nowhere."""
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def _told(root: type[Struct], tree: dict[str, Any], problem: str) -> str:
    """What msgspec says, behind the dotted path: that of the setting itself where one is missing or unknown."""
    place = _PLACE.search(problem)
    path, message = (place[2], problem[: place.start()]) if place else ("", problem)
    field = _FIELD.fullmatch(message)
    if place and place[1]:
        message = "keys must be texts" if message == "Expected `str`" else f"a key: {message}"
    elif field:
        kinds = _structs_at(root, path)
        message = _unknown(kinds, field[2], _at(tree, path)) if "unknown" in field[1] else "is required"
        path = f"{path}.{field[2]}".removeprefix(".")
    elif message.startswith("Invalid"):
        message += f"; it may be {', '.join(dict.fromkeys(_choices(root, path)))}"
    return f"{path}: {message}" if path else message


def _unknown(kinds: list[inspect.StructType], name: str, given: dict[str, Any]) -> str:
    """Why there is no such setting: none of this name, or none in the kind that the section is."""
    own = _of_kind(kinds, given)
    names = {field.encode_name for struct in ([own] if own else kinds) for field in struct.fields} - {name}
    if own and own.tag and any(field.encode_name == name for struct in kinds for field in struct.fields):
        return f"there is no such setting in the kind {own.tag}"
    near = difflib.get_close_matches(name, sorted(names), n=1)
    return "there is no such setting" + "".join(f"; did you mean {other}?" for other in near)


def _choices(root: type[Struct], path: str) -> Iterator[str]:
    """What a setting may be, where that is a few words: the values of a choice, or the kinds of a section."""
    section, _, name = path.rpartition(".")
    for struct in _structs_at(root, section):
        if struct.tag_field == name:
            yield str(struct.tag)
        for field in struct.fields:
            if field.encode_name == name and isinstance(field.type, inspect.LiteralType):
                yield from map(str, field.type.values)


def _of_kind(structs: list[inspect.StructType], given: dict[str, Any]) -> inspect.StructType | None:
    """Which of the kinds a section is, if that is said and known."""
    found = [each for each in structs if each.tag_field is None or given.get(each.tag_field) == each.tag]
    return found[0] if found else None


def _structs_at(root: type[Struct], path: str) -> list[inspect.StructType]:
    """The kinds of section that may stand at a dotted path."""
    found = [inspect.type_info(root)]
    for part in re.findall(r"\[[^]]*\]|[^.[]+", path):
        inner = [each for kind in found for each in _inside(kind, part)]
        found = [each for kind in inner for each in getattr(kind, "types", (kind,))]
    return [each for kind in found for each in _kinds_of(kind)]


def _kinds_of(kind: inspect.Type) -> list[inspect.StructType]:
    """The kinds of section among the types that a setting may have."""
    return [each for each in getattr(kind, "types", (kind,)) if isinstance(each, inspect.StructType)]


def _inside(kind: inspect.Type, part: str) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.StructType):
        yield from (field.type for field in kind.fields if field.encode_name == part)
    elif isinstance(kind, inspect.VarTupleType):
        yield kind.item_type
    elif isinstance(kind, inspect.DictType):
        yield kind.value_type


def _check_finite(value: object, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}: a finite number is expected")
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_finite(inner, f"{path}.{key}".removeprefix("."))
    if isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            _check_finite(inner, f"{path}[{i}]")
