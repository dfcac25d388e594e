"""Variants: the configurations that are compared with each other, and what tells them apart.

They come from files, and from a grid over dotted keys: every combination of its values, each set on top of every file.
Values are read as YAML, as those of `--set`. A grid multiplies quickly, and all learners are in memory at once: more
than `MOST` variants are refused.

What tells variants apart are the settings that a replay depends on and that are not the same in all of them. Where they
are of different kinds, what is the default of each kind is not said.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import yaml
from msgspec import NODEFAULT, Struct

from online_fm.config import Config, learning, load
from online_fm.errors import ConfigError

__all__ = ["MOST", "Variant", "differences", "shown", "variants"]

MOST = 64
_SECTIONS = ("source", "events", "features", "join", "model")


class Variant(NamedTuple):
    """One configuration, and the file that it comes from."""

    file: str
    config: Config


def variants(
    files: Sequence[str],
    settings: Sequence[str] = (),
    grid: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> list[Variant]:
    """Every file with every combination of the grid's `a.b=V1,V2`; a ConfigError names the variant that is wrong."""
    axes = _axes(grid)
    n = len(files) * math.prod(map(len, axes))
    if n > MOST:
        factors = [f"{len(files)} files"] * (len(files) > 1) + [f"{len(axis)} values" for axis in axes]
        raise ConfigError(f"{' x '.join(factors)} make {n} configurations to compare; at most {MOST} are taken at once")
    return [
        Variant(file, _load(file, settings, combination, environment))
        for file in files
        for combination in itertools.product(*axes)
    ]


def differences(configs: Iterable[Config]) -> list[dict[str, Any]]:
    """Of each configuration the settings, by dotted key, that are not the same in all."""
    leaves = [dict(_leaves(config, None, "")) for config in configs]
    paths = dict.fromkeys(path for each in leaves for path in each).keys()
    missing = {path for path in paths if not all(path in each for each in leaves)}
    differ = missing | {path for path in paths - missing if len({each[path].json for each in leaves}) > 1}
    kinds = {path.removesuffix(".kind") for path in differ if path.endswith(".kind")}

    def implied(path: str) -> bool:
        above = {path[:i] for i, letter in enumerate(path) if letter == "." and path[i:] != ".kind"}
        return (path in missing or bool(kinds & above)) and all(e[path].is_default for e in leaves if path in e)

    told = [path for path in paths if path in differ and not implied(path)]
    return [{path: each[path].value for path in told if path in each} for each in leaves]


def shown(differing: Sequence[Mapping[str, Any]]) -> list[str]:
    """The differences as text, a line of each; in a list … stands for what is in all of the lists."""
    return [
        "\n".join(
            f"{path}={_shown(value, [each[path] for each in differing if path in each])}"
            for path, value in settings.items()
        )
        for settings in differing
    ]


class _Leaf(NamedTuple):
    value: Any
    is_default: bool

    @property
    def json(self) -> bytes:
        return msgspec.json.encode(self.value)


def _axes(grid: Iterable[str]) -> list[list[str]]:
    """Per key of a grid its settings `a.b=V`."""
    axes: dict[str, list[str]] = {}
    for each in grid:
        key, equals, text = each.partition("=")
        if not equals or not key:
            raise ConfigError(f"--grid {each}: a dotted path, '=' and values with commas between are expected")
        if key in axes:
            raise ConfigError(f"--grid {key}: is there twice; name all its values once")
        axes[key] = [f"{key}={value}" for value in _values(key, text)]
    return list(axes.values())


def _values(key: str, text: str) -> Iterator[str]:
    """The values of a grid as they are written: a comma inside of brackets or quotes parts nothing."""
    flow = f"[{text}]"
    try:
        node = yaml.compose(flow, yaml.SafeLoader)
    except yaml.YAMLError as problem:
        raise ConfigError(f"--grid {key}: not YAML: {getattr(problem, 'problem', problem)}") from problem
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise ConfigError(f"--grid {key}: has no values")
    for value in node.value:
        yield flow[value.start_mark.index : value.end_mark.index].strip()


def _load(
    file: str, settings: Iterable[str], combination: Iterable[str], environment: Mapping[str, str] | None
) -> Config:
    """One variant; what is wrong with it is told with its name."""
    try:
        config = load(file, [*settings, *combination], environment)
        learning(config)
    except ConfigError as problem:
        raise ConfigError(" ".join([file, *combination]) + f": {problem}") from problem
    return config


def _leaves(value: object, default: object, path: str) -> Iterator[tuple[str, _Leaf]]:
    """Every setting below a value by its dotted key, and whether it is what it would be unsaid."""
    if isinstance(value, Struct):
        tag_field = value.__struct_config__.tag_field
        if tag_field:
            yield f"{path}.{tag_field}", _Leaf(value.__struct_config__.tag, type(default) is type(value))
        for field in msgspec.structs.fields(value):
            if path or field.name in _SECTIONS:
                usual = getattr(default, field.name) if type(default) is type(value) else _usual(field)
                yield from _leaves(getattr(value, field.name), usual, f"{path}.{field.encode_name}".removeprefix("."))
    elif isinstance(value, dict):
        usual = default if isinstance(default, dict) else {}
        for key, inner in value.items():
            yield from _leaves(inner, usual.get(key), f"{path}.{key}")
    else:
        yield path, _Leaf(msgspec.to_builtins(value), bool(value == default))


def _usual(field: msgspec.structs.FieldInfo) -> object:
    """A field's default, where it has one."""
    if field.default_factory is not NODEFAULT:
        return field.default_factory()
    return None if field.default is NODEFAULT else field.default


def _shown(value: object, of_all: Sequence[object]) -> str:
    lists = [each for each in of_all if isinstance(each, list | tuple)]
    common = [item for item in lists[0] if all(item in each for each in lists)] if lists else []
    if not isinstance(value, list | tuple) or not common or all(len(each) == len(common) for each in lists):
        return _text(value)
    return f"[{', '.join(['…', *(_text(item) for item in value if item not in common)])}]"


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
