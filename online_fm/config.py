"""The configuration: each room's own struct under its name, from a YAML file, the environment, and `--set`.

Later wins: file, then `ONLINE_FM__SECTION__KEY=value`, then `--set section.key=value`; values of the last two are read
as YAML. What is wrong is a `ConfigError` that names the dotted path, before anything connects. The rooms check
themselves; here stand only the checks across rooms. A section that a command does not need may be left out.

YAML is read as people write it: a key that is there twice is an error, and `1e-3` is a number. No setting may be
infinite: what is meant by that, where it can be meant, is said with `null`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct, inspect

from online_fm.errors import ConfigError
from online_fm.events import EventsConfig
from online_fm.features.spec import FeaturesConfig, named
from online_fm.join.pending import JoinConfig
from online_fm.model.config import Fm, ModelConfig, check_fields
from online_fm.quality import QualityConfig
from online_fm.serve.config import ServeConfig
from online_fm.simulate.config import SimulateConfig
from online_fm.source.config import DeadLetterConfig, KafkaConfig, SourceConfig
from online_fm.telemetry.config import TelemetryConfig
from online_fm.train.checkpoint import CheckpointConfig, SnapshotConfig
from online_fm.train.pipeline import LearningConfig
from online_fm.train.worker import TrainConfig

__all__ = ["Config", "learning", "load", "parse"]

_PREFIX = "ONLINE_FM__"
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")  # PyYAML wants a dot and a sign
_PLACE = re.compile(r" - at (`key` in )?`\$\.?(.*)`$", re.DOTALL)
_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All sections, in the order that data visits their rooms. `source` and `features` have no default."""

    source: SourceConfig | None = None
    dead_letters: DeadLetterConfig = DeadLetterConfig()
    events: EventsConfig = EventsConfig()
    features: FeaturesConfig | None = None
    join: JoinConfig = JoinConfig()
    model: ModelConfig = Fm()
    quality: QualityConfig = QualityConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    snapshot: SnapshotConfig = SnapshotConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    serve: ServeConfig = ServeConfig()
    simulate: SimulateConfig = SimulateConfig()

    def __post_init__(self) -> None:
        if self.dead_letters.kind == "kafka" and not isinstance(self.source, KafkaConfig):
            raise ValueError("dead_letters.kind: 'kafka' needs a source that is a Kafka cluster")
        if Path(self.checkpoint.path).resolve() == Path(self.snapshot.path).resolve():
            raise ValueError("snapshot.path: checkpoints and snapshots need folders of their own")
        if self.join.unclicked == "skip" and self.events.click.value is None:
            raise ValueError("join.unclicked: 'skip' needs `events.click.value`, or all labels would be 1")


def load(path: str | Path, settings: Iterable[str] = (), environment: Mapping[str, str] | None = None) -> Config:
    """The configuration of a file, overridden by the environment and by settings `a.b=value`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"cannot read the configuration {path}: {problem}") from problem
    return parse(text, settings, environment, name=str(path))


def parse(
    text: str,
    settings: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    *,
    name: str = "configuration",
) -> Config:
    """As `load`, of a text."""
    tree = _yaml(text, name)
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: sections with their settings are expected, not a {type(tree).__name__}")
    for key, value in sorted((environment or {}).items()):
        if key.startswith(_PREFIX):
            _set(tree, key.removeprefix(_PREFIX).lower().split("__"), _yaml(value, key))
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {setting}: a dotted path, '=' and a value are expected")
        _set(tree, path.split("."), _yaml(value, f"--set {path}"))
    return _convert(tree)


def learning(config: Config) -> LearningConfig:
    """What the pipeline needs of it; ConfigError where no fields are named."""
    if config.features is None:
        raise ConfigError("features: name the fields of your events that the model is to learn from")
    try:
        check_fields(config.model, tuple(named(config.features)))
    except ValueError as problem:
        raise ConfigError(f"model: {problem}") from problem
    found = LearningConfig(
        events=config.events,
        features=config.features,
        join=config.join,
        model=config.model,
        quality=config.quality,
    )
    _check_labels(found)
    return found


def _check_labels(config: LearningConfig) -> None:
    """Labels and served scores must be of the kind that the loss takes."""
    click, score = config.events.click, config.events.impression.score
    if config.loss != "squared" and click.value and not (click.clip and click.clip[0] >= 0 and click.clip[1] <= 1):
        raise ConfigError(f"events.click.clip: within [0, 1] is needed, as labels of the loss '{config.loss}' are")
    if config.loss != "log" and score:
        raise ConfigError(f"events.impression.score: a probability is not judged by the loss '{config.loss}'")


class _Loader(yaml.SafeLoader):
    """Safe YAML that also refuses a key that is there twice, one of which would be lost silently."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401  # PyYAML's own
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"'{key.value}' is there twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def _yaml(text: str, name: str) -> Any:  # noqa: ANN401  # what YAML holds
    try:
        return yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader with one check more
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{name}: not YAML: {place}{problem.problem}") from problem
    except yaml.YAMLError as problem:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(problem).split())}") from problem


def _set(tree: dict[str, Any], path: list[str], value: object) -> None:
    """Set what lies at a path; a section on the way that the file does not have begins with its defaults."""
    defaults: Any = msgspec.to_builtins(Config())
    for part in path[:-1]:
        defaults = defaults.get(part) if isinstance(defaults, dict) else None
        inner = tree.get(part)
        if not isinstance(inner, dict):
            inner = tree[part] = dict(defaults) if isinstance(defaults, dict) else {}
        tree = inner
    tree[path[-1]] = value
    if path[-1] == "kind":
        _forget_other_kinds(tree, ".".join(path[:-1]))


def _forget_other_kinds(tree: dict[str, Any], section: str) -> None:
    """Of a section that has become another kind, drop what only its other kinds know."""
    names = {str(kind.tag): {field.encode_name for field in kind.fields} for kind in _structs_at(section)}
    own = names.get(str(tree["kind"]))
    if own is not None:
        for name in set[str]().union(*names.values()) - own:
            tree.pop(name, None)


def _convert(tree: dict[str, Any]) -> Config:
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as problem:
        raise ConfigError(_told(str(problem))) from problem
    _check_finite(msgspec.to_builtins(config), "")
    return config


def _told(problem: str) -> str:
    """What msgspec says, behind the dotted path: that of the setting itself where one is missing or unknown."""
    place = _PLACE.search(problem)
    path, message = (place[2], problem[: place.start()]) if place else ("", problem)
    field = _FIELD.fullmatch(message)
    if place and place[1]:
        message = "keys must be texts"
    elif field:
        path, message = f"{path}.{field[2]}".removeprefix("."), _missed(path, field[2], unknown="unknown" in field[1])
    elif message.startswith("Invalid"):
        message += f"; it may be {', '.join(_choices(path))}"
    return f"{path}: {message}" if path else message


def _missed(section: str, name: str, *, unknown: bool) -> str:
    if not unknown:
        return "is required"
    names = {field.encode_name for struct in _structs_at(section) for field in struct.fields} - {name}
    near = difflib.get_close_matches(name, sorted(names), n=1)
    return "there is no such setting" + "".join(f"; did you mean {other}?" for other in near)


def _choices(path: str) -> Iterator[str]:
    """What a setting may be, where that is a few words: the values of a choice, or the kinds of a section."""
    section, _, name = path.rpartition(".")
    for struct in _structs_at(section):
        if struct.tag_field == name:
            yield str(struct.tag)
        for field in struct.fields:
            if field.encode_name == name and isinstance(field.type, inspect.LiteralType):
                yield from map(str, field.type.values)


def _structs_at(path: str) -> list[inspect.StructType]:
    """The kinds of section that may stand at a dotted path."""
    found = [inspect.type_info(Config)]
    for part in re.findall(r"\[[^]]*\]|[^.[]+", path):
        inner = [each for kind in found for each in _inside(kind, part)]
        found = [each for kind in inner for each in getattr(kind, "types", (kind,))]
    return [kind for kind in found if isinstance(kind, inspect.StructType)]


def _inside(kind: inspect.Type, part: str) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.StructType):
        yield from (field.type for field in kind.fields if field.encode_name == part)
    elif isinstance(kind, inspect.VarTupleType):
        yield kind.item_type


def _check_finite(value: object, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}: a finite number is expected")
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_finite(inner, f"{path}.{key}".removeprefix("."))
    if isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            _check_finite(inner, f"{path}[{i}]")
