"""The configuration: each room's own struct under its name, from a YAML file, the environment, and `--set`.

Later wins: file, then `ONLINE_FM__SECTION__KEY=value`, then `--set section.key=value`; values of the last two are read
as YAML. What is wrong is a `ConfigError` that names the dotted path, before anything connects. The rooms check
themselves; here stand only the checks across rooms. A section that a command does not need may be left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from online_fm.errors import ConfigError
from online_fm.events import EventsConfig
from online_fm.features.spec import FeaturesConfig
from online_fm.join.pending import JoinConfig
from online_fm.model.config import ModelConfig
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


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All sections, in the order that data visits their rooms. `source` and `features` have no default."""

    source: SourceConfig | None = None
    dead_letters: DeadLetterConfig = DeadLetterConfig()
    events: EventsConfig = EventsConfig()
    features: FeaturesConfig | None = None
    join: JoinConfig = JoinConfig()
    model: ModelConfig = ModelConfig()
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
        if self.checkpoint.path == self.snapshot.path:
            raise ValueError("snapshot.path: checkpoints and snapshots need folders of their own")


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
    return LearningConfig(
        events=config.events,
        features=config.features,
        join=config.join,
        model=config.model,
        quality=config.quality,
    )


class _Loader(yaml.SafeLoader):
    """Safe YAML that also refuses a key that is there twice, one of which would be lost silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int) and key in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key}' is there twice", problem_mark=key_node.start_mark)
            seen.add(key if isinstance(key, str | int) else None)
        return super().construct_mapping(node, deep)


def _yaml(text: str, name: str) -> Any:  # noqa: ANN401  # what YAML holds
    try:
        return yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader with one check more
    except yaml.YAMLError as problem:
        raise ConfigError(f"{name}: not YAML: {problem}") from problem


def _set(tree: dict[str, Any], path: list[str], value: object) -> None:
    for part in path[:-1]:
        inner = tree.get(part)
        if not isinstance(inner, dict):
            inner = tree[part] = {}
        tree = inner
    tree[path[-1]] = value


def _convert(tree: dict[str, Any]) -> Config:
    try:
        return msgspec.convert(tree, Config)
    except msgspec.ValidationError as problem:
        message, _, where = str(problem).partition(" - at `$")
        path = re.sub(r"^\.", "", where.rstrip("`"))
        raise ConfigError(f"{path}: {message}" if path else message) from problem
