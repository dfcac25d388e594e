"""`config/reference.yaml` says of every setting what it is called, what its default is, and what it means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml
from msgspec import Struct, inspect
from msgspec.structs import fields

from online_fm.config import Config, parse
from online_fm.model.config import FactorOptimizer, Fm, KalmanFactors, ModelConfig, SingleConfig, WeightOptimizer
from online_fm.source.config import Secret

TEXT = (Path(__file__).parent.parent / "config" / "reference.yaml").read_text()
SECTIONS = [field.name for field in fields(Config)]
REQUIRED = ("source", "features")
EXAMPLES = ("options",)  # empty by default, and shown filled


def alternatives() -> list[str]:
    """The sections that are commented out, without their `#`; the one of Kafka for both of its clients."""
    commented = re.findall(r"(?:^#(?! ).*\n(?:^#  .*\n)+)", TEXT, re.MULTILINE)
    blocks = [re.sub(r"^#", "", block, flags=re.MULTILINE) for block in commented]
    return [*blocks, *(block.replace("kind: kafka_python", "kind: confluent") for block in blocks if "kafka" in block)]


def documented() -> Iterator[tuple[Struct, yaml.MappingNode, list[str]]]:
    """Every struct of the file with the YAML that it was made of and the lines of its text."""
    for text in (TEXT, *alternatives()):
        node = yaml.compose(text)
        assert isinstance(node, yaml.MappingNode)
        for struct, inner in _structs(parse(text), node):
            yield struct, inner, text.splitlines()


def _structs(value: object, node: yaml.Node) -> Iterator[tuple[Struct, yaml.MappingNode]]:
    if isinstance(node, yaml.SequenceNode):
        assert isinstance(value, list | tuple)
        for each, inner in zip(value, node.value, strict=True):
            yield from _structs(each, inner)
    if isinstance(node, yaml.MappingNode):
        if isinstance(value, Struct):
            yield value, node
        for key, inner in node.value:
            yield from _structs(value[key.value] if isinstance(value, dict) else getattr(value, key.value, None), inner)


def _types(kind: inspect.Type) -> Iterator[type[Struct]]:
    if isinstance(kind, inspect.StructType):
        yield kind.cls
        for field in kind.fields:
            yield from _types(field.type)
    for inner in getattr(kind, "types", ()):
        yield from _types(inner)
    for name in ("item_type", "value_type"):
        if hasattr(kind, name):
            yield from _types(getattr(kind, name))


def keys(node: yaml.MappingNode) -> list[str]:
    return [key.value for key, _ in node.value]


def names(struct: Struct) -> list[str]:
    """As they are written: a kind that is no setting of its own comes first."""
    return list(msgspec.to_builtins(struct))


def plain(struct: Struct) -> Struct:
    """The same with the defaults of all that has some."""
    given = {f.name: getattr(struct, f.name) for f in fields(struct) if f.required or f.name in EXAMPLES}
    return type(struct)(**given)


def test_the_sections_are_there_in_the_order_of_the_configuration() -> None:
    assert list(yaml.safe_load(TEXT)) == SECTIONS


def test_every_kind_of_every_section_is_there() -> None:
    shown = {type(struct) for struct, _, _ in documented()}
    assert shown == set(_types(inspect.type_info(Config)))


def test_every_setting_is_there() -> None:
    of_models: dict[type[Struct], set[str]] = {}
    for struct, node, _ in documented():
        if isinstance(struct, SingleConfig):
            of_models.setdefault(type(struct), set()).update(keys(node))
        elif not isinstance(struct, Config):
            assert sorted(keys(node)) == sorted(names(struct)), type(struct).__name__
    above = {field.name: field.default for field in fields(Fm)}
    assert sorted(of_models.pop(Fm)) == sorted(names(Fm()))
    for kind, written in of_models.items():  # only where it is other than the FM above
        other = {field.name for field in fields(kind) if field.name not in above or field.default != above[field.name]}
        assert written == {"kind", *other}, kind.__name__


@pytest.mark.parametrize("section", [name for name in SECTIONS if name not in REQUIRED])
def test_what_is_written_in_a_section_is_its_default(section) -> None:
    assert getattr(parse(TEXT), section) == getattr(Config(), section)
    assert yaml.safe_load(TEXT)[section] == msgspec.to_builtins(getattr(Config(), section))


def test_what_is_written_in_a_kind_is_its_default() -> None:
    reference = parse(TEXT)
    assert reference.source is not None
    assert reference.features is not None
    others = [parse(text) for text in alternatives()]
    sources = [other.source for other in others if other.source]
    models = [other.model for other in others if not other.source]
    optimizers = [model.w for model in models if type(model) is Fm] + [
        model.v for model in models if type(model) is Fm and isinstance(model.v, KalmanFactors)
    ]
    kinds = [model for model in models if type(model) is not Fm]
    assert (len(sources), len(kinds), len(optimizers)) == (2, 6, 5)
    fields_shown = [field for field in reference.features.fields if isinstance(field, Struct)]
    for struct in (reference.source, *sources, *kinds, *optimizers, *fields_shown):
        assert plain(struct) == struct


def test_settings_stand_in_the_order_of_their_structs() -> None:
    for struct, node, _ in documented():
        if {"name", "fields"} & set(keys(node)):
            continue  # of fields, the name comes first
        assert keys(node) == [name for name in names(struct) if name in keys(node)]


def test_every_setting_is_explained_in_its_line() -> None:
    for struct, node, lines in documented():
        for key, _ in node.value:
            if not isinstance(struct, Config):
                line = lines[key.start_mark.line]
                assert re.search(r" # \S", line), line


def test_every_choice_is_named_beside_its_setting() -> None:
    for struct, node, lines in documented():
        choices: dict[str, Any] = {
            field.encode_name: field.type.values
            for field in inspect.type_info(type(struct)).fields
            if isinstance(field.type, inspect.LiteralType)
        }
        for key, _ in node.value:
            line = lines[key.start_mark.line].partition(" # ")[2]
            assert set(re.findall(r"\w+", line)) >= set(choices.get(key.value, ())), key.value


@pytest.mark.parametrize(("section", "kinds"), [("model", ModelConfig), ("w", WeightOptimizer), ("v", FactorOptimizer)])
def test_all_kinds_of_models_and_optimizers_are_named_where_the_first_is(section, kinds) -> None:
    (said,) = re.search(rf"^ *{section}:.*\n *kind: (.*)", TEXT, re.MULTILINE).groups()
    tags = {str(kind.__struct_config__.tag) for kind in get_args(kinds)}
    assert tags <= set(re.findall(r"\w+", said)) or "as of w" in said


def test_everything_that_is_required_says_so() -> None:
    for struct, node, lines in documented():
        required = {field.name for field in fields(struct) if field.required}
        for key, _ in node.value:
            if not isinstance(struct, Config | Secret):
                said = "required" in lines[key.start_mark.line] and "required by" not in lines[key.start_mark.line]
                assert said == (key.value in required), key.value
