"""The configuration: each room's own struct under its name, from a YAML file, the environment, and `--set`.

Later wins: file, then `ONLINE_FM__SECTION__KEY=value`, then `--set section.key=value`; values of the last two are read
as YAML. What is wrong is a `ConfigError` that names the dotted path, before anything connects. The rooms check
themselves; here stand only the checks across rooms. A section that a command does not need may be left out.

YAML is read as people write it: a key that is there twice is an error, and `1e-3` is a number. No setting may be
infinite: what is meant by that, where it can be meant, is said with `null`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from online_fm.config.kinds import converted, put
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

__all__ = ["Config", "learning", "load", "parse"]

_PREFIX = "ONLINE_FM__"
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")  # PyYAML wants a dot and a sign
_DOTTED = re.compile(r"[\w.-]+: ")


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All sections, in the order that data visits their rooms. `source` and `features` have no default."""

    source: SourceConfig | None = None
    dead_letters: DeadLetterConfig = DeadLetterConfig()
    events: EventsConfig = EventsConfig()
    features: FeaturesConfig | None = None
    join: JoinConfig = JoinConfig()
    model: ModelConfig = Fm()
    quality: QualityConfig = QualityConfig()
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
            put(Config, tree, key.removeprefix(_PREFIX).lower().split("__"), _yaml(value, key))
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {setting}: a dotted path, '=' and a value are expected")
        put(Config, tree, path.split("."), _yaml(value, f"--set {path}"))
    return converted(Config, tree)


def learning(config: Config) -> LearningConfig:
    """What the pipeline needs of it; ConfigError where no fields are named."""
    if config.features is None:
        raise ConfigError("features: name the fields of your events that the model is to learn from")
    try:
        check_fields(config.model, tuple(named(config.features)))
    except ValueError as problem:
        raise ConfigError(f"model{'.' if _DOTTED.match(str(problem)) else ': '}{problem}") from problem
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
